"""The files of a Space of the Hub that shows the page."""

import dataclasses
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

import modeling_ait
from examples.data.arguments import DataArguments
from examples.demonstration.opening import Opened
from examples.errors import InputError, make_place
from examples.sharing import escape_markdown, find_links, list_files_to_push, quote_python
from examples.training.results import write_text
from modeling_ait.saving_ait import stage_files


EXAMPLES = Path(__file__).resolve().parents[1]
CHECKPOINT = "checkpoint"
# Folders of `examples` that the page has no use for; the command lies elsewhere where it is installed.
LEFT_OUT = {"checkpoints", "command", "results"}
# What the page imports, by the names of the package index: the model, the extra `examples`, and the extra `demo`.
PACKAGES = (
    *("huggingface-hub", "numpy", "safetensors", "torch", "transformers"),
    *("accelerate", "datasets", "evaluate", "filelock", "matplotlib", "peft", "pillow", "psutil", "pyarrow"),
    *("pyyaml", "scikit-learn", "scipy", "tqdm"),
    "gradio",
)
APP = '''"""The memory of an Associative Transformer, on a page; README.md says what it is."""

from pathlib import Path

from examples.demo import launch, make_page


HERE = Path(__file__).resolve().parent
page = make_page({arguments})

if __name__ == "__main__":
    launch(page)
'''
README = """---
{card}
---

# {title}

What the memory of {name}, an Associative Transformer ([arXiv 2309.12862](https://arxiv.org/abs/2309.12862)), holds and
does. Try it on your own machine:

```bash
pip install -r requirements.txt
python app.py
```
"""


def make_folder(name: str) -> Path:
    """
    Make the folder of the Space.

    Raises:
        InputError: if there is something in it, or it cannot be made.
    """
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{name!r} is there and not empty: name a new folder by `--export_space`, or empty this one.")
    make_place(str(folder / "app.py"))
    return folder


def list_flags(data: DataArguments) -> list[str]:
    """
    The flags that give these arguments about the data.

    Raises:
        InputError: for a folder of this machine.
    """
    if data.dataset_name is not None and os.path.isdir(os.path.expanduser(data.dataset_name)):
        raise InputError(
            f"A Space cannot read the folder {data.dataset_name!r}: leave `--dataset_name` out, or name a data set of "
            "the Hub."
        )
    flags: list[str] = []
    for field in dataclasses.fields(data):
        value: Any = getattr(data, field.name)
        if value != field.default and value not in (None, []):
            flags += [f"--{field.name}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def copy_code(target: Path) -> None:
    """Copy the packages that the page is made of, which no index of packages need have."""
    for name, source in (("modeling_ait", Path(modeling_ait.__file__).parent), ("examples", EXAMPLES)):
        for file in source.rglob("*"):
            if file.suffix in (".py", ".md") and not LEFT_OUT & set(file.relative_to(source).parts):
                place = target / name / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)


def write_files(folder: Path, opened: Opened, checkpoint: str, flags: list[str], title: str) -> None:
    """Write all files of a Space."""
    is_local = Path(checkpoint).is_dir()
    if is_local:
        (folder / CHECKPOINT).mkdir()
        for name in list_files_to_push(Path(checkpoint)):
            shutil.copyfile(Path(checkpoint, name), folder / CHECKPOINT / name)
    shown = f'str(HERE / "{CHECKPOINT}")' if is_local else quote_python(checkpoint)
    listed = ", ".join(['"--checkpoint"', shown, *map(quote_python, flags)])
    write_text(folder / "app.py", APP.replace("{arguments}", f"[{listed}]"))
    write_text(folder / "requirements.txt", "".join(f"{name}=={find_version(name)}\n" for name in PACKAGES))
    card = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=find_version("gradio"),
        python_version=".".join(platform.python_version_tuple()[:2]),
        app_file="app.py",
        license="apache-2.0",
        models=None if is_local else [checkpoint],
    )
    readme = README.format(card=card.to_yaml(), title=title, name=escape_markdown(opened.name))
    write_text(folder / "README.md", readme)
    copy_code(folder)


def find_version(name: str) -> str:
    """The version of an installed package, without what says how it was built."""
    return version(name).partition("+")[0]


def export_space(
    folder: str, opened: Opened, checkpoint: str, data: DataArguments, num_images: int, title: str
) -> Path:
    """
    Write what a Space of the Hub needs into a new folder, all or nothing.

    Args:
        folder: The folder.
        opened: The checkpoint as it was opened, which shows that the page can be made of it.
        checkpoint: Its folder, which is copied, or its Hub id, which is named.
        data: The data to show images of, if any are named.
        num_images: Images to hold, at most.
        title: Of the Space.

    Raises:
        InputError: if the folder is not empty or cannot be made, the data are a folder of this machine, or the
            checkpoint is made of links.
    """
    flags = ["--num_images", str(num_images), *list_flags(data)]
    if Path(checkpoint).is_dir() and (linked := find_links(Path(checkpoint))):
        raise InputError(
            f"{checkpoint!r} has a link in place of {linked[0]}, which is not copied: name the checkpoint by its id "
            "on the Hub, or copy it without links."
        )
    target = make_folder(folder)
    with stage_files(target) as staging:
        write_files(Path(staging), opened, checkpoint, flags, title)
    return target
