"""Both training scripts on two processes: the first decides about the output folder, and all go on from there."""

import os
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from examples import image_classification, image_classification_accelerate
from examples.errors import run_script
from modeling_ait import AiTModel
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import assert_same_weights, find_free_port, get_context, read_results


SCRIPTS = {"trainer": image_classification, "accelerate": image_classification_accelerate}


def send_at_forward(signal_number, number):
    """Be sent a signal in the forward pass of this number in training."""
    forward, calls = AiTModel.forward, []

    def count(self, *args, **kwargs):
        calls.append(self.training)
        if sum(calls) == number:
            os.kill(os.getpid(), signal_number)
        return forward(self, *args, **kwargs)

    AiTModel.forward = count


def run_rank(rank, port, log, loop, flags, sent):
    """Run a script as one of two processes, with its output in a file."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if sent is not None and rank == 1:
        send_at_forward(*sent)
    run_script(lambda: SCRIPTS[loop].main(flags))


def run_on_two(loop, folder, *more, model_config=None, sent=None):
    """Run a script on two processes and return how they ended, and what they printed."""
    port = find_free_port()
    flags = [*make_tiny_flags(folder, model_config, max_steps=4, save_strategy="steps", save_steps=2), *more]
    logs = [folder.parent / f"{rank}.log" for rank in range(2)]
    for log in logs:
        log.unlink(missing_ok=True)
    processes = [
        get_context(__name__).Process(target=run_rank, args=(rank, port, log, loop, flags, sent))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        # One that still waits for the other, and has no code.
        process.kill()
        process.join()
    return codes, [log.read_text() for log in logs]


def forget_end(folder):
    """Leave a run as a kill while its second checkpoint was saved leaves it."""
    for name in ("results.json", "model.safetensors", "checkpoint-4/manifest.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("loop", SCRIPTS)
def test_all_processes_go_on_from_the_checkpoint_and_stop_where_nothing_is_to_do(loop, tmp_path):
    folder = tmp_path / "run"
    codes, printed = run_on_two(loop, folder)
    assert codes == [0, 0], printed
    whole = shutil.copytree(folder, tmp_path / "whole")
    forget_end(folder)
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


def assert_close_weights(folder, other):
    weights, others = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("loop", SCRIPTS)
def test_two_processes_train_what_one_trains_and_go_on_with_its_run(loop, tmp_path):
    # Each process draws from a random state of its own, which a run of another number of them does not have.
    still = {"hidden_dropout_prob": 0.0, "memory_dropout_prob": 0.0}
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    SCRIPTS[loop].main(make_tiny_flags(tmp_path / "one", still, **steps))
    halves = ("--per_device_train_batch_size", "8")
    codes, printed = run_on_two(loop, tmp_path / "two", *halves, model_config=still)
    assert codes == [0, 0], printed
    assert_close_weights(tmp_path / "one", tmp_path / "two")
    assert read_results(tmp_path / "two")["accuracy"] == read_results(tmp_path / "one")["accuracy"]
    # But for the random states, of which each process has its own.
    files = [
        {path.name for path in (tmp_path / name / "checkpoint-4").iterdir() if not re.match("rng|random", path.name)}
        for name in ("one", "two")
    ]
    assert files[0] == files[1]

    forget_end(tmp_path / "one")
    codes, printed = run_on_two(loop, tmp_path / "one", model_config=still)
    assert codes == [1, 1] and "train_batch_size 16, now 32" in printed[0]
    codes, printed = run_on_two(loop, tmp_path / "one", *halves, model_config=still)
    assert codes == [0, 0], printed
    assert read_results(tmp_path / "one")["resumed_from_step"] == 2
    assert_close_weights(tmp_path / "one", tmp_path / "two")

    forget_end(tmp_path / "two")
    SCRIPTS[loop].main(make_tiny_flags(tmp_path / "two", still, **steps))
    assert read_results(tmp_path / "two")["resumed_from_step"] == 2
    assert_close_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("loop", SCRIPTS)
def test_whole_epochs_agree_without_a_batch_that_is_not_full(loop, tmp_path):
    """Two epochs of 60 images in batches of 16: the last has 12, to which Accelerate would add for two processes."""
    still = {"hidden_dropout_prob": 0.0, "memory_dropout_prob": 0.0}
    flags = {"max_train_samples": 60, "max_steps": 6, "dataloader_drop_last": True}
    SCRIPTS[loop].main(make_tiny_flags(tmp_path / "one", still, **flags))
    more = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    codes, printed = run_on_two(
        loop, tmp_path / "two", *more, "--per_device_train_batch_size", "8", model_config=still
    )
    assert codes == [0, 0], printed
    assert_close_weights(tmp_path / "one", tmp_path / "two")
    assert read_results(tmp_path / "two")["num_steps"] == read_results(tmp_path / "one")["num_steps"] == 6


@pytest.mark.parametrize("loop", SCRIPTS)
def test_run_goes_on_after_one_of_its_processes_was_killed(loop, tmp_path):
    codes, printed = run_on_two(loop, tmp_path / "whole")
    assert codes == [0, 0], printed
    codes, printed = run_on_two(loop, tmp_path / "run", sent=(signal.SIGKILL, 3))
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None), printed
    assert (tmp_path / "run/checkpoint-2/manifest.json").exists()
    codes, printed = run_on_two(loop, tmp_path / "run")
    assert codes == [0, 0], printed
    assert read_results(tmp_path / "run")["resumed_from_step"] == 2
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("loop", SCRIPTS)
def test_processes_of_which_one_is_asked_to_end_save_the_same_step(loop, tmp_path):
    codes, printed = run_on_two(loop, tmp_path / "whole")
    assert codes == [0, 0], printed
    codes, printed = run_on_two(loop, tmp_path / "run", sent=(signal.SIGTERM, 3))
    assert codes == [128 + signal.SIGTERM] * 2, printed
    assert "Asked to end: saved at step 3 of 4." in printed[0] and "Asked" not in printed[1]
    codes, printed = run_on_two(loop, tmp_path / "run")
    assert codes == [0, 0], printed
    assert read_results(tmp_path / "run")["resumed_from_step"] == 3
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("loop", SCRIPTS)
@pytest.mark.parametrize("config", [{}, {"differentiable_write": False}, {"update_memory": False}])
def test_processes_wait_for_no_parameter_that_the_write_does_not_use(loop, config, tmp_path):
    codes, printed = run_on_two(loop, tmp_path / "run", model_config=config)
    assert codes == [0, 0], printed
    assert "find_unused_parameters" not in printed[0]
