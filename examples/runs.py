"""What the two training scripts share: building the model, the state of an output folder, and the final report."""

import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open
from transformers import (
    PreTrainedModel,
    TrainingArguments,
    ViTImageProcessorPil,
    is_torchvision_available,
    logging,
    set_seed,
)

from examples.baselines import build_architecture, count_parameters
from examples.data import ImageClassificationDataset, ImageData, ImagePixels, decode_image
from examples.recipes import DataArguments, InputError, ModelArguments
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning
from modeling_ait.modeling_ait import make_initial_memory


logger = logging.get_logger(__name__)

RESULTS_FILE = "results.json"
ARGUMENTS_FILE = "run_arguments.json"
EXAMPLE_IMAGE = "example.png"
CARD_TEMPLATE = Path(__file__).parent / "model_card_template.md"


class Accuracy(evaluate.Metric):
    """Share of predictions that equal the reference. A class of ours, because `evaluate.load` needs a network."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of predictions that equal the reference.",
            citation="",
            inputs_description="predictions and references: class indices",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step: a write that fails leaves an existing file as it was."""
    with tempfile.TemporaryDirectory(prefix=".save-", dir=path.parent) as staging:
        staged_file = Path(staging, path.name)
        staged_file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(staged_file, path)


def make_image_processor(config: AiTConfig, data: DataArguments) -> ViTImageProcessorPil:
    """Make transformers' ViT image processor for the configured image size."""
    processor_class: type = ViTImageProcessorPil
    if is_torchvision_available():
        from transformers import ViTImageProcessor

        processor_class = ViTImageProcessor
    height, width = config.image_shape
    statistics = {"image_mean": data.image_mean, "image_std": data.image_std}
    for name, values in statistics.items():
        if values is not None and len(values) != config.num_channels:
            raise InputError(f"`{name}` must have one value per channel ({config.num_channels}), but got {values}.")
    return processor_class(
        size={"height": height, "width": width},
        do_convert_rgb=True,
        **{name: values for name, values in statistics.items() if values is not None},
    )


def build_model(
    arguments: ModelArguments, data: DataArguments, label_names: list[str], seed: int, question_size: int | None = None
) -> tuple[PreTrainedModel, ViTImageProcessorPil]:
    """
    Build the classifier, an AiT or a baseline, and its image processor, from scratch or from an AiT checkpoint.

    Raises:
        InputError: for fields that cannot work, or a checkpoint that is not there or holds another model.
    """
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    fields: dict[str, Any] = dict(arguments.model_config or {})  # type: ignore[arg-type]  # a mapping after parsing
    if fields.get("num_channels", 3) != 3:
        raise InputError(
            f"`num_channels` is {fields['num_channels']}, but this script turns every image into RGB: leave it at 3."
        )
    if question_size is not None:
        fields["question_size"] = question_size
    if arguments.reset_memory and arguments.architecture != "ait":
        raise InputError(f"`reset_memory` needs the architecture 'ait', but got {arguments.architecture!r}.")
    set_seed(seed)
    try:
        if arguments.model_name_or_path is None:
            config = (
                AiTConfig.from_size(arguments.size, **fields, **labels)
                if arguments.size
                else AiTConfig(**fields, **labels)
            )
            model = build_architecture(
                arguments.architecture,
                config,
                arguments.baseline_config,  # type: ignore[arg-type]  # a mapping after parsing
                arguments.match_parameters,
            )
            return model, make_image_processor(config, data)
        if arguments.size is not None:
            raise InputError("Give `size` or `model_name_or_path`, not both: a checkpoint has its size.")
        if arguments.architecture != "ait":
            raise InputError("Give `architecture` or `model_name_or_path`, not both: a checkpoint is an AiT.")
        model_class = AiTForImageClassification if question_size is None else AiTForRelationalReasoning
        model = model_class.from_pretrained(
            arguments.model_name_or_path, ignore_mismatched_sizes=True, **fields, **labels
        )
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    try:
        processor = ViTImageProcessorPil.from_pretrained(arguments.model_name_or_path)
    except OSError:
        logger.warning(
            f"{arguments.model_name_or_path!r} has no image processor: a new one is made from the arguments."
        )
        return model, make_image_processor(model.config, data)
    return model, processor


def make_datasets(
    data: ImageData, arguments: DataArguments, processor: ViTImageProcessorPil, seed: int
) -> tuple[ImageClassificationDataset, ImageClassificationDataset]:
    """Wrap the training split, with augmentation, and the evaluation split, without."""
    cache = arguments.cache_images
    train_pixels = ImagePixels(
        data.train, data.image_column, processor, arguments.crop_padding, arguments.horizontal_flip, seed, cache
    )
    eval_pixels = ImagePixels(data.evaluation, data.image_column, processor, cache=cache)
    return (
        ImageClassificationDataset(train_pixels, data.train[data.label_column][:]),
        ImageClassificationDataset(eval_pixels, data.evaluation[data.label_column][:]),
    )


@torch.no_grad()
def reset_memories(model: PreTrainedModel) -> None:
    """Set the memories of an AiT with a classifier back to their initial values."""
    ait: Any = model.ait
    for layer_index, memory in enumerate(ait.memories):
        memory.copy_(make_initial_memory(memory.shape, layer_index))


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


def report_run(
    model: PreTrainedModel,
    processor: ViTImageProcessorPil,
    data: ImageData,
    arguments: dict[str, Any],
    training: TrainingArguments,
    metrics: dict[str, Any],
    command: str,
) -> None:
    """
    Write the model card, an example image and, last of all, `results.json`; print accuracy and how to use the folder.

    A baseline gets no card. The model must have been saved into the output folder before.
    """
    output_dir = Path(str(training.output_dir))
    sample = data.evaluation[0]
    image = decode_image(sample[data.image_column], "row 0 of the evaluation split").convert("RGB")
    image.save(output_dir / EXAMPLE_IMAGE)
    processor.save_pretrained(output_dir)

    results: dict[str, Any] = {
        **metrics,
        "seed": training.seed,
        **describe_setting(command, training.use_cpu),
        "arguments": arguments,
        "num_parameters": count_parameters(model),
        "num_train_samples": len(data.train),
        "num_eval_samples": len(data.evaluation),
    }
    is_classifier = isinstance(model, AiTForImageClassification)
    if is_classifier:
        write_model_card(model, data, results, training, output_dir)
    write_json(output_dir / RESULTS_FILE, results)
    print(f"Accuracy on {len(data.evaluation)} held-out images: {100 * results['accuracy']:.2f} %")
    if not is_classifier:
        print(f"Saved in {output_dir}.")
        return
    print(f"Saved in {output_dir}. Load it and classify one image:\n")
    print("from transformers import pipeline")
    print(f'classifier = pipeline("image-classification", model={str(output_dir)!r}, trust_remote_code=True)')
    print(f"print(classifier({str(output_dir / EXAMPLE_IMAGE)!r}))")


def write_model_card(
    model: PreTrainedModel,
    data: ImageData,
    results: dict[str, Any],
    training: TrainingArguments,
    output_dir: Path,
) -> None:
    """Fill the template with what this run is, for the checkpoint's `README.md`."""
    name = training.hub_model_id or output_dir.resolve().name
    card_data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="image-classification",
        tags=["ait", "associative-transformer", "image-classification", "vision", "custom_code"],
        model_name=name,
        # A folder of the user's own is no data set of the Hub.
        datasets=[data.name] if data.name.count("/") == 1 and not Path(data.name).exists() else None,
        eval_results=None,
    )
    metadata = card_data.to_dict()
    metadata["model-index"] = [
        {
            "name": name,
            "results": [
                {
                    "task": {"type": "image-classification", "name": "Image Classification"},
                    "dataset": {"type": Path(data.name).name, "name": Path(data.name).name},
                    "metrics": [{"type": "accuracy", "name": "Accuracy", "value": results["accuracy"]}],
                }
            ],
        }
    ]
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(CARD_TEMPLATE),
        name=name,
        dataset=Path(data.name).name,
        label_names=", ".join(data.label_names),
        config=model.config,
        results=results,
        arguments=results["arguments"],
    )
    with tempfile.TemporaryDirectory(prefix=".save-", dir=output_dir) as staging:
        staged_file = Path(staging, "README.md")
        card.save(staged_file)
        os.replace(staged_file, output_dir / "README.md")


def push_folder(training: TrainingArguments) -> None:
    """Push the finished output folder, with code and card and without checkpoints, to `hub_model_id` on the Hub."""
    api = HfApi(token=training.hub_token)
    repo_id = training.hub_model_id or Path(str(training.output_dir)).resolve().name
    repo_id = api.create_repo(repo_id, private=training.hub_private_repo, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repo_id,
        folder_path=str(training.output_dir),
        commit_message="End of training",
        ignore_patterns=["checkpoint-*", ".save-*", "runs/*"],
        revision=training.hub_revision,
    )
    print(f"Pushed to {repo_id}.")


def describe_command(module: str) -> str:
    """The command line of this run, for its results."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def describe_setting(command: str, use_cpu: bool = False) -> dict[str, Any]:
    """The command, the machine and the versions that stand beside every result."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and not use_cpu else platform.machine()
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate", "modeling-ait")
    return {
        "command": command,
        "hardware": f"{device}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
