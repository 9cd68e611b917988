"""What every model does with its memories: copies, replacement, files; and what its output tells of the write."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel, memory_ait


MODEL_CLASSES = [AiTModel, AiTForImageClassification, AiTForRelationalReasoning]


@pytest.fixture(params=MODEL_CLASSES, ids=lambda model_class: model_class.__name__)
def model(request, make_model):
    asks = request.param is AiTForRelationalReasoning
    return make_model(request.param, question_size=4 if asks else None).eval()


@pytest.fixture
def run(model, make_images):
    """A forward of the model, whatever it takes."""

    def forward(seed=0, **options):
        question = {"question": torch.ones(4, 4)} if isinstance(model, AiTForRelationalReasoning) else {}
        with torch.no_grad():
            outputs = model(make_images(seed=seed), **question, **options)
        return outputs.pooler_output if isinstance(model, AiTModel) else outputs.logits

    return forward


def are_equal(memories, others):
    return len(memories) == len(others) and all(torch.equal(one, other) for one, other in zip(memories, others))


def test_memories_that_were_taken_come_back_bit_equal(model, run):
    before, expected = model.get_memories(), run()
    addresses = [memory.data_ptr() for memory in model.base_model.memories]
    run(seed=1, update_memory=True)
    # What was taken is a copy, which the write leaves alone.
    assert not are_equal(model.get_memories(), before)
    assert not torch.equal(run(), expected)
    model.set_memories(before)
    assert torch.equal(run(), expected)
    assert [memory.data_ptr() for memory in model.base_model.memories] == addresses
    before[0].zero_()
    assert not are_equal(model.get_memories(), before)


def test_saved_memories_come_back_bit_equal(model, run, tmp_path):
    run(seed=1, update_memory=True)
    before, expected = model.get_memories(), run()
    model.save_memories(tmp_path / "users" / "one.safetensors")
    assert os.listdir(tmp_path / "users") == ["one.safetensors"]
    model.reset_memories()
    assert not torch.equal(run(), expected)
    model.load_memories(tmp_path / "users" / "one.safetensors")
    assert are_equal(model.get_memories(), before)
    assert torch.equal(run(), expected)


def test_one_model_serves_two_users_each_with_a_memory_of_their_own(make_model, make_images, tmp_path):
    model, file_of = make_model().eval(), {user: tmp_path / f"{user}.safetensors" for user in (0, 1)}
    alone = {}
    for user, file in file_of.items():
        model.reset_memories()
        with torch.no_grad():
            for step in range(3):
                model(make_images(seed=10 * user + step), update_memory=True)
        alone[user] = model.get_memories()
        model.reset_memories()
        model.save_memories(file)
    for step in range(3):
        for user, file in file_of.items():
            model.load_memories(str(file))
            with torch.no_grad():
                model(make_images(seed=10 * user + step), update_memory=True)
            model.save_memories(file)
    for user, file in file_of.items():
        model.load_memories(file)
        assert are_equal(model.get_memories(), alone[user])


def test_file_is_small_and_readable_without_the_model(make_model, tmp_path):
    model = make_model()
    model.save_memories(tmp_path / "memories.safetensors")
    tensors = load_file(tmp_path / "memories.safetensors")
    assert are_equal([tensors["layer_0"], tensors["layer_1"]], model.get_memories())
    assert len(tensors) == 2
    model.reset_memories()
    model.set_memories(tensors[f"layer_{index}"] for index in range(2))


def test_memories_do_not_differ_between_the_classes(make_model, tmp_path):
    model = make_model()
    model.save_memories(tmp_path / "memories.safetensors")
    model.base_model.reset_memories()
    model.base_model.load_memories(tmp_path / "memories.safetensors")


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        ([torch.zeros(3, 4)], r"each of the 2 layers, but got 1"),
        ([], r"each of the 2 layers, but got 0"),
        ([torch.zeros(3, 4), torch.zeros(4, 3)], r"`memories\[1\]` must be float32 of shape \(3, 4\), but got .*4, 3"),
        ([torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bfloat16)], r"memories\[1\].*float32.*but got torch.bfl"),
        ([torch.zeros(3, 4), torch.full((3, 4), torch.nan)], r"memories\[1\]` must be finite, but is not"),
        ([torch.zeros(3, 4), torch.zeros(3, 4, device="meta")], r"memories\[1\]` must be finite, but has no values"),
        ([torch.zeros(3, 4), [[0.0] * 4] * 3], r"memories\[1\]` must be a tensor, but got list"),
        ({"layer_0": 1, "layer_1": 2}, r"memories\[0\]` must be a tensor, but got str"),
    ],
)
def test_memories_that_do_not_fit_are_refused_and_change_nothing(make_model, memories, message):
    model = make_model()
    before = model.get_memories()
    with pytest.raises(ValueError, match=message) as error:
        model.set_memories(memories)
    assert "\n" not in str(error.value)
    assert are_equal(model.get_memories(), before)


def rewrite(file, change=lambda tensors: tensors, metadata=None):
    with safe_open(file, framework="pt") as opened:
        kept = opened.metadata()
    save_file(change(load_file(file)), file, kept if metadata is None else metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"layer_0": t["layer_0"]}, r"it holds 1 tensors .*, but the model 2 tensors"),
        (lambda t: {**t, "layer_2": t["layer_0"].clone()}, r"it holds 3 tensors .*, but the model 2 tensors"),
        (lambda t: {"layer_0": t["layer_0"], "layer_2": t["layer_1"]}, r"layer_0, layer_2.*but the model .*layer_1"),
        (lambda t: {**t, "layer_1": torch.zeros(4, 3)}, r"F32 \(3, 4\), F32 \(4, 3\), but the model"),
        (lambda t: {**t, "layer_1": t["layer_1"].double()}, r"F64 \(3, 4\), but the model"),
        (lambda t: {**t, "layer_1": t["layer_1"] * torch.inf}, r"`memories\[1\]` must be finite"),
        (lambda t: {}, r"it holds no tensors, but the model"),
    ],
)
def test_file_that_does_not_fit_is_refused_in_one_line_and_changes_nothing(make_model, tmp_path, change, message):
    model, file = make_model(), tmp_path / "memories.safetensors"
    model.save_memories(file)
    rewrite(file, change)
    before = model.get_memories()
    with pytest.raises(ValueError, match=message) as error:
        model.load_memories(file)
    assert "\n" not in str(error.value)
    assert are_equal(model.get_memories(), before)


@pytest.mark.parametrize("sketch", ["", "[", "{}", "[1, 2]", '"layer_0"', "[[1]]", "[null]", "[NaN]"])
def test_file_whose_weights_are_unknown_is_refused(make_model, tmp_path, sketch):
    model, file = make_model(), tmp_path / "memories.safetensors"
    model.save_memories(file)
    rewrite(file, metadata={memory_ait.SKETCH_KEY: sketch})
    with pytest.raises(ValueError, match=r"written beside other weights. `set_memories` takes them all the same"):
        model.load_memories(file)
    rewrite(file, metadata={})
    with pytest.raises(ValueError, match=r"written beside other weights"):
        model.load_memories(file)


def train_further(model, images, learning_rate):
    optimizer = torch.optim.SGD(model.train().parameters(), lr=learning_rate)
    for _ in range(3):
        model(images, labels=torch.tensor([0, 1, 2, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_shape_equal_file_of_a_model_with_other_weights_is_refused(make_config, tmp_path):
    file = tmp_path / "memories.safetensors"
    models = [AiTForImageClassification(make_config()) for _ in range(2)]
    models[0].save_memories(file)
    models[0].load_memories(file)
    with pytest.raises(ValueError, match=r"written beside other weights"):
        models[1].load_memories(file)


def test_file_outlives_rounded_weights_and_a_little_training(make_model, make_images, tmp_path):
    model, file = make_model(), tmp_path / "memories.safetensors"
    model.save_memories(file)
    before = model.get_memories()
    train_further(model, make_images(), 1e-3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model.to(dtype).load_memories(file)
        assert are_equal(model.get_memories(), before)
        assert model.get_memories()[0].dtype == torch.float32


def test_sketch_tells_both_the_writes_and_the_retrievals_weights(make_model, tmp_path):
    for name in ("write.query_proj", "retrieve.pattern_proj"):
        model, file = make_model(), tmp_path / "memories.safetensors"
        model.save_memories(file)
        with torch.no_grad():
            for layer in model.ait.layers:
                layer.workspace.get_submodule(name).weight.mul_(-1)
        with pytest.raises(ValueError, match=r"written beside other weights"):
            model.load_memories(file)


def test_damaged_missing_and_wrong_places_end_in_one_line(make_model, tmp_path):
    model, file = make_model(), tmp_path / "memories.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"^There is no file '\S+/memories\.safetensors': `save_memories` \w+ one\.$"
    ):
        model.load_memories(file)
    model.save_memories(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"no whole safetensors file"):
        model.load_memories(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no whole safetensors file"):
        model.load_memories(file)
    for method in (model.save_memories, model.load_memories):
        with pytest.raises(ValueError, match=r"is a folder: name a file"):
            method(tmp_path)


def test_save_that_fails_leaves_the_older_file(make_model, tmp_path, monkeypatch):
    model, file = make_model(), tmp_path / "memories.safetensors"
    model.save_memories(file)
    before = file.read_bytes()
    model.base_model.memories[0].fill_(torch.nan)
    with pytest.raises(ValueError, match=r"`memories\[0\]` must be finite"):
        model.save_memories(file)
    model.reset_memories()

    def fail(tensors, path, metadata):
        with open(path, "wb") as stream:
            stream.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(memory_ait, "save_file", fail)
    with pytest.raises(OSError, match="full"):
        model.save_memories(file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["memories.safetensors"]


def test_model_without_workspace_has_no_memories(make_model, tmp_path):
    model = make_model(num_memory_slots=0)
    assert model.get_memories() == ()
    model.set_memories([])
    model.reset_memories()
    with pytest.raises(ValueError, match=r"no memories to save: its `num_memory_slots` is 0"):
        model.save_memories(tmp_path / "memories.safetensors")
    make_model().save_memories(tmp_path / "memories.safetensors")
    with pytest.raises(ValueError, match=r"2 tensors .*but the model no tensors"):
        model.load_memories(tmp_path / "memories.safetensors")


def test_metadata_is_json_of_a_few_numbers(make_model, tmp_path):
    make_model(hidden_size=64).save_memories(tmp_path / "memories.safetensors")
    with safe_open(tmp_path / "memories.safetensors", framework="pt") as opened:
        sketch = json.loads(opened.metadata()[memory_ait.SKETCH_KEY])
    # The query projection of the tiny model is narrower than what is kept of it.
    assert len(sketch) == 2 * (8 + memory_ait.SKETCH_SIZE)


# What the output tells of the write


@pytest.mark.parametrize("is_broken", [False, True])
def test_output_tells_whether_the_memory_was_written(model, make_images, is_broken):
    options = {"question": torch.ones(4, 4)} if isinstance(model, AiTForRelationalReasoning) else {}
    images, before = make_images(), model.get_memories()
    images[0, 0, 0, 0] = torch.inf if is_broken else 0.0
    assert model(images, **options).memory_written is None
    written = model(images, **options, update_memory=True).memory_written
    assert (written.dtype, written.shape) == (torch.bool, ())
    assert written.item() is not is_broken
    assert are_equal(model.get_memories(), before) is is_broken
    assert model.train()(images, **options).memory_written.item() is not is_broken


def test_memory_written_needs_no_value_to_be_looked_at(make_model):
    """On the meta device there is none to look at, so nothing in the forward waits for one."""
    model = make_model().to("meta")
    written = model(torch.zeros(2, 3, 8, 12, device="meta"), update_memory=True).memory_written
    assert written.is_meta


def test_memory_written_of_a_compiled_model(make_model, make_images):
    model = make_model().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = make_images()
    with torch.no_grad():
        assert compiled(images, update_memory=True).memory_written.item() is True
        before = model.get_memories()
        images[0, 0, 0, 0] = torch.nan
        assert compiled(images, update_memory=True).memory_written.item() is False
    assert are_equal(model.get_memories(), before)


def test_memory_written_of_an_exported_model(make_model, make_images):
    exported = torch.export.export(make_model().eval(), (make_images(),), {"update_memory": True}).module()
    images = make_images()
    assert exported(images, update_memory=True).memory_written.item() is True
    images[0, 0, 0, 0] = torch.nan
    assert exported(images, update_memory=True).memory_written.item() is False


# The write that evaluation does not commit


def test_evaluation_shows_what_would_be_written_and_changes_nothing(model, make_images):
    options = {"question": torch.ones(4, 4)} if isinstance(model, AiTForRelationalReasoning) else {}
    images, before = make_images(), model.get_memories()
    plain, shown = model(images, **options), model(images, **options, output_workspace=True)
    name = "pooler_output" if isinstance(model, AiTModel) else "logits"
    assert torch.equal(plain[name], shown[name])
    assert shown.balance_loss is None and shown.memory_written is None
    assert are_equal(model.get_memories(), before)
    # The first layer's tokens do not depend on whether it writes.
    written = model(images, **options, output_workspace=True, update_memory=True)
    assert torch.equal(shown.write_attentions[0], written.write_attentions[0])
    assert len(shown.write_attentions) == 2
    assert not any(attention.requires_grad for attention in shown.write_attentions)


def test_shown_write_leaves_gradients_and_random_numbers_as_they_are(make_model, make_images):
    model = make_model(memory_dropout_prob=0.5, hidden_dropout_prob=0.5)
    gradients = []
    for training, shows in ((False, False), (False, True), (True, False), (True, True)):
        model.train(training).zero_grad()
        torch.manual_seed(0)
        outputs = model(make_images(), update_memory=False, output_workspace=shows)
        outputs.logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for plain, shown in ((gradients[0], gradients[1]), (gradients[2], gradients[3])):
        assert are_equal(plain, shown)
    assert not outputs.write_attentions


def test_shown_write_of_independent_questions_is_that_of_the_image(make_model, make_images):
    model = make_model(AiTForRelationalReasoning, question_size=4, question_attention="independent").eval()
    outputs = model(make_images(), torch.ones(4, 5, 4), output_workspace=True)
    assert outputs.write_attentions[0].shape == (2, 3, 4, 6)
    torch.testing.assert_close(outputs.write_attentions[0].sum(dim=(2, 3)), torch.ones(2, 3))


def test_shown_write_of_a_compiled_model(make_model, make_images):
    model = make_model().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected, given = (one(make_images(), output_workspace=True) for one in (model, compiled))
    for attention, other in zip(expected.write_attentions, given.write_attentions, strict=True):
        torch.testing.assert_close(attention, other, rtol=1e-5, atol=1e-6)
