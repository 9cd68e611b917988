"""The script that shows the page: what it says, what it refuses."""

import socket

import pytest

import examples.demo
from examples.demo import INSTALL, main
from examples.errors import InputError
from tests.examples.demonstration.conftest import DIGITS, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "run", **DIGITS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "`--checkpoint` is missing"),
        (["--checkpoint", "./none"], "There is no folder './none'"),
        (["--checkpoint", "run", "--port", "0"], "from 1 to 65535, but got 0"),
        (["--checkpoint", "run", "--num_images", "0"], "must be at least 1"),
        (["--checkpoints", "run"], "Did you mean '--checkpoint'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(examples.demo, "find_spec", lambda name: True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        main(flags)


def test_missing_extra_is_named_in_one_line(monkeypatch):
    monkeypatch.setattr(examples.demo, "find_spec", lambda name: None)
    with pytest.raises(InputError) as refused:
        main(["--checkpoint", "run"])
    assert str(refused.value) == f"The page needs gradio, which is not installed: {INSTALL}"
    assert INSTALL == "pip install 'modeling-ait[demo]'"


def test_checkpoint_without_a_memory_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(examples.demo, "find_spec", lambda name: True)
    plain = save_checkpoint(tmp_path, **DIGITS, num_memory_slots=0)
    with pytest.raises(InputError, match=r"^This AiTForImageClassification has no memory to look at.*workspace\.$"):
        main(["--checkpoint", plain])


def test_port_that_is_taken_is_refused(checkpoint):
    pytest.importorskip("gradio", reason="the page needs the extra `demo`")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(InputError, match=rf"^The page cannot be served: .*{port}.* Name another by `--port`\.$"):
            main(["--checkpoint", checkpoint, "--port", port])


def test_space_is_written(checkpoint, tmp_path, capsys):
    pytest.importorskip("gradio", reason="the page needs the extra `demo`")
    space = tmp_path / "space"
    main(["--checkpoint", checkpoint, "--export_space", str(space)])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Written: {space}. ")
    assert (space / "app.py").exists()
    with pytest.raises(InputError, match="is there and not empty"):
        main(["--checkpoint", checkpoint, "--export_space", str(space)])
