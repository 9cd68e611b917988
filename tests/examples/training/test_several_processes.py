"""Both training scripts on two processes: the first decides about the output folder, and all go on from there."""

import os
import shutil
import socket

import pytest

from examples import image_classification, image_classification_accelerate
from examples.errors import run_script
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import assert_same_weights, get_context, read_results


SCRIPTS = {"trainer": image_classification, "accelerate": image_classification_accelerate}


def run_rank(rank, port, log, loop, flags):
    """Run a script as one of two processes, with its output in a file."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    run_script(lambda: SCRIPTS[loop].main(flags))


def run_on_two(loop, folder, *more):
    """Run a script on two processes and return how they ended, and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [*make_tiny_flags(folder, max_steps=4, save_strategy="steps", save_steps=2), *more]
    logs = [folder.parent / f"{rank}.log" for rank in range(2)]
    for log in logs:
        log.unlink(missing_ok=True)
    processes = [
        get_context(__name__).Process(target=run_rank, args=(rank, port, log, loop, flags))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes], [log.read_text() for log in logs]


@pytest.mark.parametrize("loop", SCRIPTS)
def test_all_processes_go_on_from_the_checkpoint_and_stop_where_nothing_is_to_do(loop, tmp_path):
    folder = tmp_path / "run"
    codes, printed = run_on_two(loop, folder)
    assert codes == [0, 0], printed
    whole = shutil.copytree(folder, tmp_path / "whole")
    # As a kill while the second checkpoint was saved leaves it.
    for name in ("results.json", "model.safetensors", "checkpoint-4/manifest.json"):
        (folder / name).unlink()
    codes, printed = run_on_two(loop, folder)
    assert codes == [0, 0], printed
    assert "checkpoint-4 is passed over" in printed[0]
    assert read_results(folder)["resumed_from_step"] == 2
    assert_same_weights(folder, whole)
    assert read_results(folder)["world_size"] == 2

    codes, printed = run_on_two(loop, folder)
    assert codes == [0, 0] and "holds this run, finished" in printed[0] and "finished" not in printed[1]
    # A stack trace of every process would bury the one line.
    codes, printed = run_on_two(loop, folder, "--seed", "3")
    assert codes == [1, 1]
    assert "error: " in printed[0] and "finished run with other arguments: seed 42, now 3" in printed[0]
    assert "error" not in printed[1].lower() and "Traceback" not in printed[0] + printed[1]


@pytest.mark.parametrize("loop", SCRIPTS)
def test_run_of_another_number_of_processes_is_not_gone_on_with(loop, tmp_path):
    folder = tmp_path / "run"
    SCRIPTS[loop].main(make_tiny_flags(folder, max_steps=4, save_strategy="steps", save_steps=2))
    (folder / "results.json").unlink()
    codes, printed = run_on_two(loop, folder)
    assert codes == [1, 1] and "num_processes 1, now 2" in printed[0]
