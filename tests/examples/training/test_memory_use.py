"""What evaluations tell of the memories, and the figure at the end of a run."""

import json

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from examples import image_classification, image_classification_accelerate, relational_reasoning
from examples.training import picture
from examples.training.memory_use import MEASURED, MemoryMeter
from examples.visualization.slots import measure_movement, measure_slot_use, read_memories
from tests.examples.helpers import assert_same_weights, read_results


def test_meter_measures_what_the_evaluation_retrieves_and_how_far_the_memories_moved(make_model, make_images):
    model, images = make_model().eval(), make_images(6)
    accelerator, meter = Accelerator(cpu=True), MemoryMeter(model)
    before = [memory.clone() for memory in model.ait.memories]
    with torch.no_grad():
        whole = model(images).logits
        model(images, update_memory=True)
        with meter.measure(accelerator) as measured:
            assert measured == {}
            model(images[:4])
            model(images[4:])
        model(images)
    use, _ = measure_slot_use(model, [{"pixel_values": images}])
    assert list(measured) == list(MEASURED)
    assert measured["slot_entropy"] == pytest.approx(use.entropy.mean().item(), rel=1e-5)
    assert measured["dead_slots"] == int((use.tokens == 0).sum())
    moved = measure_movement(before, model.ait.memories).mean().item()
    assert measured["memory_movement"] == pytest.approx(moved) and moved > 1
    # Nothing is written until the next: it is the same evaluation, of the same step.
    with meter.measure(accelerator) as again, torch.no_grad():
        assert not torch.equal(model(images).logits, whole)
    assert again == pytest.approx(measured)


def test_meter_of_a_model_without_memories_measures_nothing(make_model):
    for meter in (MemoryMeter(make_model(num_memory_slots=0)), MemoryMeter(torch.nn.Linear(1, 1))):
        with meter.measure(Accelerator(cpu=True)) as measured:
            pass
        assert measured == {}
    with MemoryMeter(make_model(), is_active=False).measure(Accelerator(cpu=True)) as measured:
        pass
    assert measured == {}


@pytest.mark.parametrize("script", [image_classification, image_classification_accelerate])
def test_runs_log_the_use_of_slots_and_draw_the_same_run(make_flags, tmp_path, capsys, script):
    flags = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    script.main(make_flags(tmp_path / "plain", **flags))
    assert not (tmp_path / "plain" / "memory.png").exists()
    assert "memory.png" not in (tmp_path / "plain" / "README.md").read_text()
    capsys.readouterr()
    script.main(make_flags(tmp_path / "drawn", **flags, visualize=True))
    assert f"{tmp_path / 'drawn' / 'memory.png'}" in capsys.readouterr().out.splitlines()[-1]
    assert_same_weights(tmp_path / "plain", tmp_path / "drawn")
    results = read_results(tmp_path / "drawn")
    plain = read_results(tmp_path / "plain")
    assert all(results[name] == plain[name] for name in ("accuracy", "eval_loss", *MEASURED))
    states = [read_memories(tmp_path / "drawn" / f"checkpoint-{step}") for step in (1, 2)]
    assert results["memory_movement"] == pytest.approx(measure_movement(*states).mean().item(), rel=1e-5)
    assert 0 <= results["slot_entropy"] <= 1.585 and 0 <= results["dead_slots"] <= 4
    if script is image_classification:
        (entry,) = [entry for entry in results["history"] if entry["step"] == 1 and "eval_loss" in entry]
        assert {f"eval_{name}" for name in MEASURED} <= entry.keys()
    with Image.open(tmp_path / "drawn" / "memory.png") as figure:
        assert figure.size[0] > 1500
    assert "](memory.png)" in (tmp_path / "drawn" / "README.md").read_text()
    # Of a model that stood here before.
    script.main(make_flags(tmp_path / "drawn", **flags, restart=True))
    assert not (tmp_path / "drawn" / "memory.png").exists()


def test_run_with_questions_is_drawn(make_flags, tmp_path):
    model = {"image_size": 75, "patch_size": 25}
    questions = {"dataset_name": "sort_of_clevr", "generator_train_size": 4, "generator_test_size": 5}
    none = dict.fromkeys(("max_train_samples", "max_eval_samples", "crop_padding"))
    relational_reasoning.main(make_flags(tmp_path / "run", model, **{**none, **questions, "visualize": True}))
    assert (tmp_path / "run" / "memory.png").exists()
    assert "memory_movement" in read_results(tmp_path / "run")


def test_model_without_memory_is_not_drawn(make_flags, tmp_path, capsys):
    flags = make_flags(tmp_path / "run", architecture="ait_no_workspace", visualize=None)
    image_classification.main(flags)
    assert not (tmp_path / "run" / "memory.png").exists()
    assert "memories" not in capsys.readouterr().out
    assert not set(MEASURED) & read_results(tmp_path / "run").keys()


def test_failure_to_draw_leaves_the_run_whole(make_flags, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no\nink")

    monkeypatch.setattr(picture, "draw_portrait", fail)
    image_classification.main(make_flags(tmp_path / "run", visualize=True))
    assert "The memories could not be drawn (RuntimeError: no ink)." in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert "memory.png" not in files and {"results.json", "model.safetensors", "README.md"} <= files
    assert "memory.png" not in (tmp_path / "run" / "README.md").read_text()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"] >= 0
