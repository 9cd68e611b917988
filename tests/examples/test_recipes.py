"""Recipes and flags: what they set, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from examples.data.arguments import DataArguments
from examples.errors import InputError
from examples.training.arguments import ModelArguments, parse_arguments
from examples.training.model import build_model, make_image_processor
from modeling_ait import AiTConfig


RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
PAPER_PARAMETERS = {"small": 15_784_426, "medium": 45_876_970, "base": 91_015_786}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_builds_its_model(recipe):
    data, model_arguments, _, training = parse_arguments([str(recipe), "--use_cpu", "True", "--seed", "3"], None)
    assert training.seed == 3
    assert training.output_dir == f"runs/{recipe.stem}"
    with torch.device("meta"):
        model, processor = build_model(model_arguments, data, [str(index) for index in range(10)], seed=0)
    assert model.config.num_labels == 10
    assert (processor.size["height"], processor.size["width"]) == model.config.image_shape
    if recipe.stem.removeprefix("cifar10_") in PAPER_PARAMETERS:
        memories = sum(memory.numel() for memory in model.ait.memories)
        count = sum(parameter.numel() for parameter in model.parameters()) + memories
        assert count == PAPER_PARAMETERS[recipe.stem.removeprefix("cifar10_")] - 109_056


def test_paper_schedule_warms_up_from_a_tenth_and_ends_at_a_hundredth():
    _, _, _, training = parse_arguments([str(RECIPES[0].with_name("cifar10_small.yaml")), "--use_cpu", "True"], None)
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    scheduler = get_scheduler(
        training.lr_scheduler_type,
        optimizer,
        num_warmup_steps=training.get_warmup_steps(1000),
        num_training_steps=1000,
        scheduler_specific_kwargs=training.lr_scheduler_kwargs,
    )
    rates = []
    for _ in range(1000):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-4)
    assert rates.index(max(rates)) == pytest.approx(49, abs=1)
    assert rates[-1] == pytest.approx(1e-6, rel=0.01)


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_recipe(tmp_path):
    recipe = write(tmp_path, "dataset_name: digits\nlearning_rate: 1e-3\nmodel_config: {hidden_size: 32}\nseed: 1\n")
    data, model, _, training = parse_arguments([recipe, "--seed", "2", "--use_cpu", "True"], None)
    assert (data.dataset_name, training.learning_rate, training.seed) == ("digits", 1e-3, 2)
    assert model.model_config == {"hidden_size": 32}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"unknown key 'learning_rat'. Did you mean 'learning_rate'\? Known keys: .*seed"),
        ("model_config: {hiden_size: 3}", r"unknown key 'hiden_size'. Did you mean 'hidden_size'"),
        ("model_config: 3", "must be a mapping"),
        ("- a list", "must be a mapping of arguments, but is a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([write(tmp_path, text)], None)


def test_missing_recipe_lists_the_shipped_ones():
    with pytest.raises(InputError, match=r"no recipe 'nowhere.yaml'.*cifar10_small.yaml.*digits.yaml"):
        parse_arguments(["nowhere.yaml"], None)


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
