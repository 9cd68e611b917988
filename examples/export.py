"""
Write a checkpoint as ONNX, as a graph of torch.export, or with weights of 8 or 4 bits, and check each against torch.

    python -m examples.export --checkpoint runs/digits --output_dir runs/exported --format onnx torch_export int8 int4

Each format gets a folder of its own, which opens without this package: its README.md says how. A graph whose outputs
differ from the model's is not written; those of rounded weights may differ by any finite number. Differences, sizes
and times are printed, and kept in `export.json`.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.errors import InputError, refuse_lost_link, refuse_unknown_name, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from transformers import ViTImageProcessorPil

    from examples.exporting.graphs import GraphSetting, Runner
    from modeling_ait import AiTPreTrainedModel


# What each format needs beyond the model.
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "int8": ("torchao",),
    "int4": ("torchao",),
}
GRAPHS = ("onnx", "torch_export")
MODEL_SUFFIXES = (".onnx", ".data", ".pt2", ".safetensors")
NUM_BITS = {"int8": 8, "int4": 4}
DEFAULT_BATCH_SIZES = [1, 2, 8]
DEFAULT_GROUP_SIZE = 32
DEFAULT_NUM_QUESTIONS = 3


@dataclass
class ExportArguments:
    checkpoint: str | None = field(default=None, metadata={"help": "Folder or Hub id of an AiT."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder that gets a folder for each format."})
    format: list[str] = field(default_factory=lambda: ["onnx"], metadata={"help": f"Some of {', '.join(PACKAGES)}."})
    update_memory: bool = field(
        default=False,
        metadata={
            "help": "Make graphs that write: they take the memories and return the new ones, for batches of exactly "
            "the size that `--batch_sizes` names."
        },
    )
    dynamic_image_size: bool | None = field(
        default=None,
        metadata={
            "help": "Make graphs that take images of any multiple of the patch size. By default those do that can: "
            "not with `pooling` flatten, nor with `--update_memory`."
        },
    )
    batch_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Batch sizes to check and time. Default: " + " ".join(map(str, DEFAULT_BATCH_SIZES)) + "."},
    )
    num_questions: int | None = field(
        default=None,
        metadata={"help": f"Questions for each image, where the model takes them. Default: {DEFAULT_NUM_QUESTIONS}."},
    )
    group_size: int | None = field(
        default=None, metadata={"help": f"Weights that share a scale in int4. Default: {DEFAULT_GROUP_SIZE}."}
    )
    num_rounds: int = field(default=20, metadata={"help": "Timed rounds, each of which runs torch and the export."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what an earlier export wrote."})

    def __post_init__(self) -> None:
        for name in ("checkpoint", "output_dir"):
            if not getattr(self, name):
                raise InputError(f"`--{name}` is missing. `--help` says what it takes.")
        for name in self.format:
            refuse_unknown_name(name, PACKAGES, "format")
        if not self.format:
            raise InputError(f"Name at least one `--format`: {', '.join(PACKAGES)}.")
        # One scale for each weight (`group_size` 1) would save nothing, and torchao cannot open it again.
        for name, least in (("batch_sizes", 1), ("num_questions", 1), ("group_size", 2), ("num_rounds", 1)):
            given = getattr(self, name)
            lowest = min(given, default=None) if isinstance(given, list) else given
            if given is not None and (lowest is None or lowest < least):
                raise InputError(
                    f"`--{name}` must be at least {least}, but got {'nothing' if lowest is None else lowest}."
                )
        if self.update_memory and len(self.batch_sizes or []) != 1:
            raise InputError("A graph with `--update_memory` is made for one batch size: name it by `--batch_sizes`.")
        if self.update_memory and self.dynamic_image_size:
            raise InputError("A graph with `--update_memory` takes one image size: leave `--dynamic_image_size` out.")
        is_graph_asked = any(name in GRAPHS for name in self.format)
        for flag, is_given in (
            ("update_memory", self.update_memory),
            ("dynamic_image_size", self.dynamic_image_size is not None),
        ):
            if is_given and not is_graph_asked:
                raise InputError(f"`--{flag}` is for {' and '.join(GRAPHS)}: name one of them with `--format`.")
        if self.group_size is not None and "int4" not in self.format:
            raise InputError("`--group_size` is for int4: name it with `--format`, or leave the flag out.")


def refuse_missing_packages(formats: list[str]) -> None:
    """Raise an `InputError` that names the extra, if a format needs a package that is not installed."""
    for name in formats:
        missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
        if missing:
            raise InputError(
                f"`--format {name}` needs {' and '.join(missing)}: pip install 'modeling-ait[export]', or in a clone "
                "pip install -e '.[export]'."
            )


def refuse_existing_files(folder: Path, overwrite: bool) -> None:
    """Raise an `InputError` for a folder that holds something, unless it is an export that may be overwritten."""
    from examples.exporting.folders import EXPORT_FILE

    refuse_lost_link(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file, not a folder. Name another `--output_dir`.")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / EXPORT_FILE).exists():
            raise InputError(f"{str(folder)!r} holds other files than an export. Name another `--output_dir`.")
        if not overwrite:
            raise InputError(
                f"{str(folder)!r} holds an export already. Pass `--overwrite True` to replace it, or name another "
                "`--output_dir`."
            )


def load_model(checkpoint: str) -> "AiTPreTrainedModel":
    """Load a checkpoint as the class that it was saved as, in float32 and evaluation mode."""
    import torch

    from examples.training.loading import MODEL_CLASSES, load_checkpoint, read_config

    saved = read_config(checkpoint)
    if saved.get("quantization_config") is not None:
        raise InputError(f"{checkpoint!r} is quantized already. Export the checkpoint that it was made from.")
    classes = {model_class.__name__: model_class for model_class in MODEL_CLASSES}
    name = (saved.get("architectures") or ["AiTForImageClassification"])[0]
    return load_checkpoint(checkpoint, classes[name], is_classifier_new=False, dtype=torch.float32).eval()


def make_setting(arguments: ExportArguments, model: "AiTPreTrainedModel") -> "GraphSetting":
    """Decide what the graphs leave open, or raise an `InputError` for what this model cannot."""
    from examples.exporting.graphs import GraphSetting

    config: Any = model.config
    if arguments.num_questions is not None and config.question_size is None:
        raise InputError("This model takes no questions (`question_size` is None): leave `--num_questions` out.")
    if arguments.update_memory and config.num_memory_slots == 0:
        raise InputError("This model has no memory (`num_memory_slots` is 0): leave `--update_memory` out.")
    if arguments.dynamic_image_size and config.pooling == "flatten":
        raise InputError('A model with `pooling="flatten"` takes one image size: leave `--dynamic_image_size` out.')
    is_dynamic = arguments.dynamic_image_size
    if is_dynamic is None:
        is_dynamic = config.pooling != "flatten" and not arguments.update_memory
    if arguments.update_memory:
        batch_size = (arguments.batch_sizes or [1])[0]
        return GraphSetting(True, False, batch_size, arguments.num_questions or DEFAULT_NUM_QUESTIONS)
    # Sizes of 1 would be taken for fixed.
    return GraphSetting(dynamic_image_size=is_dynamic)


def export_format(
    name: str,
    model: "AiTPreTrainedModel",
    processor: "ViTImageProcessorPil",
    arguments: ExportArguments,
    setting: "GraphSetting",
) -> dict[str, Any]:
    """Write one format into its folder, if it computes what the model does, and return its figures."""
    import torch

    from examples.exporting.checks import check_export
    from examples.exporting.folders import GRAPH_FILES, write_folder
    from examples.exporting.graphs import open_onnx, open_program, run_model, save_onnx, trace_model
    from examples.exporting.quantization import count_stored_bits, find_weights_size, quantize_checkpoint
    from examples.training.results import describe_command, describe_setting
    from modeling_ait.saving_ait import stage_files

    checkpoint = str(arguments.checkpoint)
    with stage_files(Path(str(arguments.output_dir), name)) as staging:
        folder = Path(staging)
        run: Runner
        stored: dict[str, float] = {}
        if name in GRAPHS:
            program = trace_model(model, setting)
            path = folder / GRAPH_FILES[name]
            if name == "onnx":
                save_onnx(program, model, setting, path)
                run = open_onnx(path)
            else:
                torch.export.save(program, path)
                run = open_program(path)
        else:
            group_size = arguments.group_size or DEFAULT_GROUP_SIZE
            quantize_checkpoint(checkpoint, model, NUM_BITS[name], group_size).save_pretrained(folder)
            # Opened again, as its user will.
            quantized = type(model).from_pretrained(folder).eval()
            run = partial(run_model, quantized)
            stored = {"bits_per_quantized_weight": count_stored_bits(quantized)}
        size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES)
        batch_sizes = arguments.batch_sizes or DEFAULT_BATCH_SIZES
        checked = setting if name in GRAPHS else None
        num_questions = arguments.num_questions or DEFAULT_NUM_QUESTIONS
        figures = {
            **describe_setting("export", describe_command("examples.export"), []),
            "format": name,
            "checkpoint": checkpoint,
            "update_memory": name in GRAPHS and setting.update_memory,
            "dynamic_image_size": name in GRAPHS and setting.dynamic_image_size,
            "batch_size": setting.batch_size,
            "num_questions": None if model.config.question_size is None else setting.num_questions,
            "num_rounds": arguments.num_rounds,
            "num_threads": torch.get_num_threads(),
            "size": size,
            "torch_size": find_weights_size(model),
            **stored,
            "rows": check_export(run, model, batch_sizes, num_questions, arguments.num_rounds, checked),
        }
        write_folder(folder, name, checkpoint, model, processor, figures)
    return figures


def print_figures(figures: dict[str, Any], folder: Path) -> None:
    """Print what was measured of one format."""
    from examples.exporting.quantization import describe_storage

    print(
        f"{figures['format']}: {folder}, {figures['size'] / 2**20:.2f} MiB; "
        f"{figures['torch_size'] / 2**20:.2f} MiB in torch"
    )
    if "bits_per_quantized_weight" in figures:
        print(f"  {describe_storage(figures['format'], figures['bits_per_quantized_weight'])}")
    for row in figures["rows"]:
        print(
            f"  batch {row['batch_size']}: difference {row['difference']:.1e}, {row['exported_ms']:.2f} ms; "
            f"{row['torch_ms']:.2f} ms in torch"
        )


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser((ExportArguments,), prog="python -m examples.export", description=__doc__)
    (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
    refuse_missing_packages(arguments.format)
    folders = {name: Path(arguments.output_dir, name) for name in dict.fromkeys(arguments.format)}
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from transformers import logging

    from examples.training.loading import load_image_processor

    for folder in folders.values():
        refuse_existing_files(folder, arguments.overwrite)
    logging.disable_progress_bar()
    model = load_model(arguments.checkpoint)
    setting = make_setting(arguments, model)
    processor = load_image_processor(arguments.checkpoint, model.config, None, is_resized=False)
    for name, folder in folders.items():
        print_figures(export_format(name, model, processor, arguments, setting), folder)


if __name__ == "__main__":
    run_script(main)
