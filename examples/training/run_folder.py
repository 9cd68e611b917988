"""The state of an output folder: what is finished, what can be resumed, what is dropped."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments, logging
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from examples.data.arguments import DataArguments
from examples.errors import InputError, read_json, refuse_lost_link
from examples.sharing import FILES_OF_A_MODEL, find_files
from examples.training.adapter import LoraArguments
from examples.training.arguments import ModelArguments
from examples.training.checkpoints import (
    CLAIM_FILE,
    clear_place,
    find_best,
    find_checkpoint,
    find_obstacle,
    is_of_these_scripts,
    list_checkpoints,
    sweep_leftovers,
)
from examples.training.results import PREVIOUS_RESULTS_FILE, RESULTS_FILE, describe_accuracy, write_json


logger = logging.get_logger(__name__)


ARGUMENTS_FILE = "run_arguments.json"
LOCK_FILE = ".lock"
# What a finished run writes over. In a folder that no run has been in, they are somebody's work.
WRITTEN_FILES = (*FILES_OF_A_MODEL, "training_args.bin", "example.png", "memory.png", RESULTS_FILE)
# Arguments that change nothing in the model: where it is, how a run is shown, logged and shared, and how the same
# samples are fetched.
NEUTRAL_ARGUMENTS = {
    *("output_dir", "disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "report_to", "run_name"),
    *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "local_rank"),
    *("cache_images", "augment_on_device"),
    *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_always_push"),
}


def decide_for_all(training: TrainingArguments, decide: Callable[[], Any]) -> Any:
    """
    Let the first process look at the folder, and return its answer in every process.

    Raises:
        InputError: what `decide` raises; the other processes exit without a word.
    """
    answer, refusal = None, None
    if training.process_index == 0:
        try:
            answer = decide()
        except InputError as error:
            refusal = error
    if training.world_size > 1:
        answer, is_refused = broadcast_object_list([answer, refusal is not None])
        if is_refused and refusal is None:
            raise SystemExit(1)
    if refusal is not None:
        raise refusal
    return answer


@contextmanager
def lock_output_folder(training: TrainingArguments) -> Iterator[None]:
    """
    Make the output folder and hold it for this run alone; of several processes the first does so for all.

    A folder that was made for a run that ends with nothing in it is removed again.

    Raises:
        InputError: if the folder cannot be made, or another run works in it.
    """
    output_dir = Path(str(training.output_dir))
    lock = FileLock(output_dir / LOCK_FILE)
    is_new = not output_dir.exists()

    def acquire() -> None:
        if output_dir.exists() and not output_dir.is_dir():
            raise InputError(f"`--output_dir` {str(output_dir)!r} is a file, not a folder.")
        refuse_lost_link(output_dir)
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another run works in {str(output_dir)!r}. Wait until it ends, or name another `--output_dir`."
            ) from None
        except OSError as error:
            raise InputError(
                f"`--output_dir` {str(output_dir)!r} cannot be written: {error.strerror or error}."
            ) from None
        except NotImplementedError:
            logger.warning(f"The file system of {output_dir} knows no locks: take care that one run alone uses it.")

    decide_for_all(training, acquire)
    try:
        yield
    finally:
        if is_new and lock.is_locked and [path.name for path in output_dir.iterdir()] == [LOCK_FILE]:
            # Another run may come in between: then the folder is not empty and stays.
            with suppress(OSError):
                (output_dir / LOCK_FILE).unlink()
                output_dir.rmdir()
        lock.release()


def read_results(output_dir: Path) -> dict[str, Any]:
    """Read what a finished run of these scripts has measured; anything else counts as empty."""
    results = read_json(output_dir / RESULTS_FILE)
    is_whole = isinstance(results.get("arguments"), dict) and isinstance(results.get("accuracy"), (int, float))
    return results if is_whole and "num_eval_samples" in results else {}


def holds_model(output_dir: Path) -> bool:
    """Whether the weights, of a model or of an adapter, are there and not cut off."""
    if (output_dir / SAFE_WEIGHTS_INDEX_NAME).exists():
        return True
    for name in (SAFE_WEIGHTS_NAME, ADAPTER_SAFE_WEIGHTS_NAME):
        with suppress(OSError, SafetensorError), safe_open(output_dir / name, framework="pt"):
            return True
    return False


def describe_run(training: TrainingArguments, arguments: dict[str, Any], loop: str) -> dict[str, Any]:
    """What must be the same in a run that goes on: its arguments, and what else decides its result."""
    return {**arguments, "loop": loop, "num_processes": training.world_size}


def count_images_of_a_step(described: dict[str, Any]) -> dict[str, Any]:
    """Put the images that all processes take together in the place of each one's batch and of their number."""
    described = dict(described)
    num_processes, batch_size = described.pop("num_processes"), described.pop("per_device_train_batch_size", None)
    return {**described, "train_batch_size": batch_size and batch_size * num_processes}


def add_defaults(before: dict[str, Any], described: dict[str, Any], training: TrainingArguments) -> dict[str, Any]:
    """Add to the arguments of a run those that the code which wrote them did not know yet, with their defaults."""
    if described.keys() <= before.keys():
        return before
    plain = type(training)(output_dir=str(training.output_dir), use_cpu=training.use_cpu)
    defaults = collect_arguments(DataArguments(), ModelArguments(), LoraArguments(), training=plain)
    return {**{key: value for key, value in defaults.items() if key in described}, **before}


def refuse_changes(
    output_dir: Path, described: dict[str, Any], results: dict[str, Any], training: TrainingArguments
) -> None:
    """Raise an `InputError` if the folder holds a run of other arguments."""
    # Written by these scripts before they knew more than the arguments, results have them alone.
    before = read_json(output_dir / ARGUMENTS_FILE) or results.get("arguments", {})
    state = "a finished" if results else "an unfinished"
    if not before:
        raise InputError(
            f"{output_dir} holds {state} run whose {ARGUMENTS_FILE} is damaged. `--restart True` replaces it, or name "
            "another `--output_dir`."
        )
    before = {"loop": described["loop"], "num_processes": described["num_processes"], **before}
    before = add_defaults(before, described, training)
    # What several processes train is what one process trains with the whole batch. Of a stream each process and each
    # worker has a part of its own, and with another number of them what was seen could not be told from what was not.
    neutral = NEUTRAL_ARGUMENTS
    if described.get("streaming"):
        neutral = neutral - {"dataloader_num_workers"}
    else:
        before, described = count_images_of_a_step(before), count_images_of_a_step(described)
    changed = sorted(
        key for key in (before.keys() | described.keys()) - neutral if before.get(key) != described.get(key)
    )
    if changed:
        raise InputError(
            f"{output_dir} holds {state} run with other arguments: "
            + ", ".join(f"{key} {before.get(key)!r}, now {described.get(key)!r}" for key in changed)
            + f". Use the same arguments to {'see' if results else 'resume'} it, `--restart True` to replace it, "
            "or another `--output_dir`."
        )


def refuse_work_of_others(output_dir: Path) -> None:
    """Raise an `InputError` if the folder has checkpoints, or a model, that these scripts did not write."""
    foreign = [folder for folder in list_checkpoints(output_dir) if not is_of_these_scripts(folder)]
    if foreign:
        raise InputError(
            f"{foreign[0]} is of another training and is neither resumed nor deleted: it has no {CLAIM_FILE}, which "
            "these scripts write. Move it away, or name another `--output_dir`."
        )
    is_known = (output_dir / ARGUMENTS_FILE).exists() or read_results(output_dir) or list_checkpoints(output_dir)
    found = find_files(output_dir, WRITTEN_FILES)
    if found and not is_known:
        raise InputError(
            f"{output_dir} holds {found[0]}, which is of no run of these scripts and is not overwritten. Move it "
            "away, or name another `--output_dir`."
        )


def is_finished(training: TrainingArguments, arguments: dict[str, Any], restart: bool, loop: str) -> bool:
    """
    Look at the output folder before anything is loaded, change nothing, and tell whether this run is done already.

    Args:
        training: Arguments of the run.
        arguments: All that decides its result, see `collect_arguments`.
        restart: Whether it shall replace what is there.
        loop: What trains, "trainer" or "accelerate".

    Raises:
        InputError: if the folder holds a run with other arguments, or what these scripts did not write.
    """
    output_dir = Path(str(training.output_dir))

    def look() -> bool:
        has_model, results = holds_model(output_dir), read_results(output_dir)
        is_done = bool(results) and has_model
        if restart or not is_done:
            refuse_work_of_others(output_dir)
        # A new run that was killed may stand before the old model, even if it had no time for a checkpoint.
        if restart or not (results or has_model or list_checkpoints(output_dir)):
            return False
        results = results if is_done else {}
        refuse_changes(output_dir, describe_run(training, arguments, loop), results, training)
        if results:
            print(f"{output_dir} holds this run, finished. `--restart True` trains anew.")
            print(describe_accuracy(results))
        return is_done

    return decide_for_all(training, look)


def prepare_output_folder(
    training: TrainingArguments, arguments: dict[str, Any], restart: bool, loop: str
) -> Path | None:
    """
    Make the output folder ready after `is_finished`, and return the checkpoint to resume from, or `None`.

    Where a new run starts, old checkpoints go and old results step aside; the old model stays until the new one is
    complete. Arguments are those of `is_finished`.

    Raises:
        InputError: for a checkpoint to resume from that is not complete.
    """
    output_dir = Path(str(training.output_dir))
    given = Path(training.resume_from_checkpoint) if training.resume_from_checkpoint else None

    def prepare() -> Path | None:
        sweep_leftovers(output_dir)
        if given is not None:
            damage = find_obstacle(given, training) if given.is_dir() else "there is no such folder"
            if damage is None and read_json(given / CLAIM_FILE).get("loop", loop) != loop:
                damage = "it is of the other training script"
            if damage is not None:
                raise InputError(f"`--resume_from_checkpoint` {str(given)!r} is no complete checkpoint: {damage}.")
        checkpoint = given
        if checkpoint is None and not restart and (checkpoint := find_checkpoint(training)) is not None:
            logger.warning(f"Resuming the unfinished run from {checkpoint}.")
            return checkpoint
        # In this order: whenever this is cut off, the arguments are those of the checkpoints, and nothing is finished.
        if (output_dir / RESULTS_FILE).exists():
            os.replace(output_dir / RESULTS_FILE, output_dir / PREVIOUS_RESULTS_FILE)
        kept = {path.resolve() for path in (given, find_best(given)) if path} if given else set()
        for folder in list_checkpoints(output_dir) if restart else ():
            if folder.resolve() not in kept:
                clear_place(folder)
        write_json(output_dir / ARGUMENTS_FILE, describe_run(training, arguments, loop))
        return checkpoint

    return decide_for_all(training, prepare)


def collect_arguments(*groups: Any, training: TrainingArguments) -> dict[str, Any]:
    """Collect what decides the result of a run, as JSON can hold it, without how it is logged or shared."""
    ignored = {"logging_dir", "resume_from_checkpoint", "hub_token", "push_to_hub", "push_to_hub_token"}
    collected = {key: value for group in groups for key, value in asdict(group).items()}
    collected |= {key: value for key, value in training.to_dict().items() if key not in ignored}
    return json.loads(json.dumps(collected, default=str, sort_keys=True))
