"""The official code as a peer, with a stand-in that has its interface: names of attributes, arguments and weights."""

import pytest
import torch

from examples.benchmarking.official import build_official, find_model_class
from examples.errors import InputError
from examples.training.cost import INFERENCE, TRAINING, CostSetting, make_step
from modeling_ait import AiTConfig


CONFIG = AiTConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=16, image_size=8, patch_size=4,
    num_labels=5, num_memory_slots=3, memory_slot_size=4, num_memory_heads=2, bottleneck_size=2,
)  # fmt: skip
NEIGHBOUR = """
import torch
from torch import nn


class MemoryUpdate(nn.Module):
    def __init__(self, pattern_size, memory_dim):
        super().__init__()
        self.memory = nn.Parameter(torch.zeros(pattern_size, memory_dim), requires_grad=False)
"""
MODEL = """
import torch
from torch import nn

from neighbour import MemoryUpdate


class Workspace(nn.Module):
    def __init__(self, hidden_size, pattern_size, memory_dim):
        super().__init__()
        self.memoryupdate = MemoryUpdate(pattern_size, memory_dim)
        self.fc1 = nn.Linear(hidden_size, hidden_size)


class AiT(nn.Module):
    def __init__(self, *, image_size, patch_size, num_classes, hidden_size, num_hidden_layers, pattern_size,
                 memory_dim, memory_head, bottleneck, beta=1.0, dropout=0.1, unknown_option=7):
        super().__init__()
        self.given = dict(pattern_size=pattern_size, memory_head=memory_head, bottleneck=bottleneck, dropout=dropout)
        self.to_patch_embedding = nn.Flatten()
        self.transformer = nn.ModuleList(
            Workspace(hidden_size, pattern_size, memory_dim) for _ in range(num_hidden_layers)
        )
        self.mlp_head = nn.Linear(3 * image_size * image_size, num_classes)

    def forward(self, img):
        return self.mlp_head(self.to_patch_embedding(img)), torch.tensor(0.25)


class RelationalAiT(AiT):
    def __init__(self, **kwargs):
        self.to_patch_embedding = self.transformer = self.mlp_head = self.question_to_embedding = None
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "official"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "neighbour.py").write_text(NEIGHBOUR)
    (folder / "models" / "ait.py").write_text(MODEL)
    # What is not to be run, and what is no Python.
    (folder / "train.py").write_text("raise SystemExit('this must not be run')")
    (folder / "old.py").write_text("print 'python 2'")
    return folder


def test_model_is_found_without_running_the_code_and_built_in_the_shape(checkout):
    assert find_model_class(str(checkout)) == (checkout / "models" / "ait.py", "AiT")
    model = build_official(str(checkout), CONFIG)
    assert model.model.given == {"pattern_size": 3, "memory_head": 2, "bottleneck": 2, "dropout": 0.0}
    assert len(model.model.transformer) == 2


def test_loss_is_cross_entropy_plus_the_balance_loss(checkout):
    torch.manual_seed(0)
    model = build_official(str(checkout), CONFIG)
    pixel_values, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])
    outputs = model(pixel_values=pixel_values, labels=labels)
    assert outputs.logits.shape == (3, 5)
    expected = torch.nn.functional.cross_entropy(outputs.logits, labels) + 0.25
    torch.testing.assert_close(outputs.loss, expected)
    assert model(pixel_values=pixel_values).loss is None


@pytest.mark.parametrize("mode", [TRAINING, INFERENCE])
def test_model_is_measured_as_the_others_are(checkout, mode):
    model = build_official(str(checkout), CONFIG)
    before = model.model.mlp_head.weight.detach().clone()
    make_step(lambda: model, mode, CostSetting(2))()
    assert torch.equal(before, model.model.mlp_head.weight) == (mode == INFERENCE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("self.mlp_head", "self.head", "is not that code: .*here is none"),
        ("beta=1.0", "alpha", "requires 'alpha', which is not known here"),
        ("from neighbour", "from nowhere_to_be_found", "ait.py of the official code cannot be imported: Module"),
        ("self.memory =", "self.other =", "is not the official model: it has no memory"),
        ("self.given = dict(", "raise RuntimeError('no')\n        dict(", "AiT .* cannot be built with .*: no"),
    ],
)
def test_code_that_does_not_fit_is_refused_in_one_line(checkout, old, new, message):
    for path in (checkout / "models").iterdir():
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        build_official(str(checkout), CONFIG)
    assert "\n" not in str(caught.value)


def test_two_models_and_no_folder_are_refused(checkout, tmp_path):
    (checkout / "copy.py").write_text(MODEL)
    with pytest.raises(InputError, match=r"AiT in copy\.py, AiT in models.ait\.py"):
        find_model_class(str(checkout))
    with pytest.raises(InputError, match=r"There is no folder 'nowhere'\. `--official` takes a checkout of"):
        find_model_class("nowhere")


def test_logits_of_another_shape_are_refused(checkout):
    model = build_official(str(checkout), CONFIG)
    model.model.mlp_head = torch.nn.Linear(192, 4)
    with pytest.raises(InputError, match=r"returned \(2, 4\) where logits should be"):
        model(torch.zeros(2, 3, 8, 8))
