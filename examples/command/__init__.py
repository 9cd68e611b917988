"""
The command `ait`: every script under a short name, wherever it is called.

Installed, this file is the package `modeling_ait_cli`, with `examples` and `conversion` as folders inside it. No other
program can import them by those names, because they are on the path of a process that `ait` started and of no other.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


# Name of a command, its module, and what it does.
COMMANDS = {
    "train": ("examples.image_classification", "train on a recipe or a folder of images: ait train digits"),
    "train-loop": ("examples.image_classification_accelerate", "the same as an explicit Accelerate loop"),
    "lora": ("examples.lora", "adapt a checkpoint to other images by LoRA"),
    "evaluate": ("examples.evaluate", "measure the accuracy of a checkpoint: ait evaluate runs/digits"),
    "predict": ("examples.predict", "classify a folder of images into a CSV file: ait predict path/to/images"),
    "visualize": ("examples.visualize", "draw what the memory of a checkpoint does"),
    "demo": ("examples.demo", "show the memory of a checkpoint on a page in the browser"),
    "compare": ("examples.compare", "train several models over several seeds and compare them"),
    "evaluate-batches": ("examples.evaluate_batches", "see whether predictions depend on the batch"),
    "benchmark": ("examples.benchmark", "measure time and memory against a ViT"),
    "data": ("examples.data.__main__", "look at a data set: ait data triangle --preview triangle.png"),
    "export": ("examples.export", "ONNX, torch.export and quantized weights, checked against torch"),
    "publish": ("examples.publish", "push a finished run to the Hub, or copy what others need of it"),
    "convert-official": ("conversion.convert_official", "a checkpoint of the official code becomes an AiT"),
    "convert-vit": ("conversion.convert_vit", "a pretrained ViT, DeiT or DINOv2 becomes an AiT"),
}
# What the extra `examples` installs, by the names of the import.
NEEDED = (
    *("PIL", "accelerate", "datasets", "evaluate", "filelock", "matplotlib", "peft", "psutil", "pyarrow"),
    *("scipy", "sklearn", "tqdm", "yaml"),
)
INSTALL = "pip install 'modeling-ait[examples]'"
HELP = {"-h", "--help"}
TRAINER_HELP = {"--help_trainer", "--help-trainer"}


def make_help() -> str:
    """The commands, one in each line."""
    listed = "\n".join(f"  {name:<18}{what}" for name, (_, what) in COMMANDS.items())
    return (
        f"usage: ait COMMAND [ARGUMENT ...]\n\nThe Associative Transformer: train, evaluate, convert and share.\n\n"
        f"{listed}\n\n`ait COMMAND --help` says what a command takes, `ait --version` which version this is."
    )


def choose_module(name: str, arguments: list[str]) -> str:
    """The module of a command; `train` takes that of the data set, which may have questions about its images."""
    module = COMMANDS[name][0]
    if name != "train" or (HELP | TRAINER_HELP) & set(arguments):
        return module
    from examples.comparison.plan import choose_benchmark
    from examples.training.recipes import read_recipe, split_recipe

    recipe, flags = split_recipe(arguments)
    benchmark = choose_benchmark({} if recipe is None else read_recipe(recipe), flags)
    return module if benchmark is None else f"examples.{benchmark.task}"


def run_command(name: str, arguments: list[str]) -> None:
    """
    Run one command, whose folder is on the path already.

    Raises:
        InputError: for a name that is not in the table or not in this installation, or what the script refuses.
    """
    from examples.errors import InputError, suggest

    if name not in COMMANDS:
        raise InputError(f"There is no command {name!r}.{suggest(name, COMMANDS)} `ait --help` lists all.")
    module = choose_module(name, arguments)
    if find_spec(module) is None:
        raise InputError(f"`ait {name}` is not part of this installation.")
    # Help, results and model cards show the command that was called.
    sys.argv = [f"ait {name}", *arguments]
    importlib.import_module(module).main(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """
    Run `ait`; a mistake ends it with one line.

    Args:
        argv: The command line without `ait` itself; by default that of the process.
    """
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in HELP:
        print(make_help())
        return
    if name == "--version":
        try:
            print(f"modeling-ait {version('modeling-ait')}")
        except PackageNotFoundError:
            sys.exit("error: modeling-ait is not installed, so it has no version.")
        return
    missing = [needed for needed in NEEDED if find_spec(needed) is None]
    if missing:
        sys.exit(f"error: `ait {name}` needs {missing[0]}, which is not installed: {INSTALL}")
    # First, so that no package of another project is found under these names.
    sys.path.insert(0, find_scripts())
    from examples.errors import RESUME, run_script

    run_script(lambda: run_command(name, arguments), RESUME if name in ("train", "train-loop", "lora") else "")


def find_scripts() -> str:
    """The folder that `examples` and `conversion` lie in: this one if installed, the root of a clone otherwise."""
    return next(
        str(folder) for folder in Path(__file__).resolve().parents if Path(folder, "examples/errors.py").exists()
    )
