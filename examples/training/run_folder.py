"""The state of an output folder: what is finished, what can be resumed, what is dropped."""

import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments, logging

from examples.errors import InputError
from examples.training.results import RESULTS_FILE, write_json


logger = logging.get_logger(__name__)


ARGUMENTS_FILE = "run_arguments.json"


def is_complete_checkpoint(folder: Path, marker: str) -> bool:
    """Whether every file of a checkpoint can be opened. A run that was killed may have left a half-written one."""
    try:
        json.loads((folder / marker).read_text(encoding="utf-8"))
        weights = sorted(folder.glob("*.safetensors"))
        for file in weights:
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    pickled = [file for pattern in ("*.pt", "*.pth", "*.bin", "*.pkl") for file in folder.glob(pattern)]
    return bool(weights) and all(zipfile.is_zipfile(file) for file in pickled if file.suffix in (".pt", ".pth"))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(folders, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def find_checkpoint(training: TrainingArguments, marker: str) -> Path | None:
    """Return the newest complete checkpoint of the output folder, naming those that are passed over."""
    for folder in list_checkpoints(Path(str(training.output_dir))):
        if is_complete_checkpoint(folder, marker):
            return folder
        logger.warning(f"{folder} is incomplete, as a killed run leaves it, and is passed over.")
    return None


def prepare_output_folder(
    training: TrainingArguments, arguments: dict[str, Any], restart: bool, marker: str
) -> Path | None:
    """
    Decide whether to resume, and make the output folder ready.

    An unfinished run with the same arguments is resumed from its newest complete checkpoint. Over a finished run, or
    with `restart`, a new one starts: old checkpoints go, the old model stays until the new one replaces it.

    Args:
        training: Training arguments.
        arguments: All arguments of this run, to compare with those of the unfinished one.
        restart: Whether to start anew in any case.
        marker: Name of the JSON file that is written last into each checkpoint.

    Returns:
        The checkpoint to resume from, or `None`.

    Raises:
        InputError: if there is an unfinished run with other arguments.
    """
    output_dir = Path(str(training.output_dir))
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"`--output_dir` {str(output_dir)!r} is a file, not a folder.")
    if training.resume_from_checkpoint:
        given = Path(training.resume_from_checkpoint)
        if not is_complete_checkpoint(given, marker):
            raise InputError(f"`--resume_from_checkpoint` {str(given)!r} is no complete checkpoint.")
        return given
    output_dir.mkdir(parents=True, exist_ok=True)
    is_finished = (output_dir / RESULTS_FILE).exists()
    if not restart and not is_finished and (checkpoint := find_checkpoint(training, marker)) is not None:
        before = json.loads((output_dir / ARGUMENTS_FILE).read_text(encoding="utf-8"))
        now = json.loads(json.dumps(arguments))
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            raise InputError(
                f"{output_dir} holds an unfinished run with other arguments: "
                + ", ".join(f"{key} {before.get(key)!r}, now {now.get(key)!r}" for key in changed)
                + ". Use the same arguments to resume it, `--restart True` to drop it, or another `--output_dir`."
            )
        logger.warning(f"Resuming the unfinished run from {checkpoint}.")
        return checkpoint
    (output_dir / RESULTS_FILE).unlink(missing_ok=True)
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
