"""What a comparison runs: every ablation changes what its name says, and nothing else."""

import pytest

from examples.comparison.plan import (
    ABLATIONS,
    Setting,
    Variant,
    choose_benchmark,
    list_settings,
    list_variants,
    merge_model_config,
    plan_runs,
    refuse_idle_ablations,
    refuse_own_flags,
)
from examples.data.catalog import BENCHMARKS
from examples.errors import InputError
from examples.training.recipes import RECIPES, read_recipe
from modeling_ait import AiTConfig


def test_ablations_are_pinned():
    assert ABLATIONS == {
        "no_balance_loss": {"model_config": {"balance_loss_coef": 0.0}},
        "no_bottleneck": {"model_config": {"bottleneck_size": None}},
        "no_memory": {"model_config": {"num_memory_slots": 0}},
        "detached_write": {"model_config": {"differentiable_write": False}},
        "fixed_memory": {"model_config": {"update_memory": False}},
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
        "no_attention": {"model_config": {"attention_layers": []}},
        "one_attention_layer": {"model_config": {"attention_layers": [1]}},
        "two_attention_layers": {"model_config": {"attention_layers": [1, 3]}},
        "no_attention_without_memory": {"model_config": {"attention_layers": [], "num_memory_slots": 0}},
        "one_attention_layer_without_memory": {"model_config": {"attention_layers": [1], "num_memory_slots": 0}},
        "two_attention_layers_without_memory": {"model_config": {"attention_layers": [1, 3], "num_memory_slots": 0}},
        "slots_8": {"model_config": {"num_memory_slots": 8}},
        "slots_16": {"model_config": {"num_memory_slots": 16}},
        "slots_64": {"model_config": {"num_memory_slots": 64}},
        "slots_128": {"model_config": {"num_memory_slots": 128}},
    }


@pytest.mark.parametrize("name", [name for name, change in ABLATIONS.items() if "model_config" in change])
def test_ablation_changes_its_own_fields_of_the_recipe(name):
    recipe = {"model_config": {"image_size": 32, "patch_size": 4, "hidden_size": 48, "num_attention_heads": 4}}
    before = AiTConfig(**merge_model_config(recipe, {})).to_dict()
    after = AiTConfig(**merge_model_config(recipe, ABLATIONS[name])).to_dict()
    fields = ABLATIONS[name]["model_config"]
    assert {key for key in after if after[key] != before[key]} <= fields.keys()
    assert {key: after[key] for key in fields} == fields


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_compared(path):
    """Also those whose fields need what the data set gives, such as a pooling at the question."""
    recipes = {str(path): read_recipe(str(path))}
    benchmarks = {name: choose_benchmark(recipe, []) for name, recipe in recipes.items()}
    has_width = "hidden_size" in recipes[str(path)]["model_config"]
    settings = list_settings(recipes, [] if has_width else ["small"])
    refuse_idle_ablations(settings, recipes, benchmarks, list_variants(["ait"], ["fixed_memory"]))
    with pytest.raises(InputError, match="changes nothing"):
        pooling = recipes[str(path)]["model_config"].get("pooling", "mean")
        same = Variant("ait, same", "ait", {"model_config": {"pooling": pooling}})
        refuse_idle_ablations(settings, recipes, benchmarks, [same])


def test_all_recipes_are_run_at_one_size_before_the_next():
    settings = list_settings({"cifar10.yaml": {}, "pet.yaml": {}}, ["small", "medium"])
    order = ["cifar10.yaml small", "pet.yaml small", "cifar10.yaml medium", "pet.yaml medium"]
    assert [f"{setting.recipe} {setting.size}" for setting in settings] == order


def test_change_of_an_ablation_wins_over_the_recipe():
    recipe = {"model_config": {"hopfield_beta": 0.3}}
    assert merge_model_config(recipe, ABLATIONS["beta_2"]) == {"hopfield_beta": 2.0}
    assert recipe == {"model_config": {"hopfield_beta": 0.3}}


@pytest.mark.parametrize(
    ("passed_on", "name"),
    [
        ([], "cifar10"),
        (["--dataset_name", "triangle"], "triangle"),
        (["--dataset-name=triangle"], "triangle"),
        (["--dataset-name=uoft-cs/cifar100"], "cifar100"),
        (["--bf16", "True"], "cifar10"),
        (["--dataset_name", "data/cifar10"], "cifar10"),
    ],
)
def test_data_set_that_is_passed_on_wins_over_the_recipe(passed_on, name):
    assert choose_benchmark({"dataset_name": "cifar10"}, passed_on) is BENCHMARKS[name]


@pytest.mark.parametrize("flag", ["--seed", "--seed=3", "--output-dir", "--model_conf", "--reset_memory"])
def test_flags_of_the_comparison_itself_are_refused(flag):
    with pytest.raises(InputError, match="cannot be passed on"):
        refuse_own_flags(["--bf16", "True", flag])
    refuse_own_flags(["--bf16", "True", "--learning_rate", "0.1"])


def test_command_of_a_run_has_its_seed_and_architecture():
    recipes = {"a.yaml": {"dataset_name": "cifar10", "size": "small"}}
    variants = list_variants(["ait", "vit"], ["beta_2", "reset_memory"])
    runs = plan_runs(
        [Setting("a.yaml", "base")], recipes, {"a.yaml": BENCHMARKS["cifar10"]}, variants, [3, 5], "runs", []
    )
    labels = ["ait", "vit", "ait, beta 2", "ait, reset memory"]
    assert [(run.key.label, run.key.seed) for run in runs] == [(label, seed) for seed in (3, 5) for label in labels]
    for run in runs:
        command = list(run.command)
        assert command[command.index("--seed") + 1] == str(run.key.seed)
        assert command[command.index("--architecture") + 1] == ("vit" if run.key.label == "vit" else "ait")
        assert command[command.index("--size") + 1] == "base"
        assert command[command.index("--output_dir") + 1] == str(run.folder)
        assert ("--reset_memory" in command) == (run.key.label == "ait, reset memory")
    assert len({run.folder for run in runs}) == len(runs)
