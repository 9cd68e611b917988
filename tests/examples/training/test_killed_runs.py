"""Runs that are killed at chosen points: nothing is lost, and in the end all is as without the kill, bit for bit."""

import contextlib
import functools
import io
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import transformers
import transformers.modeling_utils

from examples import image_classification, image_classification_accelerate
from examples.data import loading
from examples.training import checkpoints, results, run_folder, trainer
from examples.training import loop as explicit_loop
from modeling_ait import AiTForImageClassification
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import assert_same_weights, get_context, read_results


SCRIPTS = {"trainer": image_classification, "accelerate": image_classification_accelerate}
NEW = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "seed": 7}


def kill(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(function, call=1):
    """A function that is replaced by one that kills its process at the end of a call."""
    count = iter(range(1, 1000))

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        value = function(*arguments, **options)
        return kill() if next(count) == call else value

    return wrapped


def ask_after(function, call):
    """A function that is replaced by one that asks its process to end, at the end of a call."""
    count = iter(range(1, 1000))

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        value = function(*arguments, **options)
        if next(count) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return value

    return wrapped


def write_half(function, call=1):
    """A function that writes a file, replaced by one that leaves half of the file and kills its process."""
    count = iter(range(1, 1000))

    @functools.wraps(function)
    def wrapped(content, path, *arguments, **options):
        function(content, path, *arguments, **options)
        if next(count) == call:
            os.truncate(path, os.path.getsize(path) // 2)
            kill()

    return wrapped


def replace_first_file(source, target, replace=os.replace):
    """Move a file, and die once the first one has come from the staging folder into the folder of the run."""
    replace(source, target)
    if Path(target).parent.name == "run" and Path(target).name == "configuration_ait.py":
        kill()


def remove_one_file(folder, rmtree=shutil.rmtree, **options):
    """Remove one file of an old checkpoint, and die, once the run has saved a newer one."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if files and Path(folder, "..", "checkpoint-4").exists():
        files[0].unlink()
        kill()
    rmtree(folder, **options)


def set_kill_point(point: str, loop: str) -> None:
    """Patch this process so that it kills itself."""
    saving = trainer if loop == "trainer" else explicit_loop
    if point == "start":
        loading.load_image_data = kill
    elif point == "prepared":
        run_folder.prepare_output_folder = kill_after(run_folder.prepare_output_folder)
    elif point == "old results aside":
        run_folder.clear_place = run_folder.write_json = kill
    elif point == "first step":
        torch.optim.AdamW.step = kill
    elif point == "half of a checkpoint's file":
        torch.save = write_half(torch.save)
    elif point == "checkpoint without manifest":
        saving.seal_checkpoint = kill
    elif point == "second checkpoint without manifest":
        count = iter([saving.seal_checkpoint, kill])
        saving.seal_checkpoint = lambda folder: next(count)(folder)
    elif point == "dropping an old checkpoint":
        checkpoints.shutil.rmtree = remove_one_file
    elif point == "asked to end":
        torch.optim.AdamW.step = ask_after(torch.optim.AdamW.step, call=3)
    elif point == "last step":
        results.report_run = kill
    elif point == "half of the model":
        results.report_run = functools.partial(report_with_half_a_model, results.report_run)
    elif point == "between save and report":
        results.write_model_card = kill
    elif point == "one file moved":
        os.replace = replace_first_file
    elif point == "before the old results go":
        results.print = Path.unlink = kill
    elif point != "never":
        raise ValueError(point)


def report_with_half_a_model(report_run, *arguments):
    transformers.modeling_utils.safe_save_file = write_half(transformers.modeling_utils.safe_save_file)
    report_run(*arguments)


def run_until_killed(num_threads, point, loop, flags):
    """Run a script in this process, which is one of its own."""
    # Sums in other parts have other last bits.
    torch.set_num_threads(num_threads)
    set_kill_point(point, loop)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        SCRIPTS[loop].main(flags)


@pytest.fixture(scope="module", params=SCRIPTS)
def runs(request, tmp_path_factory):
    """A finished run to be replaced, and what the run that replaces it gives when nothing disturbs it."""
    loop, folder = request.param, tmp_path_factory.mktemp("runs")
    SCRIPTS[loop].main(make_tiny_flags(folder / "old", save_strategy="steps", save_steps=2))
    SCRIPTS[loop].main(make_tiny_flags(folder / "new", **NEW))
    return loop, folder / "old", folder / "new"


@pytest.mark.parametrize(
    ("point", "resumed_from"),
    [
        ("start", None),
        ("old results aside", None),
        ("prepared", 0),
        ("first step", 0),
        ("half of a checkpoint's file", 0),
        ("checkpoint without manifest", 0),
        ("second checkpoint without manifest", 2),
        ("dropping an old checkpoint", 4),
        ("asked to end", 3),
        ("last step", 6),
        ("half of the model", 6),
        ("between save and report", 6),
        ("one file moved", 6),
        ("before the old results go", None),
    ],
)
def test_killed_run_loses_nothing_and_goes_on(point, resumed_from, runs, tmp_path):
    """Or one that is asked to end, which saves the step that it is at."""
    loop, old, new = runs
    folder = shutil.copytree(old, tmp_path / "run")
    (folder / "notes.txt").write_text("mine")
    (folder / "pictures").mkdir()
    flags = make_tiny_flags(folder, **NEW)
    arguments = (torch.get_num_threads(), point, loop, [*flags, "--restart", "True"])
    process = get_context(__name__).Process(target=run_until_killed, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == (128 + signal.SIGTERM if point == "asked to end" else -signal.SIGKILL), point
    # The old model is there until the new one is complete; of the first file that is moved both have the same.
    assert AiTForImageClassification.from_pretrained(folder)
    assert_same_weights(folder, new if point == "before the old results go" else old)

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        SCRIPTS[loop].main([*flags, *(["--restart", "True"] if resumed_from is None else [])])
    assert_same_weights(folder, new)
    results, expected = read_results(folder), read_results(new)
    for name in ("accuracy", "eval_loss", "num_steps", "seed"):
        assert results[name] == expected[name]
    assert results["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
    if resumed_from is not None:
        assert results["resumed_from_step"] == resumed_from
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "pictures").is_dir()
    assert sorted(path.name for path in folder.glob("*checkpoint-*")) == ["checkpoint-6"]
    assert not list(folder.glob(".save-*")) and not (folder / "previous_results.json").exists()
    assert "Accuracy" in printed.getvalue()


def run_slowly(loop, flags):
    """Run a script as the first of its group, with time to end it after its second step."""
    os.setsid()
    # A process of a fork server would start its workers by another, whose end is nobody's business.
    multiprocessing.set_start_method("fork", force=True)
    step, count = torch.optim.AdamW.step, iter(range(1, 1000))

    def wait(*arguments, **options):
        if next(count) > 2:
            time.sleep(1)
        return step(*arguments, **options)

    torch.optim.AdamW.step = wait
    run_until_killed(1, "never", loop, flags)


@pytest.mark.parametrize("loop", SCRIPTS)
def test_signal_to_the_whole_group_leaves_workers_to_their_run(loop, tmp_path):
    """As a scheduler sends it, and a comparison whose time is up; not from the run itself, whom its workers obey."""
    # An epoch that outlasts the run, so that its worker is there to the end.
    flags = {**NEW, "dataloader_num_workers": 1, "max_train_samples": 640}
    torch.set_num_threads(1)
    SCRIPTS[loop].main(make_tiny_flags(tmp_path / "whole", **flags))
    folder = tmp_path / "run"
    process = get_context(__name__).Process(target=run_slowly, args=(loop, make_tiny_flags(folder, **flags)))
    process.start()
    deadline = time.monotonic() + 120
    while not checkpoints.is_complete_checkpoint(folder / "checkpoint-2"):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 128 + signal.SIGTERM
    SCRIPTS[loop].main(make_tiny_flags(folder, **flags))
    assert_same_weights(folder, tmp_path / "whole")
    assert 2 < read_results(folder)["resumed_from_step"] < 6


@pytest.mark.parametrize(
    "options",
    [
        {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0},
        {"save_strategy": "steps", "save_steps": 2, "save_only_model": True},
        {"save_strategy": "no"},
        {"save_strategy": "steps", "save_steps": 0.3},
    ],
    ids=["best", "model only", "no", "share"],
)
def test_what_is_saved_at_the_end_can_be_gone_on_from(options, tmp_path, monkeypatch, caplog):
    """Whatever the checkpoints of the run itself are; the same arguments are not called others."""
    monkeypatch.setattr(transformers.logging.get_logger("transformers"), "propagate", True)
    flags = make_tiny_flags(tmp_path / "run", max_steps=6, metric_for_best_model="accuracy", **options)
    process = get_context(__name__).Process(target=run_until_killed, args=(1, "asked to end", "trainer", flags))
    process.start()
    process.join(120)
    assert process.exitcode == 128 + signal.SIGTERM
    image_classification.main(flags)
    assert read_results(tmp_path / "run")["resumed_from_step"] == 3
    assert "do not match" not in caplog.text
