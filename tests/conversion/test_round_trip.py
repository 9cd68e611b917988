"""Converted models in a process that cannot import the package: the code in the folder gives the same logits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from conversion import convert_official, convert_vit
from tests.forking import run_forked


FIXTURES = Path(__file__).parents[1] / "fixtures" / "official"
LOAD = """
import sys
import torch
import transformers
from safetensors.torch import load_file, save_file

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_ait":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
try:
    import modeling_ait
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the package can be imported")
folder, auto_class, inputs, logits = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    save_file({"logits": model(**load_file(inputs)).logits}, logits)
"""


def convert_fixture(name, folder):
    convert_official.main(
        ["--checkpoint", str(FIXTURES / f"{name}.pth"), "--output_dir", str(folder), "--bottleneck_size", "20"]
        + (["--hopfield_beta", "0.5"] if name == "relational_reasoning" else [])
    )
    tensors = load_file(FIXTURES / f"{name}.safetensors")
    # The checkpoint holds the memory that the fixture calls "before".
    return {key: tensors[key] for key in ("pixel_values", "question") if key in tensors}, tensors["logits_frozen"]


def convert_random_vit(folder):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4
    )
    source = ViTForImageClassification(config).eval()
    source.save_pretrained(folder.parent / "vit")
    convert_vit.main(["--model", str(folder.parent / "vit"), "--output_dir", str(folder)])
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        return {"pixel_values": images}, source(images).logits


@pytest.mark.parametrize(
    ("convert", "auto_class"),
    [
        (lambda folder: convert_fixture("image_classification", folder), "AutoModelForImageClassification"),
        (lambda folder: convert_fixture("relational_reasoning", folder), "AutoModelForVisualQuestionAnswering"),
        (convert_random_vit, "AutoModelForImageClassification"),
    ],
    ids=["official image", "official relational", "vit"],
)
def test_converted_folder_needs_no_package(convert, auto_class, tmp_path):
    inputs, expected = convert(tmp_path / "ait")
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "inputs.safetensors")
    files = tmp_path / "inputs.safetensors", tmp_path / "logits.safetensors"
    environment = {"HF_HOME": str(tmp_path / "cache"), "PATH": "", "OMP_NUM_THREADS": "1"}
    result = run_forked(LOAD, tmp_path / "ait", auto_class, *files, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    logits = load_file(tmp_path / "logits.safetensors")["logits"]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
