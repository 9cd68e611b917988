"""Recipes: their place on the command line, and values of another type than an argument takes."""

import pytest

from examples.errors import InputError
from examples.training.arguments import parse_arguments
from examples.training.recipes import RECIPES, find_recipe, read_recipe, split_recipe


def parse(tmp_path, text, *flags):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_arguments([str(path), "--use_cpu", "True", *flags], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping of arguments, such as `seed: 0`, but is empty"),
        ("3", "but is a single value"),
        (b"a: \xff", "is no text in UTF-8"),
        ("num_train_epochs: [1]", r"`num_train_epochs` \[1\], but it takes a number"),
        ("crop_padding: 1.5", "`crop_padding` 1.5, but it takes a whole number"),
        ("seed: null", "`seed` None, but it takes a whole number"),
        ("seed: true", "`seed` True, but it takes a whole number"),
        ("image_mean: 0.5", "`image_mean` 0.5, but it takes a list"),
        ("image_mean: [a]", r"`image_mean` \['a'\], but it takes a list"),
        ("dataset_name: [digits]", r"`dataset_name` \['digits'\], but it takes a text"),
        ("eval_strategy: no", "`eval_strategy` False, but it takes a text. YAML reads an unquoted yes or no so"),
        ("learning_rate: abc", "`--learning_rate` takes a number, but got 'abc'"),
        ("baseline_config: [vit]", "`baseline_config`"),
        ("save_steps: 0", "`--save_steps` must be above 0"),
    ],
)
def test_value_of_another_type_is_refused(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as refusal:
        parse(tmp_path, text)
    assert "\n" not in str(refusal.value)


def test_values_are_taken_as_they_are(tmp_path):
    data, model, run, training = parse(
        tmp_path,
        "image_mean: [0.5, 1, 0]\nmax_train_samples: null\ndataset_name: digits\nmodel_config: {hidden_size: 32}\n"
        "learning_rate: 2e-3\nnum_train_epochs: 4\nlr_scheduler_kwargs: {num_cycles: 1}\nbf16: false\nverbose: true\n"
        "eval_strategy: 'no'\nwarmup_steps: 0.1\n",
    )
    assert (data.image_mean, data.max_train_samples, data.dataset_name) == ([0.5, 1, 0], None, "digits")
    assert model.model_config == {"hidden_size": 32} and run.verbose
    assert (training.learning_rate, training.num_train_epochs, training.warmup_steps) == (2e-3, 4, 0.1)
    assert training.lr_scheduler_kwargs == {"num_cycles": 1} and training.eval_strategy == "no"


def test_recipe_stands_first():
    assert split_recipe(["a.yaml", "--seed", "1"]) == ("a.yaml", ["--seed", "1"])
    assert split_recipe(["--seed", "1"]) == (None, ["--seed", "1"])
    with pytest.raises(InputError, match=r"One recipe at a time, but got 'a.yaml' and 'b.yml'"):
        split_recipe(["a.yaml", "b.yml"])
    with pytest.raises(InputError, match=r"'digit' is neither a flag nor a recipe.*Did you mean 'digits'"):
        split_recipe(["digit"])


def test_shipped_recipe_goes_by_its_name(tmp_path, monkeypatch):
    path, flags = split_recipe(["digits", "--dataset_name", "digits"])
    assert read_recipe(path)["dataset_name"] == "digits" and flags == ["--dataset_name", "digits"]
    assert split_recipe(["--dataset_name", "digits"]) == (None, ["--dataset_name", "digits"])
    with pytest.raises(InputError, match="One recipe at a time"):
        split_recipe(["digits", "triangle_cpu"])
    monkeypatch.chdir(RECIPES.parents[1])
    assert find_recipe("digits") == "examples/recipes/digits.yaml"
    monkeypatch.chdir(tmp_path)
    assert find_recipe("digits") == str(RECIPES / "digits.yaml")
    for name in ("digits.yaml", "../recipes/digits", "nowhere", ""):
        assert find_recipe(name) == name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rate", "abc"], "`--learning_rate` takes a number, but got 'abc'"),
        (["--learning_rate", "nan"], "`--learning_rate` must be at least 0 and finite, but got nan"),
        (["--learning_rat", "1"], "no flag '--learning_rat'. Did you mean '--learning_rate'"),
        (["--epochs", "1"], "no flag '--epochs'. Did you mean '--num_train_epochs'"),
        (["--per_device_train_batch_size", "0"], "`--per_device_train_batch_size` must be at least 1"),
        (["--num_train_epochs", "0"], "`--num_train_epochs` must be above 0"),
        (["--logging_steps", "-5"], "`--logging_steps` must be above 0"),
        (["--seed", "-1"], "`--seed` must be at least 0"),
        (["--seed", "4294967296"], "`--seed` must be below 2"),
        (["--eval_strategy", "epoc"], "`--eval_strategy` takes one of 'no', 'steps', 'epoch', but got 'epoc'"),
        (["--warmup_steps", "-1"], "These arguments do not work: .*warmup_steps"),
        (["--output_dir", ""], "`--output_dir` is empty"),
        (["--architecture", "perciever"], "no architecture 'perciever'. Did you mean 'perceiver'"),
        (["--max_train_samples", "0"], "`--max_train_samples` must be at least 1, but got 0"),
        (["--crop_padding", "-1"], "`--crop_padding` must be at least 0, but got -1"),
    ],
)
def test_flag_that_cannot_work_is_refused(flags, message):
    with pytest.raises(InputError, match=message) as refusal:
        parse_arguments(["--use_cpu", "True", *flags], None)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [".", "runs", "runs/mine"])
def test_run_among_the_data_is_refused(name, tmp_path):
    flags = ["--use_cpu", "True", "--output_dir", str(tmp_path / "data" / name)]
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"`--output_dir` '.*' lies in the data folder"):
        parse_arguments([*flags, "--dataset_name", str(tmp_path / "data")], None)
    parse_arguments([*flags, "--dataset_name", str(tmp_path / "data" / "images")], None)


def test_missing_data_are_no_folder():
    parse_arguments(["--use_cpu", "True", "--dataset_name", "", "--output_dir", "runs/mine"], None)


def test_run_may_be_called_like_the_known_data_that_it_is_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    parse_arguments(["--use_cpu", "True", "--dataset_name", "digits", "--output_dir", "digits/first"], None)


def test_bfloat16_without_a_gpu_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(InputError, match=r"without a GPU that knows bfloat16, `bf16` .* need `--use_cpu True`"):
        parse_arguments(["--bf16", "True"], None)
    assert parse_arguments(["--bf16", "True", "--use_cpu", "True"], None)[-1].bf16
