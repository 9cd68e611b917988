"""
Compare architectures, and ablations of AiT, on one or more recipes over several seeds.

    python -m examples.compare examples/recipes/triangle_cpu.yaml --seeds 0 1 2 --results runs/triangle.json
    python -m examples.compare examples/recipes/cifar10.yaml --size small --architectures ait vit

Every run is one call of `examples.image_classification` or `examples.relational_reasoning`, in a folder of its own
under `--output_dir`: what is finished is kept, and a run that was stopped goes on. Flags that are not listed here are
passed on to every run. It writes a JSON file; `examples.report` draws plots and tells what the results say. What that
file has is not run again, even without the folders of its runs: seeds can be added later, and on another machine.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.baselines.catalog import ARCHITECTURES
from examples.comparison.ablations import ABLATIONS
from examples.errors import InputError, flatten_message, make_place, refuse_unknown_name, run_script
from examples.parsing import ArgumentParser
from examples.sharing import escape_markdown, take_hub_token
from examples.training.arguments import parse_arguments
from examples.training.recipes import find_recipe, read_recipe


if TYPE_CHECKING:
    from examples.comparison.plan import Run


USAGE = "python -m examples.compare RECIPE.yaml [RECIPE.yaml ...] [--flag value ...]"


@dataclass
class CompareArguments:
    recipes: list[str] = field(default_factory=list, metadata={"help": "Recipes, one for each benchmark."})
    size: list[str] = field(default_factory=list, metadata={"help": "Paper sizes: small, medium, base."})
    architectures: list[str] = field(
        default_factory=lambda: ["ait", "ait_no_workspace", "ait_no_workspace_wide_mlp"],
        metadata={"help": f"Architectures to compare: {', '.join(ARCHITECTURES)}."},
    )
    ablations: list[str] = field(
        default_factory=list, metadata={"help": f"Ablations of AiT to run as well: {', '.join(ABLATIONS)}."}
    )
    learning_rates: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Train each model with each of these learning rates, evaluated on a held-out part of the training "
            "split, and say which is best for which model. The costs are left out."
        },
    )
    learning_rates_from: str | None = field(
        default=None,
        metadata={
            "help": "Results file of a call with `--learning_rates`: each model gets the one that was best there. An "
            "ablation that is not in it gets that of the AiT."
        },
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the runs."})
    output_dir: str = field(default="runs/compare", metadata={"help": "Folder of the runs."})
    results: str | None = field(
        default=None, metadata={"help": "JSON file for the results. Default: comparison.json in the output folder."}
    )
    num_parallel: int = field(
        default=1,
        metadata={
            "help": "Runs at a time. The CPU's threads are shared among them, or each has as many as OMP_NUM_THREADS "
            "says."
        },
    )
    minutes: float | None = field(
        default=None,
        metadata={
            "help": "Stop after so many minutes: runs save and end, and what remains is listed in a file "
            "NAME-remaining.txt beside the results. The status is 75 until nothing remains. A measurement of the "
            "costs that has begun is not cut."
        },
    )
    num_cost_rounds: int = field(default=10, metadata={"help": "Rounds of the timing; 0 leaves the costs out."})
    cost_batch_size: int = field(default=32, metadata={"help": "Images per batch of the timing."})
    note: str | None = field(default=None, metadata={"help": "What a reader of the results has to know."})
    device: str = field(default="cpu", metadata={"help": "Device of the timing; the runs choose their own."})
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace a results file, also one with something else than these runs; use nothing of it."},
    )


def check_arguments(arguments: CompareArguments, passed_on: list[str]) -> None:
    """Raise an `InputError` for arguments that cannot work together."""
    from examples.comparison.plan import OWN_FLAGS, refuse_own_flags
    from examples.data.catalog import BENCHMARKS
    from examples.training.cost import check_device

    if not arguments.recipes:
        raise InputError(f"Name at least one recipe. Benchmarks: {', '.join(BENCHMARKS)}.")
    for values, known, what in (
        (arguments.architectures, ARCHITECTURES, "architecture"),
        (arguments.ablations, ABLATIONS, "ablation"),
    ):
        for value in values:
            refuse_unknown_name(value, known, what)
    stems = [Path(path).stem for path in arguments.recipes]
    groups: dict[str, list] = {"The file names of the recipes": stems}
    for name in ("seeds", "architectures", "ablations", "size", "learning_rates"):
        groups[f"The values of `--{name}`"] = getattr(arguments, name)
    for what, values in groups.items():
        if len(set(values)) < len(values):
            raise InputError(f"{what} must differ, but are {', '.join(map(str, values))}.")
    if arguments.learning_rates and arguments.learning_rates_from is not None:
        raise InputError("Pass one of `--learning_rates` and `--learning_rates_from`: one chooses, one uses it.")
    if not all(0 < rate < math.inf for rate in arguments.learning_rates):
        raise InputError(f"`--learning_rates` must be above 0, but got {arguments.learning_rates}.")
    if arguments.num_parallel < 1:
        raise InputError(f"`--num_parallel` must be at least 1, but got {arguments.num_parallel}.")
    if arguments.minutes is not None and not 0 < arguments.minutes < math.inf:
        raise InputError(f"`--minutes` must be above 0, but got {arguments.minutes}; leave it out for no limit.")
    if arguments.num_cost_rounds < 0 or arguments.cost_batch_size < 1:
        raise InputError("`--num_cost_rounds` must be at least 0 and `--cost_batch_size` at least 1.")
    if min(arguments.seeds) < 0 or max(arguments.seeds) >= 2**32:
        raise InputError(f"`--seeds` must be at least 0 and below 2**32, but got {arguments.seeds}.")
    if arguments.num_cost_rounds > 0:
        check_device(arguments.device)
    has_own_rates = arguments.learning_rates or arguments.learning_rates_from is not None
    refuse_own_flags(passed_on, (*OWN_FLAGS, *["learning_rate"] * bool(has_own_rates)))


def keep_results(run: "Run", results: dict[str, Any]) -> dict[str, Any]:
    """What the comparison keeps of a run's results; command, recipe and variant stand for its arguments."""
    kept = {name: value for name, value in results.items() if name not in ("arguments", "kind", "seeds")}
    size = {} if run.key.size is None else {"size": run.key.size}
    asked = {
        "variant": results["arguments"]["dataset_config_name"],
        "num_epochs": results["arguments"]["num_train_epochs"],
    }
    return {"recipe": run.key.recipe, **size, **asked, "label": run.key.label, **kept}


def make_table(runs: list[dict[str, Any]], costs: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The comparison as a Markdown table."""
    from examples.comparison.costs import describe_cost
    from examples.comparison.statistics import describe, group_runs, score

    lines = [
        "| recipe | model | accuracy, % | seeds | parameters | MFLOPs forward (training / inference) | "
        "training images/s (time ratio) | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for setting, groups in group_runs(runs).items():
        for label, members in groups.items():
            recipe, *chosen = setting.split(" ")
            cells = [
                escape_markdown(" ".join([Path(recipe).stem, *chosen])),
                label,
                describe([score(run) for run in members]),
                str(len(members)),
                f"{members[0]['num_parameters']:,}",
                *describe_cost(costs.get(setting, {}).get(label), missing=""),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plan(arguments: CompareArguments, passed_on: list[str]) -> tuple[list["Run"], dict[str, dict]]:
    """All runs, and how to build the models of each recipe for measuring their costs."""
    import torch

    from examples.comparison.costs import make_builders
    from examples.comparison.learning_rates import read_choices, try_learning_rates
    from examples.comparison.plan import (
        choose_benchmark,
        list_settings,
        list_variants,
        plan_runs,
        refuse_continued,
        refuse_idle_ablations,
    )
    from examples.comparison.statistics import name_setting

    if arguments.learning_rates:
        passed_on = [*passed_on, "--hold_out", "True"]
    recipes = {path: read_recipe(path) for path in arguments.recipes}
    settings = list_settings(recipes, arguments.size)
    variants = list_variants(arguments.architectures, arguments.ablations)
    refuse_continued(recipes, variants)
    for path, variant in product(recipes, variants):
        # A mistake is better found here than in the log of every run.
        flags = [path, *passed_on, "--architecture", variant.architecture, "--output_dir", arguments.output_dir]
        parse_arguments(flags, None, other_flags=[f"--{f.name}" for f in fields(CompareArguments)])
    benchmarks = {path: choose_benchmark(recipe, passed_on) for path, recipe in recipes.items()}
    refuse_idle_ablations(settings, recipes, benchmarks, variants)
    chosen = None
    if arguments.learning_rates_from is not None:
        chosen = read_choices(arguments.learning_rates_from, settings, variants)
    if arguments.learning_rates:
        variants = try_learning_rates(variants, arguments.learning_rates)
    planned = plan_runs(
        settings, recipes, benchmarks, variants, arguments.seeds, arguments.output_dir, passed_on, chosen
    )
    builders = {
        name_setting(setting._asdict()): make_builders(
            setting, recipes[setting.recipe], benchmarks[setting.recipe], variants
        )
        for setting in settings
    }
    for models in builders.values():
        for label, build in models.items():
            try:
                with torch.device("meta"):
                    build()
            except ValueError as error:
                raise InputError(f"{label!r} cannot be built: {flatten_message(error)}") from error
    return planned, builders


def parse(argv: list[str]) -> tuple[CompareArguments, list[str]]:
    """The arguments, and those that are passed on to the runs."""
    recipes = []
    while argv and not argv[0].startswith("-"):
        recipes.append(find_recipe(argv.pop(0)))
    parser = ArgumentParser(CompareArguments, description=__doc__, usage=USAGE)
    # The runs inherit the token, which their command lines and results must not hold.
    arguments, passed_on = parser.parse_some(take_hub_token(argv))
    arguments.recipes = [*map(find_recipe, arguments.recipes), *recipes]
    if arguments.learning_rates:
        arguments.num_cost_rounds = 0
    return arguments, passed_on


def main(argv: list[str] | None = None) -> None:
    arguments, passed_on = parse(list(sys.argv[1:] if argv is None else argv))
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.comparison import runs
    from examples.comparison.costs import measure_costs
    from examples.comparison.learning_rates import KIND, describe_choices
    from examples.comparison.statistics import summarize
    from examples.training.cost import CostSetting
    from examples.training.results import describe_command, describe_setting, write_json

    check_arguments(arguments, passed_on)
    results_file = Path(arguments.results or Path(arguments.output_dir, "comparison.json"))
    planned, builders = plan(arguments, passed_on)
    kind = KIND if arguments.learning_rates else "comparison"
    remaining_file = make_place(str(results_file)).with_name(f"{results_file.stem}-remaining.txt")
    earlier = runs.read_comparison(results_file, planned, arguments.overwrite, kind)
    make_place(str(Path(arguments.output_dir, "comparison.json")))
    results: dict[str, Any] = {
        **describe_setting(kind, describe_command("examples.compare"), arguments.seeds),
        "setting": {name: value for name, value in asdict(arguments).items() if name not in ("overwrite", "minutes")},
        "recipes": {path: runs.read_text_of_recipe(path) for path in arguments.recipes},
        "runs": [],
        "costs": {},
    }
    # They stay, with the machine that they are of, until they are measured again.
    if "recipes" in earlier and earlier.get("costs"):
        results |= {"costs": earlier["costs"], "cost_hardware": earlier.get("cost_hardware", earlier.get("hardware"))}
    in_folders = {run.key: keep_results(run, runs.read_run(run)) for run in planned if runs.is_finished(run)}
    finished = runs.find_known_runs(earlier, planned) | in_folders

    def keep(run: "Run", measured: dict[str, Any]) -> None:
        finished[run.key] = keep_results(run, measured)
        results["runs"] = [finished[each.key] for each in planned if each.key in finished]
        results["summary"] = summarize(results["runs"])
        # What is complete stays until this is.
        has_all_runs = runs.list_commands(earlier) <= runs.list_commands(results)
        if has_all_runs and (results["costs"] or not earlier.get("costs")):
            write_json(results_file, results)

    waiting = [run for run in planned if run.key not in finished]
    num_known = len(finished) - len(in_folders)
    known = f", {num_known} in {results_file} alone (`--overwrite True` runs them again)" if num_known else ""
    print(f"{len(planned)} runs, {len(finished)} of them finished{known}.", flush=True)
    if arguments.minutes is not None:
        # A run that fails leaves the list as it is.
        runs.list_remaining(remaining_file, waiting, arguments.num_cost_rounds > 0)
    deadline = time.monotonic() + 60 * (arguments.minutes or math.inf)
    runs.execute_runs(waiting, arguments.num_parallel, keep, deadline)
    costs_remain = arguments.num_cost_rounds > 0 and time.monotonic() > deadline
    runs.end_slice(remaining_file, [run for run in planned if run.key not in finished], costs_remain)
    results["runs"] = [finished[each.key] for each in planned]
    results["summary"] = summarize(results["runs"])
    if arguments.num_cost_rounds > 0:
        print("Measuring the costs.", flush=True)
        setting = CostSetting(arguments.cost_batch_size, arguments.device)
        with runs.handle_signals(runs.end_on_signal):
            results["costs"] = measure_costs(builders, setting, arguments.num_cost_rounds)
        results["cost_hardware"] = results["hardware"]
    write_json(results_file, results)
    choices = "\n".join(describe_choices(results["runs"])) + "\n" if arguments.learning_rates else ""
    print(f"\n{choices or make_table(results['runs'], results['costs'])}\nWritten: {results_file}.")


if __name__ == "__main__":
    run_script(main, "Finished runs are kept: the same command goes on with the others.")
