"""The catalog of benchmarks: found by name, with facts that agree with each other."""

import datasets
import pytest
from PIL import Image

from examples.data.arguments import DataArguments
from examples.data.catalog import BENCHMARKS
from examples.data.loading import load_image_data
from examples.data.triangle import Triangle


def test_benchmark_is_found_by_name_and_by_hub_id(monkeypatch):
    asked = []
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["a", "b"])})
    table = {"img": [Image.new("RGB", (4, 4))] * 4, "fine_label": [0, 1, 0, 1]}
    data = datasets.Dataset.from_dict(table, features=features)
    splits = datasets.DatasetDict({"train": data, "test": data})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or splits)
    for name in ("cifar100", "uoft-cs/cifar100"):
        loaded = load_image_data(DataArguments(name))
        assert (loaded.image_column, loaded.label_column) == ("img", "fine_label")
    assert asked == [("uoft-cs/cifar100", None)] * 2


def test_generated_benchmark_is_loaded_by_name():
    data = load_image_data(
        DataArguments("triangle", "matched", generator_seed=5, generator_train_size=6, generator_test_size=4)
    )
    assert (len(data.train), len(data.evaluation)) == (6, 4)
    assert data.label_names == ["equilateral", "random"]
    expected = Triangle.generate("matched", 5, 1, 2)
    assert data.evaluation[2]["label"] == expected["label"]
    assert data.evaluation[2]["image"]["bytes"] == expected["image"]["bytes"]


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_facts_of_a_benchmark_agree_with_each_other(name):
    benchmark = BENCHMARKS[name]
    assert (benchmark.hub_id is None) != (benchmark.builder is None)
    assert benchmark.image_size % benchmark.patch_size == 0
    assert set(benchmark.unconfirmed) <= set(benchmark.published)
    if benchmark.builder is not None:
        assert benchmark.builder.default_sizes == (benchmark.num_train, benchmark.num_test)
        assert {benchmark.image_column, benchmark.label_column} <= set(benchmark.builder.features)
        label = benchmark.builder.features[benchmark.label_column]
        assert getattr(label, "feature", label).num_classes == benchmark.num_classes
