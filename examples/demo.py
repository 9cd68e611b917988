"""
Show the memory of a checkpoint on a page in the browser.

    python -m examples.demo --checkpoint runs/digits
    python -m examples.demo --checkpoint user/my-ait --dataset_name path/to/images --port 8000
    python -m examples.demo --checkpoint runs/digits --export_space runs/space

A checkpoint that classifies: images to choose from or to upload, the most probable classes, which slot each patch
retrieves, and energies, layer by layer; and a memory that adapts to a stream of shifted images. One that answers
questions: scenes of Sort-of-CLEVR, questions in words, and where they look. The page needs no network, and every
visitor has a memory of their own; the model stays as it is. `--export_space` writes the files of a Space of the Hub.
"""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from examples.data.arguments import DataArguments, refuse_augmentation
from examples.errors import InputError, flatten_message, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from gradio import Blocks

    from examples.demonstration.opening import Opened

INSTALL = "pip install 'modeling-ait[demo]'"


@dataclass
class DemoArguments:
    """What to show, and where."""

    checkpoint: str | None = field(default=None, metadata={"help": "Folder or Hub id of an AiT checkpoint."})
    port: int | None = field(
        default=None, metadata={"help": "Port of the page on this machine. Default: the first free one from 7860 on."}
    )
    num_images: int = field(
        default=256,
        metadata={
            "help": "Held-out images to take from the data set: of `--dataset_name`, or of what the checkpoint was "
            "evaluated on, if it needs no download."
        },
    )
    export_space: str | None = field(
        default=None, metadata={"help": "Write the files of a Space of the Hub into this folder, and show nothing."}
    )

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise InputError(f"`--port` takes a number from 1 to 65535, but got {self.port}.")
        if self.num_images < 1:
            raise InputError(f"`--num_images` must be at least 1, but got {self.num_images}.")


def parse_arguments(argv: list[str]) -> tuple[DemoArguments, DataArguments]:
    """
    Read the arguments.

    Raises:
        InputError: for arguments that cannot work, or without the extra that the page needs.
    """
    parser = ArgumentParser((DemoArguments, DataArguments), prog="python -m examples.demo", description=__doc__)
    arguments, data = parser.parse(argv)
    if arguments.checkpoint is None:
        raise InputError("`--checkpoint` is missing. `--help` says what it takes.")
    refuse_augmentation(data)
    if find_spec("gradio") is None:
        raise InputError(f"The page needs gradio, which is not installed: {INSTALL}")
    return arguments, data


def open_arguments(arguments: DemoArguments, data: DataArguments) -> "Opened":
    """Open the checkpoint that the arguments name."""
    # Late, so that neither help nor a mistake in the arguments waits for it.
    from examples.demonstration.opening import open_checkpoint
    from examples.training.progress import quieten_libraries

    quieten_libraries(verbose=False)
    return open_checkpoint(str(arguments.checkpoint), data, arguments.num_images)


def make_page(argv: list[str]) -> "Blocks":
    """Make the page that a command line describes, see `launch`."""
    opened = open_arguments(*parse_arguments(argv))
    from examples.demonstration.page import build_page

    return build_page(opened)


def launch(page: "Blocks", port: int | None = None) -> None:
    """
    Serve a page until Ctrl-C, on this machine alone unless the environment says otherwise (`GRADIO_SERVER_NAME`).

    Raises:
        InputError: if the port is taken.
    """
    from examples.demonstration.page import LAUNCH

    try:
        _, address, _ = page.launch(server_port=port, prevent_thread_lock=True, **LAUNCH)
    except OSError as error:
        raise InputError(f"The page cannot be served: {flatten_message(error)} Name another by `--port`.") from error
    print(f"The page is at {address} (Ctrl-C ends it).", flush=True)
    page.block_thread()


def main(argv: list[str] | None = None) -> None:
    arguments, data = parse_arguments(sys.argv[1:] if argv is None else argv)
    opened = open_arguments(arguments, data)
    from examples.demonstration.page import TITLE, build_page

    if arguments.export_space is None:
        launch(build_page(opened), arguments.port)
        return
    from examples.demonstration.space import export_space

    checkpoint = str(arguments.checkpoint)
    written = export_space(arguments.export_space, opened, checkpoint, data, arguments.num_images, TITLE)
    print(f"Written: {written}. Push it to a Space of the Hub, or try it: cd {written} && python app.py")


if __name__ == "__main__":
    run_script(main)
