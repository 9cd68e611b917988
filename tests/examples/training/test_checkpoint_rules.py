"""Which checkpoint a run goes on from, and which are kept: by step, whole to the last byte."""

import types

import pytest

from examples.training.checkpoints import (
    claim_checkpoint,
    drop_old_checkpoints,
    find_checkpoint,
    is_complete_checkpoint,
    list_checkpoints,
    seal_checkpoint,
)


@pytest.fixture
def make_checkpoints(tmp_path):
    def make(*steps):
        folders = [tmp_path / f"checkpoint-{step}" for step in steps]
        for folder in folders:
            claim_checkpoint(folder, "trainer")
            (folder / "optimizer.pt").write_bytes(bytes(range(100)))
            (folder / "model.safetensors").write_bytes(b"weights")
            seal_checkpoint(folder)
        return folders

    return make


def find(folder):
    return find_checkpoint(types.SimpleNamespace(output_dir=str(folder), load_best_model_at_end=False))


def test_newest_checkpoint_is_the_one_of_the_largest_step(make_checkpoints, tmp_path):
    make_checkpoints(20, 100, 3)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == [
        "checkpoint-100",
        "checkpoint-20",
        "checkpoint-3",
    ]
    assert find(tmp_path).name == "checkpoint-100"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "optimizer.pt").write_bytes(bytes(range(50))),
        lambda folder: (folder / "optimizer.pt").write_bytes(bytes(reversed(range(100)))),
        lambda folder: (folder / "optimizer.pt").write_bytes(b""),
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{}"),
    ],
    ids=["halved", "other bytes", "emptied", "missing", "no manifest", "empty manifest"],
)
def test_damaged_checkpoint_is_passed_over_for_the_one_before(make_checkpoints, tmp_path, damage):
    older, newer = make_checkpoints(1, 2)
    assert is_complete_checkpoint(newer)
    damage(newer)
    assert not is_complete_checkpoint(newer)
    assert find(tmp_path) == older
    assert newer.exists()


def test_newest_checkpoints_and_the_best_are_kept(make_checkpoints, tmp_path):
    folders = make_checkpoints(1, 2, 3, 4, 5)
    drop_old_checkpoints(tmp_path, 3, 5, best=str(folders[0]))
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-4", "checkpoint-1"]
    drop_old_checkpoints(tmp_path, 1, 5)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-5"]
