"""Flags: help that is quick and shows each once, and mistakes in one line."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import transformers

from examples.errors import InputError
from examples.parsing import ArgumentParser


REPOSITORY = Path(__file__).parents[2]
TRAINING = ("image_classification", "image_classification_accelerate", "relational_reasoning")
SCRIPTS = (*TRAINING, "benchmark", "compare", "compare_vit_finetuning", "data", "evaluate_batches", "report")
PRINT_HELP = """
import contextlib, io, json, runpy, sys
texts = {}
for name in sys.argv[1:]:
    printed = io.StringIO()
    sys.argv = ["script", "--help"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(f"examples.{name}", run_name="__main__", alter_sys=True)
    texts[name] = printed.getvalue()
print(json.dumps([texts, sorted(sys.modules)]))
"""


@dataclass
class Fields:
    _argument_group_name = "fields"

    batch_size: int = field(default=3, metadata={"help": "Images in a batch."})
    rates: list[float] = field(default_factory=lambda: [0.5, 1.0], metadata={"help": "Rates."})
    use_it: bool = field(default=True, metadata={"help": "Whether."})
    name: str | None = field(default=None, metadata={"help": "Name."})


@pytest.fixture(scope="module")
def helps():
    """What `--help` of every script prints, and all that is imported for it."""
    command = [sys.executable, "-c", PRINT_HELP, *SCRIPTS]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def test_help_imports_nothing_heavy(helps):
    _, imported = helps
    assert not {"torch", "datasets", "evaluate", "accelerate", "matplotlib", "scipy", "sklearn"} & set(imported)
    assert not [name for name in imported if name.startswith("transformers.models")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_each_flag_once(script, helps):
    text = helps[0][script]
    flags = re.findall(r"^  (--\w+)", text, flags=re.MULTILINE)
    assert "--help" in flags and len(set(flags)) == len(flags)
    assert not re.search(r"--\w+-\w|--no_|\(default: (None|False)\)", text)
    assert max(map(len, text.splitlines())) < 120


@pytest.mark.parametrize("script", TRAINING)
def test_help_of_a_training_shows_its_own_flags_and_where_the_others_are(script, helps):
    text = helps[0][script]
    titles = [text.index(f"\n{title}:\n") for title in ("data", "model", "run")]
    assert titles == sorted(titles)
    assert f"python -m examples.{script} " in text.splitlines()[0]
    assert "--help_trainer" in text and "\n  --learning_rate" not in text
    assert len(text.splitlines()) < 100
    known = set(transformers.TrainingArguments.__dataclass_fields__)
    named = re.findall(r"--(\w+)", text.partition("Most used:")[2])
    assert len(named) > 10 and set(named) <= known


def test_trainer_flags_are_listed_on_request(capsys):
    from examples import image_classification

    with pytest.raises(SystemExit) as ended:
        image_classification.main(["--help_trainer"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "\n  --learning_rate FLOAT" in text and "--dataset_name" not in text and "--learning-rate" not in text


def test_values_are_parsed():
    (parsed,) = ArgumentParser(Fields).parse(["--batch-size", "4", "--use_it=no", "--rates", "1", "2"])
    assert parsed == Fields(4, [1.0, 2.0], False, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_sise", "1"], "There is no flag '--batch_sise'. Did you mean '--batch_size'?"),
        (["--batch", "1"], "There is no flag '--batch'. Did you mean '--batch_size'?"),
        (["--batch_size", "many"], "`--batch_size` takes a whole number, but got 'many'."),
        (["--batch_size", "1.5"], "`--batch_size` takes a whole number, but got '1.5'."),
        (["--batch_size"], "`--batch_size` stands without a value: expected one argument."),
        (["--rates", "1", "x"], "`--rates` takes a number, but got 'x'."),
        (["--use_it", "perhaps"], "`--use_it` takes True or False, but got 'perhaps'."),
        (["word"], "'word' stands where a flag should: `--name value`."),
        (["--batch_size", "1", "a.yaml"], "The recipe 'a.yaml' must stand first, before all flags."),
    ],
)
def test_mistake_is_one_line(arguments, message):
    with pytest.raises(InputError) as refusal:
        ArgumentParser(Fields).parse(arguments)
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)
