"""Checkpoints that are damaged, or of others: passed over and named, never deleted, never executed."""

import json
import os
import shutil

import pytest
import torch
import transformers

from examples import image_classification, image_classification_accelerate
from examples.errors import InputError
from examples.training.checkpoints import (
    claim_checkpoint,
    clear_place,
    drop_old_checkpoints,
    find_checkpoint,
    find_damage,
    is_complete_checkpoint,
    list_checkpoints,
    seal_checkpoint,
    sweep_leftovers,
)
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import assert_same_weights, read_results


SCRIPTS = {"trainer": image_classification, "accelerate": image_classification_accelerate}
SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def delete(file):
    file.unlink()


def halve(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    file.write_bytes(b"")


def change_one_byte(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def write(text):
    return lambda file: file.write_text(text)


ANY_FILE = (delete, halve, empty, change_one_byte)
FILES = {
    "trainer": ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"),
    "accelerate": ("optimizer.bin", "random_states_0.pkl", "progress.json", "model.safetensors"),
}
MANIFEST = (delete, halve, empty, write("[]"), write("{}"), write('{"model.safetensors": 3}'), write("[" * 100_000))
RESULTS = (delete, halve, empty, write("[]"), write('{"accuracy": 1.0}'))


@pytest.fixture(scope="module", params=SCRIPTS)
def runs(request, tmp_path_factory):
    """A run that is complete but for its last lines, and how it ends."""
    loop, folder = request.param, tmp_path_factory.mktemp("runs")
    SCRIPTS[loop].main(make_tiny_flags(folder / "whole", **SAVING))
    shutil.copytree(folder / "whole", folder / "unfinished")
    (folder / "unfinished" / "results.json").unlink()
    return loop, folder / "unfinished", folder / "whole"


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(transformers.logging.get_logger("examples.training.checkpoints"), "propagate", True)
    return caplog


def find(folder, **fields):
    return find_checkpoint(transformers.TrainingArguments(str(folder), use_cpu=True, report_to="none", **fields))


def test_damaged_checkpoint_is_passed_over_and_named(runs, tmp_path, warnings):
    loop, unfinished, _ = runs
    table = [(name, damage) for name in (*FILES[loop], "written_by.json") for damage in ANY_FILE]
    table += [("manifest.json", damage) for damage in MANIFEST]
    table += [(name, write("x")) for name in ("custom_checkpoint_0.pkl", "scaler.pt", "more/optimizer_1.bin")]
    for index, (name, damage) in enumerate(table):
        folder = shutil.copytree(unfinished, tmp_path / str(index))
        newest = folder / "checkpoint-4"
        (newest / name).parent.mkdir(exist_ok=True)
        damage(newest / name)
        before = {path: path.read_bytes() for path in newest.rglob("*") if path.is_file()}
        warnings.clear()
        assert find(folder) == folder / "checkpoint-2", name
        (message,) = warnings.messages
        assert f"{newest} is passed over: " in message and name in message and "\n" not in message
        assert {path: path.read_bytes() for path in newest.rglob("*") if path.is_file()} == before


def test_hidden_files_of_the_system_do_no_harm(runs, tmp_path):
    folder = shutil.copytree(runs[1], tmp_path / "run")
    (folder / "checkpoint-4" / ".DS_Store").write_bytes(b"x")
    assert find(folder) == folder / "checkpoint-4"


@pytest.mark.parametrize("damage", [halve, delete])
def test_run_goes_on_from_the_older_checkpoint_and_keeps_the_damaged_one(runs, tmp_path, damage):
    loop, unfinished, whole = runs
    folder = shutil.copytree(unfinished, tmp_path / "run")
    damaged = folder / "checkpoint-4" / FILES[loop][0]
    damage(damaged)
    SCRIPTS[loop].main(make_tiny_flags(folder, **SAVING))
    assert read_results(folder)["resumed_from_step"] == 2
    assert_same_weights(folder, whole)
    assert is_complete_checkpoint(folder / "checkpoint-4")
    kept = folder / "damaged-checkpoint-4" / damaged.name
    assert kept.exists() == (damage is halve) and kept.parent.is_dir()


@pytest.mark.parametrize("damage", RESULTS)
def test_damaged_results_are_written_again_from_the_last_checkpoint(runs, tmp_path, damage):
    loop, _, whole = runs
    folder = shutil.copytree(whole, tmp_path / "run")
    damage(folder / "results.json")
    SCRIPTS[loop].main(make_tiny_flags(folder, **SAVING))
    assert read_results(folder)["resumed_from_step"] == 4
    assert read_results(folder)["eval_loss"] == read_results(whole)["eval_loss"]
    assert_same_weights(folder, whole)


@pytest.mark.parametrize("damage", [delete, halve, empty])
def test_finished_run_without_its_model_is_not_finished(runs, tmp_path, damage):
    loop, _, whole = runs
    folder = shutil.copytree(whole, tmp_path / "run")
    damage(folder / "model.safetensors")
    SCRIPTS[loop].main(make_tiny_flags(folder, **SAVING))
    assert_same_weights(folder, whole)


class Evil:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def test_no_file_of_a_checkpoint_is_executed(runs, tmp_path):
    """Whoever writes a pickle can write a manifest that fits."""
    loop, unfinished, _ = runs
    mark = tmp_path / "mark"
    names = [name for name in FILES[loop] if name.endswith((".pt", ".bin", ".pth", ".pkl"))]
    for name in [*names, "custom_checkpoint_0.pkl", "training_args.bin"]:
        folder = shutil.copytree(unfinished, tmp_path / name)
        for checkpoint in list_checkpoints(folder):
            for file in (checkpoint / "progress.json", checkpoint / "trainer_state.json"):
                # As if the run had been killed before its last step, so that everything is loaded.
                if file.exists():
                    file.write_text(file.read_text().replace('step": 4', 'step": 3'))
            torch.save({"state": Evil(mark)}, checkpoint / name)
            seal_checkpoint(checkpoint)
        try:
            SCRIPTS[loop].main(make_tiny_flags(folder, **SAVING))
        except InputError as error:
            assert "\n" not in str(error)
        assert not mark.exists(), name


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"global_step": "x"}', '{"global_step": 2, "max_steps": 4}'])
def test_state_that_fits_the_manifest_but_tells_of_no_training_is_refused(runs, tmp_path, text):
    loop, unfinished, _ = runs
    folder = shutil.copytree(unfinished, tmp_path / "run")
    newest = folder / "checkpoint-4"
    (newest / {"trainer": "trainer_state.json", "accelerate": "progress.json"}[loop]).write_text(text)
    seal_checkpoint(newest)
    with pytest.raises(InputError, match="checkpoint-4 cannot be resumed: ") as caught:
        SCRIPTS[loop].main(make_tiny_flags(folder, **SAVING))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["nowhere", "checkpoint-4", "other"])
def test_checkpoint_that_was_named_must_be_whole_and_of_the_same_script(runs, tmp_path, given):
    loop, unfinished, _ = runs
    folder = shutil.copytree(unfinished, tmp_path / "run")
    halve(folder / "checkpoint-4" / FILES[loop][0])
    claim_checkpoint(folder / "other", {"trainer": "accelerate", "accelerate": "trainer"}[loop])
    seal_checkpoint(folder / "other")
    reason = {"nowhere": "no such folder", "checkpoint-4": "damaged", "other": "the other training script"}[given]
    with pytest.raises(InputError, match=f"`--resume_from_checkpoint` .*{given}' .*{reason}"):
        SCRIPTS[loop].main(make_tiny_flags(tmp_path / "new", **SAVING, resume_from_checkpoint=folder / given))


def test_longer_training_goes_on_from_a_checkpoint_that_was_named(runs, tmp_path):
    """The checkpoint's own last step is not that of the arguments."""
    loop, _, whole = runs
    flags = {**SAVING, "max_steps": 6, "resume_from_checkpoint": whole / "checkpoint-4"}
    SCRIPTS[loop].main(make_tiny_flags(tmp_path / "longer", **flags))
    assert read_results(tmp_path / "longer")["num_steps"] == 6
    assert read_results(tmp_path / "longer")["resumed_from_step"] == 4


def make_checkpoint(folder, content="x"):
    claim_checkpoint(folder, "trainer")
    (folder / "weights").write_text(content)
    seal_checkpoint(folder)
    return folder


def test_old_checkpoints_go_but_neither_the_best_nor_damaged_nor_later_ones(tmp_path):
    for step in (1, 2, 3, 4, 5, 8):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    empty(tmp_path / "checkpoint-3" / "weights")
    drop_old_checkpoints(tmp_path, 2, step=5, best="elsewhere/checkpoint-1")
    assert [folder.name for folder in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (8, 5, 3, 1)]
    for limit in (None, 0):
        drop_old_checkpoints(tmp_path, limit, step=8)
        assert len(list_checkpoints(tmp_path)) == 4


def test_place_of_a_damaged_checkpoint_is_cleared_without_deleting_it(tmp_path):
    for name in ("damaged-checkpoint-1", "damaged-checkpoint-1-2"):
        empty(make_checkpoint(tmp_path / "checkpoint-1") / "weights")
        clear_place(tmp_path / "checkpoint-1")
        assert not (tmp_path / "checkpoint-1").exists()
        assert find_damage(tmp_path / name) == "its weights is damaged"
    make_checkpoint(tmp_path / "checkpoint-1")
    clear_place(tmp_path / "checkpoint-1")
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_a_kill_are_swept_and_nothing_else(tmp_path):
    leftovers = (".save-checkpoint-3", ".save-old-checkpoint-2", ".save-a8_k2mzq")
    kept = (".save-my-pictures", ".git", "checkpoint-3", ".save-checkpoint-x")
    for name in (*leftovers, *kept):
        (tmp_path / name).mkdir()
    sweep_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_checkpoint_is_passed_over_where_the_best_so_far_is_damaged(tmp_path, warnings):
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        claim_checkpoint(folder, "trainer")
        state = {"best_model_checkpoint": f"elsewhere/checkpoint-{min(step, 4)}", "best_global_step": step - 1}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        seal_checkpoint(folder)
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 500}
    assert find(tmp_path, **best) == tmp_path / "checkpoint-6"
    empty(tmp_path / "checkpoint-4" / "written_by.json")
    assert find(tmp_path, **best) == tmp_path / "checkpoint-2"
    assert f"of the best so far, {tmp_path / 'checkpoint-4'}, its written_by.json is damaged" in warnings.text
    assert find(tmp_path) == tmp_path / "checkpoint-6"
