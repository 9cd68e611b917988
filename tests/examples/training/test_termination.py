"""A training that is asked to end: when its processes agree, and what the Trainer does before it leaves."""

import signal
from types import SimpleNamespace

import pytest
import torch

from examples import image_classification
from examples.training.termination import STEPS_ON_ACCELERATOR, Termination
from examples.training.trainer import AiTTrainer
from tests.examples.helpers import read_results


@pytest.mark.parametrize(("device", "steps"), [("cpu", range(1, 21)), ("meta", (10, 20))])
def test_processes_ask_each_other_at_every_step_or_at_every_tenth_of_an_accelerator(device, steps, monkeypatch):
    asked = []

    def all_reduce(tensor, operation):
        asked.append(step)
        assert operation == torch.distributed.ReduceOp.MAX and tensor.device.type == device

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: step == 20)
    training = SimpleNamespace(world_size=2, device=torch.device(device))
    termination = Termination()
    # What this process alone has heard.
    termination.is_asked = True
    agreed = []
    for step in range(1, 21):
        agreed.append(termination.agree(training, step))
        assert termination.is_agreed == agreed[-1]
    assert asked == list(steps) and STEPS_ON_ACCELERATOR == 10
    assert agreed == [False] * 19 + [True]


@pytest.mark.parametrize(
    ("last_step", "calls"),
    [(3, ["save 3"]), (4, ["evaluate 4", "save 4"]), (6, ["evaluate 4", "save 4", "save 6"])],
    ids=["within the first epoch", "at its end", "within the second"],
)
def test_run_that_is_asked_to_end_saves_once_and_evaluates_no_unfinished_epoch(
    last_step, calls, make_flags, tmp_path, monkeypatch
):
    made = []

    def note(name, function):
        def noted(self, *arguments, **options):
            made.append(f"{name} {self.state.global_step}")
            return function(self, *arguments, **options)

        return noted

    def agree(self, training, step):
        self.is_agreed = step == last_step
        return self.is_agreed

    flags = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch"}
    flags |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    image_classification.main(make_flags(tmp_path / "whole", **flags))
    with monkeypatch.context() as patched:
        patched.setattr(Termination, "agree", agree)
        for name in ("evaluate", "_save_checkpoint"):
            patched.setattr(AiTTrainer, name, note(name.strip("_").split("_")[0], getattr(AiTTrainer, name)))
        with pytest.raises(SystemExit) as ended:
            image_classification.main(make_flags(tmp_path / "run", **flags))
    assert ended.value.code == 128 + signal.SIGTERM and made == calls
    image_classification.main(make_flags(tmp_path / "run", **flags))
    run, whole = (read_results(tmp_path / name) for name in ("run", "whole"))
    assert run["resumed_from_step"] == last_step
    assert [entry["step"] for entry in run["history"]] == [entry["step"] for entry in whole["history"]]
    assert run["accuracy"] == whole["accuracy"]
