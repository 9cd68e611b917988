"""Positions for images of another size, against transformers' ViT and by hand."""

import math

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from conversion.convert_vit import convert_model
from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel
from modeling_ait.embeddings_ait import interpolate_positions, make_sinusoidal_positions


def make_vit(**fields):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=12, patch_size=4,
        num_labels=3, **fields,
    )  # fmt: skip
    vit = ViTForImageClassification(config).eval()
    with torch.no_grad():
        vit.vit.embeddings.position_embeddings.normal_()
        vit.vit.embeddings.cls_token.normal_()
    return vit


@pytest.mark.parametrize(("height", "width"), [(12, 12), (20, 8), (8, 20), (24, 24), (4, 4)])
def test_interpolated_positions_are_those_of_vit(height, width):
    vit = make_vit()
    ait = convert_model(vit)
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = vit(images, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(ait(images, interpolate_pos_encoding=True).logits, expected, rtol=1e-5, atol=1e-5)
        ait.resize_positions((height, width))
        torch.testing.assert_close(ait(images).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prefix_positions_stay_in_place(dtype):
    table = torch.randn(1, 3 + 6, 4, dtype=dtype)
    stretched = interpolate_positions(table, (2, 3), (4, 5))
    assert stretched.shape == (1, 3 + 20, 4) and stretched.dtype == dtype
    assert torch.equal(stretched[:, :3], table[:, :3])
    assert interpolate_positions(table, (2, 3), (2, 3)) is table
    # Rows and columns are not exchanged: a table that changes along rows alone goes on doing so.
    rows = torch.arange(2.0)[:, None].expand(2, 3).reshape(1, 6, 1)
    grid = interpolate_positions(rows, (2, 3), (4, 6)).reshape(4, 6)
    assert torch.equal(grid, grid[:, :1].expand(4, 6))
    assert (grid[1:, 0] > grid[:-1, 0]).all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("stem_strides", [None, [2, 2]])
def test_question_registers_and_cls_keep_their_places_at_another_size(make_model, pooling, stem_strides):
    model = make_model(
        AiTForRelationalReasoning,
        question_size=5,
        num_register_tokens=2,
        pooling=pooling,
        stem_strides=stem_strides,
    ).eval()
    images, question = torch.randn(2, 3, 16, 8), torch.randn(2, 5)
    num_prefix_tokens = 3 + (pooling == "cls")
    with torch.no_grad():
        embedded = model.ait.embeddings(images, question, interpolate_pos_encoding=True)
        assert embedded.shape[1] == num_prefix_tokens + 8
        small = model.ait.embeddings(torch.randn(2, 3, 8, 12), question)
        assert torch.equal(embedded[:, :num_prefix_tokens], small[:, :num_prefix_tokens])
        # Evaluation stays independent of the rest of the batch, and the memory untouched.
        together = model(images, question, interpolate_pos_encoding=True).logits
        alone = model(images[:1], question[:1], interpolate_pos_encoding=True).logits
    torch.testing.assert_close(alone, together[:1], rtol=1e-5, atol=1e-5)


def test_model_without_positions_takes_any_multiple_of_the_patch(make_model):
    model = make_model(position_embedding_type="none").eval()
    assert model(torch.randn(1, 3, 4, 20), interpolate_pos_encoding=True).logits.shape == (1, 3)


def test_training_at_another_size_reaches_the_positions(make_model):
    model = make_model().train()
    model(torch.randn(2, 3, 16, 16), labels=torch.tensor([0, 1]), interpolate_pos_encoding=True).loss.backward()
    assert (model.ait.embeddings.position_embeddings.grad != 0).any(dim=-1).all()


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((9, 12), {}, "9 x 12 pixels.*no multiple of the patches' 4 x 4"),
        ((2, 12), {}, "no multiple"),
        ((0, 12), {}, "0 x 12 pixels.*no multiple"),
        ((16, 12), {"pooling": "flatten"}, 'pooling="flatten".*configured size only'),
    ],
)
def test_sizes_that_cannot_work_are_refused(make_model, shape, fields, message):
    with pytest.raises(ValueError, match=message):
        make_model(**fields)(torch.randn(1, 3, *shape), interpolate_pos_encoding=True)


def test_resized_model_is_saved_with_its_new_size(make_model, tmp_path):
    model = make_model(pooling="cls").eval()
    images = torch.randn(2, 3, 16, 20)
    with torch.no_grad():
        expected = model(images, interpolate_pos_encoding=True).logits
    model.resize_positions((16, 20))
    assert model.config.image_shape == (16, 20)
    with pytest.raises(ValueError, match=r"8 x 12 pixels.*configured for 16 x 20"):
        model(torch.zeros(1, 3, 8, 12))
    model.save_pretrained(tmp_path)
    loaded = AiTForImageClassification.from_pretrained(tmp_path).eval()
    assert loaded.ait.embeddings.position_embeddings.shape == (1, 21, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({}, 10, "`image_size` must be a multiple"),
        ({"pooling": "flatten"}, 16, "takes images of"),
        ({}, "big", "type"),
    ],
)
def test_resizing_to_what_cannot_work_changes_nothing(make_model, fields, size, message):
    model = make_model(**fields)
    with pytest.raises(ValueError, match=message):
        model.resize_positions(size)
    assert model.config.image_shape == (8, 12)
    assert model.ait.embeddings.position_embeddings.shape[1] == 6


def test_sinusoidal_positions_are_those_of_the_grid_and_stay_when_loaded(make_config, tmp_path):
    fields = {"question_size": 5, "num_register_tokens": 2, "position_embedding_init": "sinusoidal"}
    model = AiTForRelationalReasoning(make_config(**fields))
    table = model.ait.embeddings.position_embeddings
    assert table.requires_grad
    for row in range(2):
        for column in range(3):
            for index in range(4):
                frequency = 10_000 ** (-index / 4)
                position = table[0, 3 + 3 * row + column]
                for offset, place in ((0, column), (8, row)):
                    sine, cosine = math.sin(place * frequency), math.cos(place * frequency)
                    assert position[offset + index].item() == pytest.approx(0.5 * sine, abs=1e-6)
                    assert position[offset + 4 + index].item() == pytest.approx(0.5 * cosine, abs=1e-6)
    # In front there is noise.
    assert 0 < table[0, :3].std() < 0.05
    with torch.no_grad():
        table.add_(1)
    model.save_pretrained(tmp_path)
    loaded = AiTForRelationalReasoning.from_pretrained(tmp_path)
    assert torch.equal(loaded.ait.embeddings.position_embeddings, table)


def test_sinusoidal_positions_take_widths_that_no_four_divides():
    assert make_sinusoidal_positions((2, 3), 10).shape == (1, 6, 10)


def test_output_norm_starts_as_configured_and_stays_when_loaded(make_config, tmp_path):
    model = AiTForImageClassification(make_config(output_norm_init=0.2))
    for layer in model.ait.layers:
        assert torch.equal(layer.layernorm_output.weight, torch.full((16,), 0.2))
        assert torch.equal(layer.layernorm_after.weight, torch.ones(16))
    with torch.no_grad():
        model.ait.layers[0].layernorm_output.weight.fill_(3)
    model.save_pretrained(tmp_path)
    loaded = AiTForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.ait.layers[0].layernorm_output.weight, torch.full((16,), 3.0))


def test_stem_with_a_stride_of_one_looks_at_three_pixels_and_keeps_the_size(make_model, make_images):
    model = make_model(AiTModel, stem_strides=[2, 1, 2]).eval()
    stem = model.embeddings.patch_embeddings.stem
    assert [convolution.kernel_size for convolution in stem.convolutions] == [(3, 3)] * 3
    assert [convolution.out_channels for convolution in stem.convolutions] == [8, 8, 16]
    assert len(stem.norms) == 2
    pixels = make_images()
    expected = pixels
    for convolution, norm in zip(stem.convolutions, [*stem.norms, None]):
        expected = torch.nn.functional.conv2d(
            expected, convolution.weight, convolution.bias, stride=convolution.stride, padding=1
        )
        if norm is not None:
            # Over all channels and positions of a sample, and never over samples.
            mean = expected.mean(dim=(1, 2, 3), keepdim=True)
            variance = expected.var(dim=(1, 2, 3), keepdim=True, correction=0)
            expected = (expected - mean) / (variance + 1e-5).sqrt()
            expected = torch.nn.functional.gelu(expected * norm.weight[:, None, None] + norm.bias[:, None, None])
    torch.testing.assert_close(stem(pixels), expected.flatten(2).transpose(1, 2))
    assert model(pixels).last_hidden_state.shape == (4, 6, 16)


def test_resizing_keeps_positions_frozen_and_counts_the_tokens(make_model):
    model = make_model(pooling="cls")
    embeddings = model.ait.embeddings
    embeddings.position_embeddings.requires_grad_(False)
    assert embeddings.num_tokens == 1 + 6
    model.resize_positions((16, 20))
    assert embeddings.num_tokens == 1 + 20
    assert not embeddings.position_embeddings.requires_grad
    assert make_model().ait.embeddings.position_embeddings.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_in_half_precision_are_interpolated_in_float32(dtype):
    table = torch.randn(1, 16, 8).to(dtype)
    expected = interpolate_positions(table.float(), (4, 4), (7, 9)).to(dtype)
    assert torch.equal(interpolate_positions(table, (4, 4), (7, 9)), expected)


def test_question_is_cast_to_the_dtype_of_the_model(make_model):
    model = make_model(AiTForRelationalReasoning, question_size=5).eval()
    embeddings = model.ait.embeddings
    with torch.no_grad():
        expected = embeddings(torch.zeros(2, 3, 8, 12), torch.ones(2, 5))
        lean = embeddings.bfloat16()(torch.zeros(2, 3, 8, 12).bfloat16(), torch.ones(2, 5))
    assert lean.dtype == torch.bfloat16
    # 8 bits of mantissa, behind three norms.
    torch.testing.assert_close(lean.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("hidden_size", "strides", "widths"),
    [(64, [2, 2], [32, 64]), (64, [2, 2, 2], [16, 32, 64]), (16, [2, 2, 2], [8, 8, 16]), (64, [4], [64])],
)
def test_stem_doubles_its_width_towards_the_tokens(make_model, hidden_size, strides, widths):
    side = math.prod(strides)
    model = make_model(hidden_size=hidden_size, stem_strides=strides, patch_size=side, image_size=2 * side)
    stem = model.ait.embeddings.patch_embeddings.stem
    assert [convolution.out_channels for convolution in stem.convolutions] == widths
    assert [convolution.kernel_size[0] for convolution in stem.convolutions] == [2 * each - 1 for each in strides]
    assert [norm.num_channels for norm in stem.norms] == widths[:-1]


def test_stem_has_the_channels_that_are_given(make_model, make_images):
    model = make_model(AiTModel, stem_strides=[2, 1, 2], stem_channels=[5, 24]).eval()
    stem = model.embeddings.patch_embeddings.stem
    assert [convolution.out_channels for convolution in stem.convolutions] == [5, 24, 16]
    assert [norm.num_channels for norm in stem.norms] == [5, 24]
    assert model(make_images()).last_hidden_state.shape == (4, 6, 16)


def test_exported_positions_follow_the_size_of_the_images(make_model):
    model = make_model().eval()
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    exported = torch.export.export(
        model,
        (),
        {"pixel_values": torch.randn(2, 3, 8, 12), "interpolate_pos_encoding": True},
        dynamic_shapes={"pixel_values": {2: 4 * rows, 3: 4 * columns}, "interpolate_pos_encoding": None},
    ).module()
    for height, width in ((8, 12), (16, 8)):
        images = torch.randn(2, 3, height, width)
        with torch.no_grad():
            expected = model(images, interpolate_pos_encoding=True).logits
            computed = exported(pixel_values=images, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(computed, expected, rtol=1e-5, atol=1e-5)
