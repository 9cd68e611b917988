"""Steps of the explicit loop that whole runs do not tell apart."""

import types

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from examples import image_classification_accelerate
from examples.training.loop import train_batch


class MeanOfInputs(torch.nn.Module):
    """A stand-in whose loss has the input as its gradient."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, value):
        return types.SimpleNamespace(loss=self.weight * value)


def test_last_group_of_an_epoch_counts_the_batches_that_it_has():
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = MeanOfInputs()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    training = types.SimpleNamespace(gradient_accumulation_steps=4, max_grad_norm=0.0)
    # The next step is the one after the next batch.
    accelerator.step = 2
    for value in (1.0, 5.0):
        train_batch(accelerator, model, optimizer, {"value": torch.tensor(value)}, 2, training)
    assert model.weight.item() == -3.0
    AcceleratorState._reset_state(reset_partial_state=True)


def test_saved_weights_are_those_that_accelerate_puts_together(make_flags, tmp_path, monkeypatch):
    """Of sharded weights a process has a part only, which cannot be saved."""
    collect = Accelerator.get_state_dict

    def mark(self, model):
        weights = dict(collect(self, model))
        return {**weights, "classifier.bias": torch.full_like(weights["classifier.bias"], 7.0)}

    monkeypatch.setattr(Accelerator, "get_state_dict", mark)
    folder = tmp_path / "run"
    image_classification_accelerate.main(make_flags(folder))
    assert torch.all(load_file(folder / "model.safetensors")["classifier.bias"] == 7.0)
