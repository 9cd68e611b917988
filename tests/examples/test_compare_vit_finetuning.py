"""Fine-tuning a ViT and its conversion: the same images, the same head, classes that pretraining has not seen."""

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from examples.compare_vit_finetuning import make_model
from examples.comparison.finetuning import TensorImages
from examples.data.arguments import DataArguments
from examples.data.loading import load_image_data
from modeling_ait import AiTForImageClassification


@pytest.fixture(scope="module")
def digits():
    return load_image_data(DataArguments(dataset_name="digits", max_train_samples=200))


def make_images(digits, classes, limit=None):
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    return TensorImages(digits.train, (digits.image_column, digits.label_column), classes, processor, limit)


def test_images_of_the_chosen_classes_count_from_zero(digits):
    labels = np.array(digits.train[digits.label_column][:])
    images = make_images(digits, [7, 9])
    assert images.labels.tolist() == [[7, 9].index(label) for label in labels if label in (7, 9)]
    assert images[0]["pixel_values"].shape == (3, 8, 8)
    assert len(images) == len(images.pixel_values) > 20


def test_fewer_images_are_drawn_and_not_the_first(digits):
    whole, few = make_images(digits, [7, 8, 9]), make_images(digits, [7, 8, 9], limit=12)
    order = np.random.default_rng(0).permutation(len(whole))[:12]
    assert len(few) == 12
    assert torch.equal(few.pixel_values, whole.pixel_values[order])
    assert torch.equal(few.labels, whole.labels[order])


def test_both_models_start_from_the_same_vit_and_head(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=6,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path)
    vit, ait = (make_model(name, tmp_path, 4, seed=3) for name in ("vit", "ait"))
    assert (type(vit), type(ait)) == (ViTForImageClassification, AiTForImageClassification)
    assert vit.classifier.weight.shape == (4, 16)
    assert torch.equal(vit.classifier.weight, ait.classifier.weight)
    assert not torch.equal(vit.classifier.weight, make_model("vit", tmp_path, 4, seed=4).classifier.weight)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ait.eval()(images).logits, vit.eval()(images).logits, rtol=0, atol=1e-5)
