"""What a comparison runs: recipes and sizes, models and ablations; one command for each run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from examples.comparison.ablations import ABLATIONS, label_ablation
from examples.data.catalog import IMAGE_CLASSIFICATION, Benchmark, find_benchmark
from examples.data.sort_of_clevr import QUESTION_SIZE
from examples.errors import InputError
from examples.training.arguments import ModelArguments
from modeling_ait import AiTConfig
from modeling_ait.configuration_ait import PAPER_SIZES


# What the comparison itself sets: passed on, they would change a run but not its label.
OWN_FLAGS = (
    "architecture",
    "baseline_config",
    "dataset_config_name",
    "hold_out",
    "match_parameters",
    "model_config",
    "model_name_or_path",
    "output_dir",
    "reset_memory",
    "seed",
    "size",
)


class Setting(NamedTuple):
    """A recipe at one of the paper's sizes; `None` where the recipe sets width and depth itself."""

    recipe: str
    size: str | None

    @property
    def name(self) -> str:
        """Name of a folder of runs."""
        return "-".join(part for part in (Path(self.recipe).stem, self.size) if part)


class RunKey(NamedTuple):
    """What tells the runs of a results file apart."""

    recipe: str
    size: str | None
    label: str
    seed: int

    @property
    def setting(self) -> Setting:
        return Setting(self.recipe, self.size)


class Variant(NamedTuple):
    """A model to compare: how it is called, its architecture, and the change to the recipe."""

    label: str
    architecture: str
    change: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training run: what is run, where, and the command that does it."""

    key: RunKey
    folder: Path
    command: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def title(self) -> str:
        return f"{self.key.setting.name}, {self.key.label}, seed {self.key.seed}"


def list_variants(architectures: list[str], ablations: list[str]) -> list[Variant]:
    """What is compared in every setting, in this order."""
    variants = [Variant(name, name, {}) for name in architectures]
    return variants + [Variant(label_ablation(name), "ait", ABLATIONS[name]) for name in ablations]


def list_settings(recipes: Mapping[str, dict[str, Any]], sizes: list[str]) -> list[Setting]:
    """
    Every recipe at every size, size by size; without sizes, at its own.

    Raises:
        InputError: for a size where a recipe sets the width itself, and for none where it does not.
    """
    for path, recipe in recipes.items():
        has_width = "hidden_size" in (recipe.get("model_config") or {})
        if sizes and has_width:
            raise InputError(f"`--size` cannot be used with {path!r}, which sets the width itself: leave it out.")
        if not sizes and not has_width and "size" not in recipe:
            raise InputError(f"{path!r} needs a size of the paper: `--size {' '.join(PAPER_SIZES)}`, or some of them.")
    if not sizes:
        return [Setting(path, recipe.get("size")) for path, recipe in recipes.items()]
    return [Setting(path, size) for size in sizes for path in recipes]


def merge_model_config(recipe: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The fields of AiTConfig of a recipe, after the change of an ablation."""
    fields = ModelArguments(model_config=recipe.get("model_config")).model_config
    return {**fields, **change.get("model_config", {})}  # type: ignore[dict-item]  # a mapping after parsing


def describe_task(benchmark: Benchmark | None) -> dict[str, Any]:
    """The fields of AiTConfig that the data set gives, which no recipe has; 10 classes where it is not known."""
    task: dict[str, Any] = {"num_labels": 10 if benchmark is None else benchmark.num_classes}
    if benchmark is not None and benchmark.task != IMAGE_CLASSIFICATION:
        task["question_size"] = QUESTION_SIZE
    return task


def make_config(size: str | None, fields: dict[str, Any]) -> AiTConfig:
    """
    The configuration of the AiT of a setting.

    Raises:
        InputError: for fields that cannot work.
    """
    try:
        return AiTConfig(**fields) if size is None else AiTConfig.from_size(size, **fields)
    except ValueError as error:
        raise InputError(str(error)) from error


def refuse_own_flags(passed_on: list[str], own_flags: tuple[str, ...] = OWN_FLAGS) -> None:
    """Refuse to pass on what the comparison sets itself, also with dashes or shortened."""
    for flag in passed_on:
        name = flag.removeprefix("--").split("=")[0].replace("-", "_")
        if flag.startswith("--") and any(own.startswith(name) for own in own_flags if len(name) > 2):
            raise InputError(
                f"{flag!r} cannot be passed on: the comparison sets it. Put it into the recipe, or use the flags that "
                "`--help` lists."
            )


def refuse_idle_ablations(
    settings: list[Setting],
    recipes: Mapping[str, dict[str, Any]],
    benchmarks: Mapping[str, Benchmark | None],
    variants: list[Variant],
) -> None:
    """Refuse an ablation that changes nothing in a setting: its runs would be those of the AiT under another name."""
    for setting in settings:
        recipe, task = recipes[setting.recipe], describe_task(benchmarks[setting.recipe])
        before = make_config(setting.size, {**merge_model_config(recipe, {}), **task}).to_dict()
        for variant in variants:
            try:
                after = make_config(setting.size, {**merge_model_config(recipe, variant.change), **task}).to_dict()
            except InputError as error:
                raise InputError(f"{variant.label!r} cannot be run on {setting.recipe!r}: {error}") from None
            if "model_config" in variant.change and after == before:
                raise InputError(
                    f"The ablation {variant.label!r} changes nothing in {setting.recipe!r}: leave it out."
                )


def refuse_continued(recipes: Mapping[str, dict[str, Any]], variants: list[Variant]) -> None:
    """Refuse other models than the AiT where a recipe goes on from a trained one: none of them has its weights."""
    for path, recipe in recipes.items():
        if recipe.get("model_name_or_path") is not None and [variant.label for variant in variants] != ["ait"]:
            raise InputError(
                f"{path!r} goes on from a trained AiT (`model_name_or_path`), which no other model can: compare "
                "nothing with it, `--architectures ait` without `--ablations`."
            )


def choose_benchmark(recipe: dict[str, Any], passed_on: list[str]) -> Benchmark | None:
    """The benchmark of the runs: that of the data set that is passed on, if it is known, else the recipe's."""
    name = None
    for index, flag in enumerate(passed_on):
        key, equals, value = flag.partition("=")
        if key.replace("-", "_") == "__dataset_name":
            name = value if equals else passed_on[index + 1] if index + 1 < len(passed_on) else None
    return find_benchmark(name) or find_benchmark(recipe.get("dataset_name"))


def make_command(
    run: RunKey,
    variant: Variant,
    recipe: dict[str, Any],
    benchmark: Benchmark | None,
    folder: Path,
    passed_on: list[str],
) -> tuple[str, ...]:
    """The command of one run; a size that is the recipe's own needs no flag."""
    script = f"examples.{IMAGE_CLASSIFICATION if benchmark is None else benchmark.task}"
    flags = ["--architecture", variant.architecture, "--seed", str(run.seed), "--output_dir", str(folder)]
    if run.size is not None and run.size != recipe.get("size"):
        flags += ["--size", run.size]
    for flag, value in variant.change.items():
        if flag == "model_config":
            value = json.dumps(merge_model_config(recipe, variant.change))
        flags += [f"--{flag}", str(value)]
    return ("python", "-m", script, run.recipe, *flags, *passed_on)


def plan_runs(
    settings: list[Setting],
    recipes: Mapping[str, dict[str, Any]],
    benchmarks: Mapping[str, Benchmark | None],
    variants: list[Variant],
    seeds: list[int],
    output_dir: str,
    passed_on: list[str],
    learning_rates: Mapping[tuple[Setting, str], float] | None = None,
) -> list[Run]:
    """
    List all runs, seed by seed, so that a comparison that is stopped is a comparison with fewer seeds.

    With `learning_rates`, by setting and label, each model has its own.
    """
    runs = []
    for seed in seeds:
        for setting in settings:
            for variant in variants:
                key = RunKey(*setting, variant.label, seed)
                name = variant.label.replace(", ", "-").replace(" ", "_")
                folder = Path(output_dir) / setting.name / f"{name}-seed_{seed}"
                recipe, benchmark = recipes[setting.recipe], benchmarks[setting.recipe]
                own = {} if learning_rates is None else {"learning_rate": learning_rates[setting, variant.label]}
                changed = variant._replace(change={**variant.change, **own})
                command = make_command(key, changed, recipe, benchmark, folder, passed_on)
                runs.append(Run(key, folder, command))
    return runs
