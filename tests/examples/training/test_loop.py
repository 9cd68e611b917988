"""Steps of the explicit loop that whole runs do not tell apart."""

import types

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

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
