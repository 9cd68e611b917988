"""The model of a run: what of a checkpoint is taken over, what may be new, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from examples.baselines.build import build_architecture
from examples.data.arguments import DataArguments
from examples.errors import InputError
from examples.training.arguments import ModelArguments
from examples.training.loading import check_statistics, load_checkpoint, make_image_processor
from examples.training.model import build_model
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning, AiTModel
from modeling_ait.embeddings_ait import interpolate_positions
from tests.examples.conftest import TINY_MODEL


STATISTICS = b'{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.7, 0.8, 0.9], "size": {"height": 8, "width": 8}, %s}'


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tiny AiT of two classes and its image processor."""
    torch.manual_seed(0)
    folder = tmp_path / "checkpoint"
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.1, 0.2, 0.3], image_std=[0.7, 0.8, 0.9]
    ).save_pretrained(folder)
    return folder


def build(checkpoint, label_names=("a", "b"), question_size=None, data=None, **fields):
    arguments = ModelArguments(model_name_or_path=str(checkpoint), model_config=fields)
    return build_model(arguments, data or DataArguments(), list(label_names), 0, question_size)


def assert_refused(message, *arguments, **fields):
    with pytest.raises(InputError, match=message) as caught:
        build(*arguments, **fields)
    assert "\n" not in str(caught.value)


def test_checkpoint_is_taken_over_but_for_the_classifier(checkpoint):
    model, processor = build(checkpoint, ("x", "y", "z"))
    saved = load_file(checkpoint / "model.safetensors")
    state = model.state_dict()
    assert set(state) == set(saved)
    for name, tensor in state.items():
        assert name.startswith("classifier.") or torch.equal(tensor, saved[name])
    assert (state["classifier.weight"].shape[0], model.config.id2label[2]) == (3, "z")
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("names", "is_said"), [(("cat", "dog"), False), (("dog", "cat"), True), (("cat", "owl"), True)]
)
def test_classifier_that_is_kept_for_other_classes_is_said(checkpoint, caplog, names, is_said):
    config = AiTConfig.from_pretrained(checkpoint)
    config.id2label = {0: "cat", 1: "dog"}
    config.save_pretrained(checkpoint)
    build(checkpoint, names)
    assert ("is kept, under the new names of its classes" in caplog.text) == is_said


def test_backbone_gets_a_classifier(checkpoint):
    AiTModel.from_pretrained(checkpoint).save_pretrained(checkpoint / "backbone")
    model = load_checkpoint(str(checkpoint / "backbone"), AiTForImageClassification)
    saved = load_file(checkpoint / "model.safetensors")
    assert torch.equal(
        model.state_dict()["ait.layers.0.attention.q_proj.weight"], saved["ait.layers.0.attention.q_proj.weight"]
    )


def test_another_image_size_resizes_positions_and_processor(checkpoint, caplog, tmp_path):
    model, processor = build(checkpoint, image_size=16)
    before = load_file(checkpoint / "model.safetensors")["ait.embeddings.position_embeddings"]
    expected = interpolate_positions(before, (2, 2), (4, 4))
    assert torch.equal(model.ait.embeddings.position_embeddings, expected)
    assert (model.config.image_size, dict(processor.size)) == (16, {"height": 16, "width": 16})
    assert "from images of 8 x 8 pixels to 16 x 16" in caplog.text
    model.save_pretrained(tmp_path / "saved")
    loaded, _ = build(tmp_path / "saved")
    assert torch.equal(loaded.ait.embeddings.position_embeddings, expected)


def test_the_same_image_size_changes_nothing(checkpoint, caplog):
    model, _ = build(checkpoint, image_size=8)
    before = load_file(checkpoint / "model.safetensors")["ait.embeddings.position_embeddings"]
    assert torch.equal(model.ait.embeddings.position_embeddings, before)
    assert "resized" not in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 32}, r"weights of another shape: ait\.embeddings.* and \d+ more\."),
        ({"num_memory_slots": 5}, r"weights of another shape: ait\.memory\.layer_0, ait\.memory\.layer_1\."),
        ({"num_hidden_layers": 3}, r"missing weights: ait\.layers\.2"),
        ({"num_hidden_layers": 1}, r"unknown weights: ait\.layers\.1"),
        ({"num_register_tokens": 1}, r"missing weights: ait\.embeddings\.prefix_tokens\.0\."),
        ({"image_size": 10}, "`image_size` must be a multiple of `patch_size`"),
        ({"image_size": "16"}, "`image_size` must be of type"),
        ({"hidden_size": "16"}, "`hidden_size` must be of type int, but got '16'"),
        ({"problem_type": "multi_label_classification"}, "`problem_type` is 'multi_label_classification'"),
    ],
)
def test_fields_that_do_not_fit_the_checkpoint_are_refused(fields, message, checkpoint):
    assert_refused(message, checkpoint, **fields)


@pytest.mark.parametrize("size", [None, "small"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "16"}, "`hidden_size` must be of type int, but got '16'"),
        ({"bottleneck_size": 2.5}, "`bottleneck_size` must be of type"),
        ({"problem_type": "regression"}, "`problem_type` is 'regression', but every image here has one label"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields, message, size):
    arguments = ModelArguments(size=size, model_config={**TINY_MODEL, **fields})
    with pytest.raises(InputError, match=message) as caught:
        build_model(arguments, DataArguments(), ["a", "b"], seed=0)
    assert "\n" not in str(caught.value)


def make_vit(folder):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(**sizes, image_size=16)).save_pretrained(folder)


def make_baseline(folder):
    build_architecture("set_transformer", AiTConfig(**TINY_MODEL)).save_pretrained(folder)


def make_empty_config(folder):
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(folder)
    (folder / "config.json").write_text("{}")


def make_broken_config(folder):
    make_empty_config(folder)
    (folder / "config.json").write_text('{"model_type": "ait"')


def make_list_of_config(folder):
    make_empty_config(folder)
    (folder / "config.json").write_text("[]")


def make_text_of_weights(folder):
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text("hello")


def make_renamed_baseline(folder):
    """The configuration claims an AiT; the weights are another model's."""
    make_baseline(folder)
    AiTConfig(**TINY_MODEL).save_pretrained(folder)


def make_halved_weights(folder):
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def make_weights_that_are_not_finite(folder):
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["ait.memory.layer_1"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **fields):
    AiTForImageClassification(AiTConfig(**TINY_MODEL)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def make_wider_config(folder):
    change_config(folder, hidden_size=32)


def make_architectures_of_text(folder):
    change_config(folder, architectures="AiTForImageClassification")


def make_config_of_defaults(folder):
    """The name alone: every size is the default's, and no weight of the third layer is there."""
    sizes = {name: TINY_MODEL[name] for name in TINY_MODEL if name != "num_hidden_layers"}
    change_config(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "ait", **sizes, "num_hidden_layers": 3}))


def make_latin_config(folder):
    change_config(folder)
    (folder / "config.json").write_bytes('{"model_type": "ait", "name": "caf\xe9"}'.encode("latin-1"))


def make_broken_index(folder):
    change_config(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')


def make_index_without_map(folder):
    change_config(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def make_pickle_that_executes(folder):
    change_config(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb()}, folder / "pytorch_model.bin")


def make_adapter(folder):
    AiTConfig(**TINY_MODEL, architectures=["AiTForImageClassification"]).save_pretrained(folder)
    (folder / "adapter_config.json").write_text("{}")


def make_adapter_alone(folder):
    """As peft saves it, without the model's configuration."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def make_relational(folder):
    AiTForRelationalReasoning(AiTConfig(**TINY_MODEL, question_size=18)).save_pretrained(folder)


def test_folder_of_an_unfinished_run_names_its_newest_whole_checkpoint(tmp_path):
    for step in (8, 12, 16):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert_refused(r"no config.json\.$", tmp_path)
    # Of an adapter, or of another loop.
    (tmp_path / "checkpoint-8" / "manifest.json").write_text("{}")
    assert_refused(r"no config.json. Its run has not ended: the same command goes on with it\.$", tmp_path)
    (tmp_path / "checkpoint-12" / "manifest.json").write_text("{}")
    (tmp_path / "checkpoint-12" / "config.json").write_text("{}")
    # The last one was not written to its end.
    assert_refused(r"goes on with it, or name '.*checkpoint-12'", tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_vit, "is no checkpoint of an AiT: .*'vit'.*'ait'"),
        (make_baseline, "'ait_baseline' and `architectures` .*SetTransformerModel"),
        (make_empty_config, "`model_type` None"),
        (make_broken_config, "config.json of .* is no JSON: Expecting"),
        (make_list_of_config, r"config.json of .* must be a mapping of fields, but holds \[\]"),
        (make_text_of_weights, "cannot be loaded: "),
        (make_renamed_baseline, r"missing weights: ait\."),
        (make_halved_weights, "cannot be loaded: "),
        (make_weights_that_are_not_finite, r"weights that are not finite: ait\.memory\.layer_1\."),
        (make_wider_config, "weights of another shape: .*Only the classifier may be new"),
        (make_config_of_defaults, "missing weights: "),
        (make_latin_config, "config.json of .* is no JSON: 'utf-8' codec"),
        (make_broken_index, "model.safetensors.index.json of .* is no JSON"),
        (make_index_without_map, "has no `weight_map`"),
        (make_pickle_that_executes, "a pickle that would execute code, which is refused"),
        (make_architectures_of_text, "`architectures` AiT"),
        (make_relational, "was trained with a question"),
        (make_adapter, "is an adapter, no whole model: "),
        (make_adapter_alone, "is an adapter, no whole model: "),
        (lambda folder: folder.mkdir(), "it has no config.json"),
        (lambda folder: folder.write_text("text"), "is a file. Give the folder"),
    ],
)
def test_what_is_no_checkpoint_of_this_model_is_refused(make, message, tmp_path):
    make(tmp_path / "checkpoint")
    assert_refused(message, tmp_path / "checkpoint")


def test_images_alone_do_not_teach_to_answer_questions(checkpoint):
    assert_refused(r"missing weights: ait\.embeddings\.question_embeddings", checkpoint, question_size=18)


def test_checkpoint_with_another_loss_is_refused_unless_it_is_changed(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    assert_refused("use 'single_label_classification'", checkpoint)
    model, _ = build(checkpoint, problem_type="single_label_classification")
    assert model.config.problem_type == "single_label_classification"


def test_image_statistics_of_the_arguments_win_over_the_checkpoint(checkpoint):
    _, processor = build(checkpoint, data=DataArguments(image_mean=[0.5, 0.5, 0.5]))
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.5, 0.5, 0.5], [0.7, 0.8, 0.9])


def test_image_statistics_of_another_number_of_channels_are_refused(checkpoint):
    message, data = (
        r"`image_mean` must have one value per channel \(3\), but got \[0.5\]",
        DataArguments(image_mean=[0.5]),
    )
    assert_refused(message, checkpoint, data=data)
    with pytest.raises(InputError, match=message):
        build_model(ModelArguments(model_config=TINY_MODEL), data, ["a", "b"], seed=0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"image_mean": [0.1',
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"image_mean": [0.1], "image_std": [0.9]}',
        b'{"image_mean": null}',
        STATISTICS % b'"rescale_factor": NaN',
        STATISTICS % b'"rescale_factor": 0',
        STATISTICS % b'"rescale_factor": "small"',
        STATISTICS % b'"resample": 99',
        STATISTICS % b'"size": "large"',
        STATISTICS % b'"size": {"height": -8, "width": 8}',
        STATISTICS % b'"size": {"height": 16, "width": 16}',
        b'{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.0, 0.8, 0.9]}',
        b'{"image_mean": [0.1, 0.2, NaN], "image_std": [0.7, 0.8, 0.9]}',
    ],
)
def test_broken_image_processor_is_refused(content, checkpoint):
    (checkpoint / "preprocessor_config.json").write_bytes(content)
    assert_refused(r"The image processor of .* \(preprocessor_config.json\) cannot be used", checkpoint)


def test_missing_image_processor_is_made_anew_and_said(checkpoint, caplog):
    (checkpoint / "preprocessor_config.json").unlink()
    _, processor = build(checkpoint, data=DataArguments(image_mean=[0.4, 0.4, 0.4]))
    assert (list(processor.image_mean), dict(processor.size)) == ([0.4] * 3, {"height": 8, "width": 8})
    assert "has no image processor: a new one is made" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_config": {"memory_update_rate": 5.0}}, "`memory_update_rate` must be between 0 and 1, but got 5.0"),
        ({"model_config": {"num_channels": 1}}, "`num_channels` is 1"),
        ({"size": "tiny"}, "'base', 'medium', 'small'.*'tiny'"),
        ({"model_name_or_path": "./nowhere"}, "nowhere"),
    ],
)
def test_impossible_model_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        build_model(ModelArguments(**arguments), DataArguments(), ["a", "b"], seed=0)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"'vit'.*'ait'"):
        build_model(ModelArguments(model_name_or_path=str(tmp_path)), DataArguments(), ["a", "b"], seed=0)


def test_image_statistics_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"`image_mean` must have one value per channel \(3\), but got \[0.5\]"):
        make_image_processor(AiTConfig(), DataArguments(image_mean=[0.5]))


@pytest.mark.parametrize("names", [("cat", "dog"), ("9", "1")])
def test_labels_are_named_both_ways(names):
    model, _ = build_model(ModelArguments(model_config=TINY_MODEL), DataArguments(), list(names), seed=0)
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: index for index, name in enumerate(names)}


def test_seed_decides_the_initial_weights():
    arguments = ModelArguments(model_config=TINY_MODEL)
    one, same, other = (
        build_model(arguments, DataArguments(), ["a", "b"], seed=seed)[0].classifier.weight for seed in (3, 3, 4)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"image_std": [0.5, 0.0, 0.5]}, "`image_std` must have positive numbers only"),
        ({"image_std": [0.5, -0.5, 0.5]}, "`image_std` must have positive numbers only"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "`image_mean` must have finite numbers only"),
        ({"image_mean": [0.5, 0.5]}, r"`image_mean` must have one value per channel \(3\)"),
    ],
)
def test_image_statistics_that_cannot_work_are_refused(statistics, message):
    with pytest.raises(InputError, match=message):
        check_statistics(statistics, 3)
    check_statistics({"image_mean": [0.0, -1.0, 2], "image_std": [0.1, 1, 2.0]}, 3)
    check_statistics({"image_mean": None, "image_std": None}, 3)
