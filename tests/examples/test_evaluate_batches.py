"""The batch-size study: our inference does not depend on the batch, the official one does."""

import json

import pytest
import torch
from transformers import ViTImageProcessorPil

from examples.errors import InputError
from examples.evaluate_batches import main
from modeling_ait import AiTConfig, AiTForImageClassification, AiTModel

from .conftest import TINY_MODEL


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
        ([], "at least one of `--checkpoints`"),
        (["--checkpoints", "nowhere", "--dataset_name", "digits"], "'nowhere' is no checkpoint of an AiT"),
        (["--checkpoints", "a", "--batch_sizes", "0", "--dataset_name", "digits"], "batch sizes of at least 1"),
    ],
)
def test_bad_arguments_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        main(flags)


def test_checkpoint_without_its_classifier_is_refused(tmp_path):
    """A new one would be random, and its accuracy no result."""
    model = AiTModel(AiTConfig(**TINY_MODEL))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"missing weights: classifier.bias"):
        main(["--checkpoints", str(tmp_path), "--dataset_name", "digits", "--max_eval_samples", "8"])


def test_checkpoint_of_fewer_classes_is_refused(tmp_path):
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tells 2 classes apart, the data set 10"):
        main(["--checkpoints", str(tmp_path), "--dataset_name", "digits", "--max_eval_samples", "8"])
