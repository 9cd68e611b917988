"""The facts of each benchmark, in one place: where it is, what it holds, and what was published."""

from dataclasses import dataclass, field

from examples.data.generated import GeneratedBuilder
from examples.data.sort_of_clevr import ANSWERS, SortOfClevr
from examples.data.triangle import Triangle


IMAGE_CLASSIFICATION, RELATIONAL_REASONING = "image_classification", "relational_reasoning"


@dataclass(frozen=True)
class Benchmark:
    """
    A benchmark of the paper.

    Args:
        title: Name as people write it.
        task: The script that trains on it: `image_classification` or `relational_reasoning`.
        hub_id: Data set on the Hub, or `None` for a generated one.
        builder: Class that generates it, or `None` for one on the Hub.
        image_column, label_column: Columns of the image and of the class (or the answers).
        image_size, patch_size: Side of the image and of a patch in the paper, in pixels.
        num_classes: Classes, or answers.
        num_train, num_test: Images of each split.
        eval_split: Split to evaluate on.
        published: Published accuracies in percent, by model. What was not confirmed against the paper's own table
            is in `unconfirmed`.
    """

    title: str
    task: str
    hub_id: str | None
    image_column: str
    label_column: str
    image_size: int
    patch_size: int
    num_classes: int
    num_train: int
    num_test: int
    eval_split: str = "test"
    builder: type[GeneratedBuilder] | None = None
    published: dict[str, float] = field(default_factory=dict)
    unconfirmed: tuple[str, ...] = ()


UNCONFIRMED = ("AiT-Small", "ViT-Small", "Perceiver", "Coordination", "Set Transformer")

BENCHMARKS = {
    "cifar10": Benchmark(
        "CIFAR-10",
        IMAGE_CLASSIFICATION,
        "uoft-cs/cifar10",
        "img",
        "label",
        image_size=32,
        patch_size=4,
        num_classes=10,
        num_train=50_000,
        num_test=10_000,
        published={
            "AiT-Base": 85.44,
            "AiT-Medium": 84.59,
            "AiT-Small": 83.34,
            "ViT-Base": 83.82,
            "ViT-Medium": 82.41,
            "ViT-Small": 79.53,
            "Perceiver": 82.52,
            "Coordination": 75.31,
            "Set Transformer": 73.42,
            "V-HMN": 93.94,
        },
        unconfirmed=UNCONFIRMED,
    ),
    "cifar100": Benchmark(
        "CIFAR-100",
        IMAGE_CLASSIFICATION,
        "uoft-cs/cifar100",
        "img",
        "fine_label",
        image_size=32,
        patch_size=4,
        num_classes=100,
        num_train=50_000,
        num_test=10_000,
        published={
            "AiT-Base": 60.78,
            "AiT-Medium": 60.58,
            "AiT-Small": 56.30,
            "ViT-Base": 57.92,
            "ViT-Medium": 55.78,
            "ViT-Small": 53.19,
            "Perceiver": 52.64,
            "Coordination": 43.90,
            "Set Transformer": 40.19,
        },
        unconfirmed=UNCONFIRMED,
    ),
    "oxford_iiit_pet": Benchmark(
        "Oxford-IIIT Pet",
        IMAGE_CLASSIFICATION,
        "timm/oxford-iiit-pet",
        "image",
        "label",
        image_size=224,
        patch_size=16,
        num_classes=37,
        num_train=3_680,
        num_test=3_669,
    ),
    "imagenet_100": Benchmark(
        "ImageNet-100",
        IMAGE_CLASSIFICATION,
        "clane9/imagenet-100",
        "image",
        "label",
        image_size=224,
        patch_size=16,
        num_classes=100,
        num_train=126_689,
        num_test=5_000,
        eval_split="validation",
        published={"AiT-Medium": 36.72, "ViT-Base": 34.62},
    ),
    "triangle": Benchmark(
        "Triangle",
        IMAGE_CLASSIFICATION,
        None,
        "image",
        "label",
        image_size=64,
        patch_size=32,
        num_classes=2,
        num_train=Triangle.default_sizes[0],
        num_test=Triangle.default_sizes[1],
        builder=Triangle,
        published={
            "AiT-Base": 99.64,
            "AiT-Medium": 99.57,
            "AiT-Small": 99.47,
            "ViT-Base": 99.63,
            "ViT-Medium": 99.62,
            "ViT-Small": 99.47,
            "Perceiver": 96.78,
            "Coordination": 91.66,
            "Set Transformer": 60.31,
        },
        unconfirmed=UNCONFIRMED,
    ),
    "sort_of_clevr": Benchmark(
        "Sort-of-CLEVR",
        RELATIONAL_REASONING,
        None,
        "image",
        "answers",
        image_size=75,
        patch_size=15,
        num_classes=len(ANSWERS),
        num_train=SortOfClevr.default_sizes[0],
        num_test=SortOfClevr.default_sizes[1],
        builder=SortOfClevr,
        published={
            "AiT-Base, binary questions": 80.03,
            "Relation Network, binary questions": 94.0,
            "Transformer with shared workspace, all relational questions": 81.0,
        },
    ),
}


def find_benchmark(name: str | None) -> Benchmark | None:
    """Return the benchmark that has this name or Hub id, or `None`."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    return next((benchmark for benchmark in BENCHMARKS.values() if name and benchmark.hub_id == name), None)
