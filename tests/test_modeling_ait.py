"""The model: what inference and training do to the memory, numerics, and the abilities that transformers expects."""

import copy

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification
from transformers.utils import is_torchvision_available

import modeling_ait
from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel
from modeling_ait.attention_ait import eager_attention_forward
from modeling_ait.memory_ait import make_initial_memory


POOLINGS = ["mean", "flatten", "cls"]


def copy_memories(model):
    return [memory.clone() for memory in model.ait.memories]


def assert_equal_memories(model, memories):
    assert all(torch.equal(now, before) for now, before in zip(model.ait.memories, memories))


def test_public_names_are_pinned():
    assert modeling_ait.__all__ == [
        "AiTCardMixin",
        "AiTConfig",
        "AiTForImageClassification",
        "AiTForRelationalReasoning",
        "AiTModel",
        "AiTPreTrainedModel",
        "compute_energy",
        "retrieve_patterns",
    ]


# Inference


@pytest.mark.parametrize("pooling", POOLINGS)
def test_evaluation_depends_on_no_other_sample_and_changes_no_buffer(make_model, make_images, pooling):
    model = make_model(pooling=pooling).eval()
    images = make_images(batch_size=9)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    order = torch.randperm(9)
    with torch.no_grad():
        together = model(images).logits
        alone = torch.cat([model(image[None]).logits for image in images])
        shuffled = model(images[order]).logits
        with_outlier = model(torch.cat([images, 1e4 * make_images(3, seed=5)])).logits[:9]
    for logits in (alone, with_outlier):
        torch.testing.assert_close(logits, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_evaluation_returns_no_balance_loss_and_the_task_loss_alone(make_model, make_images):
    model = make_model().eval()
    labels = torch.tensor([0, 1, 2, 1])
    outputs = model(make_images(), labels=labels)
    assert outputs.balance_loss is None
    assert list(outputs.keys()) == ["loss", "logits"]
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))


def test_update_memory_true_writes_in_evaluation_and_false_does_not_in_training(make_model, make_images):
    model = make_model()
    before = copy_memories(model)
    model.train()(make_images(), update_memory=False)
    assert_equal_memories(model, before)
    outputs = model.eval()(make_images(), update_memory=True)
    assert outputs.balance_loss.ndim == 0
    assert not any(torch.equal(now, old) for now, old in zip(model.ait.memories, before))


# Training


@pytest.mark.parametrize("pooling", POOLINGS)
def test_training_changes_each_memory_once_and_every_parameter_gets_a_gradient(make_model, make_images, pooling):
    model = make_model(pooling=pooling, qkv_bias=False).train()
    writes = []
    for layer in model.ait.layers:
        layer.workspace.write.register_forward_hook(lambda module, args, output: writes.append(output[0].detach()))
    before = copy_memories(model)
    outputs = model(make_images(), labels=torch.tensor([0, 1, 2, 1]))
    outputs.loss.backward()
    assert len(writes) == len(model.ait.memories) == 2
    for old, new, written in zip(before, model.ait.memories, writes):
        assert not torch.equal(new, old)
        assert torch.equal(new, written)
        torch.testing.assert_close(new.norm(dim=-1), torch.ones(3), rtol=0, atol=1e-6)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_detached_write_leaves_exactly_its_value_path_without_gradient(make_model, make_images):
    model = make_model(differentiable_write=False).train()
    model(make_images(), labels=torch.tensor([0, 1, 2, 1])).loss.backward()
    without_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without_gradient == {
        f"ait.layers.{layer}.workspace.write.{name}"
        for layer in range(2)
        for name in ("value_proj.weight", "output_proj.weight", "layernorm.weight", "layernorm.bias")
    }


def test_loss_is_task_loss_plus_weighted_balance_loss(make_model, make_images):
    model = make_model(balance_loss_coef=0.5).train()
    labels = torch.tensor([0, 1, 2, 1])
    outputs = model(make_images(), labels=labels)
    assert outputs.balance_loss > 0
    task_loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(outputs.loss, task_loss + 0.5 * outputs.balance_loss)


def test_samples_of_a_training_batch_compete(make_model, make_images):
    model = make_model().train()
    other = copy.deepcopy(model)
    images = make_images()
    changed = torch.cat([images[:3], make_images(1, seed=7)])
    assert not torch.allclose(model(images).logits[:3], other(changed).logits[:3], atol=1e-4)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("differentiable_write", [True, False])
def test_activation_checkpointing_changes_nothing(make_model, make_images, use_reentrant, differentiable_write):
    model = make_model(memory_dropout_prob=0.3, hidden_dropout_prob=0.2, differentiable_write=differentiable_write)
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    results = []
    for each in (model, checkpointed):
        torch.manual_seed(3)
        # Two forwards before the backward: the recomputation must not see the memory of the second.
        losses = [each.train()(make_images(seed=s), labels=torch.tensor([0, 1, 2, 1])).loss for s in range(2)]
        sum(losses).backward()
        results.append(losses)
    torch.testing.assert_close(results[0], results[1])
    assert_equal_memories(checkpointed, copy_memories(model))
    for (name, expected), parameter in zip(model.named_parameters(), checkpointed.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bottleneck_size", [1, None])
def test_non_finite_sample_leaves_every_memory_as_it_was(make_model, make_images, poison, bottleneck_size):
    model = make_model(bottleneck_size=bottleneck_size).train()
    before = copy_memories(model)
    images = make_images()
    images[2, 0, 3, 3] = poison
    model(images)
    assert_equal_memories(model, before)
    model(make_images())
    assert all(memory.isfinite().all() for memory in model.ait.memories)
    assert not torch.equal(model.ait.memories[0], before[0])


def test_one_non_finite_layer_stops_the_commit_of_all(make_model, make_images):
    model = make_model().train()
    before = copy_memories(model)
    model.ait.layers[1].workspace.write.register_forward_hook(lambda m, a, out: (out[0] * float("nan"), *out[1:]))
    model(make_images())
    assert_equal_memories(model, before)


def test_model_without_workspace_is_a_plain_transformer(make_model, make_images):
    model = make_model(num_memory_slots=0).train()
    assert model.ait.memories == ()
    assert not any("workspace" in name or "memory" in name for name in model.state_dict())
    outputs = model(make_images(), labels=torch.tensor([0, 1, 2, 1]), output_workspace=True)
    outputs.loss.backward()
    assert outputs.balance_loss is None
    assert outputs.retrieval_attentions == ()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_batch_of_one_sample_with_one_token_trains(make_model):
    model = make_model(image_size=4).train()
    outputs = model(torch.randn(1, 3, 4, 4), labels=torch.tensor([1]))
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(memory.isfinite().all() for memory in model.ait.memories)


# Outputs on request


@pytest.mark.parametrize("update_memory", [True, False])
def test_output_workspace_has_documented_shapes(make_model, make_images, update_memory):
    model = make_model().eval()
    outputs = model(make_images(), update_memory=update_memory, output_workspace=True)
    assert [tuple(t.shape) for t in outputs.retrieval_attentions] == [(4, 6, 3)] * 2
    assert [tuple(t.shape) for t in outputs.energies] == [(2, 4, 6)] * 2
    assert [tuple(t.shape) for t in outputs.write_attentions] == [(2, 3, 4, 6)] * 2
    for attention in outputs.retrieval_attentions:
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(4, 6))
    for attention in outputs.write_attentions:
        torch.testing.assert_close(attention.sum(dim=(2, 3)), torch.ones(2, 3))
    for before, after in outputs.energies:
        assert (after <= before + 1e-4).all()
    assert "energies" not in model(make_images())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_hidden_states_and_attentions_on_request(make_model, make_images, pooling):
    model = make_model(pooling=pooling, attn_implementation="eager").eval()
    outputs = model.ait(make_images(), output_hidden_states=True, output_attentions=True)
    num_tokens = 7 if pooling == "cls" else 6
    assert [tuple(t.shape) for t in outputs.hidden_states] == [(4, num_tokens, 16)] * 3
    assert [tuple(t.shape) for t in outputs.attentions] == [(4, 2, num_tokens, num_tokens)] * 2
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
    assert outputs.pooler_output.shape == (4, 16 * num_tokens if pooling == "flatten" else 16)


def test_return_dict_false_gives_a_tuple(make_model, make_images):
    model = make_model().eval()
    with torch.no_grad():
        (logits,) = model(make_images(), return_dict=False)
        assert torch.equal(logits, model(make_images()).logits)


def test_eager_equals_sdpa_attention(make_model, make_images):
    model = make_model().train()
    results = []
    for implementation in ("eager", "sdpa"):
        each = copy.deepcopy(model)
        each.set_attn_implementation(implementation)
        outputs = each(make_images(), labels=torch.tensor([0, 1, 2, 1]))
        outputs.loss.backward()
        results.append([outputs.logits, *each.ait.memories, *(parameter.grad for parameter in each.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_write_attention_of_a_token_stands_at_its_sample_and_place(make_model, make_images):
    """A token that differs from all others, in one sample, gets another attention at its own place alone."""
    model = make_model(AiTModel, num_hidden_layers=1, bottleneck_size=None).eval()
    tokens = torch.zeros(3, 6, 16)
    tokens[1, 4] = torch.randn(16)
    write = model.layers[0].workspace.write
    seen = []
    write.register_forward_hook(lambda module, args, output: seen.append(output[2]))
    model.layers[0].workspace.write.register_forward_pre_hook(lambda module, args: (args[0], tokens))
    attention = model(make_images(3), update_memory=True, output_workspace=True).write_attentions[0]
    assert torch.equal(attention, seen[0])
    others = torch.ones(3, 6, dtype=torch.bool)
    others[1, 4] = False
    for head_and_slot in attention.flatten(0, 1):
        rest = head_and_slot[others]
        torch.testing.assert_close(rest, rest[:1].expand(17))
        assert (head_and_slot[1, 4] - rest[0]).abs() > 1e-3


def test_energies_are_those_of_the_tokens_before_and_after_with_the_model_s_beta(make_model, make_images):
    model = make_model(AiTModel, hopfield_beta=2.5, num_retrieval_steps=2).eval()
    retrieve, seen = model.layers[0].workspace.retrieve, []
    retrieve.register_forward_hook(lambda module, args, output: seen.append((args[0], args[1], output[0])))
    energies = model(make_images(), output_workspace=True).energies[0]
    ((memory, before, after),) = seen
    patterns = retrieve.pattern_proj(memory)
    torch.testing.assert_close(energies[0], modeling_ait.compute_energy(before, patterns, 2.5))
    torch.testing.assert_close(energies[1], modeling_ait.compute_energy(after, patterns, 2.5))


# Layers without self-attention


def test_a_layer_without_attention_has_no_weights_for_it_and_returns_none(make_model, make_images):
    model = make_model(attention_layers=[1])
    model.set_attn_implementation("eager")
    names = {name.split(".")[3] for name, _ in model.named_parameters() if name.startswith("ait.layers.0.")}
    assert names == {"layernorm_after", "mlp", "layernorm_output", "workspace"}
    outputs = model(make_images(), output_attentions=True, output_hidden_states=True, output_workspace=True)
    assert len(outputs.attentions) == 1
    assert (len(outputs.hidden_states), len(outputs.retrieval_attentions)) == (3, 2)


@pytest.mark.parametrize("update_memory", [False, True])
def test_without_attention_only_a_write_moves_anything_between_tokens(make_model, make_images, update_memory):
    model = make_model(AiTModel, attention_layers=[], bottleneck_size=None).eval()
    images = make_images()
    changed = images.clone()
    changed[:, :, :4, :4] += 1  # the first patch
    memories = model.get_memories()
    before = model(images, update_memory=update_memory).last_hidden_state
    model.set_memories(memories)
    after = model(changed, update_memory=update_memory).last_hidden_state
    assert not torch.equal(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1:], before[:, 1:]) is not update_memory


# Number formats


def test_eager_softmax_is_float32(make_model, softmax_dtypes):
    query, key, value = (torch.randn(2, 2, 30, 8).bfloat16() for _ in range(3))
    module = make_model().ait.layers[0].attention.eval()
    with softmax_dtypes:
        attended, _ = eager_attention_forward(module, query, key, value, None, scaling=0.5)
    assert attended.dtype == torch.bfloat16
    assert softmax_dtypes.dtypes == [torch.float32]


def test_memories_stay_float32_whatever_the_model_is_cast_to(make_model, make_images, tmp_path):
    model = make_model()
    memories = copy_memories(model)
    for cast in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double(), lambda m: m.bfloat16()):
        cast(model)
        assert_equal_memories(model, memories)
        assert {memory.dtype for memory in model.ait.memories} == {torch.float32}
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    for loaded in (
        AiTForImageClassification.from_pretrained(tmp_path),
        AiTForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16),
        AiTForImageClassification.from_pretrained(tmp_path, dtype=torch.float16),
    ):
        assert_equal_memories(loaded, memories)
        assert {memory.dtype for memory in loaded.ait.memories} == {torch.float32}


@pytest.mark.parametrize("differentiable_write", [True, False])
def test_bfloat16_weights_train(make_model, make_images, differentiable_write):
    model = make_model(differentiable_write=differentiable_write)
    reference = copy.deepcopy(model).eval()(make_images()).logits
    model.bfloat16()
    # bfloat16 has 8 bits of mantissa, two blocks deep.
    logits = model.eval()(make_images()).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), reference, rtol=0.1, atol=0.15)
    outputs = model.train()(make_images(), labels=torch.tensor([0, 1, 2, 1]))
    outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for memory in model.ait.memories:
        assert memory.dtype == torch.float32
        torch.testing.assert_close(memory.norm(dim=-1), torch.ones(3), rtol=0, atol=1e-6)


def test_bfloat16_autocast_trains_with_float32_memories(make_model, make_images):
    model = make_model()
    reference = copy.deepcopy(model).train()(make_images(), labels=torch.tensor([0, 1, 2, 1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.train()(make_images(), labels=torch.tensor([0, 1, 2, 1]), output_workspace=True)
    outputs.loss.backward()
    torch.testing.assert_close(outputs.loss, reference.loss.detach(), rtol=0.1, atol=0.1, check_dtype=False)
    assert outputs.balance_loss.dtype == torch.float32
    assert all(attention.dtype == torch.float32 for attention in outputs.write_attentions)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    for memory in model.ait.memories:
        torch.testing.assert_close(memory.norm(dim=-1), torch.ones(3), rtol=0, atol=1e-6)


# Compilation and export


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_model_equals_eager(make_model, make_images, backend):
    torch._dynamo.reset()
    # The C++ compiler takes a minute for each layer.
    model = make_model(num_hidden_layers=1 if backend == "inductor" else 2)
    compiled = copy.deepcopy(model)
    compiled.compile(fullgraph=True, backend=backend)
    labels = torch.tensor([0, 1, 2, 1])
    for seed in range(2):
        expected = model.train()(make_images(seed=seed), labels=labels)
        computed = compiled.train()(make_images(seed=seed), labels=labels)
        torch.testing.assert_close(computed.loss, expected.loss, rtol=1e-5, atol=1e-5)
        expected.loss.backward()
        computed.loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), compiled.parameters()):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
    for memory, other in zip(model.ait.memories, compiled.ait.memories):
        torch.testing.assert_close(other, memory, rtol=1e-5, atol=1e-5)

    memories = copy_memories(compiled)
    with torch.no_grad():
        torch.testing.assert_close(
            compiled.eval()(make_images()).logits, model.eval()(make_images()).logits, rtol=1e-5, atol=1e-5
        )
    assert_equal_memories(compiled, memories)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_exported_inference_takes_any_batch_size(make_model, make_images, pooling):
    model = make_model(pooling=pooling).eval()
    batch = torch.export.Dim("batch_size")
    exported = torch.export.export(
        model, (), {"pixel_values": make_images(2)}, dynamic_shapes={"pixel_values": {0: batch}}
    )
    for batch_size in (1, 2, 7):
        images = make_images(batch_size)
        with torch.no_grad():
            computed = exported.module()(pixel_values=images).logits
            torch.testing.assert_close(computed, model(images).logits, rtol=1e-5, atol=1e-5)


# Loading, initialisation and refusals


def test_initial_memory_is_unit_variance_noise_and_the_same_in_every_model(make_config):
    config = make_config(num_memory_slots=64, memory_slot_size=64)
    torch.manual_seed(1)
    model = AiTModel(config)
    torch.manual_seed(2)
    other = AiTModel(config)
    assert not torch.equal(model.layers[0].mlp.fc1.weight, other.layers[0].mlp.fc1.weight)
    assert all(torch.equal(one, two) for one, two in zip(model.memories, other.memories))
    assert not torch.equal(*model.memories)
    assert float(model.memories[0].mean()) == pytest.approx(0, abs=0.05)
    assert float(model.memories[0].std()) == pytest.approx(1, abs=0.05)


def test_drawing_the_memory_leaves_the_global_random_stream_alone():
    state = torch.get_rng_state()
    assert torch.equal(make_initial_memory(torch.Size((3, 4)), 1), make_initial_memory(torch.Size((3, 4)), 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_classes_open_the_model_after_import(make_model, make_images, tmp_path):
    model = make_model().train()
    model(make_images())
    model.save_pretrained(tmp_path)
    model.eval()
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(classifier) is AiTForImageClassification
    assert type(base) is AiTModel
    assert_equal_memories(classifier, copy_memories(model))
    with torch.no_grad():
        torch.testing.assert_close(classifier(make_images()).logits, model(make_images()).logits)
        torch.testing.assert_close(base(make_images()).pooler_output, model.ait(make_images()).pooler_output)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 8, 12), "1 channels.*configured for 3"),
        ((2, 3, 8, 8), "8 x 8 pixels.*configured for 8 x 12"),
        ((2, 3, 12, 8), "12 x 8 pixels.*configured for 8 x 12"),
        ((3, 8, 12), r"batch_size, num_channels, height, width.*\(3, 8, 12\)"),
    ],
)
def test_images_of_another_shape_are_refused(make_model, shape, message):
    with pytest.raises(ValueError, match=message):
        make_model()(torch.zeros(shape))


def test_missing_images_are_refused(make_model):
    with pytest.raises(ValueError, match="pixel_values"):
        make_model()()


def test_image_processor_of_the_config_is_the_one_of_vit():
    if getattr(AutoImageProcessor, "is_dummy", False):
        pytest.skip("AutoImageProcessor of this transformers needs torchvision")
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    classes = IMAGE_PROCESSOR_MAPPING[modeling_ait.AiTConfig]
    names = {name: cls if isinstance(cls, str) else cls.__name__ for name, cls in classes.items()}
    assert names["pil"] == "ViTImageProcessorPil"
    assert ("torchvision" in names) == is_torchvision_available()


@pytest.mark.parametrize(
    ("patch_size", "strides"), [(2, [2]), (4, [2, 2]), (12, [2, 2, 3]), (12, [6, 2]), (15, [3, 5])]
)
def test_convolutional_stem_gives_one_token_for_each_patch(patch_size, strides, make_model):
    model = make_model(stem_strides=strides, image_size=(2 * patch_size, 3 * patch_size), patch_size=patch_size)
    stem = model.ait.embeddings.patch_embeddings.stem
    assert [convolution.stride[0] for convolution in stem.convolutions] == strides
    images = torch.randn(2, 3, 2 * patch_size, 3 * patch_size)
    assert stem(images).shape == (2, 6, 16)
    # The tokens come row by row: what changes in the last patch changes the last token, and not the first.
    changed = images.clone()
    changed[:, :, -1, -1] += 1
    if len(strides) == 1:
        difference = (stem(changed) - stem(images)).abs().amax(dim=(0, 2))
        assert difference.nonzero().flatten().tolist() == [5]
    model(images, labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in stem.parameters())


def test_convolutional_stem_against_a_loop(make_model):
    """Every output of both convolutions as a sum over its window, with the norm over all channels and positions."""
    model = make_model(stem_strides=[2, 2], image_size=8, patch_size=4).eval()
    stem = model.ait.embeddings.patch_embeddings.stem
    image = torch.randn(1, 3, 8, 8)

    def convolve(inputs, convolution):
        padded = torch.nn.functional.pad(inputs, [1, 1, 1, 1])
        size = inputs.shape[-1] // 2
        outputs = torch.zeros(convolution.out_channels, size, size)
        for row in range(size):
            for column in range(size):
                window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                outputs[:, row, column] = (convolution.weight * window).sum(dim=(1, 2, 3)) + convolution.bias
        return outputs

    hidden = convolve(image[0], stem.convolutions[0])
    normed = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
    normed = normed * stem.norms[0].weight[:, None, None] + stem.norms[0].bias[:, None, None]
    activated = normed * 0.5 * (1 + torch.erf(normed / 2**0.5))
    expected = convolve(activated, stem.convolutions[1]).flatten(1).T
    torch.testing.assert_close(stem(image)[0], expected, rtol=1e-5, atol=1e-5)


def test_convolutional_stem_keeps_samples_apart_and_is_saved(make_model, tmp_path):
    model = make_model(stem_strides=[2, 2]).eval()
    images = torch.randn(4, 3, 8, 12)
    with torch.no_grad():
        whole = model(images).logits
        alone = torch.cat([model(images[[index]]).logits for index in range(4)])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = AiTForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, whole)
    lean = model.to(torch.bfloat16)
    with torch.no_grad():
        assert lean(images).logits.dtype == torch.bfloat16


class QuantizedLinear(torch.nn.Module):
    """A Linear as quantization libraries leave it: integers and scales for weights, and no dtype to be read off."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("scale", linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127)
        self.register_buffer("packed", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def weight(self):
        """A method, as on PyTorch's dynamically quantized layers."""
        return self.packed, self.scale

    def forward(self, inputs):
        return torch.nn.functional.linear(inputs, (self.packed * self.scale).to(inputs.dtype), self.bias)


def test_quantized_weights_of_any_library_pass(make_model, make_images):
    model = make_model(AiTForRelationalReasoning, question_size=5).eval()
    question = torch.rand(4, 5)
    with torch.no_grad():
        expected = model(make_images(), question).logits
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.set_submodule(name, QuantizedLinear(module))
    with torch.no_grad():
        # 8 bits for each weight, two blocks deep.
        torch.testing.assert_close(model(make_images(), question).logits, expected, rtol=0.1, atol=0.1)
        before = copy_memories(model)
        model(make_images(), question, update_memory=True)
    for memory, old in zip(model.ait.memories, before):
        assert memory.dtype == torch.float32 and not torch.equal(memory, old)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamically_quantized_model_infers_and_writes(make_model, make_images):
    model = make_model().eval()
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        torch.testing.assert_close(small(make_images()).logits, model(make_images()).logits, rtol=0.1, atol=0.1)
        assert small(make_images(), update_memory=True).logits.isfinite().all()
    assert {memory.dtype for memory in small.ait.memories} == {torch.float32}
