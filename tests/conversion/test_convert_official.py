"""Conversion of official checkpoints: options, refusals, cost. test_official_fixtures.py compares the functions."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

from conversion.common import ConversionError, refuse_existing_model
from conversion.convert_official import convert_checkpoint, main
from modeling_ait import AiTForRelationalReasoning


FIXTURES = Path(__file__).parents[1] / "fixtures" / "official"
REPOSITORY = Path(__file__).parents[2]
CHECKPOINT = FIXTURES / "image_classification.pth"


@pytest.fixture
def weights():
    return torch.load(CHECKPOINT, weights_only=True)


@pytest.fixture
def save(tmp_path):
    def save_weights(weights, **options):
        path = tmp_path / "changed.pth"
        torch.save(weights, path, **options)
        return str(path)

    return save_weights


def test_command_writes_a_loadable_folder(tmp_path, capsys):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({str(index): f"class {index}" for index in range(10)}))
    output = tmp_path / "ait"
    options = ["--checkpoint", str(CHECKPOINT), "--output_dir", str(output), "--id2label", str(labels)]
    main([*options, "--bottleneck_size", "20", "--image_mean", "0.1", "0.2", "0.3"])
    model = AutoModelForImageClassification.from_pretrained(output)
    config = model.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (128, 2, 256)
    assert (config.image_size, config.patch_size, config.num_hidden_layers) == (32, 8, 2)
    assert (config.num_memory_slots, config.memory_slot_size, config.num_memory_heads) == (8, 16, 4)
    assert (config.bottleneck_size, config.hopfield_beta, config.memory_update_rate) == (20, 1.0, 0.1)
    assert (config.position_embedding_type, config.pooling, config.differentiable_write) == ("none", "flatten", False)
    assert config.id2label[3] == "class 3"
    processor = ViTImageProcessorPil.from_pretrained(output)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]
    assert list(processor.image_std) == [0.2023, 0.1994, 0.201]
    card = ModelCard.load(output / "README.md")
    assert "convert_official" in card.text
    assert "{{" not in card.text
    assert str(output) in capsys.readouterr().out


def test_question_model_is_recognised(tmp_path):
    main(["--checkpoint", str(FIXTURES / "relational_reasoning.pth"), "--output_dir", str(tmp_path / "ait")])
    model = AiTForRelationalReasoning.from_pretrained(tmp_path / "ait")
    assert model.config.question_size == 18
    assert model.config.image_shape == (75, 75)
    # The official relational data are scaled to [0, 1] and no more.
    processor = ViTImageProcessorPil.from_pretrained(tmp_path / "ait")
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.0] * 3, [1.0] * 3)
    assert dict(processor.size) == {"height": 75, "width": 75}


def test_data_parallel_prefix_is_accepted(weights, save):
    path = save({f"module.{name}": tensor for name, tensor in weights.items()})
    converted, expected = convert_checkpoint(path).state_dict(), convert_checkpoint(str(CHECKPOINT)).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in converted.items())


def test_old_file_format_is_accepted(weights, save):
    converted = convert_checkpoint(save(weights, _use_new_zipfile_serialization=False)).state_dict()
    expected = convert_checkpoint(str(CHECKPOINT)).state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in converted.items())


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_file_that_needs_code_is_refused_and_not_executed(tmp_path, weights, is_zip):
    path, marker = tmp_path / "evil.pth", tmp_path / "executed"
    if is_zip:
        torch.save({**weights, "extra": Payload(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ConversionError, match=r"execute code|cannot be read"):
        convert_checkpoint(str(path))
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_refused(tmp_path, share):
    content = CHECKPOINT.read_bytes()
    path = tmp_path / "truncated.pth"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConversionError, match=r"truncated\.pth"):
        convert_checkpoint(str(path))


def test_missing_file_is_refused():
    with pytest.raises(ConversionError, match=r"There is no file 'nowhere\.pth'"):
        convert_checkpoint("nowhere.pth")


@pytest.mark.parametrize("content", [torch.nn.Linear(3, 4).state_dict(), {"epoch": 3}, [torch.zeros(2)], {}])
def test_file_that_is_no_ait_is_refused(save, content):
    with pytest.raises(ConversionError, match="state dict"):
        convert_checkpoint(save(content))


def test_weight_that_is_not_known_is_refused(weights, save):
    weights["transformer.layers.1.1.fn.fc4.weight"] = torch.zeros(2)
    with pytest.raises(ConversionError, match=r"unknown transformer\.layers\.1\.1\.fn\.fc4\.weight\."):
        convert_checkpoint(save(weights))


def test_missing_and_extra_weights_are_listed(weights, save):
    weights["transformer.layers.1.1.fn.fc4.weight"] = torch.zeros(2)
    del weights["transformer.layers.0.1.fn.fc2.bias"]
    with pytest.raises(ConversionError, match=r"missing transformer\.layers\.0\.1\.fn\.fc2\.bias; unknown .*fc4"):
        convert_checkpoint(save(weights))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.layers.1.1.fn.fc1.weight", (255, 128)),
        ("transformer.layers.1.0.fn.to_qkv.weight", (383, 128)),
        ("transformer.layers.1.1.fn.memoryupdate.memory", (8, 15)),
        ("transformer.layers.0.1.fn.memoryupdate.mha.fc.weight", (16, 63)),
        ("mlp_head.0.weight", (2047,)),
        ("mlp_head.1.weight", (10, 2047)),
        ("mlp_head.1.weight", (10, 128 * 15)),
        ("to_patch_embedding.2.weight", (128, 191)),
    ],
)
def test_contradicting_shape_is_refused(weights, save, name, shape):
    weights[name] = torch.zeros(shape)
    with pytest.raises(ConversionError, match=r"contradicts|multiple|no square"):
        convert_checkpoint(save(weights))


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="bottleneck_size"):
        convert_checkpoint(str(CHECKPOINT), bottleneck_size=0)
    labels = tmp_path / "labels.json"
    labels.write_text('["cat", "dog"]')
    with pytest.raises(ConversionError, match=r"classes \[0, 1\].*0 to 9"):
        convert_checkpoint(str(CHECKPOINT), id2label=str(labels))
    labels.write_text("cat, dog")
    with pytest.raises(ConversionError, match="must be JSON"):
        convert_checkpoint(str(CHECKPOINT), id2label=str(labels))


def test_existing_model_is_kept_unless_overwritten(tmp_path):
    output = tmp_path / "ait"
    options = ["--checkpoint", str(CHECKPOINT), "--output_dir", str(output)]
    main(options)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(ConversionError, match="--overwrite"):
        main([*options, "--hopfield_beta", "2.0"])
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    main([*options, "--hopfield_beta", "2.0", "--overwrite"])
    assert json.loads((output / "config.json").read_text())["hopfield_beta"] == 2.0


def test_refused_file_leaves_nothing_behind(tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(b"no checkpoint")
    command = [sys.executable, "-m", "conversion.convert_official", "--checkpoint", str(path)]
    output = tmp_path / "ait"
    result = subprocess.run([*command, "--output_dir", str(output)], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not output.exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
def test_paper_sized_checkpoint_converts_in_little_memory(tmp_path, weights):
    """The Small size, 63 MB: 2 layers, 768 wide, 12 heads, M = D = 32, S = 8, on 32-pixel images."""
    small = {
        "pos_embedding": (1, 65, 768),
        "cls_token": (1, 1, 768),
        "to_patch_embedding.1.weight": (48,),
        "to_patch_embedding.1.bias": (48,),
        "to_patch_embedding.2.weight": (768, 48),
        "to_patch_embedding.2.bias": (768,),
        "to_patch_embedding_cnn.0.weight": (768, 3, 5, 5),
        "mlp_head.0.weight": (768 * 64,),
        "mlp_head.0.bias": (768 * 64,),
        "mlp_head.1.weight": (10, 768 * 64),
    }
    layer = {
        "0.fn.to_qkv.weight": (2304, 768),
        "0.fn.to_out.0.weight": (768, 768),
        "1.fn.fc1.weight": (3072, 768),
        "1.fn.fc1.bias": (3072,),
        "1.fn.fc2.weight": (768, 3072),
        "1.fn.fc3.weight": (768, 32),
        "1.fn.memoryupdate.memory": (32, 32),
        "1.fn.memoryupdate.mha.w_qs.weight": (256, 32),
        "1.fn.memoryupdate.mha.w_ks.weight": (256, 768),
        "1.fn.memoryupdate.mha.w_vs.weight": (256, 768),
        "1.fn.memoryupdate.mha.fc.weight": (32, 256),
        "1.fn.memoryupdate.mha.layer_norm.weight": (32,),
        "1.fn.memoryupdate.mha.layer_norm.bias": (32,),
    }
    for name, tensor in weights.items():
        shape = layer.get(name.split(".", 3)[-1]) if name.startswith("transformer") else small.get(name)
        # What is left are vectors as wide as the tokens, and two that the size does not change.
        shape = shape or ((768,) if tensor.shape == (128,) else tuple(tensor.shape))
        weights[name] = tensor if shape == tuple(tensor.shape) else torch.randn(shape)
    path = tmp_path / "small.pth"
    torch.save(weights, path)
    size = path.stat().st_size
    assert size > 60e6
    # The high-water mark of the process itself: the one of `getrusage` would begin with that of its parent.
    code = """
import re, sys
from pathlib import Path
from conversion.convert_official import main

def read_peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = read_peak()
main(sys.argv[1:])
print(read_peak() - before)
"""
    command = [sys.executable, "-c", code, "--checkpoint", str(path), "--output_dir", str(tmp_path / "ait")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    peak = int(result.stdout.split()[-1])
    assert size < peak < 3 * size


def test_weights_in_another_memory_layout_convert_to_the_same_model(tmp_path):
    weights = torch.load(CHECKPOINT, weights_only=True)
    transposed = {
        name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in weights.items()
    }
    torch.save(transposed, tmp_path / "model.pth")
    expected = convert_checkpoint(str(CHECKPOINT)).state_dict()
    converted = convert_checkpoint(str(tmp_path / "model.pth")).state_dict()
    assert expected.keys() == converted.keys()
    for name, tensor in converted.items():
        assert torch.equal(tensor, expected[name]) and tensor.is_contiguous(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor * float("nan"), "mlp_head.1.weight holds a NaN or an infinity"),
        (lambda tensor: tensor.double() * float("inf"), "holds a NaN or an infinity"),
        (lambda tensor: tensor.long(), "mlp_head.1.weight holds torch.int64, not floating-point"),
        (lambda tensor: tensor.to(torch.complex64), "holds torch.complex64"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(change, message, tmp_path):
    weights = torch.load(CHECKPOINT, weights_only=True)
    weights["mlp_head.1.weight"] = change(weights["mlp_head.1.weight"])
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(str(tmp_path / "model.pth"))


def test_one_value_that_is_not_finite_is_refused(weights, save):
    weights["transformer.layers.1.1.fn.memoryupdate.memory"][2, 3] = float("inf")
    with pytest.raises(ConversionError, match=r"layers\.1\.1\.fn\.memoryupdate\.memory holds a NaN or an infinity"):
        convert_checkpoint(save(weights))


def test_converted_checkpoint_is_in_evaluation_mode_and_trains_whole():
    model = convert_checkpoint(str(CHECKPOINT))
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(buffer.requires_grad for buffer in model.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_checkpoint_becomes_a_float32_model(weights, save, dtype):
    converted = convert_checkpoint(save({name: tensor.to(dtype) for name, tensor in weights.items()})).state_dict()
    assert {tensor.dtype for tensor in converted.values()} == {torch.float32}
    expected = convert_checkpoint(str(CHECKPOINT)).state_dict()
    for name, tensor in converted.items():
        assert torch.equal(tensor, expected[name].to(dtype).float()), name


def test_queries_keys_and_values_are_split_in_their_order(weights):
    converted = convert_checkpoint(str(CHECKPOINT)).state_dict()
    whole = weights["transformer.layers.1.0.fn.to_qkv.weight"]
    for index, name in enumerate(("q", "k", "v")):
        ours = converted[f"ait.layers.1.attention.{name}_proj.weight"]
        assert torch.equal(ours, whole[128 * index : 128 * (index + 1)])


def test_names_of_the_classes_go_both_ways(tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([f"class {index}" for index in range(10)]))
    for path, name in ((None, "LABEL_{}"), (str(labels), "class {}")):
        config = convert_checkpoint(str(CHECKPOINT), id2label=path).config
        assert config.id2label == {index: name.format(index) for index in range(10)}
        assert config.label2id == {name.format(index): index for index in range(10)}


def test_defaults_of_function_and_command_are_the_official_ones(tmp_path):
    main(["--checkpoint", str(CHECKPOINT), "--output_dir", str(tmp_path / "ait")])
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "ait").config
    for config in (saved, convert_checkpoint(str(CHECKPOINT)).config):
        assert (config.bottleneck_size, config.hopfield_beta) == (512, 1.0)
    processor = ViTImageProcessorPil.from_pretrained(tmp_path / "ait")
    assert list(processor.image_mean) == [0.4914, 0.4822, 0.4465]
    assert list(processor.image_std) == [0.2023, 0.1994, 0.2010]


def test_deviation_given_on_the_command_line_is_used(tmp_path):
    command = ["--checkpoint", str(CHECKPOINT), "--output_dir", str(tmp_path / "ait")]
    main([*command, "--image_std", "0.5", "0.6", "0.7"])
    assert list(ViTImageProcessorPil.from_pretrained(tmp_path / "ait").image_std) == [0.5, 0.6, 0.7]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00001-of-00002.safetensors", "model.fp16.safetensors", "config.json"]
)
def test_any_part_of_a_model_in_the_output_folder_is_kept(tmp_path, name):
    refuse_existing_model(tmp_path / "nowhere", overwrite=False)
    (tmp_path / "notes.txt").write_text("x")
    refuse_existing_model(tmp_path, overwrite=False)
    (tmp_path / name).write_text("x")
    with pytest.raises(ConversionError, match=rf"holds {name} already\. Say `--overwrite`"):
        refuse_existing_model(tmp_path, overwrite=False)
    refuse_existing_model(tmp_path, overwrite=True)
    with pytest.raises(ConversionError, match="is a file, not a folder"):
        refuse_existing_model(tmp_path / name, overwrite=True)


def test_old_format_is_never_unpickled(tmp_path, weights):
    """The second attempt, for files that cannot be mapped into memory, reads as carefully as the first."""
    path, marker = tmp_path / "old.pth", tmp_path / "executed"
    torch.save({**weights, "extra": Payload(marker)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ConversionError, match="execute code"):
        convert_checkpoint(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image_std", "0", "0.2", "0.2"], "`--image_std` takes numbers above 0"),
        (["--image_std", "inf", "0.2", "0.2"], "`--image_std` takes finite numbers"),
        (["--image_mean", "nan", "0.2", "0.2"], "`--image_mean` takes finite numbers"),
        (["--hopfield_beta", "nan"], "`hopfield_beta` must be"),
        (["--bottleneck_size", "0"], "`bottleneck_size` must be"),
    ],
)
def test_numbers_that_cannot_work_are_refused(flags, message, tmp_path):
    with pytest.raises(ConversionError, match=message):
        main(["--checkpoint", str(CHECKPOINT), "--output_dir", str(tmp_path / "ait"), *flags])
    assert not (tmp_path / "ait").exists()
