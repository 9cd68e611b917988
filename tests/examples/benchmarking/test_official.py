"""The official code as a peer, with a stand-in of its layout: names of files, classes, settings and attributes."""

import sys

import pytest
import torch

from examples.benchmarking.official import build_official, find_checkout
from examples.errors import InputError
from examples.training.cost import INFERENCE, TRAINING, CostSetting, make_step
from modeling_ait import AiTConfig


CONFIG = AiTConfig(
    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
    num_labels=5, num_memory_slots=3, memory_slot_size=4, num_memory_heads=2, bottleneck_size=7, hopfield_beta=2,
)  # fmt: skip
TRANSFORMER = """
import torch
from torch import nn

class PreNorm(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

class Transformer(nn.Module):
    def __init__(self, dim, depth, heads, dim_head):
        super().__init__()
        self.given = (heads, dim_head)
        self.layers = nn.ModuleList(nn.ModuleList([nn.Linear(dim, dim), PreNorm(None)]) for _ in range(depth))

    def forward(self, x):
        aux_loss = torch.zeros(1).cuda()
        for attn, ff in self.layers:
            h, aux = ff.fn(attn(x))
            x = x + h
            aux_loss += aux
        return x, aux_loss

class ViT(nn.Module):
    def __init__(self, *, image_size, patch_size, num_classes, dim, depth, heads, mlp_dim, channels=3, dim_head=64,
                 dropout=0., sparse=False):
        super().__init__()
        assert sparse
        self.patch = patch_size
        self.embedding = nn.Linear(channels * patch_size ** 2, dim)
        self.transformer = Transformer(dim, depth, heads, dim_head)
        self.mlp_head = nn.Linear((image_size // patch_size) ** 2 * dim, num_classes)

    def forward(self, img):
        x = nn.functional.unfold(img, self.patch, stride=self.patch).mT
        x, aux_loss = self.transformer(self.embedding(x))
        return self.mlp_head(x.flatten(1)), aux_loss
"""
SCRIPT = """
import wandb_that_is_not_there

class MemoryUpdate(nn.Module):
    def __init__(self, hidden_dim, l):
        super().__init__()
        self.mha = MultiHeadAttention(memory_head, hidden_dim, memory_dim)
        self.memory = nn.Parameter(torch.ones(pattern_size, memory_dim), requires_grad=False)

class ModularNN(nn.Module):
    def __init__(self, beta, l):
        super().__init__()
        self.memoryupdate = MemoryUpdate(hidden_dim, l)
        self.fc1, self.fc2 = nn.Linear(hidden_dim, mlp_dim), nn.Linear(mlp_dim, hidden_dim)
        self.fc3 = nn.Linear(memory_dim, hidden_dim)
        self.hopfield = Hopfield(scaling=beta)
        assert HN and static

    def forward(self, x):
        aux_loss = torch.zeros(1).cuda()
        assert x.reshape(-1, dim, hidden_dim).shape == x.shape and bottleneck == 7
        return self.hopfield(self.fc2(self.fc1(x)) + self.fc3(self.memoryupdate.memory).mean(0)), aux_loss + 0.25

raise SystemExit("the training must not be run")
"""
NEIGHBOURS = {
    "MHA.py": """
from torch import nn

class MultiHeadAttention(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.sizes = sizes
""",
    "hflayers.py": """
from torch import nn

class Hopfield(nn.Module):
    def __init__(self, scaling):
        super().__init__()
        assert type(scaling) is float
        self.scaling = scaling

    def forward(self, x):
        return self.scaling * x
""",
}


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "official"
    folder.mkdir()
    # A transformer without a workspace and a script in another language are there too.
    others = {"vit_org.py": TRANSFORMER, "old.py": "print 'python 2'"}
    for name, text in {"vit_hn.py": TRANSFORMER, "ait.py": SCRIPT, **NEIGHBOURS, **others}.items():
        (folder / name).write_text(text)
    return folder


def test_model_is_built_in_the_shape_without_its_training(checkout):
    modules, path = set(sys.modules), list(sys.path)
    assert find_checkout(str(checkout)) == checkout
    model = build_official(str(checkout), CONFIG).model
    assert model.transformer.given == (2, 4) and len(model.transformer.layers) == 2
    for _, mlp in model.transformer.layers:
        assert mlp.fn.memoryupdate.memory.shape == (3, 4)
        assert mlp.fn.memoryupdate.mha.sizes == (2, 8, 4)
        assert (mlp.fn.fc1.out_features, mlp.fn.hopfield.scaling) == (16, 2.0)
    # Nothing else finds modules by its names.
    assert "MHA" not in set(sys.modules) - modules and sys.path == path


def test_loss_is_cross_entropy_plus_the_balance_loss_of_all_layers(checkout):
    torch.manual_seed(0)
    model = build_official(str(checkout), CONFIG)
    pixel_values, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])
    outputs = model(pixel_values=pixel_values, labels=labels)
    assert outputs.logits.shape == (3, 5)
    expected = torch.nn.functional.cross_entropy(outputs.logits, labels) + 2 * 0.25
    torch.testing.assert_close(outputs.loss, expected)
    assert model(pixel_values=pixel_values).loss is None


@pytest.mark.parametrize("mode", [TRAINING, INFERENCE])
def test_model_is_measured_as_the_others_are(checkout, mode):
    model = build_official(str(checkout), CONFIG)
    before = model.model.mlp_head.weight.detach().clone()
    make_step(lambda: model, mode, CostSetting(2))()
    assert torch.equal(before, model.model.mlp_head.weight) == (mode == INFERENCE)


def test_code_that_knows_gpus_alone_runs_on_the_device(checkout):
    for device in ("cpu", "meta"):
        model = build_official(str(checkout), CONFIG, device).to(device)
        logits, balance_loss = model.model(torch.zeros(2, 3, 8, 8, device=device))
        assert logits.device.type == balance_loss.device.type == device


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "ait.py",
            "class ModularNN",
            "class Module",
            r"is not that code: its ait\.py has no class ModularNN\. `--o",
        ),
        ("vit_hn.py", "class ViT", "klass ViT", r"is not that code: invalid syntax .*`--official` takes a checkout"),
        ("MHA.py", "from torch", "from nowhere", r"cannot be imported: No module named 'nowhere'\. It needs einops"),
        ("ait.py", "fc1, self.fc2 =", "fc1, self.fc2, _ =", "cannot be built in this shape: ValueError: not enough"),
    ],
)
def test_code_that_does_not_fit_is_refused_in_one_line(name, old, new, message, checkout):
    path = checkout / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        build_official(str(checkout), CONFIG)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_missing_file_are_refused(checkout):
    with pytest.raises(InputError, match=r"There is no folder 'nowhere'\. `--official` takes a checkout of"):
        find_checkout("nowhere")
    (checkout / "ait.py").unlink()
    with pytest.raises(InputError, match=r"is not that code: .*No such file"):
        find_checkout(str(checkout))
