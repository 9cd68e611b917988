"""
Compare architectures, and ablations of AiT, on one or more recipes over several seeds.

    python -m examples.compare examples/recipes/triangle_cpu.yaml --architectures ait vit_matched --seeds 0 1 2 \
        --results examples/results/triangle.json

Every run is one call of `examples.image_classification` or `examples.relational_reasoning`, in a folder of its own
under `--output_dir`: what is finished is kept, and a run that was stopped goes on. Flags that are not listed here are
passed on to every run. Beside the JSON file it writes the table as Markdown and a plot.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from examples.baselines import ARCHITECTURES, build_architecture, count_parameters
from examples.data.catalog import BENCHMARKS, IMAGE_CLASSIFICATION, find_benchmark
from examples.data.sort_of_clevr import QUESTION_SIZE
from examples.errors import InputError
from examples.training.arguments import read_recipe
from examples.training.cost import (
    INFERENCE,
    TRAINING,
    Builder,
    CostSetting,
    count_flops,
    measure_peak_memory,
    time_rounds,
)
from examples.training.results import RESULTS_FILE, describe_command, describe_setting, write_json
from modeling_ait import AiTConfig


# Changes to the AiT of a recipe. "model_config" is merged into the recipe's; the rest are flags.
ABLATIONS: dict[str, dict[str, Any]] = {
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
    **{f"beta_{beta:g}": {"model_config": {"hopfield_beta": beta}} for beta in (0.1, 0.5, 2.0, 5.0)},
    **{f"slots_{slots}": {"model_config": {"num_memory_slots": slots}} for slots in (8, 16, 64, 128)},
}


@dataclass
class CompareArguments:
    recipes: list[str] = field(default_factory=list, metadata={"help": "Recipes, one for each benchmark."})
    architectures: list[str] = field(
        default_factory=lambda: ["ait", "vit_matched"],
        metadata={"help": f"Architectures to compare: {', '.join(ARCHITECTURES)}."},
    )
    ablations: list[str] = field(
        default_factory=list, metadata={"help": f"Ablations of AiT to run as well: {', '.join(ABLATIONS)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the runs."})
    output_dir: str = field(default="runs/compare", metadata={"help": "Folder of the runs."})
    results: str | None = field(
        default=None, metadata={"help": "JSON file for the results. Default: comparison.json in the output folder."}
    )
    num_parallel: int = field(default=1, metadata={"help": "Runs at a time. The CPU's threads are shared among them."})
    num_cost_rounds: int = field(default=10, metadata={"help": "Rounds of the timing; 0 leaves the costs out."})
    cost_batch_size: int = field(default=32, metadata={"help": "Images per batch of the timing."})
    note: str | None = field(default=None, metadata={"help": "What a reader of the results has to know."})
    device: str = field(default="cpu", metadata={"help": "Device of the timing; the runs choose their own."})


@dataclass(frozen=True)
class Run:
    """One training run: what is run, where, and the command that does it."""

    recipe: str
    label: str
    seed: int
    folder: Path
    command: tuple[str, ...]


# What the comparison itself sets: passed on, they would change a run but not its label.
OWN_FLAGS = (
    "architecture",
    "baseline_config",
    "match_parameters",
    "model_config",
    "model_name_or_path",
    "output_dir",
    "reset_memory",
    "seed",
    "size",
)


def refuse_unknown(values: list[str], known: Any, what: str) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"There is no {what} {value!r}. Known: {', '.join(known)}.")


def list_variants(arguments: CompareArguments) -> list[tuple[str, str, dict[str, Any]]]:
    """What is compared on every recipe, in this order: label, architecture, and the change to the recipe."""
    variants: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in arguments.architectures]
    return variants + [(f"ait, {name.replace('_', ' ')}", "ait", ABLATIONS[name]) for name in arguments.ablations]


def merge_model_config(recipe: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The fields of AiTConfig of a recipe, after the change of an ablation."""
    return {**(recipe.get("model_config") or {}), **change.get("model_config", {})}


def plan_runs(arguments: CompareArguments, passed_on: list[str]) -> list[Run]:
    """
    List all runs, seed by seed, so that a comparison that is stopped is a comparison with fewer seeds.

    Raises:
        InputError: for a recipe that cannot be read, or an ablation that changes nothing in one.
    """
    variants = list_variants(arguments)
    recipes = {path: read_recipe(path) for path in arguments.recipes}
    for path, recipe in recipes.items():
        for label, _, change in variants:
            before, after = (merge_model_config(recipe, part) for part in ({}, change))
            if "model_config" in change and AiTConfig(**after).to_dict() == AiTConfig(**before).to_dict():
                raise InputError(f"The ablation {label!r} changes nothing in {path!r}: leave it out.")
    runs = []
    for seed in arguments.seeds:
        for path, recipe in recipes.items():
            benchmark = find_benchmark(recipe.get("dataset_name"))
            script = f"examples.{IMAGE_CLASSIFICATION if benchmark is None else benchmark.task}"
            for label, architecture, change in variants:
                name = label.replace(", ", "-").replace(" ", "_")
                folder = Path(arguments.output_dir) / Path(path).stem / f"{name}-seed_{seed}"
                flags = ["--architecture", architecture, "--seed", str(seed), "--output_dir", str(folder)]
                for flag, value in change.items():
                    if flag == "model_config":
                        value = json.dumps(merge_model_config(recipe, change))
                    flags += [f"--{flag}", str(value)]
                runs.append(Run(path, label, seed, folder, ("python", "-m", script, path, *flags, *passed_on)))
    return runs


def execute(run: Run, num_threads: int) -> dict[str, Any]:
    """
    Run it, unless it is finished, and return its results.

    Raises:
        InputError: if the run fails, with the end of its log, or if its folder holds a run of another command or of
            the recipe as it was before a change.
    """
    results_file = run.folder / RESULTS_FILE
    command = shlex.join(run.command)
    recipe = Path(run.recipe).read_text(encoding="utf-8")
    recipe_copy = run.folder.parent / f"{run.folder.name}.yaml"
    if not results_file.exists():
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        log = run.folder.parent / f"{run.folder.name}.log"
        recipe_copy.write_text(recipe, encoding="utf-8")
        print(f"running: {command}\n", end="", flush=True)
        with log.open("w", encoding="utf-8") as file:
            environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
            process = [sys.executable, *run.command[1:]]
            status = subprocess.run(process, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
        if status != 0 or not results_file.exists():
            end = log.read_text(encoding="utf-8", errors="replace")[-1500:]
            raise InputError(f"The run failed with status {status}: {command}\nIts log {log} ends with:\n{end}")
    results = json.loads(results_file.read_text(encoding="utf-8"))
    if results["command"] != command:
        raise InputError(
            f"{run.folder} holds the results of another command:\n  {results['command']}\nnot of\n  {command}\n"
            "Remove it or name another `--output_dir`."
        )
    if not recipe_copy.exists() or recipe_copy.read_text(encoding="utf-8") != recipe:
        raise InputError(
            f"{run.folder} holds the results of {run.recipe!r} as it was before a change. Remove it or name another "
            "`--output_dir`."
        )
    print(f"{Path(run.recipe).stem}, {run.label}, seed {run.seed}: {100 * results['accuracy']:.2f} %", flush=True)
    return results


def keep_results(run: Run, results: dict[str, Any]) -> dict[str, Any]:
    """What the comparison keeps of a run's results; command, recipe and variant stand for its arguments."""
    kept = {name: value for name, value in results.items() if name != "arguments"}
    variant = results["arguments"]["dataset_config_name"]
    return {"recipe": run.recipe, "variant": variant, "label": run.label, "seed": run.seed, **kept}


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread of each architecture on each recipe, in percent."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["recipe"], run["label"]), []).append(run)
    summary = []
    for (recipe, label), members in groups.items():
        accuracies = [100 * member["accuracy"] for member in members]
        summary.append(
            {
                "recipe": recipe,
                "label": label,
                "seeds": [member["seed"] for member in members],
                "accuracy_mean": statistics.mean(accuracies),
                "accuracy_stdev": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                "accuracy_min": min(accuracies),
                "accuracy_max": max(accuracies),
                "num_parameters": members[0]["num_parameters"],
            }
        )
    return summary


def make_builders(path: str, arguments: CompareArguments) -> dict[str, Builder]:
    """How to build each model of a recipe, for measuring its costs."""
    recipe = read_recipe(path)
    benchmark = find_benchmark(recipe.get("dataset_name"))
    task: dict[str, Any] = {"num_labels": 10 if benchmark is None else benchmark.num_classes}
    if benchmark is not None and benchmark.task != IMAGE_CLASSIFICATION:
        task["question_size"] = QUESTION_SIZE
    builders: dict[str, Builder] = {}
    for label, architecture, change in list_variants(arguments):
        fields = {**merge_model_config(recipe, change), **task}
        config = AiTConfig.from_size(recipe["size"], **fields) if "size" in recipe else AiTConfig(**fields)
        builders[label] = partial(
            build_architecture,
            architecture,
            config,
            recipe.get("baseline_config"),
            recipe.get("match_parameters", True),
        )
    return builders


def measure_costs(arguments: CompareArguments) -> dict[str, dict[str, dict[str, Any]]]:
    """Parameters, operations, speed and peak memory of each model, by recipe."""
    setting = CostSetting(arguments.cost_batch_size, arguments.device)
    builders = {path: make_builders(path, arguments) for path in arguments.recipes}
    # All of the memory before the first timing, which raises the mark that later processes start from.
    memory = {
        path: {label: measure_peak_memory(build, TRAINING, setting) for label, build in models.items()}
        for path, models in builders.items()
    }
    return {path: measure_recipe(models, memory[path], setting, arguments) for path, models in builders.items()}


def measure_recipe(
    builders: dict[str, Builder], memory: dict[str, float], setting: CostSetting, arguments: CompareArguments
) -> dict[str, dict[str, Any]]:
    """Parameters, operations and speed of each model of one recipe, beside its peak memory."""
    seconds = time_rounds(builders, TRAINING, setting, arguments.num_cost_rounds)
    first = next(iter(builders))
    costs = {}
    for label, build in builders.items():
        ratios = [one / other for one, other in zip(seconds[label], seconds[first])]
        costs[label] = {
            "num_parameters": count_parameters(build()),
            "training_forward_flops": count_flops(build, TRAINING, setting),
            "inference_flops": count_flops(build, INFERENCE, setting),
            "training_images_per_second": arguments.cost_batch_size / statistics.median(seconds[label]),
            "training_time_ratio": statistics.median(ratios),
            "training_time_ratio_to": first,
            "training_peak_memory_mib": memory[label],
        }
    return costs


def describe_cost(cost: dict[str, Any] | None, missing: str) -> list[str]:
    """The cells of a table for operations, speed and peak memory; `missing` where they were not measured."""
    if cost is None:
        return [missing] * 3
    return [
        f"{cost['training_forward_flops'] / 1e6:.1f} / {cost['inference_flops'] / 1e6:.1f}",
        f"{cost['training_images_per_second']:.0f} ({cost['training_time_ratio']:.2f})",
        f"{cost['training_peak_memory_mib']:.0f}",
    ]


def make_table(summary: list[dict[str, Any]], costs: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| recipe | model | accuracy, % | seeds | parameters | MFLOPs forward (training / inference) | "
        "training images/s (time ratio) | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        cost = costs.get(row["recipe"], {}).get(row["label"])
        spread = "" if row["accuracy_stdev"] is None else f" ± {row['accuracy_stdev']:.2f}"
        cells = [
            Path(row["recipe"]).stem,
            row["label"],
            f"{row['accuracy_mean']:.2f}{spread}",
            str(len(row["seeds"])),
            f"{row['num_parameters']:,}",
            *describe_cost(cost, missing=""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy of every run, and the mean of each model, one panel for each recipe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    recipes = list(dict.fromkeys(run["recipe"] for run in runs))
    labels = list(dict.fromkeys(run["label"] for run in runs))
    figure, axes = pyplot.subplots(
        1, len(recipes), figsize=(2 + 3.5 * len(recipes), 1.2 + 0.35 * len(labels)), squeeze=False, sharey=True
    )
    for axis, recipe in zip(axes[0], recipes):
        for row, label in enumerate(labels):
            accuracies = [100 * run["accuracy"] for run in runs if (run["recipe"], run["label"]) == (recipe, label)]
            if accuracies:
                axis.plot(accuracies, [row] * len(accuracies), "o", color="tab:blue", alpha=0.5)
                axis.plot(statistics.mean(accuracies), row, "|", color="black", markersize=16, markeredgewidth=2)
        axis.set_title(Path(recipe).stem, fontsize=10)
        axis.set_xlabel("accuracy, %")
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(labels)), labels)
    axes[0][0].set_ylim(len(labels) - 0.5, -0.5)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    recipes = []
    while argv and not argv[0].startswith("-"):
        recipes.append(argv.pop(0))
    parser = HfArgumentParser(
        CompareArguments,  # type: ignore[arg-type]
        description=__doc__,
        usage="%(prog)s RECIPE.yaml [RECIPE.yaml ...] [--flag value ...]",
        allow_abbrev=False,
    )
    arguments, passed_on = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    arguments.recipes += recipes
    if not arguments.recipes:
        raise InputError(f"Name at least one recipe. Benchmarks: {', '.join(BENCHMARKS)}.")
    refuse_unknown(arguments.architectures, ARCHITECTURES, "architecture")
    refuse_unknown(arguments.ablations, ABLATIONS, "ablation")
    stems = [Path(path).stem for path in arguments.recipes]
    for values in (arguments.seeds, arguments.architectures, arguments.ablations, stems):
        if len(set(values)) < len(values):
            raise InputError(f"Seeds, architectures, ablations and recipes' names must differ, but got {values}.")
    if arguments.num_parallel < 1:
        raise InputError(f"`--num_parallel` must be at least 1, but got {arguments.num_parallel}.")
    for flag in passed_on:
        if flag.removeprefix("--").split("=")[0] in OWN_FLAGS and flag.startswith("--"):
            raise InputError(f"{flag!r} cannot be passed on: the comparison sets it. Put it into the recipe.")

    output_dir = Path(arguments.output_dir)
    results_file = Path(arguments.results) if arguments.results else output_dir / "comparison.json"
    for folder in (output_dir, results_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    planned = plan_runs(arguments, passed_on)
    results: dict[str, Any] = {
        **describe_setting("comparison", describe_command("examples.compare"), arguments.seeds),
        "setting": asdict(arguments),
        "runs": [],
        "costs": {},
    }
    num_threads = max(1, (os.cpu_count() or 1) // arguments.num_parallel)
    with ThreadPoolExecutor(arguments.num_parallel) as pool:
        try:
            for run, finished in zip(planned, pool.map(partial(execute, num_threads=num_threads), planned)):
                results["runs"].append(keep_results(run, finished))
                results["summary"] = summarize(results["runs"])
                write_json(results_file, results)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if arguments.num_cost_rounds > 0:
        results["costs"] = measure_costs(arguments)
        write_json(results_file, results)
    table = make_table(results["summary"], results["costs"])
    results_file.with_suffix(".md").write_text(table, encoding="utf-8")
    draw_plot(results["runs"], results_file.with_suffix(".png"))
    print(f"\n{table}\nWritten: {results_file}, and the same with .md and .png.")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
