"""Arguments that say what to train on."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from examples.errors import InputError, refuse_unknown_name
from examples.parsing import find_wrong_statistics


AUTO_AUGMENTATIONS = ("trivialaugment", "randaugment")
# The arguments that change training images.
AUGMENTATIONS = (
    *("crop_padding", "horizontal_flip", "quarter_turns", "auto_augment"),
    *("random_erasing", "mixup_alpha", "cutmix_alpha"),
)
# Those that change questions and answers with them.
QUESTION_AUGMENTATIONS = ("augment_questions", "redraw_questions")


@dataclass
class DataArguments:
    """What to train on."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Name of a benchmark, such as 'cifar10' or 'triangle'; 'digits' (scikit-learn's handwritten "
            "digits, no download); a Hub id; or a local folder with one folder of images per class, or with parquet "
            "files named after their split."
        },
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set, or variant of a generated one."}
    )
    generator_seed: int = field(default=0, metadata={"help": "Seed of a generated data set."})
    generator_train_size: int | None = field(default=None, metadata={"help": "Images to generate for training."})
    generator_test_size: int | None = field(default=None, metadata={"help": "Images to generate for testing."})
    cache_images: bool | None = field(
        default=None,
        metadata={
            "help": "Decode and resize every image once, in parallel, and hold it as bytes: in memory, or, where a "
            "split takes more than half of what is free, in a file mapped into it, in the cache folder of `datasets`, "
            "for the time of the run. Default: in memory where a split takes at most a quarter of what is free. The "
            "samples are the same."
        },
    )
    check_images: bool = field(
        default=False,
        metadata={"help": "Open every image before anything else, and list all that cannot be read."},
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={"help": "Open every image before anything else, and leave out those that cannot be read."},
    )
    allow_outside_files: bool = field(
        default=False,
        metadata={"help": "Open files outside the data folder, to which its links or a table's paths lead."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training images from parquet files or WebDataset tars, in a folder or on the Hub, as "
            "training reaches them, instead of loading them first."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000, metadata={"help": "Encoded images that each worker of a stream holds to choose the next from."}
    )
    question_types: list[str] | None = field(
        default=None,
        metadata={"help": "Types of questions to train on: non-relational, binary, ternary. Default: all."},
    )
    group_questions: bool = field(
        default=False,
        metadata={
            "help": "Make a sample of each image with all its questions, rather than of each question. Batch sizes "
            "then count images."
        },
    )
    augment_questions: bool = field(
        default=False,
        metadata={
            "help": "Flip, transpose and recolor the training images of 'sort_of_clevr' at random; questions and "
            "answers change with them. Needs `--group_questions`."
        },
    )
    redraw_questions: list[int] | None = field(
        default=None,
        metadata={
            "help": "How many non-relational, binary and ternary questions `--augment_questions` draws for each "
            "training image whenever it is shown. Default: the image keeps its own."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Image column. Default: 'image' or 'img', of tars also 'jpg' and the like."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Label column. Default: 'label' or 'labels', of tars also 'cls'."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(
        default=None,
        metadata={
            "help": "Split to evaluate on. Default: 'test', else 'validation', else a held-out part; where nothing is "
            "trained, all of data that the checkpoint's run was not of."
        },
    )
    hold_out: bool = field(
        default=False,
        metadata={
            "help": "Evaluate on a part of the training split, the same for every seed, though there is a split to "
            "evaluate on: for choices, such as that of a learning rate, which no test image may steer."
        },
    )
    eval_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Part of the training split to hold out, where there is no evaluation split or with `--hold_out`."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on that many samples only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on that many samples only."})
    crop_padding: int = field(
        default=0, metadata={"help": "Pixels of padding before a random crop of training images. 0: no crop."}
    )
    horizontal_flip: bool = field(default=False, metadata={"help": "Flip half of the training images."})
    quarter_turns: bool = field(
        default=False, metadata={"help": "Turn training images by 0 to 3 quarters of a circle at random."}
    )
    auto_augment: str | None = field(
        default=None,
        metadata={
            "help": "Automatic augmentation of training images: 'trivialaugment', or 'randaugment' of 2 operations at "
            "level 9 of 30. Default: none."
        },
    )
    random_erasing: float | None = field(
        default=None, metadata={"help": "Share of the training images of which a rectangle is erased, from 0 to 1."}
    )
    mixup_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Blend each training image, and its label, with another; the share is of Beta(alpha, alpha)."
        },
    )
    cutmix_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Fill a rectangle of each training image from another, and share the label; the area is of "
            "Beta(alpha, alpha). With `--mixup_alpha` half of the images get each."
        },
    )
    augment_on_device: bool | None = field(
        default=None,
        metadata={
            "help": "Move images as bytes to the model's device, and augment and normalize them there. The samples "
            "are the same. Default: on a GPU, but for `--streaming`, whose images are decoded one by one."
        },
    )
    image_mean: list[float] | None = field(default=None, metadata={"help": "Mean per channel, of values in [0, 1]."})
    image_std: list[float] | None = field(default=None, metadata={"help": "Standard deviation per channel."})

    def __post_init__(self) -> None:
        if wrong := find_wrong_statistics(image_mean=self.image_mean, image_std=self.image_std):
            raise InputError(wrong)
        for name, lowest in (
            ("max_train_samples", 1),
            ("max_eval_samples", 1),
            ("crop_padding", 0),
            ("shuffle_buffer_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"`--{name}` must be at least {lowest}, but got {value}.")
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"`--{name}` must be above 0 and finite, but got {value}; leave it out for none.")
        if self.random_erasing is not None and not 0 <= self.random_erasing <= 1:
            raise InputError(f"`--random_erasing` must be from 0 to 1, but got {self.random_erasing}.")
        if self.auto_augment is not None:
            refuse_unknown_name(self.auto_augment, AUTO_AUGMENTATIONS, "automatic augmentation (`--auto_augment`)")
        if self.redraw_questions is not None:
            self.check_redrawn()
        if not 0 < self.eval_fraction < 1:
            raise InputError(f"`--eval_fraction` must be between 0 and 1, but got {self.eval_fraction}.")
        if self.hold_out and self.eval_split is not None:
            raise InputError("Pass one of `--hold_out` and `--eval_split`: either says what is evaluated on.")
        if self.check_images and self.skip_bad_images:
            raise InputError(
                "Pass one of `--check_images` and `--skip_bad_images`: one stops at bad images, one goes on."
            )
        if not self.streaming and self.shuffle_buffer_size != DataArguments.shuffle_buffer_size:
            raise InputError("`--shuffle_buffer_size` has no effect without `--streaming True`: leave it out.")
        if self.streaming and self.hold_out:
            raise InputError(
                "`--hold_out` has no effect with `--streaming`, which holds nothing out: leave one of them out, or "
                "put some of the files into a split of their own."
            )
        for name in ("cache_images", "check_images", "skip_bad_images"):
            if self.streaming and getattr(self, name):
                raise InputError(
                    f"`--{name}` opens all images before training, which `--streaming` is there to avoid: leave one "
                    "of them out. A stream stops at the first image that cannot be read, and names it."
                )
        if self.streaming and self.augment_on_device:
            raise InputError(
                "`--augment_on_device` has no effect with `--streaming`, whose workers augment what they decode: "
                "leave one of them out."
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            if self.streaming and getattr(self, name) is not None:
                raise InputError(
                    f"`--{name}` mixes each image with any other of the set, which `--streaming` has not at hand: "
                    "leave one of them out."
                )

    def check_redrawn(self) -> None:
        """Raise an `InputError` if `redraw_questions` cannot work."""
        numbers = self.redraw_questions or []
        if len(numbers) != 3 or min(numbers) < 0 or sum(numbers) == 0:
            raise InputError(
                "`--redraw_questions` must be three numbers of questions, non-relational, binary and ternary, not all "
                f"of them 0, but got {numbers}."
            )
        if self.question_types is not None:
            raise InputError(
                "Pass one of `--question_types` and `--redraw_questions`: a 0 in the latter leaves a type out."
            )


def refuse_augmentation(arguments: DataArguments) -> None:
    """Raise an `InputError` if a script shall augment that does not."""
    for name in (*AUGMENTATIONS, *QUESTION_AUGMENTATIONS, "augment_on_device"):
        if getattr(arguments, name):
            raise InputError(f"`--{name}` has no effect where nothing is augmented: leave it out.")


def refuse_streaming(arguments: DataArguments, script: str) -> None:
    """Raise an `InputError` if a script shall stream that cannot."""
    if arguments.streaming:
        raise InputError(
            f"`--streaming` has no effect on `examples.{script}`: leave it out, or train with "
            "`examples.image_classification`."
        )
