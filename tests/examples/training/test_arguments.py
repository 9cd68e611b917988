"""Recipes and flags: what they set, and what is refused."""

import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from examples.errors import InputError
from examples.training.arguments import parse_arguments, refuse_unused_arguments
from examples.training.loop import USED_ARGUMENTS
from examples.training.model import build_model
from examples.training.workers import choose_workers


RECIPES = sorted((Path(__file__).parents[3] / "examples" / "recipes").glob("*.yaml"))


PAPER_PARAMETERS = {"small": 15_784_426, "medium": 45_876_970, "base": 91_015_786}


OF_THE_PAPER = [path for path in RECIPES if "size" in yaml.safe_load(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("recipe", "size"),
    [(path, None) for path in RECIPES if path not in OF_THE_PAPER]
    + [(path, size) for path in OF_THE_PAPER for size in PAPER_PARAMETERS],
    ids=lambda value: getattr(value, "stem", value),
)
def test_recipe_parses_and_builds_its_model(recipe, size):
    flags = ["--use_cpu", "True", "--seed", "3", *([] if size is None else ["--size", size])]
    data, model_arguments, _, training = parse_arguments([str(recipe), *flags], None)
    assert training.seed == 3
    # A folder for each size.
    assert training.output_dir == f"runs/{recipe.stem}" + ("" if size is None else f"_{size}")
    # The weights that a second part of a training goes on from are made by its first.
    model_arguments = replace(model_arguments, model_name_or_path=None)
    with torch.device("meta"):
        question_size = 18 if data.dataset_name == "sort_of_clevr" else None
        model, processor = build_model(model_arguments, data, [str(i) for i in range(10)], 0, question_size)
    assert model.config.num_labels == 10
    assert (processor.size["height"], processor.size["width"]) == model.config.image_shape
    if size is not None:
        # The paper's setting: section "Sizes and recipe" and the official code.
        config = model.config
        assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (768, 12, 3072)
        assert config.num_hidden_layers == {"small": 2, "medium": 6, "base": 12}[size]
        assert (config.differentiable_write, config.position_embedding_type, config.pooling) == (
            False,
            "none",
            "flatten",
        )
        assert (config.memory_slot_size, config.num_memory_heads) == (32, 8)
        assert config.num_memory_slots == (128 if recipe.stem in ("pet", "imagenet_100") else 32)
        assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (1e-4, 0.01, 100)
    if recipe.stem == "cifar10":
        memories = sum(memory.numel() for memory in model.ait.memories)
        count = sum(parameter.numel() for parameter in model.parameters()) + memories
        assert count == PAPER_PARAMETERS[size] - 109_056


def test_default_output_folder_names_the_architecture_and_a_given_one_stays():
    digits = str(RECIPES[0].with_name("digits.yaml"))
    *_, training = parse_arguments([digits, "--use_cpu", "True", "--architecture", "perceiver"], None)
    assert training.output_dir == "runs/digits_perceiver"
    *_, training = parse_arguments(
        [digits, "--use_cpu", "True", "--architecture", "vit", "--output_dir", "mine"], None
    )
    assert training.output_dir == "mine"


def test_paper_schedule_warms_up_from_a_tenth_and_ends_at_a_hundredth():
    _, _, _, training = parse_arguments([str(RECIPES[0].with_name("cifar10.yaml")), "--use_cpu", "True"], None)
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
        ("learning_rat: 1", r"unknown key 'learning_rat'. Did you mean 'learning_rate'\? `--help` and"),
        ("model_config: {hiden_size: 3}", r"unknown key 'hiden_size'. Did you mean 'hidden_size'"),
        ("model_config: 3", "`model_config` 3, but it takes a mapping"),
        ("- a list", "must be a mapping of arguments, such as `seed: 0`, but is a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([write(tmp_path, text)], None)


def test_missing_recipe_lists_the_shipped_ones():
    with pytest.raises(InputError, match=r"no recipe 'nowhere.yaml'.*cifar10.yaml.*digits.yaml"):
        parse_arguments(["nowhere.yaml"], None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--do_eval", "False"], "`--do_eval` has no effect: every run trains, and evaluates"),
        (["--do-predict"], "`--do_predict` has no effect"),
        (["--do_train=True"], "`--do_train` has no effect"),
        (["--match_parameters", "False"], "`--match_parameters` has no effect on the architecture 'ait'"),
        (["--no_match_parameters"], "`--match_parameters` has no effect on the architecture 'ait'"),
        (["--baseline_config", "{}"], "`--baseline_config` has no effect on the architecture 'ait'"),
        (
            ["--baseline_config", '{"perceiver": {"num_slots": 3}}', "--architecture", "vit"],
            "`--baseline_config` has no effect on the architecture 'vit'",
        ),
        (
            ["--match_parameters", "True", "--architecture", "ait_no_workspace"],
            "`--match_parameters` has no effect on the architecture 'ait_no_workspace'",
        ),
        (
            ["--visualize", "True", "--architecture", "vit"],
            "`--visualize True` has no effect: the architecture 'vit' has no memories",
        ),
        (
            ["--visualize", "--model_config", '{"num_memory_slots": 0}'],
            "a model without memory slots has none to draw",
        ),
        (["--visualize=True", "--fsdp", "full_shard"], "of a model that is spread over processes no picture is drawn"),
    ],
)
def test_flag_without_effect_is_refused(flags, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([*flags, "--use_cpu", "True"], None)


def test_recipe_may_hold_what_is_for_its_baselines(tmp_path):
    recipe = write(tmp_path, "match_parameters: false\nbaseline_config: {vit: {qkv_bias: false}}\nvisualize: true\n")
    _, model, _, _ = parse_arguments([recipe, "--use_cpu", "True"], None)
    assert (model.architecture, model.match_parameters) == ("ait", False)
    for flags in ([], ["--visualize", "False"]):
        parse_arguments([recipe, "--architecture", "vit", *flags, "--use_cpu", "True"], None)
    _, model, _, _ = parse_arguments(
        ["--architecture", "vit", "--match_parameters", "False", "--use_cpu", "True"], None
    )
    assert not model.match_parameters
    with pytest.raises(InputError, match="`--do_predict` has no effect"):
        parse_arguments([write(tmp_path, "do_predict: true\n"), "--use_cpu", "True"], None)


@pytest.mark.parametrize(
    ("flags", "is_cached", "num_processors", "num_workers"),
    [
        ([], True, 16, 0),
        ([], False, 16, 8),
        ([], False, 4, 3),
        ([], False, 1, 0),
        (["--dataloader_num_workers", "0"], False, 16, 0),
        (["--dataloader-num-workers=2"], True, 16, 2),
    ],
)
@pytest.mark.parametrize("script", ["trainer", "loop"])
def test_workers_are_chosen_by_where_images_are(script, flags, is_cached, num_processors, num_workers, monkeypatch):
    monkeypatch.setattr("examples.training.workers.count_processors", lambda: num_processors)
    recipe = str(RECIPES[0].with_name("digits.yaml"))
    data, _, _, training = parse_arguments([recipe, "--use_cpu", "--cache_images", str(is_cached), *flags], None)
    if script == "loop":
        refuse_unused_arguments(training, USED_ARGUMENTS)
    pixels = types.SimpleNamespace(cached=torch.zeros(1) if data.cache_images else None)
    choose_workers(training, [types.SimpleNamespace(pixels=pixels)] * 2)
    assert training.dataloader_num_workers == num_workers
    assert training.dataloader_persistent_workers == (not flags and num_workers > 0)


def test_recipe_chooses_the_workers(tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"output_dir: {tmp_path}\ndataloader_num_workers: 0\n")
    _, _, _, training = parse_arguments([str(tmp_path / "recipe.yaml")], None)
    assert training.dataloader_num_workers == 0


@pytest.mark.parametrize("flag", ["--mixup_alpha", "--cutmix_alpha"])
def test_shares_of_classes_are_refused_where_a_model_takes_classes_alone(flag, tmp_path):
    flags = ["--output_dir", str(tmp_path), "--use_cpu", flag, "0.5", "--architecture"]
    with pytest.raises(InputError, match=f"`{flag}` gives shares of classes, .*'vit' does not take: leave it out"):
        parse_arguments([*flags, "vit"], None)
    parse_arguments([*flags, "perceiver"], None)
