"""What a run leaves: `results.json` with its setting, an example image, and the words at the end."""

import json
import math
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, ViTImageProcessorPil

from examples.baselines.build import count_parameters
from examples.data.images import decode_image
from examples.data.loading import ImageData
from examples.errors import InputError
from examples.sharing import join_call, redact
from examples.training.publishing import FIGURE, write_model_card
from modeling_ait import AiTForImageClassification, AiTPreTrainedModel, __version__
from modeling_ait.card_ait import CARD_FILE, is_users_card
from modeling_ait.saving_ait import stage_files


RESULTS_FILE = "results.json"
# Results of the finished model that a restarted run has not replaced yet.
PREVIOUS_RESULTS_FILE = "previous_results.json"
EXAMPLE_IMAGE = "example.png"


def write_text(path: Path, text: str) -> None:
    """Write a file in one step and without secrets: a write that fails leaves an existing file as it was."""
    with stage_files(path.parent) as staging:
        Path(staging, path.name).write_text(redact(text), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step and without secrets: a write that fails leaves an existing file as it was."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def describe_command(module: str) -> str:
    """The command line of this run, for its results; secrets are left out."""
    return join_call(module, sys.argv[1:])


def read_versions() -> dict[str, str]:
    """Versions of Python and of what a result depends on; a package that is not installed is left out."""
    versions = {"python": platform.python_version(), "modeling-ait": __version__}
    for name in ("torch", "transformers", "datasets", "accelerate", "evaluate"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def describe_setting(kind: str, command: str, seeds: list[int], use_cpu: bool = False) -> dict[str, Any]:
    """
    Describe what every file of results says first: what it is, and how, where and with what it was made.

    Args:
        kind: What the file holds, for instance "training".
        command: Command line that made it.
        seeds: Seeds of all runs in it.
        use_cpu: Whether an accelerator that is there was left unused.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and not use_cpu else platform.machine()
    return {
        "kind": kind,
        "command": command,
        "hardware": f"{device}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": read_versions(),
        "seeds": list(seeds),
    }


def refuse_divergence(name: str, loss: float) -> None:
    """Raise an `InputError` if a loss is no finite number."""
    if not math.isfinite(loss):
        raise InputError(f"Training diverged: `{name}` is {loss}. Lower `--learning_rate` and restart.")


def describe_accuracy(results: dict[str, Any]) -> str:
    """The accuracy of a run in one line: that of all questions, where there are any."""
    asked = "all questions about " if "accuracy_by_group" in results else ""
    return f"Accuracy on {asked}{results['num_eval_samples']} held-out images: {100 * results['accuracy']:.2f} %"


def keeps_card(output_dir: Path) -> bool:
    """Whether the card of a folder was written or changed by hand, and say so."""
    card = output_dir / CARD_FILE
    if not card.exists() or not is_users_card(card.read_text(encoding="utf-8", errors="replace")):
        return False
    print(f"The model card {card} was changed by hand and stays as it is.")
    return True


def report_run(
    save: Callable[[str], None],
    model: torch.nn.Module,
    processor: ViTImageProcessorPil,
    data: ImageData,
    arguments: dict[str, Any],
    training: TrainingArguments,
    metrics: dict[str, Any],
    command: str,
) -> None:
    """
    Save the model with its card and an example image, and `results.json` last; print accuracy and how to use it.

    All is written aside first, so that an older model stays until this one is complete. A baseline gets no card. Every
    process must call it, and the first one writes.

    Args:
        save: Saves the model into a folder.
        model: The model, without wrappers.
        processor: Its image processor.
        data: What it was trained on.
        arguments: Arguments of the run, see `collect_arguments`.
        training: Those of the training.
        metrics: What was measured.
        command: Command line of the run.

    Raises:
        InputError: if the training diverged; nothing is written then.
    """
    output_dir = Path(str(training.output_dir))
    for name in ("train_loss", "eval_loss"):
        refuse_divergence(name, metrics[name])
    results: dict[str, Any] = {
        **metrics,
        "seed": training.seed,
        **describe_setting("training", command, [training.seed], training.use_cpu),
        "world_size": training.world_size,
        "arguments": arguments,
        "num_parameters": count_parameters(model),
        "num_train_samples": len(data.train),
        "num_eval_samples": len(data.evaluation),
    }
    is_classifier = isinstance(model, AiTForImageClassification)
    # Of an adapter, the model within, whose card tells of the adapter.
    described: Any = getattr(model, "get_base_model", lambda: model)()
    is_ait = isinstance(described, AiTPreTrainedModel)
    with stage_files(output_dir) as staging:
        save(staging)
        if training.process_index == 0:
            sample = data.evaluation[0]
            image = decode_image(sample[data.image_column], "row 0 of the evaluation split").convert("RGB")
            image.save(Path(staging, EXAMPLE_IMAGE))
            processor.save_pretrained(staging)
            if is_ait and not keeps_card(output_dir):
                write_model_card(described, data, results, training, Path(staging))
            # Moved after all others, by its name, it says that they are complete.
            write_json(Path(staging, RESULTS_FILE), results)
    if training.process_index != 0:
        return
    if not is_ait and not keeps_card(output_dir):
        # Of a model that stood here before.
        (output_dir / "README.md").unlink(missing_ok=True)
    (output_dir / PREVIOUS_RESULTS_FILE).unlink(missing_ok=True)
    (output_dir / FIGURE).unlink(missing_ok=True)
    print(describe_accuracy(results))
    if not is_classifier:
        print(f"Saved in {output_dir}.")
        return
    print(f"Saved in {output_dir}. Load it and classify one image:\n")
    print("from transformers import pipeline")
    print(f'classifier = pipeline("image-classification", model={str(output_dir)!r}, trust_remote_code=True)')
    print(f"print(classifier({str(output_dir / EXAMPLE_IMAGE)!r}))")
