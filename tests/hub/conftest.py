"""Processes in which the package can or cannot be imported, and a local Hub for them to talk to."""

import copy
import functools
import os
import re
from pathlib import Path

import pytest
import torch

from modeling_ait import AiTConfig, AiTForImageClassification
from tests.forking import run_forked

from .server import TOKEN, HubServer


REPOSITORY = Path(__file__).parents[2]
BLOCK_PACKAGE = """
import sys
# An entry of None makes the import system refuse the name, however the package was installed.
sys.modules["modeling_ait"] = None
try:
    import modeling_ait
except ImportError:
    pass
else:
    raise SystemExit("modeling_ait was imported although it is blocked")
"""


@pytest.fixture(scope="session")
def hub():
    """The server, empty at first and shared by all tests: each pushes to a repository of its own."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Factory that runs code in a new process with an empty cache; without the package unless `has_package`."""

    def run(code, *arguments, hub=None, has_package=False, **variables):
        folder = tmp_path_factory.mktemp("process")
        # Settings of whoever runs the tests must not decide where the client looks.
        ignored = re.compile("(HF|HUGGING|TRANSFORMERS|PYTHON).*|.*_proxy", flags=re.IGNORECASE)
        environment = {name: value for name, value in os.environ.items() if not ignored.fullmatch(name)}
        # Threads only cost time at this size.
        environment["OMP_NUM_THREADS"] = "1"
        environment |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        if hub is None:
            environment["HF_HUB_OFFLINE"] = "1"
        else:
            environment |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        if has_package:
            environment["PYTHONPATH"] = str(REPOSITORY)
        code = code if has_package else BLOCK_PACKAGE + code
        return run_forked(code, *arguments, cwd=folder, env=environment | variables)

    return run


@pytest.fixture(scope="session")
def make_trained():
    """Factory of tiny classifiers after a training step: no weight and no memory is at its initial value."""

    @functools.cache
    def train(seed):
        config = AiTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=(8, 12),
            patch_size=4,
            num_memory_slots=3,
            memory_slot_size=4,
            num_memory_heads=2,
            bottleneck_size=5,
            id2label={0: "cat", 1: "dog", 2: "owl"},
        )
        torch.manual_seed(seed)
        model = AiTForImageClassification(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        model(torch.randn(4, 3, 8, 12), labels=torch.arange(4) % 3).loss.backward()
        optimizer.step()
        return model.eval()

    # Saving and loading change a model's configuration: each caller gets a copy.
    return lambda seed=0: copy.deepcopy(train(seed))
