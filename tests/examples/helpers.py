"""What tests of the training scripts share: processes of their own, and questions to an output folder."""

import json
import multiprocessing

import torch
from safetensors.torch import load_file


def get_context(module):
    """Processes that fork from one that has imported a module, so that they start at once and share nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def assert_same_weights(folder, other):
    weights, others = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
