"""The state of an output folder: what is finished, what can be resumed, what is dropped."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainingArguments, logging

from examples.errors import InputError
from examples.training.results import PREVIOUS_RESULTS_FILE, RESULTS_FILE, write_json


logger = logging.get_logger(__name__)


ARGUMENTS_FILE = "run_arguments.json"
LOCK_FILE = ".lock"
# In each checkpoint: the first says whose it is and is written first, the second that it is complete, and last.
CLAIM_FILE, MANIFEST_FILE = "written_by.json", "manifest.json"


def claim_checkpoint(folder: Path) -> None:
    """Mark a checkpoint as one of these scripts before anything is written into it: others are never touched."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    write_json(folder / CLAIM_FILE, {"written_by": "modeling_ait"})


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal_checkpoint(folder: Path) -> None:
    """Write the names, sizes and hashes of a checkpoint's files beside them, last of all."""
    files = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": hash_file(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST_FILE
    }
    write_json(folder / MANIFEST_FILE, files)


def is_complete_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint holds every file of its manifest unchanged. A run that was killed may have left half."""
    files = read_json(folder / MANIFEST_FILE)
    if not files:
        return False
    try:
        return all(
            (folder / name).stat().st_size == entry["size"] and hash_file(folder / name) == entry["sha256"]
            for name, entry in files.items()
        )
    except (OSError, KeyError, TypeError):
        return False


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON mapping; a file that is missing, cut off or something else counts as empty."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(folders, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def find_checkpoint(training: TrainingArguments) -> Path | None:
    """Return the newest complete checkpoint of the output folder, naming those that are passed over."""
    for folder in list_checkpoints(Path(str(training.output_dir))):
        if is_complete_checkpoint(folder):
            return folder
        logger.warning(f"{folder} is incomplete, as a killed run leaves it, and is passed over.")
    return None


@contextmanager
def lock_output_folder(training: TrainingArguments) -> Iterator[None]:
    """
    Make the output folder and hold it for this run alone; of several processes the first does so for all.

    Raises:
        InputError: if the folder cannot be made, or another run works in it.
    """
    output_dir = Path(str(training.output_dir))
    if training.process_index != 0:
        yield
        return
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"`--output_dir` {str(output_dir)!r} is a file, not a folder.")
    lock = FileLock(output_dir / LOCK_FILE)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"Another run works in {str(output_dir)!r}. Wait until it ends, or name another `--output_dir`."
        ) from None
    except OSError as error:
        raise InputError(f"`--output_dir` {str(output_dir)!r} cannot be written: {error.strerror or error}.") from None
    try:
        yield
    finally:
        lock.release()


def is_finished(training: TrainingArguments, arguments: dict[str, Any], restart: bool) -> bool:
    """
    Look at the output folder before anything is loaded, change nothing, and tell whether this run is done already.

    Raises:
        InputError: if the folder holds a run with other arguments or checkpoints of another training.
    """
    output_dir = Path(str(training.output_dir))
    foreign = [folder for folder in list_checkpoints(output_dir) if not (folder / CLAIM_FILE).exists()]
    if foreign:
        raise InputError(
            f"{foreign[0]} is of another training and is neither resumed nor deleted. "
            "Move it away, or name another `--output_dir`."
        )
    if restart or training.resume_from_checkpoint:
        return False
    results = read_json(output_dir / RESULTS_FILE)
    if not results and not list_checkpoints(output_dir):
        return False
    before = read_json(output_dir / ARGUMENTS_FILE) or results.get("arguments", {})
    changed = sorted(key for key in before.keys() | arguments.keys() if before.get(key) != arguments.get(key))
    if changed:
        raise InputError(
            f"{output_dir} holds {'a finished' if results else 'an unfinished'} run with other arguments: "
            + ", ".join(f"{key} {before.get(key)!r}, now {arguments.get(key)!r}" for key in changed)
            + f". Use the same arguments to {'see' if results else 'resume'} it, `--restart True` to replace it, "
            "or another `--output_dir`."
        )
    if not results:
        return False
    if training.process_index == 0:
        print(f"{output_dir} holds this run, finished. `--restart True` trains anew.")
        print(f"Accuracy on {results['num_eval_samples']} held-out images: {100 * results['accuracy']:.2f} %")
    return True


def prepare_output_folder(training: TrainingArguments, arguments: dict[str, Any], restart: bool) -> Path | None:
    """
    Make the output folder ready after `is_finished`, and return the checkpoint to resume from, or `None`.

    Where a new run starts, old checkpoints go and old results step aside; the old model stays until the new one is
    complete.

    Raises:
        InputError: for a checkpoint to resume from that is not complete.
    """
    output_dir = Path(str(training.output_dir))
    if training.resume_from_checkpoint:
        given = Path(training.resume_from_checkpoint)
        if not is_complete_checkpoint(given):
            raise InputError(f"`--resume_from_checkpoint` {str(given)!r} is no complete checkpoint.")
        return given
    if not restart and (checkpoint := find_checkpoint(training)) is not None:
        logger.warning(f"Resuming the unfinished run from {checkpoint}.")
        return checkpoint
    if (output_dir / RESULTS_FILE).exists():
        os.replace(output_dir / RESULTS_FILE, output_dir / PREVIOUS_RESULTS_FILE)
    if restart:
        for folder in list_checkpoints(output_dir):
            shutil.rmtree(folder)
    write_json(output_dir / ARGUMENTS_FILE, arguments)
    return None


def collect_arguments(*groups: Any, training: TrainingArguments) -> dict[str, Any]:
    """Collect what decides the result of a run, as JSON can hold it, without how it is logged or shared."""
    ignored = {"logging_dir", "resume_from_checkpoint", "hub_token", "push_to_hub", "push_to_hub_token"}
    collected = {key: value for group in groups for key, value in asdict(group).items()}
    collected |= {key: value for key, value in training.to_dict().items() if key not in ignored}
    return json.loads(json.dumps(collected, default=str, sort_keys=True))
