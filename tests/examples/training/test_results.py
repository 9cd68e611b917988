"""What stands in the results of a run."""

import sys

import pytest

from examples import image_classification
from examples.training.results import describe_command, describe_setting


@pytest.mark.parametrize("flags", [["--hub_token", "hf_secret"], ["--hub_token=hf_secret"]])
def test_command_in_the_results_holds_no_token(flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "recipe.yaml", *flags, "--seed", "3"])
    command = describe_command("examples.image_classification")
    assert "hf_secret" not in command
    assert command.startswith("python -m examples.image_classification recipe.yaml --")
    assert command.endswith("HIDDEN --seed 3")


def test_head_of_the_results_names_kind_command_machine_versions_and_seeds():
    head = describe_setting("training", "python -m x", [3], use_cpu=True)
    assert list(head) == ["kind", "command", "hardware", "versions", "seeds"]
    assert (head["kind"], head["command"], head["seeds"]) == ("training", "python -m x", [3])
    assert {"python", "torch", "transformers", "modeling-ait"} <= head["versions"].keys()


@pytest.mark.parametrize("changes", [False, True])
def test_restarted_run_keeps_a_card_that_was_changed_by_hand(changes, make_flags, tmp_path, capsys):
    flags = make_flags(tmp_path / "run", max_steps=1)
    image_classification.main(flags)
    card = tmp_path / "run" / "README.md"
    if changes:
        card.write_text(card.read_text().replace("# run", "# My model"))
    image_classification.main([*flags, "--seed", "3", "--restart", "True"])
    assert ("# My model" in card.read_text()) == changes
    assert ("| Seed | 3 |" in card.read_text()) == (not changes)
    assert ("was changed by hand and stays" in capsys.readouterr().out) == changes
