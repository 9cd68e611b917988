"""The suite for a GPU, on a CPU with a tiny shape: its parts, its time and the end of the memory."""

import time
from types import SimpleNamespace

import pytest
import torch

from examples.benchmarking import measuring
from examples.benchmarking import suite as suite_module
from examples.benchmarking.charts import plan_charts
from examples.benchmarking.suite import Suite, find_largest_batch, make_loader, measure_images, run_suite
from examples.benchmarking.tables import write_suite
from examples.errors import InputError
from examples.training.cost import CostSetting


@pytest.fixture
def suite(tiny_shape, monkeypatch):
    # Compilation takes longer than all the rest.
    monkeypatch.setattr(suite_module, "VARIANTS", {"eager": False, "compiled": False})
    monkeypatch.setattr(measuring, "measure_peak_memory", lambda build, mode, setting: 1.0)
    monkeypatch.setattr(suite_module, "measure_peak_memory", measure_until_full)
    return Suite(
        shapes={"tiny": tiny_shape},
        models=["ait", "vit"],
        setting=CostSetting(4),
        num_rounds=2,
        deadline=time.monotonic() + 600,
        dataset_name="digits",
        num_images=16,
        num_workers=0,
        largest_batch_size=16,
        batch_size=4,
    )


def measure_until_full(build, mode, setting):
    if setting.batch_size > 8:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return float(setting.batch_size)


def test_suite_measures_ratios_data_and_batch_sizes_in_bfloat16(suite, monkeypatch):
    settings = []
    real = suite_module.measure_shape

    def note(shape, models, setting, *rest, **options):
        settings.append(setting)
        return real(shape, models, setting, *rest, **options)

    monkeypatch.setattr(suite_module, "measure_shape", note)
    results = list(run_suite(suite))[-1]
    assert [(setting.use_bf16, setting.batch_size) for setting in settings] == [(True, 4)] * 2
    assert list(results["ratios"]) == ["eager", "compiled"]
    assert results["ratios"]["eager"]["tiny"]["training"]["ait"]["time_ratio"] > 0
    for speed in results["data"].values():
        assert speed["images_per_second_from_data"] > 0 and speed["dataset_name"] == "digits"
        assert speed["share"] == speed["images_per_second_from_data"] / speed["images_per_second_synthetic"]
    found = results["batch_sizes"]["vit"]["inference"]
    assert [row["batch_size"] for row in found["rows"]] == [4, 8]
    assert (found["ended_by"], found["not_reached"]) == ("the memory", 16)
    assert results["left_out"] == []
    lines = write_suite(results)
    assert "| tiny | ait | training | 8 | 8 | the memory |" in lines
    assert any(line.startswith("| digits, compiled | tiny | ") for line in lines)
    charts = plan_charts({"shapes": {}, "write": [], "suite": results}, "gpu")
    assert list(charts) == ["gpu.png", "gpu_batch_sizes.png"]


def test_compiled_part_compiles_without_a_break(suite, monkeypatch):
    monkeypatch.setattr(suite_module, "VARIANTS", {"compiled": True})
    # No batch sizes, which are not compiled.
    monkeypatch.setattr(suite_module, "MODES", ())
    suite.models = ["vit"]
    graphs = []
    compile_model = torch.nn.Module.compile

    def compile_and_note(model, *arguments, **options):
        graphs.append(type(model).__name__)
        assert options.get("backend", "inductor") == "inductor"
        # Graphs without the code of a C++ compiler, which takes minutes.
        compile_model(model, *arguments, **{**options, "backend": "aot_eager"})

    monkeypatch.setattr(torch.nn.Module, "compile", compile_and_note)
    torch._dynamo.utils.counters.clear()
    results = list(run_suite(suite))[-1]
    assert results["left_out"] == []
    assert results["ratios"]["compiled"]["tiny"]["training"]["vit"]["seconds"] > 0
    assert results["data"]["compiled"]["share"] > 0
    # Training, inference and what is kept; then the training from data.
    assert graphs == ["ViTForImageClassification"] * 3 + ["AiTForImageClassification"]
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_search_ends_at_the_largest_size_and_at_the_end_of_the_time(suite):
    suite.largest_batch_size = 7
    found = find_largest_batch(suite, suite.shapes["tiny"], "ait", "inference")
    assert ([row["batch_size"] for row in found["rows"]], found["ended_by"]) == ([4], "the largest batch size")
    suite.deadline = time.monotonic() - 1
    found = find_largest_batch(suite, suite.shapes["tiny"], "ait", "inference")
    assert (found["rows"], found["ended_by"]) == ([], "the time")


def test_suite_says_what_it_left_out_for_time_and_memory(suite, monkeypatch, capsys):
    def fail(*arguments, **options):
        suite.deadline = time.monotonic() - 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(suite_module, "measure_shape", fail)
    results = list(run_suite(suite))[-1]
    assert results["left_out"][:2] == [
        "Ratios, bfloat16, eager: tiny: out of memory",
        "Ratios, bfloat16, compiled: tiny: the time was up",
    ]
    assert results["data"] == results["batch_sizes"] == {}
    assert "left out: Data: digits: the time was up" in capsys.readouterr().out
    assert write_suite(results)[-1].startswith("Left out: Ratios, bfloat16, eager: tiny: out of memory; ")


def test_images_come_from_the_loader_of_the_project(suite, monkeypatch):
    loader = make_loader(suite, suite.shapes["tiny"], 4)
    assert (len(loader), len(loader.dataset), loader.num_workers) == (4, 16, 0)
    assert next(iter(loader))["pixel_values"].shape == (4, 3, 8, 8)
    seen = []
    monkeypatch.setattr(suite_module, "make_step", lambda *arguments: seen.append)
    measure_images(None, loader, CostSetting(4), 3)
    half = len(seen) // 2
    assert half == suite_module.NUM_WARMUP_BATCHES + 3
    timed = seen[suite_module.NUM_WARMUP_BATCHES : half]
    assert len({batch["pixel_values"].sum().item() for batch in timed}) == 3
    assert len({id(batch) for batch in seen[half:]}) == 1


def test_gpu_gets_bytes_and_makes_them_ready(suite, monkeypatch):
    monkeypatch.setattr(suite_module.TrainingArguments, "device", property(lambda self: torch.device("cuda")))
    loader = make_loader(suite, suite.shapes["tiny"], 4)
    assert next(iter(loader)).images.pixels.dtype == torch.uint8
    batch = next(suite_module.iterate_batches(loader, "cpu"))
    assert batch["pixel_values"].shape == (4, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32


def test_data_of_more_classes_are_refused(suite, monkeypatch):
    data = SimpleNamespace(label_names=[str(number) for number in range(11)])
    monkeypatch.setattr(suite_module, "load_image_data", lambda arguments: data)
    with pytest.raises(InputError, match="'digits' has 11 classes, and the models of the benchmark have 10"):
        make_loader(suite, suite.shapes["tiny"], 4)
