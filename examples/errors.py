"""Mistakes of the caller, and how a script ends with one."""

import difflib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from examples.sharing import redact_output


RESUME = "The same command goes on from the last checkpoint, or starts anew if there is none yet."
# So many names fit into a message.
MAX_NAMES_LISTED = 60
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EIO),
)
# What libraries that write files of their own say instead of an `OSError`.
FULL_DISK_MESSAGES = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")


# What the libraries raise over a file that is not what its name says.
LOADING_ERRORS = (
    *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(UnpicklingError, SafetensorError),
)


class InputError(ValueError):
    """A mistake of the caller's, with a message that needs no traceback."""

    def __init__(self, message: str):
        # A data loader's worker sends the message at the end of a traceback.
        super().__init__(message.rpartition(f"{InputError.__module__}.InputError: ")[2].strip())


def flatten_message(error: BaseException) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())


def suggest(given: Any, known: Iterable[str]) -> str:
    """` Did you mean ...?`, with the known names that are written much like a name or have it in them, or nothing."""
    name, known = str(given), list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    near = near or [other for other in known if len(name) > 2 and name in other][:3]
    near = near or difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def refuse_unknown_name(name: Any, known: Iterable[str], what: str) -> None:
    """Raise an `InputError` that lists the known names, if this is not one of them."""
    known = list(known)
    if name not in known:
        raise InputError(f"There is no {what} {name!r}.{suggest(name, known)} Known: {', '.join(known)}.")


def refuse_unknown_keys(given: Iterable[Any], known: set[str], where: str) -> None:
    """Raise an `InputError` that lists the known keys, if a key is not among them."""
    for key in given:
        if key not in known:
            listed = "`--help` and `--help_trainer` list the known ones."
            if len(known) <= MAX_NAMES_LISTED:
                listed = f"Known keys: {', '.join(sorted(known))}."
            raise InputError(f"{where} has an unknown key {key!r}.{suggest(key, sorted(known))} {listed}")


def refuse_lost_link(folder: Path) -> None:
    """Raise an `InputError` if a folder, or one above it, is a link to what is not there, such as a disk."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{str(path)!r} is a link to {os.readlink(path)!r}, which is not there. Name another place."
            )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON mapping; a file that is missing, cut off or something else counts as empty."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def make_place(file: str, kind: str | None = None) -> Path:
    """
    Make the folder of a file that is to be written, before the work that ends with it.

    Results of one `kind` replace those of the same kind alone.

    Raises:
        InputError: if it cannot be made or written to, there is a folder where the file should be, or what is there
            would be lost.
    """
    path = Path(file)
    refuse_lost_link(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder of {file!r} cannot be made: {error.strerror}. Name another place.") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{file!r} cannot be written: it is a folder, or in one that is closed. Name another place.")
    is_taken = path.exists() and path.stat().st_size > 0
    if kind is not None and is_taken and read_json(path).get("kind") != kind:
        raise InputError(
            f"{file!r} holds something else than results of the kind {kind!r}, which would be lost: name another file."
        )
    return path


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain(error: Exception) -> str | None:
    """One line about an error that is the caller's or the machine's to mend; `None` if it is a fault of the code."""
    if isinstance(error, InputError):
        return str(error)
    for cause in list_causes(error):
        message = str(cause)
        place = getattr(cause, "filename", None)
        if getattr(cause, "errno", None) in FULL_DISK or any(words in message for words in FULL_DISK_MESSAGES):
            return f"The disk is full: {place or 'the output'} cannot be written. Make room, then call the same again."
        if isinstance(cause, OSError) and cause.errno in UNUSABLE_PATH and place is not None:
            return f"{place} cannot be used: {cause.strerror}. Name another place, or make this one free to write to."
        if type(cause).__name__ == "OutOfMemoryError" or isinstance(cause, MemoryError):
            return "The memory is full. Take smaller batches (for instance `--per_device_train_batch_size`)."
    return None


def leave_output() -> None:
    """Send what is still to be printed nowhere, because its place is full or gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_script(main: Callable[[], None], on_interrupt: str = "") -> None:
    """
    Run a script; what the caller or the machine has to mend ends it with one line instead of a traceback.

    Args:
        main: The script.
        on_interrupt: What Ctrl-C leaves behind, and how to go on.
    """
    redact_output()
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\nInterrupted. {on_interrupt}".rstrip(), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        leave_output()
        sys.exit(1)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if isinstance(error, OSError) and error.filename is None:
            leave_output()
        sys.exit(f"error: {message}")
