"""
Does a workspace help a pretrained ViT? Fine-tune a ViT, and the AiT converted from it, alike, over several seeds.

    python -m examples.compare_vit_finetuning --dataset_name uoft-cs/cifar10 --output_dir runs/vit_finetuning

A small ViT is pretrained on some classes of a data set. Then it and its conversion are fine-tuned on a few images of
the other classes, with the same head, data order, steps and optimizer. What is finished is kept: a killed run goes on.
"""

import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from examples.data.arguments import DataArguments, refuse_augmentation, refuse_streaming
from examples.errors import InputError, make_place, read_json, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from examples.data.loading import ImageData

MODELS = ("vit", "ait")
NUM_HEADS = 4


@dataclass
class ComparisonArguments:
    output_dir: str = field(default="runs/vit_finetuning", metadata={"help": "Folder for the models and results."})
    num_pretraining_classes: int = field(default=6, metadata={"help": "Classes to pretrain on; the others are left."})
    num_pretraining_epochs: float = field(default=6.0, metadata={"help": "Epochs of pretraining."})
    num_finetuning_samples: int = field(default=2000, metadata={"help": "Images to fine-tune on."})
    num_finetuning_epochs: float = field(default=10.0, metadata={"help": "Epochs of fine-tuning."})
    num_seeds: int = field(default=3, metadata={"help": "Fine-tuning runs of each model."})
    hidden_size: int = field(default=128, metadata={"help": "Width of the ViT."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers of the ViT."})
    patch_size: int = field(default=4, metadata={"help": "Patch side, in pixels."})
    image_size: int = field(default=32, metadata={"help": "Image side, in pixels."})


def pretrain(arguments: ComparisonArguments, data: "ImageData", processor, results: dict) -> Path:
    """Pretrain the ViT, once, and return its folder."""
    from transformers import ViTConfig, ViTForImageClassification, set_seed

    from examples.comparison.finetuning import TensorImages, train

    folder = Path(arguments.output_dir) / "pretrained"
    if "pretraining_accuracy" in results and (folder / "model.safetensors").exists():
        return folder
    print(f"pretraining on {arguments.num_pretraining_classes} classes", flush=True)
    classes = list(range(arguments.num_pretraining_classes))
    columns = (data.image_column, data.label_column)
    set_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=arguments.hidden_size,
            num_hidden_layers=arguments.num_hidden_layers,
            num_attention_heads=NUM_HEADS,
            intermediate_size=2 * arguments.hidden_size,
            image_size=arguments.image_size,
            patch_size=arguments.patch_size,
            id2label=dict(enumerate(data.label_names[: len(classes)])),
            label2id={name: index for index, name in enumerate(data.label_names[: len(classes)])},
        )
    )
    results["pretraining_accuracy"], results["pretraining_seconds"] = train(
        model,
        TensorImages(data.train, columns, classes, processor),
        TensorImages(data.evaluation, columns, classes, processor),
        folder,
        learning_rate=1e-3,
        num_train_epochs=arguments.num_pretraining_epochs,
        seed=0,
    )
    model.save_pretrained(folder)
    return folder


def make_model(name: str, folder: Path, num_classes: int, seed: int) -> "PreTrainedModel":
    """Load the pretrained ViT with a new head, or convert it; the head is the same for both."""
    from transformers import ViTForImageClassification, set_seed

    from conversion.convert_vit import convert_model

    set_seed(seed)
    labels = {index: f"LABEL_{index}" for index in range(num_classes)}
    model = ViTForImageClassification.from_pretrained(
        folder,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
        ignore_mismatched_sizes=True,
    )
    return model if name == "vit" else convert_model(model)


def fine_tune(arguments: ComparisonArguments, data: "ImageData", classes: list[int], processor, folder: Path, keep):
    """Fine-tune both models with every seed; `keep` takes the results of each and knows which there are already."""
    from examples.comparison.finetuning import TensorImages, train

    columns = (data.image_column, data.label_column)
    train_data = TensorImages(data.train, columns, classes, processor, arguments.num_finetuning_samples)
    eval_data = TensorImages(data.evaluation, columns, classes, processor)
    planned = [(name, seed) for seed in range(arguments.num_seeds) for name in MODELS]
    for number, (name, seed) in enumerate(planned, start=1):
        if keep(name, seed):
            continue
        print(f"run {number} of {len(planned)}: {name}, seed {seed}", flush=True)
        model = make_model(name, folder, len(classes), seed)
        accuracy, seconds = train(
            model,
            train_data,
            eval_data,
            Path(arguments.output_dir, f"{name}-{seed}"),
            learning_rate=3e-4,
            num_train_epochs=arguments.num_finetuning_epochs,
            seed=seed,
        )
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        keep(name, seed, {"accuracy": accuracy, "seconds": seconds, "num_parameters": num_parameters})


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        (ComparisonArguments, DataArguments), prog="python -m examples.compare_vit_finetuning", description=__doc__
    )
    arguments, data_arguments = parser.parse(sys.argv[1:] if argv is None else argv)
    refuse_streaming(data_arguments, "compare_vit_finetuning")
    refuse_augmentation(data_arguments)
    for name, value in asdict(arguments).items():
        if not isinstance(value, str) and value <= 0:
            raise InputError(f"`--{name}` must be above 0, but got {value}.")
    if arguments.hidden_size % NUM_HEADS or arguments.image_size % arguments.patch_size:
        raise InputError(
            f"`--hidden_size` must be a multiple of {NUM_HEADS} and `--image_size` one of `--patch_size`, but got "
            f"{arguments.hidden_size}, {arguments.image_size} and {arguments.patch_size}."
        )
    results_file = make_place(f"{arguments.output_dir}/results.json")
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from transformers import ViTImageProcessorPil

    from examples.data.loading import load_image_data
    from examples.training.progress import quieten_libraries
    from examples.training.results import describe_command, describe_setting, write_json

    quieten_libraries(verbose=False)
    data = load_image_data(data_arguments)
    classes = list(range(arguments.num_pretraining_classes, len(data.label_names)))
    if not classes or arguments.num_pretraining_classes < 2:
        raise InputError(
            f"`--num_pretraining_classes` must leave classes to fine-tune on: from 2 to {len(data.label_names) - 1}, "
            f"but got {arguments.num_pretraining_classes}."
        )
    setting = {**asdict(arguments), "dataset_name": Path(str(data_arguments.dataset_name)).name}
    results = read_json(results_file) if results_file.exists() else {"setting": setting, "runs": {}}
    before = results.get("setting")
    # Arguments that the code which wrote them did not know yet have their defaults.
    known = {**asdict(ComparisonArguments()), **before} if isinstance(before, dict) else None
    if known != setting or not isinstance(results.get("runs"), dict):
        raise InputError(f"{results_file} is damaged or belongs to other arguments: name another `--output_dir`.")

    def keep(name: str, seed: int, measured: dict | None = None) -> bool:
        if measured is not None:
            results["runs"][f"{name}-{seed}"] = measured
            write_json(results_file, results)
        return f"{name}-{seed}" in results["runs"]

    processor = ViTImageProcessorPil(size={"height": arguments.image_size, "width": arguments.image_size})
    folder = pretrain(arguments, data, processor, results)
    seeds = list(range(arguments.num_seeds))
    results |= describe_setting("fine-tuning", describe_command("examples.compare_vit_finetuning"), seeds)
    write_json(results_file, results)
    fine_tune(arguments, data, classes, processor, folder, keep)
    for name in MODELS:
        accuracies = [results["runs"][f"{name}-{seed}"]["accuracy"] for seed in seeds]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        results[name] = {"accuracy_mean": statistics.mean(accuracies), "accuracy_stdev": spread}
        shown = "" if spread is None else f" +- {100 * spread:.2f}"
        print(f"{name}: accuracy {100 * statistics.mean(accuracies):.2f} %{shown} over {len(accuracies)} seeds")
    write_json(results_file, results)


if __name__ == "__main__":
    run_script(main, "Finished runs are kept: the same command goes on with the others.")
