"""
Does it help to write the memory while the inputs drift, and what do blank images do to it?

    python -m examples.online_adaptation --seeds 0 1 2
    python -m examples.online_adaptation --checkpoints runs/digits --results runs/adaptation.json

Each model classifies streams of held-out images whose corruption grows: with its memory read only, with
`update_memory=True`, and with a reset before each batch. Then it writes blank batches, with and without a guard.
Without `--checkpoints` it trains one model for each seed by the recipe; what is finished is kept. The data are the
recipe's. Writes a JSON file, and a plot of the same name beside it. Other flags are passed on to the trainings.
"""

import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from examples.comparison.adaptation import Images
    from examples.data.arguments import DataArguments
    from examples.data.loading import ImageData
    from modeling_ait import AiTForImageClassification

# The memory is measured after so many blank batches, and some more.
MEASURED_STEPS = (0, 1, 2, 5, 10, 20, 50, 100)


@dataclass
class AdaptationArguments:
    checkpoints: list[str] = field(
        default_factory=list, metadata={"help": "Folders or Hub ids of AiT checkpoints. Default: trains one per seed."}
    )
    recipe: str = field(
        default="examples/recipes/digits.yaml", metadata={"help": "Recipe of the data and of the models."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the models to train."})
    num_batches: int = field(default=60, metadata={"help": "Batches of a stream."})
    batch_size: int = field(default=32, metadata={"help": "Images of a batch."})
    num_blank_batches: int = field(default=200, metadata={"help": "Blank batches that are written one after another."})
    num_recovery_batches: int = field(default=100, metadata={"help": "Batches of images written after them."})
    movement_limit: float = field(
        default=0.5, metadata={"help": "A guard takes a write back that leaves the trained memory by more than this."}
    )
    update_rates: list[float] = field(
        default_factory=lambda: [0.01, 0.001], metadata={"help": "Lower rates of the write, as another guard."}
    )
    output_dir: str = field(default="runs/online_adaptation", metadata={"help": "Folder of the models to train."})
    results: str | None = field(
        default=None, metadata={"help": "JSON file for the results. Default: adaptation.json in the output folder."}
    )

    def __post_init__(self) -> None:
        for name in ("num_batches", "batch_size", "num_blank_batches", "num_recovery_batches"):
            if getattr(self, name) < 1:
                raise InputError(f"`--{name}` must be at least 1, but got {getattr(self, name)}.")
        if not self.movement_limit > 0:
            raise InputError(f"`--movement_limit` must be above 0, but got {self.movement_limit}.")
        if not all(0 <= rate <= 1 for rate in self.update_rates):
            raise InputError(f"`--update_rates` must be between 0 and 1, but got {self.update_rates}.")
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not all(0 <= seed < 2**32 for seed in self.seeds)
        ):
            raise InputError(f"`--seeds` must differ and be from 0 to 2**32 - 1, but got {self.seeds}.")


def train_models(arguments: AdaptationArguments, passed_on: list[str]) -> list[str]:
    """Train a model for each seed by the recipe, as far as it is not there already, and return their folders."""
    from examples.comparison.plan import Setting, choose_benchmark, list_variants, plan_runs, refuse_own_flags
    from examples.comparison.runs import execute_runs, is_finished, read_run
    from examples.training.recipes import read_recipe

    refuse_own_flags(passed_on)
    recipe = read_recipe(arguments.recipe)
    benchmarks = {arguments.recipe: choose_benchmark(recipe, passed_on)}
    setting, variants = Setting(arguments.recipe, None), list_variants(["ait"], [])
    recipes = {arguments.recipe: recipe}
    runs = plan_runs([setting], recipes, benchmarks, variants, arguments.seeds, arguments.output_dir, passed_on)
    execute_runs([run for run in runs if not is_finished(run)], 1, lambda run, results: None)
    for run in runs:
        # Refuses what another command has left there.
        read_run(run)
    return [str(run.folder) for run in runs]


def load_images(
    checkpoint: str, model: "AiTForImageClassification", data: "ImageData", data_arguments: "DataArguments"
) -> "Images":
    """
    The held-out images as a model takes them.

    Raises:
        InputError: if the model has other classes.
    """
    import torch

    from examples.comparison.adaptation import Images
    from examples.data.images import ImagePixelsDataset
    from examples.training.loading import load_image_processor

    if list((model.config.id2label or {}).values()) != data.label_names:
        raise InputError(
            f"{checkpoint!r} was trained on other classes than those of {data.name!r}: name its recipe by `--recipe`."
        )
    processor = load_image_processor(checkpoint, model.config, data_arguments, is_resized=False)
    dataset = ImagePixelsDataset(data.evaluation, data.image_column, processor)
    labels = torch.tensor(data.evaluation[data.label_column][:])
    return Images(dataset.get_batch(range(len(dataset))), labels)


def load_model(checkpoint: str, **fields: Any) -> "AiTForImageClassification":
    """
    Load a checkpoint for inference.

    Raises:
        InputError: if it has no memory.
    """
    from examples.training.loading import load_checkpoint
    from modeling_ait import AiTForImageClassification

    model: Any = load_checkpoint(checkpoint, AiTForImageClassification, is_classifier_new=False, **fields).eval()
    if not model.get_memories():
        raise InputError(f"{checkpoint!r} has no memory (`num_memory_slots` is 0): there is nothing to write.")
    return model


def study_drift(
    model: "AiTForImageClassification", images: "Images", arguments: AdaptationArguments, seed: int
) -> dict:
    """Run every stream in every way: `{corruption: {way: what was measured}}`."""
    from examples.comparison.adaptation import CORRUPTIONS, WAYS, run_stream

    sizes = (arguments.num_batches, arguments.batch_size, arguments.movement_limit)
    return {
        corruption: {way: run_stream(model, images, corruption, way, *sizes, seed) for way in WAYS}
        for corruption in CORRUPTIONS
    }


def study_blanks(checkpoint: str, images: "Images", arguments: AdaptationArguments, seed: int) -> dict[str, Any]:
    """Write blank batches with each guard, and images beside them, then images; what was measured by guard."""
    import torch

    from examples.comparison.adaptation import draw_batch, write_batches

    blank = torch.zeros_like(images.pixels[:1]).expand(arguments.batch_size, -1, -1, -1)
    steps = [step for step in MEASURED_STEPS if step < arguments.num_blank_batches] + [arguments.num_blank_batches]
    settings: list[tuple[str, dict[str, float], float | None]] = [
        ("images", {}, None),
        ("blank", {}, None),
        (f"blank, movement limit {arguments.movement_limit:g}", {}, arguments.movement_limit),
    ]
    settings += [(f"blank, rate {rate:g}", {"memory_update_rate": rate}, None) for rate in arguments.update_rates]
    results = {}
    for name, fields, limit in settings:
        generator = torch.Generator().manual_seed(seed)
        model = load_model(checkpoint, **fields)
        trained = model.get_memories()

        def draw_images(generator=generator) -> torch.Tensor:
            return draw_batch(images, arguments.batch_size, generator).pixels

        make_batch = draw_images if name == "images" else lambda: blank
        written = write_batches(model, images, make_batch, arguments.num_blank_batches, steps, trained, limit)
        # The guard has done its part: what images do afterwards, they do alike.
        recovered = load_model(checkpoint)
        recovered.set_memories(model.get_memories())
        last = [arguments.num_recovery_batches]
        results[name] = {
            "written": written,
            "recovered": write_batches(recovered, images, draw_images, last[0], last, trained)[0],
        }
    return results


def summarize(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the models: accuracy of each way in percent, its difference from the first way, and the blank batches."""

    def describe(values: list[float]) -> dict[str, float | None]:
        return {"mean": statistics.mean(values), "stdev": statistics.stdev(values) if len(values) > 1 else None}

    drift: dict[str, dict[str, Any]] = {}
    for corruption, ways in models[0]["drift"].items():
        means = {
            way: [100 * statistics.mean(model["drift"][corruption][way]["accuracies"]) for model in models]
            for way in ways
        }
        plain = next(iter(means.values()))
        drift[corruption] = {
            way: {
                "accuracy": describe(values),
                "difference": describe([value - base for value, base in zip(values, plain)]),
            }
            for way, values in means.items()
        }
    blanks: dict[str, dict[str, Any]] = {}
    for guard in models[0]["blanks"]:
        states = {
            "before": [model["blanks"][guard]["written"][0] for model in models],
            "written": [model["blanks"][guard]["written"][-1] for model in models],
            "recovered": [model["blanks"][guard]["recovered"] for model in models],
        }
        blanks[guard] = {
            state: {
                name: describe([row[name] for row in rows])
                for name in ("distance", "last_movement", "spread", "clean_accuracy")
            }
            for state, rows in states.items()
        }
    return {"drift": drift, "blanks": blanks}


def print_summary(summary: dict[str, Any]) -> None:
    def show(value: dict[str, float | None], scale: float = 1.0, sign: str = "") -> str:
        spread = "" if value["stdev"] is None else f" +- {scale * value['stdev']:.2f}"
        return f"{scale * (value['mean'] or 0.0):{sign}.2f}{spread}"

    for corruption, ways in summary["drift"].items():
        print(f"{corruption}, mean accuracy over the stream and difference from the first:")
        for way, values in ways.items():
            print(f"  {way}: {show(values['accuracy'])} %, {show(values['difference'], sign='+')} points")
    for guard, states in summary["blanks"].items():
        print(f"{guard}:")
        for state, values in states.items():
            print(
                f"  {state}: clean accuracy {show(values['clean_accuracy'], 100)} %, distance from the trained memory "
                f"{show(values['distance'])}, spread of the slots {show(values['spread'])}"
            )


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(AdaptationArguments, prog="python -m examples.online_adaptation", description=__doc__)
    arguments, passed_on = parser.parse_some(sys.argv[1:] if argv is None else argv)
    results_file = make_place(arguments.results or f"{arguments.output_dir}/adaptation.json", "online adaptation")
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from tqdm.auto import tqdm

    from examples.comparison.adaptation_plots import draw_adaptation
    from examples.data.loading import load_image_data
    from examples.training.arguments import parse_arguments
    from examples.training.progress import quieten_libraries
    from examples.training.results import describe_command, describe_setting, write_json

    quieten_libraries(verbose=False)
    data_arguments, *_ = parse_arguments([arguments.recipe, *passed_on], None, other_flags=parser.list_flags())
    checkpoints = arguments.checkpoints or train_models(arguments, passed_on)
    data = load_image_data(data_arguments)
    models = []
    for index, checkpoint in enumerate(tqdm(checkpoints, unit="model", leave=False, disable=None)):
        model = load_model(checkpoint)
        images = load_images(checkpoint, model, data, data_arguments)
        models.append(
            {
                "checkpoint": checkpoint,
                "drift": study_drift(model, images, arguments, index),
                "blanks": study_blanks(checkpoint, images, arguments, index),
            }
        )
    summary = summarize(models)
    # Of the streams where the models were given.
    seeds = list(range(len(models))) if arguments.checkpoints else arguments.seeds
    results = {
        **describe_setting("online adaptation", describe_command("examples.online_adaptation"), seeds),
        "setting": asdict(arguments),
        "models": models,
        "summary": summary,
    }
    write_json(results_file, results)
    draw_adaptation(results, Path(results_file))
    print_summary(summary)
    print(f"Written: {results_file}, and the plot beside it.")


if __name__ == "__main__":
    run_script(main, "Finished trainings are kept: the same command goes on with the others.")
