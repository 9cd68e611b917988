"""Mistakes of the caller, and how a script ends with one."""

import difflib
import errno
import sys
from collections.abc import Callable
from typing import Any

from examples.sharing import redact_output


class InputError(ValueError):
    """A mistake of the caller's, with a message that needs no traceback."""

    def __init__(self, message: str):
        # A data loader's worker sends the message at the end of a traceback.
        super().__init__(message.rpartition(f"{InputError.__module__}.InputError: ")[2].strip())


def refuse_unknown_keys(given: dict[str, Any], known: set[str], where: str) -> None:
    """Raise an `InputError` that lists the known keys, if a key is not among them."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where} has an unknown key {key!r}.{hint} Known keys: {', '.join(sorted(known))}.")


def run_script(main: Callable[[], None]) -> None:
    """Run a script; a mistake of the caller, Ctrl-C or a full disk ends it with one line instead of a traceback."""
    redact_output()
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from the last checkpoint, if there is one.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        sys.exit(f"error: {error.filename or 'The output'} cannot be written: {error.strerror}.")
