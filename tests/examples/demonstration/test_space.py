"""The files of a Space: complete, of the versions that are installed, and a page that starts from them alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from huggingface_hub import metadata_load

from examples.data.arguments import DataArguments
from examples.demonstration.opening import open_checkpoint
from examples.demonstration.space import PACKAGES, export_space
from examples.errors import InputError
from tests.examples.demonstration.conftest import DIGITS, save_checkpoint
from tests.examples.helpers import find_free_port


REPOSITORY = Path(__file__).parents[3]

pytest.importorskip("gradio", reason="the page needs the extra `demo`")


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "run", **DIGITS)


def export(folder, checkpoint, data=None, opened=None):
    data = data or DataArguments()
    opened = opened or open_checkpoint(str(checkpoint), data, 20)
    return export_space(str(folder), opened, str(checkpoint), data, 20, "A title")


def test_exported_space_starts(checkpoint, tmp_path):
    Path(checkpoint, "training_args.bin").write_bytes(b"a pickle")
    space = export(tmp_path / "deep" / "space", checkpoint, DataArguments(dataset_name="digits"))
    assert {path.name for path in space.iterdir()} == {
        *("README.md", "app.py", "requirements.txt", "checkpoint", "examples", "modeling_ait")
    }
    assert not (space / "checkpoint" / "training_args.bin").exists()
    assert not any((space / "examples" / name).exists() for name in ("checkpoints", "command", "results"))
    port = find_free_port()
    # Without the packages of this clone, which the files have with them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GRADIO_SERVER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests that run in the background ignore Ctrl-C, and what they start inherits it.
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, **pipes) as served:
        line = served.stdout.readline()
        if not line:
            raise AssertionError(served.stderr.read())
        assert line == f"The page is at http://127.0.0.1:{port}/ (Ctrl-C ends it).\n"
        with urlopen(f"http://127.0.0.1:{port}/config") as answer:
            components = json.load(answer)["components"]
        served.send_signal(signal.SIGINT)
        try:
            _, errors = served.communicate(timeout=120)
        finally:
            served.kill()
    tabs = [component["props"]["label"] for component in components if component["type"] == "tabitem"]
    assert tabs == ["An image", "A memory that adapts"]
    assert served.returncode == 0 and "Traceback" not in errors, errors


def test_front_matter_and_requirements(checkpoint, opened, tmp_path):
    from gradio import __version__

    space = export(tmp_path / "space", checkpoint)
    card = metadata_load(space / "README.md")
    version = ".".join(map(str, sys.version_info[:2]))
    assert card == {
        **{"title": "A title", "sdk": "gradio", "sdk_version": __version__, "python_version": version},
        **{"app_file": "app.py", "license": "apache-2.0"},
    }
    lines = (space / "requirements.txt").read_text().splitlines()
    assert f"gradio=={__version__}" in lines and not any("+" in line for line in lines)
    # A checkpoint of the Hub is named, not copied.
    named = export(tmp_path / "named", "user/my-ait", opened=opened)
    assert metadata_load(named / "README.md")["models"] == ["user/my-ait"]
    assert '["--checkpoint", "user/my-ait", "--num_images", "20"]' in (named / "app.py").read_text()
    assert not (named / "checkpoint").exists()


def test_requirements_are_those_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["examples"], *extras["demo"]]
    assert set(PACKAGES) == {requirement.split(">")[0] for requirement in needed} - {"modeling-ait[examples]"}


def test_folders_that_cannot_be_are_refused(checkpoint, image_folder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("kept")
    for folder in (full, full / "mine.txt"):
        with pytest.raises(InputError, match="is there and not empty"):
            export(folder, checkpoint)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="A Space cannot read the folder"):
        export_space(str(tmp_path / "new"), None, checkpoint, DataArguments(dataset_name=str(image_folder)), 1, "A")
    assert not (tmp_path / "new").exists()
    links = Path(shutil.copytree(checkpoint, tmp_path / "links"))
    (links / "model.safetensors").unlink()
    (links / "model.safetensors").symlink_to(Path(checkpoint, "model.safetensors"))
    with pytest.raises(InputError, match=r"a link in place of model\.safetensors"):
        export(tmp_path / "new", links)
    assert not (tmp_path / "new").exists()
