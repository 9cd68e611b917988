"""Fixtures for the training scripts: tiny runs on scikit-learn's digits, and folders of images."""

import json

import numpy as np
import pytest
from PIL import Image


TINY_MODEL = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_memory_slots": 3,
    "memory_slot_size": 4,
    "num_memory_heads": 2,
    "bottleneck_size": 16,
    "hidden_dropout_prob": 0.1,
}


def make_tiny_flags(output_dir, model_config=None, **flags):
    """Flags of a tiny run on the digits: two steps of 16 images, 51 to evaluate on."""
    tiny = {
        "dataset_name": "digits",
        "max_train_samples": 64,
        "max_eval_samples": 51,
        "max_steps": 2,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 20,
        "crop_padding": 1,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        # It takes longer than such a training.
        "visualize": False,
        "output_dir": str(output_dir),
        "model_config": json.dumps({**TINY_MODEL, **(model_config or {})}),
    }
    tiny.update(flags)
    lists = {name: value if isinstance(value, list) else [value] for name, value in tiny.items() if value is not None}
    return [part for name, values in lists.items() for part in (f"--{name}", *map(str, values))]


@pytest.fixture
def make_flags():
    return make_tiny_flags


@pytest.fixture
def image_folder(tmp_path):
    """A folder with 6 images of each of two classes for training and 3 for testing, in several modes and sizes."""
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    for split, number in (("train", 6), ("test", 3)):
        for label, mode in (("cat", "RGB"), ("dog", "L")):
            (folder / split / label).mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, 256, (10 + index, 12, 4), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / split / label / f"{index}.png")
    return folder
