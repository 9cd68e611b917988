"""Load a checkpoint in another process and compare it with the model that was saved."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file


LOAD = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

folder = sys.argv[1]
pixel_values = load_file(folder + "/sample.safetensors")["pixel_values"]
for index, options in enumerate(map(json.loads, sys.argv[2:])):
    config = AutoConfig.from_pretrained(**options)
    base = AutoModel.from_pretrained(**options)
    classifier = AutoModelForImageClassification.from_pretrained(**options)
    with torch.no_grad():
        outputs = base(pixel_values)
        tensors = {"last_hidden_state": outputs.last_hidden_state, "pooler_output": outputs.pooler_output,
                   "logits": classifier(pixel_values).logits}
    # safetensors refuses two names for one tensor.
    tensors |= {f"memories.{layer}": memory.clone() for layer, memory in enumerate(base.memories)}
    tensors |= {f"base.{name}": tensor for name, tensor in base.state_dict().items()}
    tensors |= {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
    save_file(tensors, f"{folder}/loaded-{index}.safetensors")
    print(json.dumps({"modules": [type(loaded).__module__ for loaded in (config, base, classifier)],
                      "is_training": base.training or classifier.training, "id2label": classifier.config.id2label}))
"""


def load_elsewhere(run_python, folder: Path, *checkpoints: dict, has_package=False, hub=None) -> list[SimpleNamespace]:
    """
    Load checkpoints with each Auto class in a new process.

    Args:
        run_python: The fixture.
        folder: Where the processes exchange tensors.
        checkpoints: For each checkpoint the arguments of `from_pretrained`.
        has_package: Whether the process can import `modeling_ait`, and does.
        hub: The server, or `None` to work offline.

    Returns:
        For each checkpoint where the classes are from (`modules`), `is_training`, `id2label` and all `tensors`.
    """
    save_file({"pixel_values": make_sample()}, folder / "sample.safetensors")
    code = "import modeling_ait\n" + LOAD if has_package else LOAD
    result = run_python(code, folder, *map(json.dumps, checkpoints), hub=hub, has_package=has_package)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(checkpoints)
    return [
        SimpleNamespace(**json.loads(line), tensors=load_file(folder / f"loaded-{index}.safetensors"))
        for index, line in enumerate(lines)
    ]


def make_sample() -> torch.Tensor:
    """Draw the images on which models are compared."""
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(7))


def assert_same_model(loaded: SimpleNamespace, model):
    """Weights and memories are equal bit for bit; outputs to 1e-6, since alignment may choose another kernel."""
    expected = {f"classifier.{name}": tensor for name, tensor in model.state_dict().items()}
    expected |= {f"base.{name}": tensor for name, tensor in model.ait.state_dict().items()}
    expected |= {f"memories.{index}": memory for index, memory in enumerate(model.ait.memories)}
    for name, tensor in expected.items():
        assert torch.equal(loaded.tensors[name], tensor), name
    with torch.no_grad():
        base, logits = model.ait(make_sample()), model(make_sample()).logits
    outputs = {"last_hidden_state": base.last_hidden_state, "pooler_output": base.pooler_output, "logits": logits}
    for name, tensor in outputs.items():
        difference = (loaded.tensors[name] - tensor).abs().max()
        assert difference <= 1e-6, f"{name} differs by {difference}"
    assert loaded.tensors.keys() == expected.keys() | outputs.keys()
    assert not loaded.is_training


def assert_same_weights(first, second):
    """Two models in this process have the same weights and memories bit for bit."""
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
