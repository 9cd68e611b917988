"""
Data by name: loading, checks, and the way from an image to `pixel_values`.

    python -m examples.data sort_of_clevr --preview sort_of_clevr.png
    python -m examples.data triangle --dataset_config_name matched --upload_to user/triangle-matched
"""

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from transformers import HfArgumentParser, ViTImageProcessorPil

from examples.benchmarks import BENCHMARKS, IMAGE_CLASSIFICATION, Benchmark
from examples.generated import load_generated
from examples.preview import draw_contact_sheet
from examples.recipes import DataArguments, InputError


@dataclass
class ImageData:
    """A data set to train and evaluate on, with the names of its columns and classes."""

    name: str
    train: datasets.Dataset
    evaluation: datasets.Dataset
    image_column: str
    label_column: str
    label_names: list[str]


class ImagePixels(torch.utils.data.Dataset):
    """
    The images of a column as the model takes them, (num_channels, height, width), optionally cropped and flipped.

    Augmentation is drawn from a stream of its own for each (seed, epoch, index): it does not depend on workers, on
    processes, or on whether the run was resumed. `set_epoch` says which epoch it is. With `cache` every image is
    decoded and resized once and held as bytes; the samples are the same.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        image_column: str,
        processor: ViTImageProcessorPil,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
        cache: bool = False,
    ):
        self.data = data
        self.image_column = image_column
        self.processor = processor
        self.crop_padding = crop_padding
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        # Shared, so that workers that outlive an epoch see the next one.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()
        statistics = zip(processor.image_mean, processor.image_std)
        self.mean, self.std = torch.tensor(list(statistics), dtype=torch.float32).T[:, :, None, None]
        # Rounded once, as the processor does it, so that the result is the same to the last bit.
        self.levels = (torch.arange(256, dtype=torch.float64) * processor.rescale_factor).float()
        self.cached = torch.stack([self.read(index) for index in range(len(data))]) if cache else None

    def __len__(self) -> int:
        return len(self.data)

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def read(self, index: int) -> torch.Tensor:
        """Decode and resize one image, as uint8 (num_channels, height, width)."""
        encoded = self.data[index][self.image_column]
        image = decode_image(encoded, f"row {index} of column {self.image_column!r}").convert("RGB")
        pixels = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        return pixels["pixel_values"][0].to(torch.uint8)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = self.read(index) if self.cached is None else self.cached[index]
        if self.crop_padding or self.horizontal_flip:
            pixels = self.augment(pixels, np.random.default_rng([self.seed, int(self.epoch), index]))
        return (self.levels[pixels.int()] - self.mean) / self.std

    def augment(self, pixels: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Crop at the model's resolution, so that the padding counts the pixels that the model sees, and flip."""
        _, height, width = pixels.shape
        if self.crop_padding:
            left, top = random.integers(0, 2 * self.crop_padding + 1, size=2).tolist()
            pixels = torch.nn.functional.pad(pixels, [self.crop_padding] * 4)
            pixels = pixels[:, top : top + height, left : left + width]
        if self.horizontal_flip and random.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels


class ImageClassificationDataset(torch.utils.data.Dataset):
    """Samples as the model takes them: `pixel_values` (num_channels, height, width) and `labels` ()."""

    def __init__(self, pixels: ImagePixels, labels: list[int]):
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        self.pixels.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": torch.tensor(self.labels[index])}


def decode_image(encoded: dict, where: str) -> Image.Image:
    """
    Open an image as `datasets` stores it when decoding is off.

    Raises:
        InputError: if it is truncated or no image; the message names its path, or the row that holds it.
    """
    path, content = encoded.get("path"), encoded.get("bytes")
    try:
        image = Image.open(io.BytesIO(content) if content is not None else str(path))
        image.load()
    except (OSError, SyntaxError) as error:
        raise InputError(f"The image {path or where} cannot be read ({error}). Repair or remove it.") from error
    return image


def load_digits() -> datasets.DatasetDict:
    """Build scikit-learn's 1,797 handwritten digits (8 x 8 pixels), one fifth held out, the same for every seed."""
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits = load_sklearn_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    data = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in images], "label": digits.target.tolist()}, features=features
    )
    return data.train_test_split(test_size=0.2, seed=0, stratify_by_column="label")


EMBEDDED = {"digits": load_digits}
IMAGE_EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load_local_folder(folder: Path) -> datasets.DatasetDict:
    """Load a folder of images by class, or one of parquet files whose names begin with the name of their split."""
    parquet_files = sorted(folder.glob("*.parquet"))
    if parquet_files:
        splits: dict[str, list[str]] = {}
        for file in parquet_files:
            splits.setdefault(file.stem.split("-")[0].split(".")[0], []).append(str(file))
        return datasets.load_dataset("parquet", data_files=splits)
    if not any(file.suffix.lower() in IMAGE_EXTENSIONS for file in folder.rglob("*")):
        raise InputError(
            f"The folder {str(folder)!r} holds no images and no parquet files. Expected FOLDER/train/CLASS/image.png "
            "(and FOLDER/test/...), FOLDER/CLASS/image.png, or FOLDER/train.parquet."
        )
    return datasets.load_dataset("imagefolder", data_dir=str(folder))


def find_benchmark(name: str | None) -> Benchmark | None:
    """Return the benchmark that has this name or Hub id, or `None`."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    return next((benchmark for benchmark in BENCHMARKS.values() if name and benchmark.hub_id == name), None)


def load_splits(arguments: DataArguments) -> datasets.DatasetDict:
    """Load all splits of the data set that the arguments name."""
    name = arguments.dataset_name
    known = ", ".join([*sorted(EMBEDDED), *BENCHMARKS])
    if name is None:
        raise InputError(f"`--dataset_name` is missing: a Hub id, a local folder, or one of: {known}.")
    benchmark = find_benchmark(name)
    builder = None if benchmark is None else benchmark.builder
    if builder is None and (arguments.generator_train_size or arguments.generator_test_size):
        raise InputError(
            f"{name!r} is not generated: use `--max_train_samples` and `--max_eval_samples` instead of "
            "`--generator_train_size` and `--generator_test_size`."
        )
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if builder is not None:
        return load_generated(  # type: ignore[return-value]  # it streams only when asked to
            builder,
            arguments.dataset_config_name,
            arguments.generator_seed,
            arguments.generator_train_size,
            arguments.generator_test_size,
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return load_local_folder(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(
            f"There is no folder {name!r}. `--dataset_name` takes a folder, a Hub id, or one of: {known}."
        )
    hub_id = name if benchmark is None else str(benchmark.hub_id)
    if "/" not in hub_id:
        raise InputError(
            f"There is no benchmark {name!r}. Known: {known}. Otherwise `--dataset_name` takes a Hub id (user/name) "
            "or a local folder."
        )
    try:
        return datasets.load_dataset(hub_id, arguments.dataset_config_name)
    except Exception as error:
        # Which exception tells an unknown name, a missing login or a missing network changes between versions.
        raise InputError(
            f"The data set {hub_id!r} could not be loaded from the Hub ({type(error).__name__}: {error}). "
            f"Without a network pass a local folder with its files, or one of digits, triangle, sort_of_clevr, as "
            "`--dataset_name`."
        ) from error


def choose_column(given: str | None, candidates: tuple[str, ...], columns: list[str], flag: str) -> str:
    if given is not None:
        if given not in columns:
            raise InputError(f"There is no column {given!r} (`{flag}`). The data set has: {', '.join(columns)}.")
        return given
    found = [column for column in candidates if column in columns]
    if len(found) != 1:
        raise InputError(f"Say with `{flag}` which column to use. The data set has: {', '.join(columns)}.")
    return found[0]


def choose_splits(splits: datasets.DatasetDict, arguments: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    for flag, name in (("--train_split", arguments.train_split), ("--eval_split", arguments.eval_split)):
        if name is not None and name not in splits:
            raise InputError(f"There is no split {name!r} (`{flag}`). The data set has: {', '.join(splits)}.")
    train = splits[arguments.train_split]
    for name in (arguments.eval_split, "test", "validation"):
        if name is not None and name in splits and name != arguments.train_split:
            return train, splits[name]
    if arguments.eval_split is not None:
        return train, splits[arguments.eval_split]
    if not 0 < arguments.eval_fraction < 1:
        raise InputError(f"`--eval_fraction` must be between 0 and 1, but got {arguments.eval_fraction}.")
    parts = train.train_test_split(test_size=arguments.eval_fraction, seed=0)
    return parts["train"], parts["test"]


def read_label_names(train: datasets.Dataset, label_column: str) -> list[str]:
    """Return the names of the classes: those that the data set gives, else its sorted values."""
    feature = train.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    values = sorted(set(train[label_column]))
    if not all(isinstance(value, (int, str)) for value in values):
        raise InputError(
            f"The label column {label_column!r} holds {type(values[0]).__name__} values, but classes must be integers "
            f"or strings. The data set has: {', '.join(train.column_names)}."
        )
    return [str(value) for value in values]


def encode_labels(data: datasets.Dataset, label_column: str, label_names: list[str], split: str) -> datasets.Dataset:
    """Turn labels into indices of `label_names` and check every one of them."""
    labels = data[label_column][:]
    if not isinstance(data.features[label_column], datasets.ClassLabel):
        index_of = {name: index for index, name in enumerate(label_names)}
        labels = [index_of.get(str(label), label) for label in labels]
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < len(label_names):
            raise InputError(
                f"Row {row} of the {split} split has the label {label!r} in column {label_column!r}, but there are "
                f"{len(label_names)} classes: 0 to {len(label_names) - 1} ({', '.join(label_names[:10])}"
                f"{', ...' if len(label_names) > 10 else ''})."
            )
    return data.remove_columns(label_column).add_column(label_column, labels)


def load_image_data(arguments: DataArguments) -> ImageData:
    """
    Load, check and cut to size the data set that the arguments name.

    Raises:
        InputError: if it cannot be found or does not fit; the message says what there is.
    """
    benchmark = find_benchmark(arguments.dataset_name)
    if benchmark is not None and benchmark.task != IMAGE_CLASSIFICATION:
        raise InputError(f"{arguments.dataset_name!r} has questions: train on it with `examples.{benchmark.task}`.")
    train, evaluation = choose_splits(load_splits(arguments), arguments)
    columns = train.column_names
    image_columns = ("image", "img") if benchmark is None else (benchmark.image_column,)
    label_columns = ("label", "labels") if benchmark is None else (benchmark.label_column,)
    image_column = choose_column(arguments.image_column, image_columns, columns, "--image_column")
    label_column = choose_column(arguments.label_column, label_columns, columns, "--label_column")
    if not isinstance(train.features[image_column], datasets.Image):
        raise InputError(
            f"The column {image_column!r} holds no images. The data set has: "
            + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in train.features.items())
            + "."
        )
    label_names = read_label_names(train, label_column)
    parts = []
    for split, data, limit in (
        ("training", train, arguments.max_train_samples),
        ("evaluation", evaluation, arguments.max_eval_samples),
    ):
        data = data.select_columns([image_column, label_column])
        if limit is not None:
            # Shuffled, because folders of images come sorted by class.
            data = data.shuffle(seed=0).select(range(min(limit, len(data))))
        if len(data) == 0:
            raise InputError(f"The {split} split of {arguments.dataset_name!r} is empty.")
        data = encode_labels(data, label_column, label_names, split)
        # Decoded by `decode_image`, which can name the file that it cannot read.
        parts.append(data.cast_column(image_column, datasets.Image(decode=False)))
    return ImageData(str(arguments.dataset_name), parts[0], parts[1], image_column, label_column, label_names)


@dataclass
class PreviewArguments:
    """What to show or share."""

    preview: str | None = field(default=None, metadata={"help": "Image file to draw a contact sheet into."})
    num_images: int = field(default=8, metadata={"help": "Images on the contact sheet."})
    preview_split: str = field(default="train", metadata={"help": "Split to draw."})
    upload_to: str | None = field(default=None, metadata={"help": "Hub id to push all splits to, as parquet."})


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else None
    parser = HfArgumentParser(
        (PreviewArguments, DataArguments),  # type: ignore[arg-type]
        description=__doc__,
        usage="%(prog)s NAME [--preview FILE.png] [--flag value ...]",
    )
    arguments, data_arguments = parser.parse_args_into_dataclasses(argv)
    data_arguments.dataset_name = name or data_arguments.dataset_name
    benchmark = find_benchmark(data_arguments.dataset_name)
    splits = load_splits(data_arguments)
    for split, data in splits.items():
        print(f"{split}: {len(data)} rows; {', '.join(data.column_names)}")
    if arguments.preview is not None:
        if arguments.preview_split not in splits:
            raise InputError(f"There is no split {arguments.preview_split!r}. The data set has: {', '.join(splits)}.")
        data = splits[arguments.preview_split]
        columns = data.column_names
        image_columns = ("image", "img") if benchmark is None else (benchmark.image_column,)
        label_columns = ("label", "labels", "answers") if benchmark is None else (benchmark.label_column,)
        image_column = choose_column(data_arguments.image_column, image_columns, columns, "--image_column")
        label_column = choose_column(data_arguments.label_column, label_columns, columns, "--label_column")
        label_names = [] if label_column == "answers" else read_label_names(data, label_column)
        variant = "" if data_arguments.dataset_config_name is None else f", {data_arguments.dataset_config_name}"
        title = f"{Path(str(name)).name if benchmark is None else benchmark.title}{variant}: {arguments.preview_split}"
        shown = data.select(range(min(arguments.num_images, len(data))))
        path = Path(arguments.preview)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_contact_sheet(shown, image_column, label_column, label_names, title, path)
        print(f"Written: {path}")
    if arguments.upload_to is not None:
        splits.push_to_hub(arguments.upload_to)
        print(f"Pushed to {arguments.upload_to}.")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
