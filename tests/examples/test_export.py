"""Exports: what comes out computes what the model does, opens without this package, and refusals are one line."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from examples.errors import InputError
from examples.export import main
from examples.exporting import checks
from examples.exporting.graphs import make_inputs, open_onnx, open_program, run_model, stack_memories
from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel
from tests.forking import run_forked


def is_missing(*packages):
    return any(importlib.util.find_spec(package) is None for package in packages)


needs_onnx = pytest.mark.skipif(is_missing("onnx", "onnxruntime", "onnxscript"), reason="needs the extra `export`")
needs_torchao = pytest.mark.skipif(is_missing("torchao"), reason="needs torchao, of the extra `export`")
# What a process does first to be one without this package.
BLOCK_PACKAGE = "import sys\nsys.modules['modeling_ait'] = None\n"


@pytest.fixture
def save_model(make_model, tmp_path):
    """Factory of checkpoints with an image processor; returns the folder and the model in evaluation mode."""

    def save(model_class=AiTForImageClassification, **fields):
        model = make_model(model_class, **fields).eval()
        folder = tmp_path / "checkpoint"
        model.save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 8, "width": 12}).save_pretrained(folder)
        return folder, model

    return save


def export(checkpoint, output, *formats, **flags):
    named = [part for name, value in flags.items() for part in (f"--{name}", *map(str, np.atleast_1d(value)))]
    main(
        ["--checkpoint", str(checkpoint), "--output_dir", str(output), "--format", *formats, "--num_rounds=1", *named]
    )


def assert_same_outputs(run, model, inputs, interpolate_pos_encoding=False):
    computed, expected = run(inputs), run_model(model, inputs, interpolate_pos_encoding)
    assert len(computed) == len(expected)
    for one, other in zip(computed, expected):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def run_readme(folder, cwd):
    """Run the Python of a folder's README in a process that cannot import this package."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)[1]
    environment = {**os.environ, "HF_MODULES_CACHE": str(cwd / "modules"), "HF_HUB_OFFLINE": "1"}
    return run_forked(BLOCK_PACKAGE + code, cwd=folder, env=environment)


GRAPH_MODELS = {
    "mean": (AiTForImageClassification, {}),
    "flatten": (AiTForImageClassification, {"pooling": "flatten"}),
    "cls": (AiTForImageClassification, {"pooling": "cls", "num_register_tokens": 2}),
    "joint": (AiTForRelationalReasoning, {"question_size": 5}),
    "question": (
        AiTForRelationalReasoning,
        {"question_size": 5, "pooling": "question", "question_attention": "independent"},
    ),
    "no_classifier": (AiTModel, {}),
}


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        *(pytest.param(name, "onnx", marks=needs_onnx) for name in GRAPH_MODELS if name != "no_classifier"),
        ("joint", "torch_export"),
        ("no_classifier", "torch_export"),
    ],
)
def test_graph_equals_the_model_at_other_sizes_than_it_was_made_with(save_model, tmp_path, name, format_name):
    model_class, fields = GRAPH_MODELS[name]
    checkpoint, model = save_model(model_class, **fields)
    export(checkpoint, tmp_path / "out", format_name, batch_sizes=[3])
    folder = tmp_path / "out" / format_name
    run = open_onnx(folder / "model.onnx") if format_name == "onnx" else open_program(folder / "model.pt2")
    for batch_size, num_questions in ((1, 1), (7, 4)):
        assert_same_outputs(run, model, make_inputs(model.config, batch_size, (8, 12), num_questions))
    if name != "flatten":
        assert_same_outputs(run, model, make_inputs(model.config, 2, (16, 8)), interpolate_pos_encoding=True)
    figures = json.loads((folder / "export.json").read_text())
    assert figures["dynamic_image_size"] is (name != "flatten")
    assert [row["batch_size"] for row in figures["rows"]] == [3] and figures["rows"][0]["difference"] < 1e-5
    assert (folder / "labels.json").exists() is (name != "no_classifier")


@pytest.mark.parametrize(
    ("model_class", "fields", "format_name"),
    [
        # Fewer tokens kept than a third, and more.
        pytest.param(AiTForImageClassification, {"bottleneck_size": 2}, "onnx", marks=needs_onnx),
        pytest.param(AiTForRelationalReasoning, {"question_size": 5}, "onnx", marks=needs_onnx),
        (AiTForImageClassification, {"bottleneck_size": None}, "torch_export"),
    ],
)
def test_graph_that_writes_returns_the_memories(save_model, tmp_path, model_class, fields, format_name):
    checkpoint, model = save_model(model_class, **fields)
    asked = {"num_questions": 2} if "question_size" in fields else {}
    export(checkpoint, tmp_path / "out", format_name, update_memory=True, batch_sizes=[4], **asked)
    folder = tmp_path / "out" / format_name
    run = open_onnx(folder / "model.onnx") if format_name == "onnx" else open_program(folder / "model.pt2")
    memories = torch.from_numpy(np.load(folder / "memories.npy"))
    assert torch.equal(memories, stack_memories(model))
    for seed in range(3):
        inputs = make_inputs(model.config, 4, (8, 12), 2, seed) | {"memories": memories}
        assert_same_outputs(run, model, inputs)
        before, memories = memories, run(inputs)[1]
        assert (memories - before).abs().amax(dim=(1, 2)).min() > 1e-3
        # The graph has changed what it returned, not what it was given.
        assert torch.equal(inputs["memories"], before)
    inputs["pixel_values"][0, 0, 0, 0] = float("nan")
    assert torch.equal(run(inputs)[1], inputs["memories"])


@pytest.mark.parametrize(
    ("format_name", "flags"),
    [
        pytest.param("onnx", {}, marks=needs_onnx),
        ("torch_export", {}),
        ("torch_export", {"update_memory": True, "batch_sizes": [2]}),
    ],
)
def test_readme_of_a_graph_runs_without_the_package(save_model, tmp_path, format_name, flags):
    is_grey = "update_memory" in flags
    checkpoint, _ = save_model(id2label={0: "one", 1: "two", 2: "thr`ee"}, num_channels=1 if is_grey else 3)
    if is_grey:
        statistics = {"image_mean": [0.5], "image_std": [0.5]}
        ViTImageProcessorPil(size={"height": 8, "width": 12}, do_convert_rgb=True, **statistics).save_pretrained(
            checkpoint
        )
    export(checkpoint, tmp_path / "out", format_name, **{"batch_sizes": [1], **flags})
    folder = tmp_path / "out" / format_name
    written = b"".join(path.read_bytes() for path in folder.glob("model.*"))
    assert str(checkpoint.parent).encode() not in written and b"workspace_ait.py" not in written
    Image.new("RGB", (20, 30), (200, 30, 30)).save(folder / "image.png")
    result = run_readme(folder, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in {"one", "two", "thr`ee"}


@needs_torchao
@pytest.mark.parametrize("format_name", ["int8", "int4"])
def test_quantized_checkpoint_opens_without_the_package_and_writes(save_model, tmp_path, capsys, format_name):
    checkpoint, model = save_model(hidden_size=32, intermediate_size=64)
    export(checkpoint, tmp_path / "out", format_name, batch_sizes=[2])
    folder = tmp_path / "out" / format_name
    printed = capsys.readouterr().out
    figures = json.loads((folder / "export.json").read_text())
    bits = figures["bits_per_quantized_weight"]
    # A scale of float32 for each row of 32 or more; for each group of 32 that and a zero point of a byte.
    assert bits == pytest.approx(8 + 40 / 32) if format_name == "int4" else 8 < bits <= 8 + 32 / 4
    assert f"a quantized weight takes {bits:.1f} bits" in printed
    assert f"takes {bits:.1f} bits" in (folder / "README.md").read_text()
    for text in (printed, (folder / "README.md").read_text()):
        assert ("so int4 is less exact than int8 and no smaller" in text) is (format_name == "int4")
    # Patches of 48 numbers, queries and patterns of 4, written values of 8.
    is_said = "7 of 24 linear layers stay float32" in printed
    assert is_said is (format_name == "int4")
    quantized = AiTForImageClassification.from_pretrained(folder).eval()
    kinds = {type(module.weight).__name__ for module in quantized.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == ({"Int8Tensor"} if format_name == "int8" else {"IntxUnpackedToInt8Tensor", "Parameter"})
    images = make_inputs(model.config, 4, (8, 12))["pixel_values"]
    with torch.no_grad():
        logits = quantized(images).logits
        torch.testing.assert_close(logits, model(images).logits, rtol=0.3, atol=0.3)
        assert not torch.equal(logits, model(images).logits)
    for memory, original in zip(quantized.ait.memories, model.ait.memories):
        assert memory.dtype == torch.float32 and torch.equal(memory, original)
    with torch.no_grad():
        quantized(images, update_memory=True)
    assert not torch.equal(quantized.ait.memories[0], model.ait.memories[0])

    code = run_readme(folder, tmp_path)
    assert code.returncode == 0, code.stderr


def test_export_that_differs_is_not_written(save_model, tmp_path, monkeypatch):
    checkpoint, _ = save_model()
    monkeypatch.setattr(checks, "run_model", lambda *arguments: [torch.zeros(1, 3)])
    with pytest.raises(InputError, match=r"differs from the model by .* at batch size 1, so it is not written"):
        export(checkpoint, tmp_path / "out", "torch_export", batch_sizes=[1])
    assert not list((tmp_path / "out" / "torch_export").iterdir())


def test_folder_is_replaced_on_demand_only(save_model, tmp_path):
    checkpoint, _ = save_model()
    export(checkpoint, tmp_path / "out", "torch_export", batch_sizes=[1])
    with pytest.raises(InputError, match=r"holds an export already\. Pass `--overwrite True`"):
        export(checkpoint, tmp_path / "out", "torch_export", batch_sizes=[2])
    export(checkpoint, tmp_path / "out", "torch_export", batch_sizes=[2], overwrite=True)
    figures = json.loads((tmp_path / "out" / "torch_export" / "export.json").read_text())
    assert [row["batch_size"] for row in figures["rows"]] == [2]
    (tmp_path / "mine" / "torch_export").mkdir(parents=True)
    (tmp_path / "mine" / "torch_export" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds other files than an export"):
        export(checkpoint, tmp_path / "mine", "torch_export", overwrite=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": "tflite"}, "There is no format 'tflite'"),
        ({"batch_sizes": 0}, "`--batch_sizes` must be at least 1, but got 0"),
        ({"num_rounds": 0}, "`--num_rounds` must be at least 1, but got 0"),
        ({"update_memory": True}, "made for one batch size: name it by `--batch_sizes`"),
        (
            {"update_memory": True, "batch_sizes": 2, "dynamic_image_size": True},
            "takes one image size: leave `--dynamic_image_size` out",
        ),
        ({"group_size": 32}, "`--group_size` is for int4"),
        ({"format": "int4", "group_size": 1}, "`--group_size` must be at least 2, but got 1"),
        ({"format": "int8", "dynamic_image_size": False}, "`--dynamic_image_size` is for onnx and"),
        (
            {"format": "int8", "update_memory": True, "batch_sizes": 2},
            "`--update_memory` is for onnx and",
        ),
        ({"checkpoint": "./nowhere"}, "There is no folder './nowhere'"),
    ],
)
def test_flags_that_cannot_work_are_refused(tmp_path, flags, message, monkeypatch):
    monkeypatch.setattr("examples.export.refuse_missing_packages", lambda formats: None)
    given = {"checkpoint": "runs/x", "output_dir": str(tmp_path / "out"), "format": "torch_export", **flags}
    with pytest.raises(InputError) as refused:
        main([part for name, value in given.items() for part in (f"--{name}", str(value))])
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_checkpoint_that_does_not_say_how_images_are_read_is_refused(save_model, tmp_path):
    checkpoint, _ = save_model()
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(
        InputError, match=r"\(preprocessor_config.json\) cannot be used: it is missing. Restore the file, or save that"
    ):
        export(checkpoint, tmp_path / "out", "torch_export")
    assert not (tmp_path / "out").exists()


def test_folder_under_a_link_to_nothing_is_refused(save_model, tmp_path):
    checkpoint, _ = save_model()
    (tmp_path / "unmounted").symlink_to(tmp_path / "disk")
    with pytest.raises(InputError, match=r"unmounted' is a link to '.*disk', which is not there"):
        export(checkpoint, tmp_path / "unmounted" / "out", "torch_export")


@pytest.mark.parametrize("name", ["checkpoint", "output_dir"])
def test_missing_flag_is_named(tmp_path, name):
    given = {"checkpoint": "runs/x", "output_dir": str(tmp_path / "out")}
    del given[name]
    with pytest.raises(InputError, match=f"`--{name}` is missing"):
        main([part for flag, value in given.items() for part in (f"--{flag}", value)])


@pytest.mark.parametrize(
    ("fields", "flags", "message"),
    [
        ({"num_memory_slots": 0}, {"update_memory": True, "batch_sizes": [2]}, "has no memory"),
        ({"pooling": "flatten"}, {"dynamic_image_size": True}, "takes one image size"),
        ({}, {"num_questions": 2}, "takes no questions"),
    ],
)
def test_what_a_model_cannot_is_refused(save_model, tmp_path, fields, flags, message):
    checkpoint, _ = save_model(**fields)
    with pytest.raises(InputError, match=message):
        export(checkpoint, tmp_path / "out", "torch_export", **flags)
    assert not (tmp_path / "out").exists()


def test_quantized_checkpoint_is_not_exported_again(save_model, tmp_path):
    checkpoint, _ = save_model()
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "torchao"}}))
    with pytest.raises(InputError, match="is quantized already"):
        export(checkpoint, tmp_path / "out", "torch_export")


@pytest.mark.parametrize(("format_name", "package"), [("onnx", "onnxruntime"), ("int8", "torchao")])
def test_missing_package_names_the_extra(tmp_path, monkeypatch, format_name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(InputError, match=rf"needs {package}: pip install 'modeling-ait\[export\]'"):
        main(["--checkpoint", "runs/x", "--output_dir", str(tmp_path), "--format", format_name])


def test_optional_packages_are_not_imported_by_others():
    # Where torchao is installed, transformers imports it by itself.
    code = (
        "import sys, modeling_ait, examples.export, examples.training.loading\n"
        "print([name for name in ('onnx', 'onnxruntime', 'onnxscript', 'onnx_ir') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
