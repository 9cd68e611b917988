"""What a training shows: a line for each epoch, a bar on a terminal, and nothing else unless asked for."""

import io
import re

import pytest
import torch

from examples import image_classification, image_classification_accelerate
from examples.training.progress import Progress, RunningMean


SCRIPTS = pytest.mark.parametrize(
    "script", [image_classification, image_classification_accelerate], ids=["trainer", "accelerate"]
)
EPOCHS = {"max_steps": None, "num_train_epochs": 3, "logging_steps": 1, "save_strategy": "epoch"}
LINE = r"epoch {} of 3: loss \d+\.\d{{4}}, held-out loss \d+\.\d{{4}}, accuracy \d+\.\d\d %, step {} of 12, \d+ s"


@SCRIPTS
def test_training_prints_one_line_for_each_epoch(script, make_flags, tmp_path, capfd, recwarn):
    script.main(make_flags(tmp_path / "run", **EPOCHS, eval_strategy="epoch", disable_tqdm=False))
    out, err = capfd.readouterr()
    lines = out.splitlines()
    for epoch, line in enumerate(lines[:3], start=1):
        assert re.fullmatch(LINE.format(epoch, 4 * epoch), line)
    assert lines[3].startswith("Accuracy on 51 held-out images")
    assert len(lines) < 12 and max(map(len, lines)) < 200
    # No bar where there is no terminal, and none of the libraries' own.
    assert "%|" not in err and "{" not in out
    assert not [warning for warning in recwarn if "pin_memory" in str(warning.message)]


@SCRIPTS
def test_line_without_evaluation_has_the_loss_alone(script, make_flags, tmp_path, capsys):
    script.main(make_flags(tmp_path / "run", **EPOCHS, eval_strategy="no"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3
    assert all(re.fullmatch(r"epoch \d of 3: loss \d+\.\d{4}, step \d+ of 12, \d+ s", line) for line in lines)


@SCRIPTS
def test_evaluation_at_the_end_of_an_epoch_is_shown_once(script, make_flags, tmp_path, capsys):
    script.main(make_flags(tmp_path / "run", **EPOCHS, eval_strategy="steps", eval_steps=2))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [re.search(r"step (\d+) of 12", line)[1] for line in lines] == ["2", "4", "6", "8", "10", "12"]
    assert all("accuracy" in line for line in lines)


@SCRIPTS
def test_verbose_training_prints_every_log(script, make_flags, tmp_path, capsys):
    script.main(make_flags(tmp_path / "run", **EPOCHS, eval_strategy="epoch", verbose=True))
    logs = [line for line in capsys.readouterr().out.splitlines() if re.match(r"step \d+: ", line)]
    steps = {int(re.match(r"step (\d+)", line)[1]) for line in logs}
    assert steps == set(range(1, 13))
    assert all(re.search(r"task_loss \d+\.\d+, balance_loss \d", line) for line in logs if "task_loss" in line)
    assert sum("learning_rate" in line for line in logs) == 12


def test_arguments_of_a_run_do_not_hold_what_it_shows(make_flags, tmp_path, capsys):
    image_classification.main(make_flags(tmp_path / "run"))
    capsys.readouterr()
    image_classification.main(make_flags(tmp_path / "run", verbose=True))
    assert "holds this run, finished" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_shows_loss_accuracy_and_remaining_time(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("examples.training.progress.SECONDS_BETWEEN_LOSSES", 0.0)
    loss = RunningMean()
    progress = Progress(10, 2, 0, loss)
    for step in range(1, 10):
        loss.add(torch.tensor(0.25))
        progress.advance(step)
        if step == 5:
            progress.show(1, {"eval_loss": 0.5, "eval_accuracy": 0.75})
    progress.bar.refresh()
    progress.close()
    shown = terminal.getvalue()
    assert "epoch 1 of 2: loss 0.2500, held-out loss 0.5000, accuracy 75.00 %, step 5 of 10" in shown
    assert re.search(r"90%\|.* 9/10 \[\d\d:\d\d<.*, loss 0.2500, accuracy 75.00 %\]", shown)


def test_log_has_a_line_every_half_minute_with_the_remaining_time(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("examples.training.progress.time.monotonic", lambda: now)
    loss = RunningMean()
    # Resumed at step 200 of 1000; every step takes 2 seconds.
    progress = Progress(1000, 10, 200, loss, use_bar=False, start=now)
    for step in range(201, 241):
        now += 2
        loss.add(torch.tensor(0.5))
        progress.advance(step)
        if step == 210:
            progress.show(2.1)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2.1 of 10: loss 0.5000, step 210 of 1000, 20 s",
        "step 226 of 1000: loss 0.5000, 26 min left",
    ]


def test_other_processes_print_no_lines(monkeypatch, capsys):
    monkeypatch.setattr("examples.training.progress.SECONDS_BETWEEN_LINES", -1.0)
    Progress(10, 1, 0, RunningMean(), use_bar=False, is_shown=False).advance(1)
    assert not capsys.readouterr().out
    Progress(10, 1, 0, RunningMean(), use_bar=False).advance(1)
    assert capsys.readouterr().out.startswith("step 1 of 10: loss nan, ")


def test_running_mean_is_that_of_what_was_added_since():
    mean = RunningMean()
    assert mean.read() != mean.read()
    mean.add(torch.tensor(1.0))
    mean.add(torch.tensor(2.0, requires_grad=True))
    assert mean.read() == 1.5
    mean.clear()
    mean.add(torch.tensor(4.0))
    assert mean.read() == 4.0
