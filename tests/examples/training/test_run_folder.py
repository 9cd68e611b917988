"""Output folders: finished, unfinished, of others, and held by another run."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
import transformers

from examples import image_classification, image_classification_accelerate
from examples.data import loading
from examples.errors import InputError
from examples.training import metrics, publishing, run_folder
from modeling_ait import AiTForImageClassification
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import assert_same_weights, get_context, read_results


SCRIPTS = {"trainer": image_classification, "accelerate": image_classification_accelerate}
SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module", params=SCRIPTS)
def finished(request, tmp_path_factory):
    """A script, and the folder of a finished run."""
    script, folder = SCRIPTS[request.param], tmp_path_factory.mktemp("runs") / "finished"
    script.main(make_tiny_flags(folder, **SAVING))
    return script, folder


def read_all(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def stop(*arguments, **options):
    raise RuntimeError("stopped")


def test_restart_that_was_cut_off_before_its_first_checkpoint_stands_before_the_old_model(
    finished, tmp_path, monkeypatch, capsys
):
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            script.main(make_tiny_flags(folder, **SAVING, seed=7, restart=True))
    before = read_all(folder)
    with pytest.raises(InputError, match=r"an unfinished run with other arguments: seed 7, now 8\. .*--restart True"):
        script.main(make_tiny_flags(folder, **SAVING, seed=8))
    assert read_all(folder) == before
    assert_same_weights(folder, old)
    script.main(make_tiny_flags(folder, **SAVING, seed=7))
    assert read_results(folder)["seed"] == 7
    assert "Accuracy" in capsys.readouterr().out


def test_diverged_restart_leaves_the_old_model(finished, tmp_path, monkeypatch):
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "run")
    with pytest.raises(InputError, match="Training diverged"):
        script.main(make_tiny_flags(folder, **SAVING, learning_rate=1e30, restart=True))
    assert_same_weights(folder, old)
    assert AiTForImageClassification.from_pretrained(folder)
    assert (folder / "README.md").read_bytes() == (old / "README.md").read_bytes()


def test_run_that_wrote_nothing_yet_leaves_the_folder_free(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for script, seed in ((image_classification, 1), (image_classification_accelerate, 2)):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
            patch.setattr(torch.optim.AdamW, "step", stop)
            script.main(make_tiny_flags(folder, seed=seed))
    image_classification.main(make_tiny_flags(folder, seed=3))
    assert read_results(folder)["seed"] == 3


def test_finished_folder_may_be_moved_and_shown_in_another_way(finished, tmp_path, capsys):
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "moved")
    before = read_all(folder)
    script.main(make_tiny_flags(folder, **SAVING, disable_tqdm=None))
    assert "holds this run, finished" in capsys.readouterr().out
    assert read_all(folder) == before


def test_checkpoints_of_the_other_script_are_not_gone_on_with(finished, tmp_path):
    script, old = finished
    (other,) = (each for each in SCRIPTS.values() if each is not script)
    folder = shutil.copytree(old, tmp_path / "run")
    for state in ("finished", "unfinished"):
        with pytest.raises(InputError, match=rf"an? {state} run with other arguments: loop '\w+', now '\w+'\. "):
            other.main(make_tiny_flags(folder, **SAVING))
        (folder / "results.json").unlink(missing_ok=True)


def test_run_of_code_that_knew_fewer_arguments_is_still_this_run(finished, tmp_path, capsys):
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "run")
    place = folder / "run_arguments.json"
    written = json.loads(place.read_text())
    # One of the data's, the model's, an adapter's would be beside them, and one of the Trainer's.
    assert (written.pop("mixup_alpha"), written.pop("reset_memory"), written.pop("max_grad_norm")) == (
        None,
        False,
        1.0,
    )
    place.write_text(json.dumps(written))
    script.main(make_tiny_flags(folder, **SAVING))
    assert "holds this run, finished" in capsys.readouterr().out
    for name, value, default in (("max_grad_norm", 0.5, "1.0"), ("horizontal_flip", True, "False")):
        place.write_text(json.dumps({key: value for key, value in written.items() if key != name}))
        with pytest.raises(InputError, match=rf"with other arguments: {name} {default}, now {value}\. Use the same"):
            script.main(make_tiny_flags(folder, **SAVING, **{name: value}))


def test_damaged_record_of_the_arguments_is_named(finished, tmp_path):
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "run")
    (folder / "run_arguments.json").write_text("{")
    script.main(make_tiny_flags(folder, **SAVING))
    (folder / "results.json").unlink()
    with pytest.raises(InputError, match=r"an unfinished run whose run_arguments\.json is damaged.*--restart True"):
        script.main(make_tiny_flags(folder, **SAVING))
    script.main(make_tiny_flags(folder, **SAVING, restart=True))
    assert_same_weights(folder, old)


def test_finished_run_beside_checkpoints_of_an_older_version_is_told(finished, tmp_path, capsys):
    """Written before checkpoints had a manifest: of nobody that is known."""
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "run")
    for name in ("manifest.json", "written_by.json"):
        (folder / "checkpoint-2" / name).unlink()
    before = read_all(folder)
    script.main(make_tiny_flags(folder, **SAVING))
    assert "holds this run, finished" in capsys.readouterr().out
    for change in ({"restart": True}, {"seed": 3, "restart": True}, {"seed": 3}):
        with pytest.raises(InputError, match=r"checkpoint-2 is of another training|seed 42, now 3"):
            script.main(make_tiny_flags(folder, **SAVING, **change))
    (folder / "results.json").unlink()
    with pytest.raises(InputError, match=r"checkpoint-2 is of another training .* it has no written_by\.json"):
        script.main(make_tiny_flags(folder, **SAVING))
    (folder / "results.json").write_bytes(before[(folder / "results.json").relative_to(folder)])
    assert read_all(folder) == before


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "results.json", "modeling_ait.py"])
def test_work_that_no_run_has_written_is_not_overwritten(script, name, tmp_path):
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    for change in ({}, {"restart": True}):
        with pytest.raises(InputError, match=rf"holds {name}, which is of no run of these scripts"):
            script.main(make_tiny_flags(tmp_path, **change))
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    script.main(make_tiny_flags(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_checkpoint_to_go_on_from_does_not_open_a_finished_folder(finished, tmp_path, capsys):
    script, old = finished
    folder = shutil.copytree(old, tmp_path / "run")
    given = {"resume_from_checkpoint": folder / "checkpoint-2"}
    with pytest.raises(InputError, match=r"a finished run with other arguments: seed 42, now 7"):
        script.main(make_tiny_flags(folder, **SAVING, **given, seed=7))
    before = read_all(folder)
    script.main(make_tiny_flags(folder, **SAVING, **given))
    assert "holds this run, finished" in capsys.readouterr().out and read_all(folder) == before
    script.main(make_tiny_flags(folder, **SAVING, **given, restart=True))
    assert read_results(folder)["resumed_from_step"] == 2
    assert_same_weights(folder, old)


def test_finished_run_is_pushed_on_request(finished, tmp_path, monkeypatch):
    """As when it was killed between its report and the push."""
    script, folder = finished
    pushed = []
    monkeypatch.setattr(publishing, "push_folder", lambda training: pushed.append(str(training.output_dir)))
    script.main(make_tiny_flags(folder, **SAVING))
    assert not pushed
    script.main(make_tiny_flags(folder, **SAVING, push_to_hub=True, hub_model_id="user/model"))
    assert pushed == [str(folder)]


@pytest.mark.parametrize("save_steps", [1, 3])
@pytest.mark.parametrize("kill_at", [None, 5], ids=["whole", "stopped"])
def test_best_model_is_reported_whatever_was_stopped_and_moved(kill_at, save_steps, tmp_path, monkeypatch):
    """The accuracy falls again: the best is not the last, and a run that goes on must still have it."""
    flags = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "save_total_limit": 1,
    }
    # At steps that are not saved too, and again when it is reported. A run that goes on has the fourth twice.
    repeated = [0.4] if kill_at and save_steps == 3 else []
    accuracies = iter([0.5, 0.6, 0.5, 0.4, *repeated, 0.3, 0.2, 0.1])
    monkeypatch.setattr(metrics, "compute_metrics", lambda prediction: {"accuracy": next(accuracies)})
    first = tmp_path / "first"
    if kill_at is not None:
        with monkeypatch.context() as patch:
            step, count = torch.optim.AdamW.step, iter(range(1, 10))
            patch.setattr(
                torch.optim.AdamW,
                "step",
                lambda *arguments, **options: stop() if next(count) == kill_at else step(*arguments, **options),
            )
            with pytest.raises(RuntimeError, match="stopped"):
                image_classification.main(make_tiny_flags(first, **flags))
        # It is gone on with somewhere else.
        shutil.move(first, first := tmp_path / "second")
    image_classification.main(make_tiny_flags(first, **flags))
    kept = {path.name for path in first.glob("checkpoint-*")}
    if save_steps == 1:
        assert kept == {"checkpoint-2", "checkpoint-6"}
        assert_same_weights(first, first / "checkpoint-2")
    else:
        # The best of all was not saved, and no saved one was the best at its time: transformers takes the last.
        assert kept == {"checkpoint-6"}
        assert_same_weights(first, first / "checkpoint-6")


def test_checkpoints_of_the_model_alone_are_not_gone_on_from(tmp_path):
    flags = {**SAVING, "save_only_model": True}
    image_classification.main(make_tiny_flags(tmp_path / "whole", **flags))
    folder = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "checkpoint-4")
    image_classification.main(make_tiny_flags(folder, **flags))
    assert read_results(folder)["resumed_from_step"] == 0
    assert_same_weights(folder, tmp_path / "whole")


def hold_folder(loop, flags, ready):
    """Run a script up to its data, with a process of its own beside it, and wait there."""
    loading.load_image_data = lambda arguments: wait_beside_a_child(ready)
    SCRIPTS[loop].main(flags)


def wait_beside_a_child(ready):
    # As a data loader's workers are started: they have whatever is open.
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    ready.set()
    time.sleep(600)


@pytest.mark.parametrize("loop", SCRIPTS)
def test_second_run_is_refused_while_the_first_lives_and_not_afterwards(loop, tmp_path):
    flags = make_tiny_flags(tmp_path / "run")
    context = get_context(__name__)
    ready = context.Event()
    process = context.Process(target=hold_folder, args=(loop, flags, ready))
    process.start()
    assert ready.wait(120)
    for script in SCRIPTS.values():
        with pytest.raises(InputError, match="Another run works in") as refusal:
            script.main(flags)
        assert "\n" not in str(refusal.value)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    SCRIPTS[loop].main(flags)
    assert read_results(tmp_path / "run")["num_steps"] == 2


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise NotImplementedError("no flock")

    monkeypatch.setattr(transformers.logging.get_logger("examples.training.run_folder"), "propagate", True)
    monkeypatch.setattr(run_folder.FileLock, "acquire", fail)
    with run_folder.lock_output_folder(
        transformers.TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none")
    ):
        assert (tmp_path / "run").is_dir()
    assert "knows no locks" in caplog.text


def test_results_are_moved_into_the_folder_last(tmp_path, monkeypatch):
    """They say that a run is finished, so all else must be there."""
    moved, replace = [], os.replace
    folder = tmp_path / "run"

    def note(source, target):
        if os.path.dirname(target) == str(folder):
            moved.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    image_classification.main(make_tiny_flags(folder))
    assert moved[-1] == "results.json"
    assert moved.index("model.safetensors") < moved.index("config.json")
    assert json.loads((folder / "run_arguments.json").read_text())["loop"] == "trainer"
