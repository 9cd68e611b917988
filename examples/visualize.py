"""
Draw what the memory of a checkpoint holds, who writes it, who reads it, and what is lost without it.

    python -m examples.visualize --checkpoint runs/digits --dataset_name digits --output runs/digits/memory.png
    python -m examples.visualize --checkpoint runs/digits --images a.png b.png --output memory.svg --json memory.json
    python -m examples.visualize --checkpoint runs/digits --dataset_name digits --without_slots 3 1:7 \
        --checkpoints runs/digits --output memory.png

For each image: the prediction, which slot each patch retrieves, the strongest slots, the share of the write that it
wins, and the energies before and after retrieval; on Sort-of-CLEVR the question and where it looks. For each layer's
memory: how alike its slots are, how many tokens retrieve each, how they moved, what the accuracy loses without each,
and the patches that retrieve them most. Layers and slots count from 0. The model stays as it is.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.data.arguments import DataArguments, refuse_augmentation
from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ViTImageProcessorPil

    from examples.visualization.inputs import Inputs

ENDINGS = (".png", ".svg")


@dataclass
class VisualizeArguments:
    """What to draw."""

    checkpoint: str | None = field(default=None, metadata={"help": "Folder or Hub id of an AiT checkpoint."})
    images: list[str] = field(default_factory=list, metadata={"help": "Image files to look at, or `--dataset_name`."})
    output: str | None = field(default=None, metadata={"help": "Picture to write, .png or .svg."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the numbers drawn to."})
    num_images: int = field(default=8, metadata={"help": "Images of the data set to draw."})
    num_samples: int = field(default=256, metadata={"help": "Images of the data set to measure the use of slots on."})
    num_ablation_samples: int | None = field(
        default=None,
        metadata={
            "help": "Images to measure the accuracy without each slot on; 0: leave it out. Default: 128, or 32 with "
            "all their questions."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Images that compete in the write, those drawn among them."})
    checkpoints: list[str] = field(
        default_factory=list,
        metadata={"help": "Checkpoints of a training in order, or its folder, to show how slots moved between them."},
    )
    layers: list[int] = field(default_factory=list, metadata={"help": "Layers to draw. Default: all."})
    without_slots: list[str] = field(
        default_factory=list,
        metadata={"help": "Slots that no token may retrieve: 7 in every layer, or 2:7 in layer 2."},
    )

    def __post_init__(self) -> None:
        for name, lowest in (("num_images", 1), ("num_samples", 1), ("num_ablation_samples", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"`--{name}` must be at least {lowest}, but got {value}.")


def check_arguments(arguments: VisualizeArguments, data: DataArguments) -> tuple[Path, Path | None]:
    """
    The places to write to.

    Raises:
        InputError: for arguments that are missing or exclude each other, or a place that cannot be written to.
    """
    for name in ("checkpoint", "output"):
        if getattr(arguments, name) is None:
            raise InputError(f"`--{name}` is missing. `--help` says what it takes.")
    if bool(arguments.images) == (data.dataset_name is not None):
        raise InputError("Name images with `--images`, or a data set with `--dataset_name`: one of the two.")
    refuse_augmentation(data)
    if Path(str(arguments.output)).suffix not in ENDINGS:
        raise InputError(f"`--output` takes a file that ends in {' or '.join(ENDINGS)}, but got {arguments.output!r}.")
    numbers = None if arguments.json is None else make_place(arguments.json, "portrait")
    return make_place(str(arguments.output)), numbers


def list_folders(folders: list[str]) -> list[Path]:
    """
    The checkpoints that folders are or have in them, in order.

    Raises:
        InputError: if there are fewer than two, or one is not there.
    """
    from examples.training.checkpoints import list_checkpoints

    found: list[Path] = []
    for name in folders:
        if not Path(name).is_dir():
            raise InputError(f"There is no folder {name!r} (`--checkpoints`).")
        found += list_checkpoints(Path(name))[::-1] or [Path(name)]
    if len(found) < 2:
        raise InputError(
            f"`--checkpoints` takes two or more, but {' '.join(folders)} has {len(found)}. A training keeps more with "
            "`--save_total_limit`."
        )
    return found


def read_history(folders: list[str], model: "PreTrainedModel") -> "dict[str, list[torch.Tensor]]":
    """The memories of checkpoints by their steps, see `list_folders`."""
    from examples.visualization.measure import get_encoder
    from examples.visualization.slots import read_memories

    shapes = [memory.shape for memory in get_encoder(model).memories]
    history = {}
    for folder in list_folders(folders) if folders else ():
        memories = read_memories(folder)
        if [memory.shape for memory in memories] != shapes:
            raise InputError(f"The memories of {str(folder)!r} have another shape than those of the checkpoint.")
        step = folder.name.removeprefix("checkpoint-")
        history[step if step not in history else str(folder)] = memories
    return history


def open_inputs(
    arguments: VisualizeArguments, data: DataArguments, model: "PreTrainedModel", processor: "ViTImageProcessorPil"
) -> "Inputs":
    """
    The images, and their questions or labels.

    Raises:
        InputError: for images without the question that the model needs, or a data set of other classes.
    """
    from examples.data.loading import load_image_data
    from examples.data.questions import load_questions
    from examples.training.evaluation import find_indices, is_unseen, read_record
    from examples.visualization.inputs import open_classes, open_questions, read_images

    has_questions = model.config.question_size is not None
    if arguments.images:
        if has_questions:
            raise InputError("This checkpoint answers questions, and `--images` have none: take `--dataset_name`.")
        return read_images(arguments.images, processor, model.config.num_channels, arguments.batch_size)
    num_labelled = arguments.num_ablation_samples
    if num_labelled is None:
        num_labelled = 32 if has_questions else 128
    numbers = (arguments.num_samples, num_labelled, arguments.batch_size)
    is_new = is_unseen(read_record(str(arguments.checkpoint)), data)
    if has_questions:
        return open_questions(load_questions(data, trains=False, is_unseen=is_new), processor, *numbers)
    loaded = load_image_data(data, trains=False, is_unseen=is_new)
    indices = find_indices(str(arguments.checkpoint), name_labels(model), loaded)
    return open_classes(loaded, processor, indices, *numbers)


def describe(
    arguments: VisualizeArguments,
    data: DataArguments,
    inputs: "Inputs",
    without: dict[int, list[int]],
    ablation: dict[str, Any] | None,
) -> str:
    """What a reader of the figure has to know."""
    num_images = sum(len(batch["pixel_values"]) for batch in inputs.batches)
    source = "images" if arguments.images else f"images of {data.dataset_name}"
    lines = [f"Memories as in the checkpoint, read only. Use and patches: {num_images} {source}."]
    if inputs.labelled:
        num_labelled = sum(len(batch["pixel_values"]) for batch in inputs.labelled)
        lines.append(f"Accuracy without slots: {num_labelled} {source}.")
    if without:
        removed = "; ".join(f"layer {layer}: {', '.join(map(str, slots))}" for layer, slots in without.items())
        lines.append(f"Not retrieved here: slots of {removed}.")
    if ablation is not None and without:
        lines.append(
            f"Accuracy without them {ablation['without_chosen']:.2f} %, with all {ablation['accuracy']:.2f} %."
        )
    return " ".join([*lines, "Layers and slots count from 0."])


def name_labels(model: "PreTrainedModel") -> dict[int, str]:
    """The name of each label."""
    return {int(index): str(name) for index, name in (model.config.id2label or {}).items()}


def name_checkpoint(checkpoint: str) -> str:
    """What the figure calls a checkpoint: its folder, with that of its training if it is one of several."""
    path = Path(checkpoint).resolve() if Path(checkpoint).is_dir() else Path(checkpoint)
    return f"{path.parent.name}/{path.name}" if path.name.startswith("checkpoint-") else path.name


def measure_without(
    model: "PreTrainedModel", inputs: "Inputs", without: dict[int, list[int]]
) -> dict[str, Any] | None:
    """The accuracy without each slot, and without those that are taken away together, with a bar of progress."""
    from tqdm.auto import tqdm

    from examples.visualization.ablation import measure_ablations
    from examples.visualization.measure import get_encoder

    if not inputs.labelled:
        return None
    num_slots = sum(len(memory) for memory in get_encoder(model).memories)
    with tqdm(total=num_slots, unit="slot", leave=False, disable=None) as progress:
        return measure_ablations(model, inputs.labelled, without, lambda: progress.update())


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        (VisualizeArguments, DataArguments), prog="python -m examples.visualize", description=__doc__
    )
    arguments, data = parser.parse(sys.argv[1:] if argv is None else argv)
    output, numbers = check_arguments(arguments, data)
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.training.loading import choose_class, load_checkpoint, load_image_processor
    from examples.training.progress import quieten_libraries
    from examples.training.results import write_json
    from examples.visualization.ablation import parse_slots, without_slots
    from examples.visualization.figure import Pictured, describe_portrait, draw_portrait, measure_portrait
    from examples.visualization.inputs import make_restore
    from examples.visualization.measure import get_encoder, observe

    quieten_libraries(verbose=False)
    checkpoint = str(arguments.checkpoint)
    model = load_checkpoint(checkpoint, choose_class(checkpoint), is_classifier_new=False).eval()
    num_layers = len(get_encoder(model).memories)
    if arguments.layers and not set(arguments.layers) <= set(range(num_layers)):
        raise InputError(f"`--layers` takes numbers from 0 to {num_layers - 1}, but got {arguments.layers}.")
    without = parse_slots(arguments.without_slots, model)
    history = read_history(arguments.checkpoints, model)
    processor = load_image_processor(checkpoint, model.config, data, is_resized=False)
    inputs = open_inputs(arguments, data, model, processor)
    names = name_labels(model)
    num_images = len(inputs.batches[0]["pixel_values"]) if arguments.images else arguments.num_images
    ablation = measure_without(model, inputs, without)
    pictured = Pictured(
        name=name_checkpoint(checkpoint),
        batches=inputs.batches,
        num_images=num_images,
        restore=make_restore(processor.image_mean, processor.image_std),
        label_names=names,
        texts=inputs.texts,
        answers=[names[label] for label in inputs.labels],
        memories=history,
        ablation=ablation,
        note=describe(arguments, data, inputs, without, ablation),
        layers=arguments.layers,
    )
    if without:
        drawn = {name: tensor[:num_images] for name, tensor in inputs.batches[0].items()}
        pictured.unablated = [names[int(index)] for index in observe(model, drawn).logits.argmax(dim=-1)]
    with without_slots(model, without) if without else nullcontext():
        portrait = measure_portrait(model, pictured)
    draw_portrait(portrait, output)
    if numbers is not None:
        write_json(numbers, describe_portrait(portrait))
    print(f"Written: {', '.join(str(path) for path in (output, numbers) if path)}")


if __name__ == "__main__":
    run_script(main)
