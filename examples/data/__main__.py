"""
Show a data set, draw some of its images, measure how fast they are fetched, or push it to the Hub.

    python -m examples.data sort_of_clevr --preview sort_of_clevr.png
    python -m examples.data digits --time 32 --crop_padding 4 --horizontal_flip True
    python -m examples.data triangle --dataset_config_name matched --upload_to user/triangle-matched
"""

import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.data.arguments import DataArguments, refuse_streaming
from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    import datasets

    from examples.data.catalog import Benchmark


QUESTIONS_PER_IMAGE = 6
PICTURES = (".png", ".jpg", ".svg", ".pdf", ".webp")


def caption(row: dict[str, Any], label_column: str, label_names: list[str]) -> str:
    """What stands below an image: its class, or some of its questions, of all types, with their answers."""
    if "questions" not in row:
        return label_names[row[label_column]]
    import numpy as np

    from examples.data.question_columns import read_row
    from examples.data.sort_of_clevr import ANSWERS, describe_question

    questions, answers = read_row(row["questions"], row["answers"], "An image of the preview")
    chosen = np.unique(np.linspace(0, max(len(questions) - 1, 0), QUESTIONS_PER_IMAGE).round().astype(int))
    lines = [f"{describe_question(questions[index])} {ANSWERS[answers[index]]}" for index in chosen[: len(questions)]]
    return "\n".join("\n".join(textwrap.wrap(line, 40, subsequent_indent="   ")) for line in lines)


def draw_contact_sheet(
    data: "datasets.Dataset", image_column: str, label_column: str, label_names: list[str], title: str, path: Path
) -> None:
    """Draw all images of a (short) data set into a file, in rows of four."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    num_columns = min(4, len(data))
    num_rows = -(-len(data) // num_columns)
    has_questions = "questions" in data.column_names
    figure, axes = pyplot.subplots(
        num_rows,
        num_columns,
        figsize=(3.2 * num_columns, (5.2 if has_questions else 3.2) * num_rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(data) :]:
        axis.axis("off")
    for axis, row in zip(axes.flat, data):
        axis.imshow(row[image_column].convert("RGB"), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(caption(row, label_column, label_names), fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


@dataclass
class PreviewArguments:
    """What to show or share."""

    preview: str | None = field(default=None, metadata={"help": "Image file to draw a contact sheet into."})
    num_images: int = field(default=8, metadata={"help": "Images on the contact sheet."})
    preview_split: str = field(default="train", metadata={"help": "Split to draw."})
    time: int | None = field(
        default=None,
        metadata={
            "help": "Measure how many training images of this size, augmented as the flags say, one processor fetches."
        },
    )
    num_timed: int = field(default=20_000, metadata={"help": "Images to fetch for the measurement."})
    upload_to: str | None = field(default=None, metadata={"help": "Hub id to push all splits to, as parquet."})


def generated_sizes(arguments: DataArguments, benchmark: "Benchmark | None") -> dict[str, int] | None:
    """Rows of each split of a generated benchmark; `None` for another data set."""
    if benchmark is None or benchmark.builder is None:
        return None
    from examples.data.generated import SPLITS

    given = (arguments.generator_train_size, arguments.generator_test_size)
    defaults = benchmark.builder.default_sizes
    return {split: default if size is None else size for split, size, default in zip(SPLITS, given, defaults)}


def draw_preview(
    splits: "datasets.DatasetDict",
    arguments: PreviewArguments,
    data_arguments: DataArguments,
    benchmark: "Benchmark | None",
) -> None:
    """Draw the first images of a split into the file that the arguments name."""
    from examples.data.labels import read_label_names
    from examples.data.loading import choose_column, choose_image_column

    if arguments.preview_split not in splits:
        raise InputError(f"There is no split {arguments.preview_split!r}. The data set has: {', '.join(splits)}.")
    data = splits[arguments.preview_split]
    label_columns = ("label", "labels", "answers") if benchmark is None else (benchmark.label_column,)
    image_column = choose_image_column(data, data_arguments, benchmark)
    label_column = choose_column(data_arguments.label_column, label_columns, data.column_names, "--label_column")
    label_names = [] if label_column == "answers" else read_label_names(data, label_column)
    name = Path(str(data_arguments.dataset_name)).name if benchmark is None else benchmark.title
    variant = "" if data_arguments.dataset_config_name is None else f", {data_arguments.dataset_config_name}"
    shown = data.select(range(min(arguments.num_images, len(data))))
    path = Path(str(arguments.preview))
    title = f"{name}{variant}: {arguments.preview_split}"
    draw_contact_sheet(shown, image_column, label_column, label_names, title, path)
    print(f"Written: {path}")


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else None
    usage = "python -m examples.data NAME [--preview FILE.png] [--flag value ...]"
    parser = ArgumentParser((PreviewArguments, DataArguments), description=__doc__, usage=usage)
    arguments, data_arguments = parser.parse(argv)
    refuse_streaming(data_arguments, "data")
    data_arguments.dataset_name = name or data_arguments.dataset_name
    for flag in ("num_images", "num_timed", "time"):
        if (value := getattr(arguments, flag)) is not None and value < 1:
            raise InputError(f"`--{flag}` must be at least 1, but got {value}.")
    if arguments.preview is not None and make_place(arguments.preview).suffix not in PICTURES:
        raise InputError(
            f"`--preview` takes a file that ends in {', '.join(PICTURES)}, but got {arguments.preview!r}."
        )
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.data.catalog import find_benchmark
    from examples.data.decoding import check_images, leave_out_bad_images
    from examples.data.loading import choose_image_column, load_splits

    if arguments.time is not None:
        from examples.data.timing import time_fetching

        measured = time_fetching(data_arguments, arguments.time, arguments.num_timed)
        print(
            f"{measured['images_per_cpu_second']:,.0f} images per CPU second; all were ready after "
            f"{measured['seconds_until_ready']:.1f} s."
        )
        return
    benchmark = find_benchmark(data_arguments.dataset_name)
    sizes = generated_sizes(data_arguments, benchmark)
    if sizes is not None and arguments.upload_to is None:
        # A smaller split begins a larger one, so that what is shown need not wait for the rest.
        train_size, test_size = (min(size, arguments.num_images) for size in sizes.values())
        shown_arguments = replace(data_arguments, generator_train_size=train_size, generator_test_size=test_size)
        splits = load_splits(shown_arguments, benchmark)
    else:
        splits = load_splits(data_arguments, benchmark)
    if data_arguments.check_images or data_arguments.skip_bad_images:
        image_column = choose_image_column(next(iter(splits.values())), data_arguments, benchmark)
        if data_arguments.check_images:
            check_images(splits, image_column)
        else:
            for split, data in splits.items():
                splits[split] = leave_out_bad_images(data, image_column, split)
    for split, data in splits.items():
        num_rows = len(data) if sizes is None else sizes[split]
        print(f"{split}: {num_rows} rows; {', '.join(data.column_names)}")
    if arguments.preview is not None:
        draw_preview(splits, arguments, data_arguments, benchmark)
    if arguments.upload_to is not None:
        splits.push_to_hub(arguments.upload_to)
        print(f"Pushed to {arguments.upload_to}.")


if __name__ == "__main__":
    run_script(main)
