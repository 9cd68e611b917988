"""
Classify a folder of images, or one image, into a CSV file: file, label, probability, and what else is likely.

    python -m examples.predict path/to/images --checkpoint runs/digits
    python -m examples.predict path/to/image.png --checkpoint runs/digits
    python -m examples.predict path/to/images --checkpoint user/my-ait --output predictions.csv --top_k 5

Where an image lies in a folder that is called like a class, its label is known: the accuracy is printed, and a
confusion matrix drawn. An image that cannot be read has its line too, with the reason in place of a label.
"""

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.errors import InputError, flatten_message, make_place, run_script
from examples.parsing import ArgumentParser
from examples.sharing import show


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ViTImageProcessorPil

PICTURES = (".png", ".jpg", ".svg", ".pdf", ".webp")
# With more classes the numbers in the cells cannot be read.
MAX_CLASSES_WITH_NUMBERS = 20


@dataclass
class PredictArguments:
    """What to classify, by which model, into which files."""

    checkpoint: str | None = field(default=None, metadata={"help": "Folder or Hub id of an AiT checkpoint."})
    output: str = field(default="predictions.csv", metadata={"help": "CSV file to write."})
    confusion_matrix: str | None = field(
        default=None,
        metadata={"help": "Picture to draw where labels are known. Default: OUTPUT_confusion_matrix.png."},
    )
    top_k: int = field(default=3, metadata={"help": "Classes to list for an image, the most probable first."})
    batch_size: int = field(default=64, metadata={"help": "Images in a batch."})
    device: str | None = field(default=None, metadata={"help": "Device. Default: a GPU where there is one."})
    allow_outside_files: bool = field(default=False, metadata={"help": "Open files to which links out of it lead."})
    overwrite: bool = field(default=False, metadata={"help": "Replace files that are there already."})


@dataclass
class Prediction:
    """The classes of one image by probability, the most probable first, or the reason why there are none."""

    file: Path
    labels: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    true_label: str = ""
    error: str = ""


def list_images(folder: Path, allow_outside_files: bool) -> list[Path]:
    """
    The images below a folder, relative to it and sorted; hidden files are left out.

    Raises:
        InputError: if there is no such folder, it has no images, or has links that lead out of it.
    """
    from examples.data.files import IMAGE_EXTENSIONS, list_files

    if not folder.is_dir():
        raise InputError(f"There is no {str(folder)!r}. Name a folder of images, or an image.")
    files, _ = list_files(folder, allow_outside_files)
    images = [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]
    if not images:
        raise InputError(f"The folder {str(folder)!r} has no images: no file ends like one, for instance in .png.")
    return images


def read_images(
    folder: Path, files: list[Path], processor: "ViTImageProcessorPil"
) -> Iterator[tuple[Prediction, "torch.Tensor | None"]]:
    """An unfilled prediction for each file, with the pixels (num_channels, height, width) where it can be read."""
    import datasets

    from examples.data.images import ImagePixelsDataset

    paths = [{"path": str(folder / file), "bytes": None} for file in files]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    pixels = ImagePixelsDataset(datasets.Dataset.from_dict({"image": paths}, features), "image", processor)
    for index, file in enumerate(files):
        try:
            yield Prediction(file), pixels[index]
        except InputError as error:
            yield Prediction(file, error=flatten_message(error.__cause__ or error)), None


def fill_predictions(
    model: "PreTrainedModel", waiting: list[tuple[Prediction, "torch.Tensor"]], names: list[str], top_k: int
) -> None:
    """Classify a batch of images and write labels and probabilities into their predictions."""
    import torch

    pixel_values = torch.stack([pixels for _, pixels in waiting]).to(next(model.parameters()).device)
    with torch.inference_mode():
        probabilities = model(pixel_values).logits.float().softmax(dim=-1)
    values, indices = probabilities.topk(min(top_k, len(names)), dim=-1)
    for (prediction, _), row, classes in zip(waiting, values.tolist(), indices.tolist()):
        prediction.labels, prediction.probabilities = [names[index] for index in classes], row


def predict_images(place: Path, arguments: PredictArguments) -> tuple[list[Prediction], list[str]]:
    """Classify an image, or all of a folder; return the predictions in the order of the files, and the classes."""
    import torch
    from tqdm.auto import tqdm

    from examples.data.files import normalize_name
    from examples.training.cost import choose_device
    from examples.training.loading import load_checkpoint, load_image_processor
    from modeling_ait import AiTForImageClassification

    device = choose_device(arguments.device)
    folder, files = place.parent, [Path(place.name)]
    if not place.is_file():
        folder, files = place, list_images(place, arguments.allow_outside_files)
    checkpoint = str(arguments.checkpoint)
    model = load_checkpoint(checkpoint, AiTForImageClassification, is_classifier_new=False).eval().to(device)
    processor = load_image_processor(checkpoint, model.config, None, is_resized=False)
    names = [normalize_name((model.config.id2label or {})[index]) for index in range(model.config.num_labels)]
    predictions: list[Prediction] = []
    waiting: list[tuple[Prediction, torch.Tensor]] = []
    for prediction, pixels in tqdm(
        read_images(folder, files, processor), total=len(files), unit="image", leave=False, disable=None
    ):
        # In a folder of one class, that folder itself says which.
        parent = normalize_name((folder.resolve() / prediction.file).parent.name)
        prediction.true_label = parent if parent in names else ""
        predictions.append(prediction)
        if pixels is not None:
            waiting.append((prediction, pixels))
        if len(waiting) == arguments.batch_size:
            fill_predictions(model, waiting, names, arguments.top_k)
            waiting.clear()
    if waiting:
        fill_predictions(model, waiting, names, arguments.top_k)
    return predictions, names


def make_table(predictions: list[Prediction], num_listed: int) -> str:
    """The predictions as CSV, one line for each file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [f"{name}_{rank}" for rank in range(2, num_listed + 1) for name in ("label", "probability")]
    writer.writerow(["file", "label", "probability", *more, "true_label", "error"])
    for prediction in predictions:
        listed: list[Any] = []
        for label, probability in zip(prediction.labels, prediction.probabilities):
            listed += [label, f"{probability:.6f}"]
        listed += [""] * (2 * num_listed - len(listed))
        writer.writerow([prediction.file.as_posix(), *listed, prediction.true_label, prediction.error])
    return text.getvalue()


def draw_confusion_matrix(predictions: list[Prediction], names: list[str], path: Path) -> None:
    """Draw how often each class that occurs is taken for each, in a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from sklearn.metrics import ConfusionMatrixDisplay

    from examples.visualization.fonts import use_all_fonts
    from modeling_ait.saving_ait import stage_files

    true = [prediction.true_label for prediction in predictions]
    predicted = [prediction.labels[0] for prediction in predictions]
    shown = [name for name in dict.fromkeys(names) if name in {*true, *predicted}]
    side = 3 + 0.4 * min(len(shown), 50)
    with use_all_fonts(), stage_files(path.parent) as staging:
        figure, axes = pyplot.subplots(figsize=(side, side), layout="constrained")
        ConfusionMatrixDisplay.from_predictions(
            true,
            predicted,
            labels=shown,
            display_labels=[show(name).replace("$", r"\$") for name in shown],
            include_values=len(shown) <= MAX_CLASSES_WITH_NUMBERS,
            xticks_rotation="vertical",
            cmap="Blues",
            colorbar=False,
            ax=axes,
        )
        figure.savefig(Path(staging, path.name), dpi=120)
    pyplot.close(figure)


def check_arguments(arguments: PredictArguments) -> tuple[Path, Path]:
    """
    Check what needs no model; return the files of the table and of the picture.

    Raises:
        InputError: for values that cannot work, and for files that are there already.
    """
    if arguments.checkpoint is None:
        raise InputError("Name a checkpoint, a folder or a Hub id: `--checkpoint runs/digits`.")
    for name in ("top_k", "batch_size"):
        if getattr(arguments, name) < 1:
            raise InputError(f"`--{name}` must be at least 1, but got {getattr(arguments, name)}.")
    table = make_place(arguments.output)
    default = table.with_name(f"{table.stem}_confusion_matrix.png")
    picture = default if arguments.confusion_matrix is None else make_place(arguments.confusion_matrix)
    if picture.suffix not in PICTURES:
        raise InputError(
            f"`--confusion_matrix` takes a file that ends in {', '.join(PICTURES)}, but got {str(picture)!r}."
        )
    for path in (table, picture):
        if path.exists() and not arguments.overwrite:
            raise InputError(f"{str(path)!r} is there already: name another file, or say `--overwrite True`.")
    return table, picture


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    place = argv.pop(0) if argv and not argv[0].startswith("-") else None
    usage = "python -m examples.predict FOLDER|IMAGE --checkpoint CHECKPOINT [--flag value ...]"
    (arguments,) = ArgumentParser(PredictArguments, description=__doc__, usage=usage).parse(argv)
    if place is None:
        raise InputError("Name an image or a folder of images first, before all flags.")
    table, picture = check_arguments(arguments)
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.training.progress import quieten_libraries
    from examples.training.results import write_text

    quieten_libraries(verbose=False)
    predictions, names = predict_images(Path(place), arguments)
    num_listed = min(arguments.top_k, len(names))
    write_text(table, make_table(predictions, num_listed))
    broken = [prediction for prediction in predictions if prediction.error]
    for prediction in broken:
        print(f"Cannot be read: {show(prediction.file)} ({show(prediction.error)})")
    print(f"{len(predictions) - len(broken)} of {len(predictions)} images classified. Written: {table}.")
    if Path(place).is_file():
        if not broken:
            print(
                f"It is most likely {show(predictions[0].labels[0])} ({100 * predictions[0].probabilities[0]:.2f} %)."
            )
        return
    labelled = [prediction for prediction in predictions if prediction.true_label and not prediction.error]
    if labelled:
        num_right = sum(prediction.labels[0] == prediction.true_label for prediction in labelled)
        print(f"Accuracy on {len(labelled)} images whose label is known: {100 * num_right / len(labelled):.2f} %")
        draw_confusion_matrix(labelled, names, picture)
        print(f"Written: {picture}.")
    else:
        print("No image lies in a folder that is called like a class, so no accuracy is known.")


if __name__ == "__main__":
    run_script(main)
