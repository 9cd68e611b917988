"""Checkpoints of a run: whose they are, whether they are whole, and which of them are kept."""

import hashlib
import os
import re
import shutil
from pathlib import Path

from transformers import TrainingArguments, logging
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from examples.errors import read_json
from examples.training.results import write_json


logger = logging.get_logger(__name__)

# In each checkpoint: the first says what wrote it and is written first, the second that it is complete, and last.
CLAIM_FILE, MANIFEST_FILE = "written_by.json", "manifest.json"
# What a killed run leaves beside its checkpoints: a save or a removal that was cut off, here or in `stage_files`.
LEFTOVERS = re.compile(rf"\.save-((old-)?{PREFIX_CHECKPOINT_DIR}-\d+|[a-z0-9_]{{8}})")


def get_step(folder: Path) -> int:
    return int(folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-[0-9]+")
    folders = [path for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if pattern.fullmatch(path.name)]
    return sorted(folders, key=lambda path: -get_step(path))


def hint_at_run(output_dir: Path) -> str:
    """A sentence for who takes the folder of an unfinished run for a checkpoint; empty if it has none."""
    found = [path for path in list_checkpoints(output_dir) if (path / MANIFEST_FILE).exists()]
    if not found:
        return ""
    # Those of an adapter, and of the loop with Accelerate, are no whole model.
    whole = f", or name {str(found[0])!r}" if (found[0] / CONFIG_NAME).exists() else ""
    return f" Its run has not ended: the same command goes on with it{whole}."


def is_of_these_scripts(folder: Path) -> bool:
    return (folder / CLAIM_FILE).exists() or (folder / MANIFEST_FILE).exists()


def list_files(folder: Path) -> dict[str, Path]:
    """The files of a checkpoint by their names in its manifest, but for the manifest and hidden files."""
    return {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST_FILE and not file.name.startswith(".")
    }


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def claim_checkpoint(folder: Path, loop: str) -> None:
    """Mark a new checkpoint as one of these scripts before anything is written into it: others are never touched."""
    clear_place(folder)
    folder.mkdir(parents=True)
    write_json(folder / CLAIM_FILE, {"written_by": "modeling_ait", "loop": loop})


def seal_checkpoint(folder: Path) -> None:
    """Write the names, sizes and hashes of a checkpoint's files beside them, last of all."""
    files = list_files(folder).items()
    manifest = {name: {"size": file.stat().st_size, "sha256": hash_file(file)} for name, file in files}
    write_json(folder / MANIFEST_FILE, manifest)


def find_damage(folder: Path) -> str | None:
    """Say in what a checkpoint differs from its manifest, or return `None` if it is whole."""
    if not (folder / MANIFEST_FILE).exists():
        return f"it has no {MANIFEST_FILE}, as a run that was killed while it saved leaves it"
    manifest, files = read_json(folder / MANIFEST_FILE), list_files(folder)
    if not manifest or not all(isinstance(entry, dict) for entry in manifest.values()):
        return f"its {MANIFEST_FILE} is damaged"
    if missing := sorted(manifest.keys() - files.keys()):
        return f"its {missing[0]} is missing"
    if strange := sorted(files.keys() - manifest.keys()):
        return f"{strange[0]} in it is not of this checkpoint"
    for name, file in files.items():
        if {"size": file.stat().st_size, "sha256": hash_file(file)} != manifest[name]:
            return f"its {name} is damaged"
    return None


def is_complete_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint holds every file of its manifest unchanged, and no other."""
    return find_damage(folder) is None


def find_best(folder: Path) -> Path | None:
    """The checkpoint that was the best so far when this one was written; by its name, as folders may be moved."""
    best = read_json(folder / TRAINER_STATE_NAME).get("best_model_checkpoint")
    return folder.with_name(Path(best).name) if best else None


def find_obstacle(folder: Path, training: TrainingArguments) -> str | None:
    """Say why a run cannot go on from a checkpoint, or return `None` if it can."""
    if training.save_only_model and not (folder / OPTIMIZER_NAME).exists():
        # Without the optimizer's state, the rest of the training would give another result.
        return "it holds the model alone"
    damage = find_damage(folder)
    best = find_best(folder) if training.load_best_model_at_end else None
    if damage is None and best is not None and (damage := find_damage(best)) is not None:
        return f"of the best so far, {best}, {damage}"
    return damage


def find_checkpoint(training: TrainingArguments) -> Path | None:
    """Return the newest checkpoint of the output folder to go on from, naming those that are passed over."""
    for folder in list_checkpoints(Path(str(training.output_dir))):
        obstacle = find_obstacle(folder, training)
        if obstacle is None:
            return folder
        logger.warning(f"{folder} is passed over: {obstacle}.")
    return None


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, which is none any more if this is cut off."""
    doomed = folder.with_name(f".save-old-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def clear_place(folder: Path) -> None:
    """Make room for a checkpoint: one that was damaged after it had been written is moved aside, any other goes."""
    if (folder / MANIFEST_FILE).exists() and not is_complete_checkpoint(folder):
        number, aside = 1, folder.with_name(f"damaged-{folder.name}")
        while aside.exists():
            number, aside = number + 1, folder.with_name(f"damaged-{folder.name}-{number + 1}")
        os.replace(folder, aside)
        logger.warning(f"The damaged {folder} is kept as {aside}.")
    elif folder.exists():
        remove_checkpoint(folder)


def drop_old_checkpoints(output_dir: Path, limit: int | None, step: int, best: str | None = None) -> None:
    """
    Drop all but the newest checkpoints, once the one of this step is complete.

    What is damaged stays, and so does what was passed over, which is of a later step.

    Args:
        output_dir: Folder of the run.
        limit: How many to keep; `None` or 0 for all.
        step: Step that was saved last.
        best: The best checkpoint, which stays too.
    """
    if not limit or limit < 0:
        return
    folders = [folder for folder in list_checkpoints(output_dir) if get_step(folder) <= step]
    kept = {f"{PREFIX_CHECKPOINT_DIR}-{step}"} | ({Path(best).name} if best else set())
    for folder in folders:
        if len(kept) < limit:
            kept.add(folder.name)
        elif folder.name not in kept and is_complete_checkpoint(folder):
            remove_checkpoint(folder)


def sweep_leftovers(output_dir: Path) -> None:
    """Remove the halves that a killed run left under hidden names."""
    for folder in output_dir.iterdir():
        if folder.is_dir() and LEFTOVERS.fullmatch(folder.name):
            shutil.rmtree(folder)
