"""
Evaluate a checkpoint on the data that it was evaluated on after its training, or on others.

    python -m examples.evaluate runs/digits
    python -m examples.evaluate runs/sort_of_clevr_cpu --generator_seed 1 --output runs/other_seed.json
    python -m examples.evaluate runs/mine --dataset_name path/to/images --split test
    python -m examples.evaluate runs/digits --without_slots 3 1:7

Its `results.json` says which data those are; flags change single things about them. On the same data the accuracy is
compared with the recorded one.
"""

import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from examples.data.arguments import DataArguments, refuse_augmentation
from examples.errors import InputError, make_place, run_script
from examples.parsing import ArgumentParser


if TYPE_CHECKING:
    from examples.training.evaluation import Evaluation


@dataclass
class EvaluateArguments:
    """What to evaluate, and where."""

    split: str | None = field(default=None, metadata={"help": "Split to evaluate on, as `--eval_split`."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Samples in a batch. Default: as in the run's own evaluation, else 64."}
    )
    device: str | None = field(default=None, metadata={"help": "Device. Default: a GPU where there is one."})
    max_difference: float | None = field(
        default=None,
        metadata={"help": "End with status 1 if an accuracy is further from the recorded one, in points."},
    )
    without_slots: list[str] = field(
        default_factory=list,
        metadata={"help": "Slots that no token retrieves: 7 is slot 7 of every layer, 2:7 that of layer 2, from 0."},
    )
    without_memory: bool = field(default=False, metadata={"help": "Let no token retrieve anything."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to."})


def parse(argv: list[str]) -> tuple[str, EvaluateArguments, dict[str, Any]]:
    """Parse the command line: the checkpoint, the arguments, and the fields of `DataArguments` that were given."""
    checkpoint = argv[0] if argv and not argv[0].startswith("-") else None
    usage = "python -m examples.evaluate CHECKPOINT [--flag value ...]"
    parser = ArgumentParser((EvaluateArguments, DataArguments), description=__doc__, usage=usage)
    arguments, data = parser.parse(argv if checkpoint is None else argv[1:])
    if checkpoint is None:
        raise InputError("Name a checkpoint first, a folder or a Hub id, before all flags.")
    flags = {flag.partition("=")[0].replace("-", "_") for flag in argv if flag.startswith("--")}
    given = {name: value for name, value in asdict(data).items() if flags & {f"__{name}", f"__no_{name}"}}
    if arguments.split is not None:
        if "eval_split" in given:
            raise InputError("`--split` and `--eval_split` are the same: give one of them.")
        given["eval_split"] = arguments.split
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise InputError(f"`--batch_size` must be at least 1, but got {arguments.batch_size}.")
    if arguments.without_memory and arguments.without_slots:
        raise InputError("`--without_memory` leaves no slot to take away: leave `--without_slots` out.")
    refuse_augmentation(data)
    return checkpoint, arguments, given


def list_accuracies(accuracy: float, accuracy_by_group: dict[str, float] | None) -> dict[str, float]:
    """All accuracies by what they are of."""
    return {"all": accuracy, **(accuracy_by_group or {})}


def find_differences(evaluation: "Evaluation", record: dict[str, Any]) -> dict[str, float]:
    """How many points each accuracy is above the recorded one, for those that are recorded."""
    recorded = list_accuracies(record["accuracy"], record.get("accuracy_by_group"))
    measured = list_accuracies(evaluation.accuracy, evaluation.accuracy_by_group)
    return {name: 100 * (value - recorded[name]) for name, value in measured.items() if name in recorded}


def show_accuracies(evaluation: "Evaluation", differences: dict[str, float]) -> None:
    """Print all accuracies, with their difference from the recorded ones where there are any."""
    for name, value in list_accuracies(evaluation.accuracy, evaluation.accuracy_by_group).items():
        asked = f"{evaluation.num_samples} questions about " if evaluation.accuracy_by_group else ""
        title = f"Accuracy on {asked}{evaluation.num_images} images" if name == "all" else f"  {name}"
        more = f" (recorded {100 * value - differences[name]:.2f} %)" if name in differences else ""
        print(f"{title}: {100 * value:.2f} %{more}")


def main(argv: list[str] | None = None) -> None:
    checkpoint, arguments, given = parse(list(sys.argv[1:] if argv is None else argv))
    output = None if arguments.output is None else make_place(arguments.output, "evaluation")
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.training.cost import choose_device
    from examples.training.evaluation import choose_data, evaluate_checkpoint, is_recorded_data, is_unseen, read_record
    from examples.training.loading import choose_class
    from examples.training.progress import quieten_libraries
    from examples.training.results import describe_command, describe_setting, write_json

    device = choose_device(arguments.device)
    quieten_libraries(verbose=False)
    model_class = choose_class(checkpoint)
    record = read_record(checkpoint)
    data = choose_data(record, given)
    recorded_size = record.get("arguments", {}).get("per_device_eval_batch_size")
    batch_size = arguments.batch_size or (recorded_size if isinstance(recorded_size, int) else 64)
    is_same = is_recorded_data(record, data)
    options = (arguments.without_slots, arguments.without_memory, is_unseen(record, data))
    evaluation = evaluate_checkpoint(checkpoint, model_class, data, batch_size, device, *options)
    differences = find_differences(evaluation, record) if is_same else {}
    show_accuracies(evaluation, differences)
    if not is_same:
        print("Not compared with a recorded accuracy: " + ("it is of other data." if record else "there is none."))
    if output is not None:
        results = {
            **describe_setting("evaluation", describe_command("examples.evaluate"), [], device == "cpu"),
            "checkpoint": checkpoint,
            "without_slots": arguments.without_slots,
            "without_memory": arguments.without_memory,
            "data": asdict(data),
            **{name: value for name, value in asdict(evaluation).items() if value is not None},
            "points_above_recorded": differences,
        }
        write_json(output, results)
        print(f"Written: {output}.")
    if arguments.max_difference is not None:
        if not is_same:
            raise InputError("`--max_difference` needs a recorded accuracy of the same data.")
        name, worst = max(differences.items(), key=lambda item: abs(item[1]))
        if abs(worst) > arguments.max_difference:
            raise InputError(f"The accuracy ({name}) is {worst:+.2f} points from the recorded one.")


if __name__ == "__main__":
    run_script(main)
