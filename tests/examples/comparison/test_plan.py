"""What a comparison runs: every ablation changes what its name says, and nothing else."""

import pytest

from examples.comparison.plan import ABLATIONS, get_dataset_name, merge_model_config, refuse_own_flags
from examples.errors import InputError
from modeling_ait import AiTConfig


def test_ablations_are_pinned():
    assert ABLATIONS == {
        "no_balance_loss": {"model_config": {"balance_loss_coef": 0.0}},
        "no_bottleneck": {"model_config": {"bottleneck_size": None}},
        "no_memory": {"model_config": {"num_memory_slots": 0}},
        "detached_write": {"model_config": {"differentiable_write": False}},
        "reset_memory": {"reset_memory": True},
        "no_positions": {"model_config": {"position_embedding_type": "none"}},
        "differentiable_write": {"model_config": {"differentiable_write": True}},
        "learned_positions": {"model_config": {"position_embedding_type": "learned"}},
        "mean_pooling": {"model_config": {"pooling": "mean"}},
        "flatten_pooling": {"model_config": {"pooling": "flatten"}},
        "cls_pooling": {"model_config": {"pooling": "cls"}},
        "beta_0.1": {"model_config": {"hopfield_beta": 0.1}},
        "beta_0.5": {"model_config": {"hopfield_beta": 0.5}},
        "beta_2": {"model_config": {"hopfield_beta": 2.0}},
        "beta_5": {"model_config": {"hopfield_beta": 5.0}},
        "slots_8": {"model_config": {"num_memory_slots": 8}},
        "slots_16": {"model_config": {"num_memory_slots": 16}},
        "slots_64": {"model_config": {"num_memory_slots": 64}},
        "slots_128": {"model_config": {"num_memory_slots": 128}},
    }


@pytest.mark.parametrize("name", [name for name, change in ABLATIONS.items() if "model_config" in change])
def test_ablation_changes_one_field_of_the_recipe(name):
    recipe = {"model_config": {"image_size": 32, "patch_size": 4, "hidden_size": 48, "num_attention_heads": 4}}
    before = AiTConfig(**merge_model_config(recipe, {})).to_dict()
    after = AiTConfig(**merge_model_config(recipe, ABLATIONS[name])).to_dict()
    (field,) = ABLATIONS[name]["model_config"]
    assert {key for key in after if after[key] != before[key]} <= {field}
    assert after[field] == ABLATIONS[name]["model_config"][field]


def test_change_of_an_ablation_wins_over_the_recipe():
    recipe = {"model_config": {"hopfield_beta": 0.3}}
    assert merge_model_config(recipe, ABLATIONS["beta_2"]) == {"hopfield_beta": 2.0}
    assert recipe == {"model_config": {"hopfield_beta": 0.3}}


@pytest.mark.parametrize(
    ("passed_on", "name"),
    [
        ([], "digits"),
        (["--dataset_name", "triangle"], "triangle"),
        (["--dataset-name=triangle"], "triangle"),
        (["--bf16", "True"], "digits"),
    ],
)
def test_data_set_that_is_passed_on_wins_over_the_recipe(passed_on, name):
    assert get_dataset_name({"dataset_name": "digits"}, passed_on) == name


@pytest.mark.parametrize("flag", ["--seed", "--seed=3", "--output-dir", "--model_conf", "--reset_memory"])
def test_flags_of_the_comparison_itself_are_refused(flag):
    with pytest.raises(InputError, match="cannot be passed on"):
        refuse_own_flags(["--bf16", "True", flag])
    refuse_own_flags(["--bf16", "True", "--learning_rate", "0.1"])
