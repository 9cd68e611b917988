"""How a script ends: with one line for what the caller or the machine has to mend, with a traceback for a fault."""

import errno
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from examples.errors import RESUME, InputError, make_place, refuse_unknown_keys, run_script, suggest


def end(error, on_interrupt=""):
    """Run a script that raises an error, and return its exit code."""

    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main, on_interrupt)
    return ended.value.code


def test_mistake_ends_with_its_message():
    assert end(InputError("Name a folder.")) == "error: Name a folder."


def test_interrupt_says_how_to_go_on_where_a_script_can(capsys):
    assert end(KeyboardInterrupt(), RESUME) == 130
    assert capsys.readouterr().err == f"\nInterrupted. {RESUME}\n"
    assert end(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/model"), "The disk is full: a/model cannot be written"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "The disk is full: the output"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "The disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a cannot be used: Permission denied. Name another"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b cannot be used: Not a directory"),
        (MemoryError(), "The memory is full. Take smaller batches"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, message):
    for raised in (error, wrap(error)):
        code = end(raised)
        assert code.startswith(f"error: {message}") and "\n" not in code


def wrap(error):
    """An error of a library that has another for its cause."""
    outer = RuntimeError("writing failed")
    outer.__cause__ = error
    return outer


def test_fault_of_the_code_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 / 0)
    with pytest.raises(FileNotFoundError):
        run_script(lambda: Path("nowhere").read_text())


def test_full_output_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    code = "from examples.errors import run_script; run_script(lambda: print('x' * 100000))"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    message = "The disk is full: the output cannot be written. Make room, then call the same again."
    assert ended.stderr == f"error: {message}\n"


def test_reader_that_leaves_early_gets_no_traceback():
    code = "from examples.errors import run_script; run_script(lambda: [print('x' * 100) for _ in range(10000)])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


def test_interrupt_of_a_process_is_one_line():
    code = """
import signal, time
from examples.errors import run_script
# Whoever starts the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
run_script(lambda: (print(flush=True), time.sleep(60)), "Go on.")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, written = process.communicate(timeout=60)
    assert (process.returncode, written) == (130, "\nInterrupted. Go on.\n")


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("learning_rat", ["learning_rate"]),
        ("epochs", ["num_train_epochs"]),
        ("max_step", ["max_steps"]),
        ("zzz", []),
    ],
)
def test_nearest_name_is_suggested(given, suggested):
    known = ["learning_rate", "num_train_epochs", "max_steps", "seed"]
    assert suggest(given, known) == ("" if not suggested else f" Did you mean {suggested[0]!r}?")


def test_long_list_of_keys_is_not_printed():
    with pytest.raises(InputError, match=r"unknown key 'key_x'. Did you mean 'key_\d+'\? `--help` and") as refusal:
        refuse_unknown_keys(["key_x"], {f"key_{index}" for index in range(100)}, "The recipe")
    assert len(str(refusal.value)) < 200


def test_place_is_made_before_the_work(tmp_path):
    assert make_place(str(tmp_path / "new" / "file.json")).parent.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder of .*/file/x' cannot be made: .*Name another place"):
        make_place(str(tmp_path / "file" / "x"))
    with pytest.raises(InputError, match="it is a folder"):
        make_place(str(tmp_path))
    (tmp_path / "unmounted").symlink_to("disk")
    with pytest.raises(InputError, match="unmounted' is a link to 'disk', which is not there"):
        make_place(str(tmp_path / "unmounted" / "new" / "file.json"))


def test_results_replace_those_of_their_own_kind_alone(tmp_path):
    file = tmp_path / "file.json"
    for content in ("", '{"kind": "evaluation", "accuracy": 1}'):
        file.write_text(content)
        assert make_place(str(file), "evaluation") == file
    for content in ("mine", "[]", '{"kind": "training"}', '{"kind": "evaluation"', "{}"):
        file.write_text(content)
        with pytest.raises(
            InputError, match="something else than results of the kind 'evaluation', which would be lost"
        ):
            make_place(str(file), "evaluation")
        assert file.read_text() == content


@pytest.mark.parametrize(
    ("script", "arguments", "kind"),
    [
        ("benchmark", ["--output"], "benchmark"),
        ("evaluate", ["runs/x", "--output"], "evaluation"),
        (
            "evaluate_batches",
            ["--checkpoints", "runs/x", "--dataset_name", "digits", "--output"],
            "evaluation batches",
        ),
        ("online_adaptation", ["--results"], "online adaptation"),
        ("scaling", ["--output"], "scaling"),
        ("visualize", ["--checkpoint", "x", "--images", "a.png", "--output", "b.png", "--json"], "portrait"),
    ],
)
def test_scripts_replace_no_other_file_by_their_results(script, arguments, kind, tmp_path):
    (tmp_path / "mine.json").write_text('{"kind": "training"}')
    with pytest.raises(InputError, match=f"something else than results of the kind '{kind}'"):
        importlib.import_module(f"examples.{script}").main([*arguments, str(tmp_path / "mine.json")])
