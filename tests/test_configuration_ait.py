"""Configuration: defaults, refusals and the round trip through JSON."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig, ViTConfig

import modeling_ait
from modeling_ait import AiTConfig, AiTForImageClassification, configuration_ait


FLOATS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "memory_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "memory_update_rate",
    "output_norm_init",
    "hopfield_beta",
    "balance_loss_coef",
)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("hidden_size", 0, "positive"),
        ("num_hidden_layers", -1, "positive"),
        ("num_attention_heads", 5, "divisor of `hidden_size`"),
        ("image_size", 30, "multiple of `patch_size`"),
        ("image_size", (224, 100), "multiple of `patch_size`"),
        ("image_size", [224], "pair"),
        ("patch_size", 0, "positive"),
        ("num_channels", 0, "positive"),
        ("num_memory_slots", -1, "0 (no workspace)"),
        ("bottleneck_size", 0, "None to keep every token"),
        ("memory_update_rate", 1.5, "between 0 and 1"),
        ("memory_update_rate", float("nan"), "between 0 and 1"),
        ("memory_dropout_prob", 1.0, "below 1"),
        ("hidden_dropout_prob", -0.1, "at least 0"),
        ("hopfield_beta", 0.0, "positive"),
        ("hopfield_beta", float("inf"), "finite"),
        ("balance_loss_coef", float("nan"), "not negative"),
        ("layer_norm_eps", -1e-5, "positive"),
        ("num_retrieval_steps", 0, "positive"),
        ("hidden_act", "glue", "gelu"),
        ("position_embedding_type", "rotary", '"none"'),
        ("pooling", "max", '"flatten"'),
        ("intermediate_size", 0, "positive"),
        ("memory_slot_size", 0, "positive"),
        ("num_memory_heads", 0, "positive"),
        ("question_size", 0, "positive integer or None"),
        ("num_register_tokens", -1, "0 or a positive integer"),
        ("attention_probs_dropout_prob", 1.0, "below 1"),
        ("initializer_range", 0.0, "positive"),
        ("balance_loss_coef", -0.1, "not negative"),
        ("memory_update_rate", -0.1, "between 0 and 1"),
        ("layer_norm_eps", 1e-13, "at least 1e-12"),
        ("stem_strides", [], "at least 2"),
        ("stem_strides", [16, 1], "at least 2"),
        ("stem_strides", [1, 16], "at least 2"),
        ("stem_strides", [4, 0, 4], "1 is allowed between"),
        ("position_embedding_init", "zeros", '"sinusoidal"'),
        ("output_norm_init", -0.1, "not negative"),
        ("output_norm_init", float("nan"), "finite"),
        ("stem_strides", [2, 2, 2], "product is both sides of `patch_size` (16)"),
        ("stem_channels", [8], "each of `stem_strides` (None) but the last"),
        ("attention_layers", [12], "indices of the 12 layers"),
        ("attention_layers", [-1], "from 0 on"),
        ("attention_layers", [3, 1], "ascending order"),
        ("attention_layers", [1, 1], "ascending order"),
    ],
)
def test_config_refuses_impossible_value(field, value, allowed):
    with pytest.raises(ValueError, match=re.escape(f"`{field}`")) as caught:
        AiTConfig(**{field: value})
    assert repr(value) in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize("fields", [{"patch_size": (16, 8)}, {"patch_size": 1}, {"use_vit_norms": True}])
def test_config_refuses_a_convolutional_stem_that_cannot_work(fields):
    with pytest.raises(ValueError, match=r"`stem_strides` must be None.*but got \[4, 4\]"):
        AiTConfig(stem_strides=[4, 4], **fields)


@pytest.mark.parametrize("channels", [[], [8, 8], [0]])
def test_config_refuses_channels_that_do_not_fit_the_stem(channels):
    with pytest.raises(ValueError, match=r"`stem_channels` must be None.*\(\[4, 4\]\) but the last.*but got \["):
        AiTConfig(stem_strides=[4, 4], stem_channels=channels)
    assert AiTConfig(stem_strides=[4, 4], stem_channels=[24]).stem_channels == [24]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", "wide", "int"),
        ("hidden_size", None, "int"),
        ("bottleneck_size", 2.5, "int | None"),
        ("update_memory", "no", "bool"),
        ("stem_strides", [2.5], r"list\[int\] | None"),
        ("attention_layers", 2, r"list\[int\] | None"),
    ],
)
def test_config_refuses_wrong_type(field, value, expected):
    with pytest.raises(ValueError, match=f"`{field}` must be of type {expected}".replace("|", r"\|")) as caught:
        AiTConfig(**{field: value})
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"`{field}` must be of type"):
        setattr(AiTConfig(), field, value)


@pytest.mark.parametrize("fields", [{"pooling": "cls"}, {"pooling": "question", "question_size": 5}], ids=str)
def test_config_refuses_a_pooled_token_that_would_never_see_the_image(fields):
    with pytest.raises(ValueError, match=r"`attention_layers` must be None or at least one layer with `pooling="):
        AiTConfig(attention_layers=[], **fields)
    assert AiTConfig(attention_layers=[0], **fields).attention_layers == [0]


def test_checking_the_layers_with_attention_does_not_take_as_long_as_there_are_layers():
    """A checkpoint's configuration is not trusted: a set of all layers would fill the memory."""
    config = AiTConfig(num_hidden_layers=2**31 - 1, attention_layers=[0, 2**31 - 2])
    assert config.attention_layers == [0, 2**31 - 2]


def test_config_refuses_a_memory_that_would_always_be_zero():
    with pytest.raises(ValueError, match=r"`memory_update_rate` must be below 1 with `memory_slot_size=1`"):
        AiTConfig(memory_slot_size=1, memory_update_rate=1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_update_rate": 0.0},
        {"memory_update_rate": 1.0},
        {"memory_update_rate": 1},
        {"num_memory_slots": 0},
        {"num_memory_slots": 1},
        {"memory_slot_size": 1},
        {"bottleneck_size": 1},
        {"bottleneck_size": None},
        {"question_size": 1},
        {"num_register_tokens": 0},
        {"attention_layers": []},
        {"attention_layers": [0, 11]},
        {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0, "memory_dropout_prob": 0.0},
        {"balance_loss_coef": 0.0},
        {"layer_norm_eps": 1e-12},
        {"stem_strides": [2, 2, 2, 2]},
        {"hidden_size": 1, "num_attention_heads": 1, "intermediate_size": 1},
        {"image_size": 16},
        {"image_size": (16, 32), "patch_size": (16, 8)},
    ],
    ids=str,
)
def test_config_takes_the_values_at_its_bounds(fields):
    config = AiTConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


def test_config_defaults_are_pinned():
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    own = {field.name for field in dataclasses.fields(AiTConfig)} - inherited
    config = AiTConfig()
    assert {name: getattr(config, name) for name in own} == {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": False,
        "num_memory_slots": 32,
        "memory_slot_size": 32,
        "num_memory_heads": 8,
        "bottleneck_size": 512,
        "memory_update_rate": 0.1,
        "memory_dropout_prob": 0.1,
        "differentiable_write": True,
        "hopfield_beta": 1.0,
        "num_retrieval_steps": 1,
        "balance_loss_coef": 0.01,
        "position_embedding_type": "learned",
        "position_embedding_init": "normal",
        "output_norm_init": 1.0,
        "pooling": "mean",
        "question_size": None,
        "question_attention": "joint",
        "update_memory": True,
        "synchronize_memory": True,
        "use_vit_norms": False,
        "num_register_tokens": 0,
        "stem_strides": None,
        "stem_channels": None,
        "attention_layers": None,
    }
    assert config.model_type == "ait"
    assert config.keys_to_ignore_at_inference == [
        "hidden_states",
        "attentions",
        "balance_loss",
        "memory_written",
        "retrieval_attentions",
        "write_attentions",
        "energies",
    ]


def test_config_refuses_unknown_size():
    with pytest.raises(ValueError, match=r"'small'.*'tiny'"):
        AiTConfig.from_size("tiny")


@pytest.mark.parametrize(("size", "num_layers"), [("small", 2), ("medium", 6), ("base", 12)])
def test_config_from_size_has_paper_sizes(size, num_layers):
    config = AiTConfig.from_size(size, image_size=32, patch_size=4)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (num_layers, 768, 12)
    assert (config.intermediate_size, config.image_size) == (3072, 32)


def test_config_from_size_lets_the_caller_win():
    config = AiTConfig.from_size("base", num_hidden_layers=3, hidden_size=96)
    assert (config.num_hidden_layers, config.hidden_size) == (3, 96)


def test_config_gives_height_before_width():
    config = AiTConfig(image_size=(32, 64), patch_size=(8, 16))
    assert (config.image_shape, config.patch_shape) == ((32, 64), (8, 16))
    assert (AiTConfig().image_shape, AiTConfig().patch_shape) == ((224, 224), (16, 16))


def test_config_round_trip_keeps_every_field(tmp_path):
    config = AiTConfig(
        image_size=(32, 64), patch_size=[8, 16], num_memory_slots=5, bottleneck_size=None, num_labels=7, pooling="cls"
    )
    config.save_pretrained(tmp_path)
    for loaded in (AiTConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is AiTConfig
        assert loaded.image_shape == (32, 64)
        assert loaded.patch_shape == (8, 16)
        for field in dataclasses.fields(AiTConfig):
            if field.name not in ("image_size", "patch_size", "transformers_version"):
                assert getattr(loaded, field.name) == getattr(config, field.name), field.name


def test_config_of_another_model_is_refused(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'vit'.*'ait'"):
        AiTConfig.from_pretrained(tmp_path)


def test_config_declares_no_field_that_nothing_reads():
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    sources = "".join(path.read_text() for path in Path(modeling_ait.__file__).parent.glob("*_ait.py"))
    for field in dataclasses.fields(AiTConfig):
        if field.name not in inherited:
            # The two sizes are read as a pair, the layers with attention as those that there are.
            name = field.name.replace("image_size", "image_shape").replace("patch_size", "patch_shape")
            name = name.replace("attention_layers", "layers_with_attention")
            assert re.search(rf"config\.{name}\b", sources), f"{field.name} is declared but never read"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in FLOATS for value in (math.nan, math.inf, -math.inf, -1.0, 10**400, -(10**400))),
        *((name, 1e-300) for name in ("initializer_range", "layer_norm_eps", "hopfield_beta")),
        *((name, 1e300) for name in FLOATS),
        *((name, 2**31) for name in ("hidden_size", "image_size", "bottleneck_size", "question_size")),
        ("num_labels", 1.5),
        ("num_labels", -1),
        ("num_labels", 10**9),
        ("num_labels", None),
        ("id2label", ["cat", "dog"]),
        ("label2id", 3),
        ("problem_type", "clustering"),
    ],
)
def test_numbers_that_cannot_work_are_refused_in_one_line(make_config, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be") as caught:
        make_config(**{name: value})
    assert "\n" not in str(caught.value)


def test_slot_of_one_value_that_is_only_written_is_refused(make_config):
    with pytest.raises(ValueError, match="`memory_update_rate` must be below 1 with `memory_slot_size=1`"):
        make_config(memory_slot_size=1, memory_update_rate=1)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "num_memory_slots", "num_channels"])
def test_configuration_of_a_huge_model_warns(make_config, monkeypatch, field):
    messages = []
    monkeypatch.setattr(configuration_ait.logger, "warning_once", messages.append)
    make_config()
    assert not messages
    make_config(**{field: 2**31 - 2})
    assert "GiB in float32 (from 32 GiB on" in messages[0]


@pytest.mark.parametrize(
    "fields",
    [{}, {"num_memory_slots": 0}, {"pooling": "flatten"}, {"num_labels": 1000}, {"attention_layers": [1]}],
    ids=str,
)
def test_estimate_of_the_parameters_is_close(fields):
    config = AiTConfig.from_size("small", **fields)
    with torch.device("meta"):
        model = AiTForImageClassification(config)
    exact = sum(tensor.numel() for tensor in model.state_dict().values())
    assert config.estimate_parameters() == pytest.approx(exact, rel=0.05)
