"""What others get to see: text without secrets that cannot break a page, and the files that a push uploads."""

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO


# Stands for a secret.
HIDDEN = "HIDDEN"
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{10,}")
SECRET_VARIABLE = re.compile(r".*(TOKEN|API_KEY|SECRET|PASSWORD)", flags=re.IGNORECASE)
# `--hub_token` with dashes, and as far as a parser lets it be shortened.
HUB_TOKEN_FLAG = re.compile(r"--hub[_-]t(o(k(e(n)?)?)?)?")
# That or a misspelt one, whose value stands in the error; `--average_tokens_across_devices` is none.
SECRET_FLAG = re.compile(r"--(.*tok(?!ens).*|hub[_-]t.*)", flags=re.IGNORECASE)
# A shorter value of a variable is no secret, and would be found in other words.
SHORTEST_SECRET = 6
MODEL_CODE = find_spec("modeling_ait")
CODE_FILES = {
    path.name
    for folder in (MODEL_CODE.submodule_search_locations or () if MODEL_CODE else ())
    for path in Path(folder).glob("*_ait.py")
}
MODEL_FILES = re.compile(
    r"README\.md|config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|adapter_config\.json|adapter_model\.safetensors"
    r"|preprocessor_config\.json|(example|memory)\.png|results\.json"
)


# What saving a model writes into a folder.
FILES_OF_A_MODEL = (
    *("*.safetensors", "*_ait.py", "pytorch_model*.bin"),
    *("config.json", "preprocessor_config.json", "README.md"),
)


def set_hub_token(token: Any) -> None:
    """Keep a token of the Hub in the environment alone: what it starts inherits it, and no command line shows it."""
    os.environ["HF_TOKEN"] = str(token).strip()


def take_hub_token(arguments: list[str]) -> list[str]:
    """Move a token that flags give into the environment, and return the other arguments."""
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if HUB_TOKEN_FLAG.fullmatch(flag) and (token := value if equals else next(rest, "")):
            set_hub_token(token)
        else:
            left.append(argument)
    return left


def list_secrets() -> list[str]:
    """Values that no file and no output may hold, the longest first."""
    values = [value.strip() for name, value in os.environ.items() if SECRET_VARIABLE.fullmatch(name)]
    for flag, following in zip(sys.argv, [*sys.argv[1:], ""]):
        name, equals, value = flag.partition("=")
        if SECRET_FLAG.fullmatch(name):
            values.append(value if equals else following)
    secrets = {value for value in values if len(value) >= SHORTEST_SECRET}
    # JSON and messages write quotes, backslashes and some letters as escapes.
    written = {json.dumps(value)[1:-1] for value in secrets} | {repr(value)[1:-1] for value in secrets}
    return sorted(secrets | written, key=len, reverse=True)


def redact(text: str) -> str:
    """Hide every secret in a text: tokens of the Hub, and what the environment or a flag calls a token or key."""
    for secret in list_secrets():
        text = text.replace(secret, HIDDEN)
    return HUB_TOKEN.sub(HIDDEN, text)


class RedactedStream:
    """A text stream that hides secrets, and escapes what its encoding cannot write."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(redact(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_output() -> None:
    """Hide secrets in whatever this process prints, logs or warns of from now on."""
    streams = {stream: RedactedStream(stream) for stream in (sys.stdout, sys.stderr)}
    sys.stdout, sys.stderr = streams[sys.stdout], streams[sys.stderr]  # type: ignore[assignment]
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
                handler.setStream(streams[handler.stream])


def list_files_to_push(folder: Path) -> list[str]:
    """Names of the files of a model that may leave this machine; no link, checkpoint, log or pickle is among them."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and (path.name in CODE_FILES or MODEL_FILES.fullmatch(path.name))
    )


def find_links(folder: Path) -> list[str]:
    """Names of links that stand in place of a model's files."""
    return sorted(path.name for path in folder.iterdir() if path.is_symlink() and MODEL_FILES.fullmatch(path.name))


def find_files(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Names of the files of a folder that fit one of the patterns, sorted."""
    return sorted(path.name for pattern in patterns for path in folder.glob(pattern))


def push_files(
    folder: Path,
    repo_id: str,
    state: str,
    error_class: type[Exception],
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """
    Push those files of a model's folder that may leave this machine to a repository of the Hub, made if need be.

    Args:
        folder: Folder of the model.
        repo_id: Repository, with or without the name of its owner.
        state: What is done already, the beginning of the error's message.
        error_class: What to raise if the Hub does not take the files.
        private: Whether a new repository is private; `None` is the owner's default.
        revision: Branch to push to.
        message: Message of the commit.

    Returns:
        The repository, with the name of its owner.
    """
    # Late, for scripts that push nothing.
    from huggingface_hub import HfApi

    from examples.errors import flatten_message
    from modeling_ait.card_ait import CARD_FILE, advise, choose_card, read_remote_card

    try:
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files = list_files_to_push(folder)
        if CARD_FILE in files:
            card = Path(folder, CARD_FILE).read_text(encoding="utf-8")
            if choose_card(card, read_remote_card(repo_id, revision=revision), []) is None:
                files.remove(CARD_FILE)
                print(f"The model card of {repo_id} was changed by hand and stays as it is.")
        api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            commit_message=message,
            allow_patterns=files,
            revision=revision,
        )
    except Exception as error:
        # Which exception tells a wrong token, a taken name or a missing network changes between versions.
        reason = f"{type(error).__name__}: {flatten_message(error)}"
        advice = advise(error)
        raise error_class(f"{state}, but could not be pushed to {repo_id!r}. {advice} ({reason})") from error
    return repo_id


def show(text: Any) -> str:
    """Make control, direction and other invisible characters visible as escapes; the result is one line."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def escape_markdown(text: Any) -> str:
    """Escape a text so that Markdown shows it as it is, in one line or a cell of a table."""
    escaped = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", show(text))
    # Within a word an underscore means nothing.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)


def quote_code(text: Any) -> str:
    """Write a text as a code span of Markdown, also in a cell of a table."""
    shown = show(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"`{shown}`" if len(fence) == 1 else f"{fence} {shown} {fence}"


def quote_python(text: str) -> str:
    """Write a text as a string of Python, in double quotes and without a backtick, which might end a block of code."""
    return '"' + show(text.replace("\\", "\\\\")).replace('"', '\\"').replace("`", "\\x60") + '"'


def quote_argument(argument: str) -> str:
    """Quote an argument for a shell, in one line whatever is in it."""
    if argument.isprintable() and "`" not in argument:
        return shlex.quote(argument)
    quoted = argument.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() and c != "`" else f"\\U{ord(c):08x}" for c in quoted) + "'"


def join_command(arguments: Iterable[str]) -> str:
    """Join a command line as a shell takes it, in one line and without secrets."""
    joined: list[str] = []
    hides_next = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        is_token = bool(SECRET_FLAG.fullmatch(flag))
        if hides_next:
            joined.append(HIDDEN)
        elif is_token and equals:
            joined.append(f"{flag}={HIDDEN}")
        else:
            joined.append(quote_argument(argument))
        hides_next = is_token and not equals
    return redact(" ".join(joined))


def join_call(module: str, arguments: Iterable[str]) -> str:
    """The command line that calls a script, by `ait` if that was called; see `join_command`."""
    called = sys.argv[0].split() if sys.argv[0].startswith("ait ") else ["python", "-m", module]
    return join_command([*called, *arguments])
