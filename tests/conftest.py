"""Fixtures that every test can use."""

import gc
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_ait import AiTConfig, AiTForImageClassification


# 8 x 12 images (not square), 6 patches, fewer tokens kept than there are.
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": (8, 12),
    "patch_size": 4,
    "num_memory_slots": 3,
    "memory_slot_size": 4,
    "num_memory_heads": 2,
    "bottleneck_size": 5,
    "memory_dropout_prob": 0.0,
    "num_labels": 3,
}


def pytest_collection_finish():
    # The Trainer collects garbage after every training: Python then looks at half a million objects of imports.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def working_directory():
    """What a test writes goes where it says, never beside the tracked files."""
    folder = os.getcwd()
    before = set(os.listdir(folder))
    yield
    left = {name for name in set(os.listdir(folder)) - before if not name.startswith((".", "__pycache__"))}
    assert not left, f"left in the working directory: {', '.join(sorted(left))}"


@pytest.fixture
def make_config():
    """Factory of tiny configurations, see `TINY`."""

    def make(**fields):
        return AiTConfig(**{**TINY, **fields})

    return make


@pytest.fixture
def make_model(make_config):
    """Factory of tiny classifiers with every parameter random, so that no bias, norm or transposition is hidden."""

    def make(model_class=AiTForImageClassification, **fields):
        model = model_class(make_config(**fields))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise / max(parameter.shape[-1], 4) ** 0.5 + (parameter.dim() == 1) * parameter)
        return model

    return make


@pytest.fixture
def make_images():
    """Factory of random images of the tiny configuration's size."""

    def make(batch_size=4, seed=0, num_channels=3):
        return torch.randn(batch_size, num_channels, 8, 12, generator=torch.Generator().manual_seed(seed))

    return make


class SoftmaxDtypes(TorchDispatchMode):
    """Records the dtype in which each softmax is computed, which its result does not tell."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._softmax.default:
            self.dtypes.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def softmax_dtypes():
    """A context that records the dtypes of the softmax functions called in it."""
    return SoftmaxDtypes()
