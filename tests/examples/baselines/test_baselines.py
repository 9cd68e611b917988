"""Baselines: gradients, matched sizes, what each design says, and refusals."""

import dataclasses
import json

import pytest
import torch
from transformers import PerceiverModel as TransformersPerceiverModel
from transformers import ViTForImageClassification

from examples.baselines.build import build_architecture, count_parameters
from examples.baselines.catalog import ARCHITECTURES
from examples.baselines.common import BaselineConfig, BaselineModel
from examples.baselines.coordination import CoordinationModel, WorkspaceWrite
from examples.baselines.relation_network import RelationNetworkModel
from examples.baselines.set_transformer import SetTransformerModel
from examples.errors import InputError
from examples.training.arguments import ModelArguments
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning


FIELDS = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_memory_slots": 4,
    "memory_slot_size": 8,
    "num_memory_heads": 2,
    "num_labels": 3,
}
NOT_A_BASELINE_MODEL = ("ait", "ait_no_workspace", "ait_no_workspace_wide_mlp", "vit")
WITH_QUESTION = tuple(name for name in ARCHITECTURES if name != "vit")


@pytest.fixture
def make_config():
    return lambda **fields: AiTConfig(**{**FIELDS, **fields})


def make_batch(config, batch_size=5):
    inputs = {"pixel_values": torch.randn(batch_size, 3, 16, 16)}
    if config.question_size is not None:
        inputs["question"] = torch.rand(batch_size, config.question_size)
    return inputs


@pytest.mark.parametrize("stem_strides", [None, [2, 4]])
@pytest.mark.parametrize(
    ("name", "question_size"),
    [(name, None) for name in ARCHITECTURES] + [(name, 18) for name in WITH_QUESTION],
)
def test_architecture_trains_and_predicts_each_sample_alone(name, question_size, stem_strides, make_config):
    torch.manual_seed(0)
    model = build_architecture(name, make_config(question_size=question_size, stem_strides=stem_strides))
    inputs = make_batch(model.config if name != "vit" else make_config(question_size=None))
    labels = torch.tensor([0, 1, 2, 1, 0])
    outputs = model(**inputs, labels=labels)
    assert outputs.logits.shape == (5, 3)
    outputs.loss.backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused
    if name not in NOT_A_BASELINE_MODEL:
        torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))
    model.eval()
    with torch.no_grad():
        whole = model(**inputs).logits
        alone = torch.cat(
            [model(**{key: value[[index]] for key, value in inputs.items()}).logits for index in range(5)]
        )
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)
    assert whole.std(dim=0).max() > 1e-5  # it looks at the image
    if question_size is not None:
        with torch.no_grad():
            other = model(inputs["pixel_values"], question=1 - inputs["question"]).logits
        assert (other - whole).abs().max() > 1e-5


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "vit"])
def test_labels_may_be_shares_of_the_classes(name, make_config):
    torch.manual_seed(0)
    model = build_architecture(name, make_config(hidden_dropout_prob=0.0, memory_dropout_prob=0.0)).eval()
    shares = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    outputs = model(**make_batch(model.config, 3), labels=shares)
    expected = -(shares * outputs.logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in NOT_A_BASELINE_MODEL])
def test_baseline_is_saved_and_loaded(name, make_config, tmp_path):
    model = build_architecture(name, make_config()).eval()
    model.save_pretrained(tmp_path)
    # Neither the code nor the type of an AiT, which would open it as something else.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "ait_baseline"
    assert "auto_map" not in saved
    with pytest.raises(ValueError, match="'ait_baseline'"):
        AiTForImageClassification.from_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    inputs = make_batch(make_config())
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("fields", [{}, {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3}])
def test_sizes_are_matched_to_the_ait(fields, make_config):
    config = make_config(**fields)
    target = count_parameters(build_architecture("ait", config))
    # The designs with whole multiples or fixed parts come as close as they can.
    for name, tolerance in (("vit", 0.01), ("coordination", 0.15), ("set_transformer", 0.35), ("perceiver", 0.35)):
        model = build_architecture(name, config)
        assert abs(count_parameters(model) / target - 1) < tolerance, name
        width = getattr(model.config, "intermediate_size", None)
        unmatched = build_architecture(name, config, match_parameters=False)
        assert unmatched.config.intermediate_size == config.intermediate_size
        if name == "vit":
            for other in (width - 1, width + 1):
                count = count_parameters(build_architecture("vit", config, {"vit": {"intermediate_size": other}}))
                assert abs(count - target) >= abs(count_parameters(model) - target)


def test_wide_mlp_makes_up_for_the_parameters_of_the_workspace(make_config):
    config = make_config()
    ait, narrow, wide = (
        build_architecture(name, config) for name in ("ait", "ait_no_workspace", "ait_no_workspace_wide_mlp")
    )
    assert count_parameters(narrow) < count_parameters(ait)
    # One unit of the MLP is 65 parameters in each of 2 layers: nothing is nearer than the nearest width.
    assert abs(count_parameters(wide) - count_parameters(ait)) <= 65
    assert (wide.config.num_memory_slots, narrow.config.intermediate_size) == (0, config.intermediate_size)
    assert set(wide.state_dict()) == set(narrow.state_dict())


def test_ait_without_workspace_differs_by_the_workspace_alone(make_config):
    config = make_config()
    ait, vit = (build_architecture(name, config).state_dict() for name in ("ait", "ait_no_workspace"))
    assert set(vit) < set(ait)
    assert {name for name in ait if name not in vit} == {
        name for name in ait if ".workspace." in name or name.startswith("ait.memory.")
    }
    assert config.num_memory_slots == 4  # the configuration that was given stays as it was


def test_architectures_are_the_models_they_name(make_config):
    assert isinstance(build_architecture("ait", make_config()), AiTForImageClassification)
    assert isinstance(build_architecture("ait", make_config(question_size=18)), AiTForRelationalReasoning)
    assert isinstance(build_architecture("vit", make_config()), ViTForImageClassification)
    perceiver = build_architecture("perceiver", make_config())
    assert isinstance(perceiver.perceiver, TransformersPerceiverModel)
    assert perceiver.perceiver.embeddings.latents.shape == (32, 32)


def test_coordination_shares_one_layer_and_starts_from_the_identity(make_config):
    model = build_architecture("coordination", make_config()).eval()
    assert isinstance(model, CoordinationModel)
    assert (model.config.num_hidden_layers, model.config.num_slots, model.config.top_k) == (4, 8, 5)
    assert 0.01 < model.embeddings.prefix_tokens[0].std() < 0.03
    assert "embeddings.position_embeddings" not in model.state_dict()  # they are fixed
    seen = []
    model.layer.write.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        model(**make_batch(make_config(), 2))
    assert len(seen) == 4  # one module, four times
    assert torch.equal(seen[0], torch.eye(8, 32).expand(2, -1, -1))
    assert not torch.equal(seen[1], seen[0])


def test_coordination_slot_keeps_its_top_tokens_after_the_softmax():
    """One head, identity projections, gates opened by their bias: the kept weights do not sum to 1."""
    config = BaselineConfig(hidden_size=4, num_attention_heads=1, top_k=2)
    write = WorkspaceWrite(config)
    with torch.no_grad():
        for projection in (write.q_proj, write.k_proj, write.v_proj):
            projection.weight.copy_(torch.eye(4))
            projection.bias.zero_()
    tokens, slots = torch.randn(1, 6, 4), torch.randn(1, 3, 4)
    weights = (slots[0] @ tokens[0].T / 2).softmax(dim=-1)
    threshold = weights.sort(dim=-1, descending=True).values[:, 1:2]
    written = torch.where(weights >= threshold, weights, torch.zeros(())) @ tokens[0]
    new = write.layernorm_before(slots[0] + written)
    new = write.layernorm_after(new + write.mlp(new))
    gates = write.token_gates(tokens[0].relu()).mean(dim=0) + write.slot_gates(slots[0].tanh())
    expected = gates[:, :4].sigmoid() * new.tanh() + (gates[:, 4:] + 1).sigmoid() * slots[0]
    torch.testing.assert_close(write(slots, tokens)[0], expected)


def test_set_transformer_without_positions_is_invariant_to_order(make_config):
    model = build_architecture("set_transformer", make_config()).eval()
    assert isinstance(model, SetTransformerModel)
    assert model.layers[0].induce.points.shape == (1, 8, 32)
    tokens = torch.randn(2, 7, 32)
    with torch.no_grad():
        pooled, shuffled = (model.pool(model.layers(part)) for part in (tokens, tokens[:, torch.randperm(7)]))
    torch.testing.assert_close(pooled, shuffled, rtol=1e-4, atol=1e-5)


def test_relation_network_sums_over_all_pairs(make_config):
    """Against a loop that concatenates both cells and the question, as the paper does."""
    model = build_architecture("relation_network", make_config(question_size=18)).eval()
    assert isinstance(model, RelationNetworkModel)
    inputs = make_batch(make_config(question_size=18), 1)
    with torch.no_grad():
        cells = model.convolutions(inputs["pixel_values"])[0]
        rows, columns = cells.shape[1:]
        objects = []
        for row in range(rows):
            for column in range(columns):
                place = torch.tensor(
                    [
                        -1 + 2 * row / (rows - 1) if rows > 1 else -1.0,
                        -1 + 2 * column / (columns - 1) if columns > 1 else -1.0,
                    ]
                )
                objects.append(torch.cat([cells[:, row, column], place]))
        weight = torch.cat([model.first_cell.weight, model.second_cell.weight, model.question.weight], dim=1)
        bias = model.first_cell.bias + model.second_cell.bias
        relations = sum(
            model.pair_mlp(weight @ torch.cat([first, second, inputs["question"][0]]) + bias)
            for first in objects
            for second in objects
        )
        expected = model.classifier(model.mlp(relations))
        torch.testing.assert_close(model(**inputs).logits[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "baseline_config", "message"),
    [
        (
            "vitt",
            {},
            None,
            r"unknown key 'vitt'. Did you mean 'vit'\? Known keys: ait, ait_no_workspace, .*coordination",
        ),
        ("coordination", {}, {"coordinatio": {}}, "unknown key 'coordinatio'"),
        ("coordination", {}, {"coordination": {"topk": 3}}, "unknown key 'topk'. Did you mean 'top_k'"),
        ("coordination", {}, {"coordination": {"num_attention_heads": 5}}, "divisor of `hidden_size`"),
        ("coordination", {}, {"coordination": {"top_k": 0}}, "`top_k` must be a positive integer, but got 0"),
        ("coordination", {}, {"coordination": {"num_memory_slots": 3}}, "unknown key 'num_memory_slots'"),
        ("coordination", {}, {"coordination": {"top_k": "3"}}, "`top_k` must be of type int, but got '3'"),
        ("ait", {}, {"ait": {"hidden_size": 8}}, "takes its fields from `model_config`"),
        ("vit", {"question_size": 18}, None, "takes no question.*ait_no_workspace"),
    ],
)
def test_what_cannot_be_built_is_refused(name, fields, baseline_config, message, make_config):
    # The scripts turn a configuration's ValueError into an InputError.
    with pytest.raises(ValueError, match=message):
        build_architecture(name, make_config(**fields), baseline_config)


def test_question_must_fit_the_model(make_config):
    for question_size, question in ((None, torch.rand(5, 18)), (18, None)):
        for name in ("coordination", "relation_network"):
            model = build_architecture(name, make_config(question_size=question_size))
            with pytest.raises(ValueError, match="`question` must be given if and only if"):
                model(torch.randn(5, 3, 16, 16), question=question)


class FeaturesModel(BaselineModel):
    """A baseline whose author forgot the classifier."""

    def __init__(self, config):
        super().__init__(config)
        self.projection = torch.nn.Linear(3, config.hidden_size)
        self.post_init()

    def compute_logits(self, pixel_values, question):
        return self.projection(pixel_values.mean(dim=(2, 3)))


def test_logits_of_another_shape_are_refused(make_config):
    message = r"`FeaturesModel.compute_logits` must return.*\(5, 3\), but returned \(5, 32\)"
    with pytest.raises(ValueError, match=message):
        FeaturesModel(BaselineConfig.from_ait(make_config()))(**make_batch(make_config()))


def test_baseline_keeps_its_design_whatever_the_ait_has(make_config):
    """What decides between designs of AiT leaves the baselines as they were published."""
    fields = {"pooling": "flatten", "position_embedding_type": "none", "num_register_tokens": 2}
    for name in ("coordination", "set_transformer", "perceiver"):
        keys = [set(build_architecture(name, make_config(**other)).state_dict()) for other in ({}, fields)]
        assert keys[0] == keys[1]


def test_help_text_lists_every_architecture():
    help_text = next(f for f in dataclasses.fields(ModelArguments) if f.name == "architecture").metadata["help"]
    for name, architecture in ARCHITECTURES.items():
        assert f"{name} ({architecture.description})" in help_text


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in NOT_A_BASELINE_MODEL])
def test_fields_of_a_baseline_are_those_that_it_reads(name, make_config, monkeypatch):
    # With a stem, whose channels are read then alone.
    model = build_architecture(name, make_config(stem_strides=[2, 4], stem_channels=[8]))
    read = set()

    def note(config, field):
        read.add(field)
        return object.__getattribute__(config, field)

    config = type(model.config).from_dict(model.config.to_dict())
    monkeypatch.setattr(BaselineConfig, "__getattribute__", note)
    type(model)(config)(**make_batch(make_config()))
    fields = set(ARCHITECTURES[name].fields)
    assert fields <= read
    # Its fixed positions are embedded by a copy of the configuration, which reads all of them.
    assert name == "coordination" or {"num_slots", "top_k"} & read == {"num_slots", "top_k"} & fields


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("perceiver", {"top_k": 3}, "'perceiver' has an unknown key 'top_k'"),
        ("relation_network", {"hidden_size": 32}, "'relation_network' has an unknown key 'hidden_size'"),
        ("coordination", {"pooling": "cls"}, "unknown key 'pooling'"),
        ("set_transformer", {"image_size": 32}, "unknown key 'image_size'"),
        ("vit", {"pooler_act": "relu"}, "unknown key 'pooler_act'"),
        ("vit", {"hidden_size": "wide"}, "'vit' does not work: .*expected int, got str"),
        ("vit", {"num_attention_heads": 3}, r"must be a divisor of `hidden_size` \(32\), but got 3"),
        ("perceiver", {"num_slots": "many"}, "`num_slots` must be of type int, but got 'many'"),
        ("perceiver", 3, "must be a mapping of fields, but got 3"),
        ("ait", {"hidden_size": 32}, "takes its fields from `model_config`"),
    ],
)
def test_field_without_effect_or_of_another_type_is_refused(name, fields, message, make_config):
    with pytest.raises(ValueError, match=message):
        build_architecture(name, make_config(), {name: fields})


def test_fields_of_other_architectures_are_checked_too(make_config):
    with pytest.raises(InputError, match="unknown key 'top_k'"):
        build_architecture("ait", make_config(), {"perceiver": {"top_k": 3}})


def test_wide_mlp_is_matched_by_design(make_config):
    with pytest.raises(InputError, match="number of parameters by design: leave out `match_parameters` False"):
        build_architecture("ait_no_workspace_wide_mlp", make_config(), match_parameters=False)
