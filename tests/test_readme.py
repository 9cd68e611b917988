"""What the README promises: its Python runs, its files and commands exist."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import transformers

from examples.baselines.build import build_architecture
from examples.benchmarking.shapes import SHAPES
from examples.comparison.sections import count_epochs
from examples.comparison.statistics import describe, group_runs, judge_difference, score
from examples.training.cost import INFERENCE, CostSetting, count_flops
from modeling_ait import AiTConfig


REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLES = (REPOSITORY / "examples" / "README.md").read_text(encoding="utf-8")
PUSH = "push_to_hub"


@pytest.mark.skipif(
    getattr(transformers.AutoImageProcessor, "is_dummy", False),
    reason="AutoImageProcessor of this transformers needs torchvision",
)
def test_readme_python_runs(tmp_path):
    place = Path("examples", "checkpoints", "digits")
    shutil.copytree(REPOSITORY / place, tmp_path / place)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 8
    # Pushing is tested against a local server, in tests/hub.
    code = "\n".join(block for block in blocks if PUSH not in block)
    code += "\nassert outputs.retrieval_attentions[0].shape == (1, 16, 16)\nassert (after <= before + 1e-3).all()\n"
    code += "assert sum(p.numel() for p in model.parameters()) > 15e6\n"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # The image that lies beside the checkpoint is a three.
    assert result.stdout.strip() == "3"


def test_readme_names_files_and_targets_that_exist():
    for name in re.findall(r"\]\(([\w./]+)\)", README) + re.findall(r"examples/recipes/\w+\.yaml", README):
        assert (REPOSITORY / name).exists(), name
    for module in re.findall(r"-m ((?:examples|conversion)\.\w+)", README + EXAMPLES):
        assert importlib.util.find_spec(module), module
    for module, arguments in re.findall(r"python -m (conversion\.\w+) (.*)", README):
        source = (REPOSITORY / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        for flag in re.findall(r"--\w+", arguments):
            assert f'"{flag}"' in source, flag
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)) <= set(targets)


def test_every_deviation_in_the_code_is_listed_in_the_model_card():
    """Deviations are marked in the code, and the card has one numbered line for each from the paper."""
    marks = [
        mark
        for path in (REPOSITORY / "modeling_ait").glob("*.py")
        for mark in re.findall(r"# deviation: (.*)", path.read_text(encoding="utf-8"))
    ]
    card = (REPOSITORY / "model_card.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\d+\. ", card.split("From the official code")[0].split("## Deviations")[1], flags=re.MULTILINE
    )
    assert len(listed) == len(marks) > 0


def test_every_recipe_is_in_the_index():
    listed = re.findall(r"^\| `(\w+\.yaml)` \|", EXAMPLES, flags=re.MULTILINE)
    assert listed == sorted(path.name for path in (REPOSITORY / "examples" / "recipes").glob("*.yaml"))


def test_readme_flags_of_the_scripts_exist():
    """A flag that stands behind a script is one of its own or of the Trainer's."""
    sources = " ".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "examples").rglob("*.py"))
    known = set(re.findall(r"^    (\w+): ", sources, flags=re.MULTILINE)) | set(
        transformers.TrainingArguments.__dataclass_fields__
    )
    commands = re.findall(r"-m examples\.[^`\n]*(?:\\\\\n[^`\n]*)*", README + EXAMPLES)
    assert len(commands) > 15
    for command in commands:
        for flag in re.findall(r"--(\w+)", command):
            assert flag in known, f"{flag} in {command}"


def test_results_of_the_readme_are_those_of_the_files():
    rows = {"digits": ("digits", "digits", 5)}
    rows["Triangle, matched"] = ("triangle_matched_ten_epochs", "triangle_matched_strong", 3)
    for title, (name, recipe, num_seeds) in rows.items():
        runs = json.loads((REPOSITORY / "examples" / "results" / f"{name}.json").read_text(encoding="utf-8"))["runs"]
        runs = [run for run in runs if Path(run["recipe"]).stem == recipe]
        cells = [title, f"{next(run['num_parameters'] for run in runs if run['label'] == 'ait'):,}"]
        cells.append(f"{count_epochs(runs[0]['recipe'], {'ait': runs}):g}")
        for label in ("ait", "ait_no_workspace", "ait_no_workspace_wide_mlp"):
            values = [score(run) for run in runs if run["label"] == label]
            assert len(values) == num_seeds
            cells.append(describe(values))
        assert f"| {' | '.join(cells)} |" in README
    # Those of Triangle, the last.
    for label in ("ait, fixed memory", "ait, detached write"):
        assert describe([score(run) for run in runs if run["label"] == label]) in README


def test_share_of_the_retrieval_in_the_readme_is_that_of_the_products():
    (listed,) = re.findall(r"makes inference ([\d, and]+) % dearer", README)
    shares = []
    for name in ("width_64", "width_64_wide_memory", "width_128"):
        config = AiTConfig(**SHAPES[name].make_fields())
        with_it, without = (
            count_flops(partial(build_architecture, architecture, config), INFERENCE, CostSetting(16))
            for architecture in ("ait", "ait_no_workspace")
        )
        shares.append(str(round(100 * (with_it / without - 1))))
    assert re.findall(r"\d+", listed) == shares


def test_sort_of_clevr_in_the_readme_is_that_of_the_files():
    text = " ".join(README.split())
    other_seed = REPOSITORY / "examples" / "checkpoints" / "sort_of_clevr" / "other_seed.json"
    relational = json.loads(other_seed.read_text(encoding="utf-8"))["accuracy_by_group"]["relational"]
    assert f"on 2,000 others, that steered nothing, it is {100 * relational:.2f}." in text
    results = REPOSITORY / "examples" / "results" / "sort_of_clevr_twenty_epochs.json"
    runs = sorted(json.loads(results.read_text(encoding="utf-8"))["runs"], key=lambda run: run["seed"])
    first, second = (
        [f"{score(run):.2f}" for run in runs if run["label"] == label] for label in ("ait", "ait_no_workspace")
    )
    assert f"AiT has {first[0]}, {first[1]} and {first[2]} % of all questions" in text
    assert f"without its workspace {second[0]}, {second[1]} and {second[2]}: " in text


def test_comparison_to_the_end_in_the_readme_is_that_of_the_file():
    path = REPOSITORY / "examples" / "results" / "triangle_matched_strong.json"
    groups = group_runs(json.loads(path.read_text(encoding="utf-8"))["runs"])[
        "examples/recipes/triangle_matched_strong.yaml"
    ]
    ours, others = ([score(run) for run in groups[label]] for label in ("ait", "ait_no_workspace"))
    text = " ".join(README.split())
    assert f"it is {describe(ours)} with the workspace and {describe(others)} without, three seeds" in text
    low, high = re.search(r"an interval of (\S+) to (\S+) points", text).groups()
    assert len(others) == 3 and f"{low} to {high})" in judge_difference(ours, others)[0]


def test_trainings_to_the_end_in_the_readme_are_those_of_the_files():
    rows = {"Triangle, matched": "triangle_matched_strong", "CIFAR-10, as JPEG of quality 75": "cifar10_full_cpu"}
    rows["Sort-of-CLEVR, binary and ternary questions"] = "sort_of_clevr_fourth"
    rows["Sort-of-CLEVR, original, binary and ternary questions"] = "sort_of_clevr_original"
    rows["Triangle, original"] = "triangle_continued"
    for title, name in rows.items():
        path = REPOSITORY / "examples" / "results" / f"{name}.json"
        runs = [run for run in json.loads(path.read_text(encoding="utf-8"))["runs"] if run["label"] == "ait"]
        values = [score(run, "relational" if "accuracy_by_group" in run else None) for run in runs]
        cells = [title, f"{runs[0]['num_parameters']:,}", str(len(runs)), describe(values)]
        assert f"| {' | '.join(cells)} |" in README
