"""What tests of the training scripts ask of an output folder."""

import json

import torch
from safetensors.torch import load_file


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def assert_same_weights(folder, other):
    weights, others = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
