"""Conversion of ViT, DeiT and DINOv2: the same outputs, a neutral workspace that learns, refusals."""

import copy

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    BeitConfig,
    BeitForImageClassification,
    BitImageProcessorPil,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from conversion.common import ConversionError
from conversion.convert_vit import convert_model, fit_positions, main
from modeling_ait import AiTForImageClassification, AiTModel


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4}
VIT = {**TINY, "intermediate_size": 48, "image_size": 16, "num_labels": 5}
WORKSPACE = {"num_memory_slots": 4, "memory_slot_size": 8, "num_memory_heads": 2, "bottleneck_size": 20}


def randomise(model):
    """Move every parameter off its initial value, so that no bias, norm or scale is trivial."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (ViTForImageClassification, ViTConfig(**VIT)),
        (ViTForImageClassification, ViTConfig(**VIT | {"qkv_bias": False, "hidden_act": "relu"})),
        (ViTForImageClassification, ViTConfig(**VIT | {"image_size": [8, 24], "patch_size": [4, 8]})),
        (DeiTForImageClassification, DeiTConfig(**VIT)),
        (ViTModel, ViTConfig(**VIT)),
        (DeiTModel, DeiTConfig(**VIT)),
        (Dinov2Model, Dinov2Config(**TINY, image_size=16, mlp_ratio=2, layerscale_value=0.3)),
    ],
    ids=["vit", "vit without bias", "vit, not square", "deit", "vit encoder", "deit encoder", "dinov2"],
)
def test_converted_model_has_the_same_outputs(model_class, config):
    source = randomise(model_class(config))
    if model_class is Dinov2Model and "encoder.layer.0.attention.o_proj.weight" not in source.state_dict():
        with pytest.raises(ConversionError, match="Update transformers"):
            convert_model(source)
        pytest.skip("this transformers names DINOv2's weights in an older way, which is refused")
    before = copy.deepcopy(source.state_dict())
    model = convert_model(source, **WORKSPACE)
    images = torch.randn(3, 3, *model.config.image_shape)
    with torch.no_grad():
        if model_class.__name__.endswith("Classification"):
            assert type(model) is AiTForImageClassification
            assert model.config.id2label == config.id2label
            computed, expected = model(images).logits, source(images).logits
        else:
            assert type(model) is AiTModel
            computed, expected = model(images).pooler_output, source(images).last_hidden_state[:, 0]
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


def test_patch_16_model_of_224_pixels_has_the_same_logits():
    source = ViTForImageClassification(ViTConfig(num_hidden_layers=4, num_labels=10)).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(convert_model(source)(images).logits, source(images).logits, rtol=0, atol=1e-5)


def test_one_training_step_moves_the_memories_and_the_whole_workspace():
    model = convert_model(randomise(ViTForImageClassification(ViTConfig(**VIT))), **WORKSPACE).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    model(torch.randn(4, 3, 16, 16), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    optimizer.step()
    for name, tensor in model.state_dict().items():
        if "workspace" in name or "memory" in name:
            assert not torch.equal(tensor, before[name]), name


def test_command_writes_a_loadable_folder_with_the_same_logits(tmp_path):
    source = randomise(ViTForImageClassification(ViTConfig(**VIT)))
    source.save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.1] * 3).save_pretrained(tmp_path / "vit")
    options = ["--model", str(tmp_path / "vit"), "--output_dir", str(tmp_path / "ait")]
    main([*options, "--num_memory_slots", "4", "--memory_slot_size", "8"])
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ait")
    assert (model.config.num_memory_slots, model.config.memory_slot_size) == (4, 8)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, source(images).logits, rtol=0, atol=1e-5)
    assert list(ViTImageProcessorPil.from_pretrained(tmp_path / "ait").image_mean) == [0.1] * 3
    with pytest.raises(ConversionError, match="--overwrite"):
        main(options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT)), "WithTeacher.*ViTForImageClassification"),
        (lambda: Dinov2ForImageClassification(Dinov2Config(**TINY, image_size=16)), "Dinov2ForImageClassification"),
        (lambda: Dinov2Model(Dinov2Config(**TINY, image_size=16, use_swiglu_ffn=True)), "gated MLP"),
        (lambda: BeitForImageClassification(BeitConfig(**VIT)), "BeitForImageClassification"),
    ],
)
def test_other_models_are_refused(source, message, tmp_path):
    model = source()
    with pytest.raises(ConversionError, match=message):
        convert_model(model)
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(ConversionError, match=message):
        main(["--model", str(tmp_path / "source"), "--output_dir", str(tmp_path / "ait")])
    assert not (tmp_path / "ait").exists()


def test_missing_model_and_bad_workspace_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="nowhere"):
        main(["--model", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "ait")])
    with pytest.raises(ConversionError, match="num_memory_slots"):
        convert_model(ViTModel(ViTConfig(**VIT)), num_memory_slots=-1)


def test_processor_that_crops_to_another_size_gives_the_source_model_s_features(tmp_path, capsys):
    """As DINOv2 is published: positions for large images, a processor that makes small ones."""
    if transformers.__version__.startswith("5.17"):
        pytest.skip("this transformers names DINOv2's weights in an older way, which is refused")
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
    source = randomise(Dinov2Model(config))
    source.save_pretrained(tmp_path / "dino")
    processor = BitImageProcessorPil(
        size={"shortest_edge": 50}, crop_size={"height": 42, "width": 42}, do_center_crop=True
    )
    processor.save_pretrained(tmp_path / "dino")
    main(["--model", str(tmp_path / "dino"), "--output_dir", str(tmp_path / "ait"), "--num_memory_slots", "4"])
    assert "42 x 42 pixels, the positions were made for 70 x 70: interpolated once" in capsys.readouterr().out
    model = AiTModel.from_pretrained(tmp_path / "ait").eval()
    assert model.config.image_shape == (42, 42)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    ours = ViTImageProcessorPil.from_pretrained(tmp_path / "ait")(images=image, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, pixels)
    with torch.no_grad():
        expected = source(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(model(ours).pooler_output, expected, rtol=0, atol=1e-5)


def test_converted_model_is_in_evaluation_mode_and_shares_nothing_with_its_source():
    source = ViTForImageClassification(ViTConfig(**VIT)).train()
    before = copy.deepcopy(source.state_dict())
    model = convert_model(source, **WORKSPACE)
    assert not any(module.training for module in model.modules())
    assert source.training
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2"])
def test_fields_of_the_source_are_taken_over(name):
    fields = {
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.15,
        "attention_probs_dropout_prob": 0.25,
        "layer_norm_eps": 0.002,
        "num_channels": 1,
        "image_size": 16,
    }
    if name == "Dinov2":
        source, width = Dinov2Model(Dinov2Config(**TINY, **fields, mlp_ratio=3)), 96
    else:
        classes = {"ViT": (ViTConfig, ViTForImageClassification), "DeiT": (DeiTConfig, DeiTForImageClassification)}
        config_class, model_class = classes[name]
        labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
        source, width = model_class(config_class(**TINY, **fields, intermediate_size=48, **labels)), 48
    if name == "Dinov2" and "encoder.layer.0.attention.o_proj.weight" not in source.state_dict():
        pytest.skip("this transformers names DINOv2's weights in an older way, which is refused")
    config = convert_model(source, **WORKSPACE).config
    expected = {**fields, **TINY, **WORKSPACE, "intermediate_size": width, "pooling": "cls", "use_vit_norms": True}
    assert {field: getattr(config, field) for field in expected} == expected
    assert config.num_register_tokens == (name == "DeiT")
    if name != "Dinov2":
        assert (config.id2label, config.label2id) == ({0: "cat", 1: "dog"}, {"cat": 0, "dog": 1})


def test_processor_of_images_that_are_not_square(tmp_path):
    model = convert_model(ViTModel(ViTConfig(**VIT)), **WORKSPACE)
    fit_positions(model, ViTImageProcessorPil(size={"height": 8, "width": 24}))
    assert model.config.image_shape == (8, 24)


def test_command_passes_every_option_of_the_workspace_on(tmp_path):
    ViTModel(ViTConfig(**VIT)).save_pretrained(tmp_path / "vit")
    command = ["--model", str(tmp_path / "vit"), "--output_dir", str(tmp_path / "ait")]
    values = {"num_memory_slots": 3, "memory_slot_size": 5, "num_memory_heads": 7, "bottleneck_size": 11}
    main([*command, *(part for name, value in values.items() for part in (f"--{name}", str(value)))])
    config = AiTModel.from_pretrained(tmp_path / "ait").config
    assert {name: getattr(config, name) for name in values} == values
    # A source without an image processor gets one of its own size.
    processor = ViTImageProcessorPil.from_pretrained(tmp_path / "ait")
    assert dict(processor.size) == {"height": 16, "width": 16}


@pytest.fixture
def vit_folder(tmp_path):
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def drop_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def break_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(name):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_weight, "has not all weights of a ViTForImageClassification: classifier.weight misses"),
        (break_weight, "The weight classifier.weight holds a NaN"),
        (cut("model.safetensors"), "cannot be loaded: "),
        (cut("config.json"), "cannot be loaded: .*config"),
        (cut("preprocessor_config.json"), "preprocessor_config.json of .* cannot be used"),
    ],
)
def test_broken_source_is_refused_in_one_line(vit_folder, change, message, tmp_path):
    change(vit_folder)
    with pytest.raises(ConversionError, match=message) as caught:
        main(["--model", str(vit_folder), "--output_dir", str(tmp_path / "ait")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ait" / "config.json").exists()
