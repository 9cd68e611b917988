"""The batch-size study: our inference does not depend on the batch, the official one does."""

import json
import types

import numpy as np
import pytest
import torch
from transformers import ViTImageProcessorPil

from examples import evaluate_batches
from examples.data.arguments import DataArguments
from examples.data.loading import load_image_data
from examples.errors import InputError
from examples.evaluate_batches import BatchArguments, evaluate_checkpoint, main, predict, summarize
from examples.training import loading
from examples.training.evaluation import find_indices
from modeling_ait import AiTForImageClassification


def test_only_written_memories_make_predictions_depend_on_the_batch(make_model, tmp_path, capsys):
    folder = tmp_path / "run"
    model = make_model(image_size=8, num_labels=10, memory_update_rate=0.9)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True).save_pretrained(folder)
    before = {name: value.clone() for name, value in model.named_buffers()}
    output = tmp_path / "deep" / "batches.json"
    flags = ["--checkpoints", str(folder), "--dataset_name", "digits", "--max_eval_samples", "60"]
    main([*flags, "--batch_sizes", "1", "7", "60", "--num_orders", "2", "--output", str(output)])
    results = json.loads(output.read_text())
    (checkpoint,) = results["checkpoints"]
    assert len(checkpoint["rows"]) == 2 * 3 * 2
    read_only = [row for row in checkpoint["rows"] if not row["update_memory"]]
    written = [row for row in checkpoint["rows"] if row["update_memory"]]
    assert {row["share_changed"] for row in read_only} == {0.0}
    assert len({row["accuracy"] for row in read_only}) == 1
    assert max(row["share_changed"] for row in written) > 0
    summary = {(row["update_memory"], row["batch_size"]): row for row in results["batch_summary"]}
    assert summary.keys() == {(update, size) for update in (False, True) for size in (1, 7, 60)}
    assert summary[False, 7]["accuracy_mean"] == pytest.approx(100 * read_only[0]["accuracy"])
    assert "update_memory=True, batch 60" in capsys.readouterr().out
    # The files stay as they were.
    after = AiTForImageClassification.from_pretrained(folder).named_buffers()
    assert all(torch.equal(value, before[name]) for name, value in after)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "at least one folder or Hub id with `--checkpoints`"),
        (["--checkpoints", "nowhere", "--dataset_name", "digits"], "'nowhere' cannot be loaded"),
        (
            ["--checkpoints", "a", "--batch_sizes", "0", "--dataset_name", "digits"],
            "`--batch_sizes` must be at least 1, but got 0",
        ),
    ],
)
def test_bad_arguments_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        main(flags)


class CountsItsBatch(torch.nn.Module):
    """A stand-in whose class is the number of images of its batch, with the arguments that it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, pixels, update_memory):
        self.calls.append((pixels.flatten().tolist(), update_memory))
        classes = torch.full((len(pixels),), len(pixels))
        return types.SimpleNamespace(logits=torch.nn.functional.one_hot(classes, 5).float())


@pytest.mark.parametrize("update_memory", [True, False])
def test_predictions_come_in_the_order_of_the_images(update_memory):
    model, order = CountsItsBatch(), np.array([4, 2, 0, 3, 1])
    predictions = predict(model, torch.arange(5.0)[:, None], order, 2, update_memory)
    assert model.calls == [([4.0, 2.0], update_memory), ([0.0, 3.0], update_memory), ([1.0], update_memory)]
    assert predictions.tolist() == [2, 1, 2, 2, 2]


def test_every_setting_starts_from_the_checkpoint_and_is_compared_with_the_first(make_model, tmp_path, monkeypatch):
    model = make_model(image_size=8, num_labels=10)
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True).save_pretrained(tmp_path)
    arguments = BatchArguments(batch_sizes=[2, 5], num_orders=3)
    data = load_image_data(DataArguments(dataset_name="digits", max_eval_samples=20))
    labels = torch.tensor(data.evaluation[data.label_column][:])
    seen = []

    def predict_and_write(loaded, pixels, order, batch_size, update_memory):
        state = loaded.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        seen.append((update_memory, batch_size, order.tolist()))
        for tensor in state.values():
            tensor += 1
        # All right but as many as there were calls before.
        predictions = labels.clone()
        predictions[: len(seen) - 1] = 10
        return predictions

    monkeypatch.setattr(evaluate_batches, "predict", predict_and_write)
    rows = evaluate_checkpoint(str(tmp_path), data, arguments, DataArguments())
    settings = [(update, size, order) for update in (False, True) for size in (2, 5) for order in range(3)]
    assert [(row["update_memory"], row["batch_size"], row["order"]) for row in rows] == settings
    orders = [np.arange(20), *(np.random.default_rng(index).permutation(20) for index in (1, 2))]
    assert seen == [(update, size, orders[order].tolist()) for update, size, order in settings]
    for index, row in enumerate(rows):
        assert row["accuracy"] == pytest.approx(1 - index / 20)
        # The first of each semantics is what the others of it are compared with.
        assert row["share_changed"] == pytest.approx((index % 6) / 20)


def test_summary_over_checkpoints_and_orders():
    def make(update_memory, batch_size, accuracies, changed):
        return [
            {"update_memory": update_memory, "batch_size": batch_size, "accuracy": accuracy, "share_changed": share}
            for accuracy, share in zip(accuracies, changed)
        ]

    checkpoints = [
        {"rows": make(False, 1, [0.5, 0.5], [0.0, 0.0]) + make(True, 1, [0.2, 0.6], [0.0, 0.3])},
        {"rows": make(False, 1, [0.9, 0.9], [0.0, 0.0]) + make(True, 1, [0.5, 0.6], [0.1, 0.05])},
    ]
    read_only, written = summarize(checkpoints)
    assert (read_only["update_memory"], written["update_memory"]) == (False, True)
    assert read_only["accuracy_mean"] == pytest.approx(70.0)
    # Means of the checkpoints: 50 and 90, and 40 and 55.
    assert read_only["accuracy_stdev"] == pytest.approx(40 / 2**0.5)
    assert (read_only["largest_range_over_orders"], read_only["largest_share_changed"]) == (0.0, 0.0)
    assert written["accuracy_mean"] == pytest.approx(47.5)
    assert written["accuracy_stdev"] == pytest.approx(15 / 2**0.5)
    assert written["largest_range_over_orders"] == pytest.approx(40.0)
    assert written["largest_share_changed"] == pytest.approx(30.0)
    (alone, _) = summarize(checkpoints[:1])
    assert alone["accuracy_stdev"] is None


def test_checkpoint_without_a_classifier_is_refused(make_model, tmp_path):
    make_model(image_size=8, num_labels=10).ait.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"missing weights: classifier.bias, .*No weights may be new"):
        main(["--checkpoints", str(tmp_path), "--dataset_name", "digits", "--max_eval_samples", "10"])


def test_checkpoint_of_other_labels_is_refused(make_model, tmp_path):
    make_model(image_size=8, num_labels=7).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"7 labels without a name.*10 classes"):
        main(["--checkpoints", str(tmp_path), "--dataset_name", "digits", "--max_eval_samples", "10"])


def make_classes(*names):
    return types.SimpleNamespace(name="pets", label_names=list(names))


def test_classes_of_a_checkpoint_are_found_by_name():
    assert find_indices("run", {0: "dog", 1: "owl", 2: "cat"}, make_classes("cat", "dog", "owl")) == [2, 0, 1]
    assert find_indices("run", {0: "LABEL_0", 1: "LABEL_1"}, make_classes("cat", "dog")) == [0, 1]


def test_data_may_lack_classes_of_a_checkpoint(capsys):
    assert find_indices("run", {0: "dog", 1: "owl", 2: "cat"}, make_classes("cat", "dog")) == [2, 0]
    assert capsys.readouterr().out == "Of the checkpoint's 3 labels 'pets' has no owl.\n"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, "has 3 labels without a name, but 'pets' has 2 classes"),
        ({0: "cat"}, "does not know the class 'dog' of 'pets', but has cat: "),
        ({0: "cat", 1: "cow"}, "does not know the class 'dog' of 'pets', but has cat, cow"),
    ],
)
def test_checkpoint_of_other_classes_is_refused(names, message):
    with pytest.raises(InputError, match=message):
        find_indices("run", names, make_classes("cat", "dog"))


def test_statistics_of_the_arguments_are_used(make_model, tmp_path, monkeypatch):
    make_model(image_size=8, num_labels=10).save_pretrained(tmp_path)
    processors, load_processor = [], loading.load_image_processor

    def load_and_keep(*arguments, **options):
        processors.append(load_processor(*arguments, **options))
        return processors[0]

    monkeypatch.setattr(loading, "load_image_processor", load_and_keep)
    flags = ["--checkpoints", str(tmp_path), "--dataset_name", "digits", "--max_eval_samples", "10"]
    main([*flags, "--batch_sizes", "10", "--num_orders", "1", "--image_mean", "0.1", "0.2", "0.3"])
    assert list(processors[0].image_mean) == [0.1, 0.2, 0.3]
