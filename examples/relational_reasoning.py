"""
Train AiT, or a baseline, to answer questions about images (Sort-of-CLEVR), with transformers' Trainer.

    python -m examples.relational_reasoning examples/recipes/sort_of_clevr_cpu.yaml
    python -m examples.relational_reasoning examples/recipes/sort_of_clevr_cpu.yaml --architecture relation_network

It takes the recipes and flags of `examples.image_classification` and writes the same folder. `results.json` has the
accuracy for each type and subtype of question, beside what a reader of the question alone could reach.
"""

import sys
from typing import Any

from transformers import TrainingArguments

from examples.data.arguments import DataArguments
from examples.data.images import ImagePixelsDataset
from examples.data.questions import QuestionsDataset, load_questions
from examples.data.sort_of_clevr import QUESTION_SIZE, QUESTION_TYPES
from examples.errors import InputError, run_script
from examples.training.arguments import ModelArguments, parse_arguments
from examples.training.metrics import answer_from_questions_alone, make_metrics, score_groups
from examples.training.model import build_model
from examples.training.publishing import push_folder
from examples.training.results import describe_command, report_run
from examples.training.run_folder import collect_arguments, is_finished, lock_output_folder, prepare_output_folder
from examples.training.trainer import train


def main(argv: list[str] | None = None) -> None:
    data_arguments, model_arguments, run_arguments, training = parse_arguments(
        sys.argv[1:] if argv is None else argv, __doc__
    )
    types = data_arguments.question_types or list(QUESTION_TYPES)
    if unknown := sorted(set(types) - set(QUESTION_TYPES)):
        raise InputError(f"There is no question type {unknown[0]!r}. Known types: {', '.join(QUESTION_TYPES)}.")
    if data_arguments.horizontal_flip or data_arguments.crop_padding:
        raise InputError("Flipped or cropped images have other answers: set no `horizontal_flip` or `crop_padding`.")
    should_push = training.push_to_hub
    arguments = collect_arguments(data_arguments, model_arguments, training=training)
    with lock_output_folder(training):
        if not is_finished(training, arguments, run_arguments.restart, "trainer"):
            run(data_arguments, model_arguments, training, types, arguments, run_arguments.restart)
        if should_push and training.process_index == 0:
            push_folder(training)


def run(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    training: TrainingArguments,
    types: list[str],
    arguments: dict[str, Any],
    restart: bool,
) -> None:
    """Train and report, once it is clear that the output folder may be written."""
    data = load_questions(data_arguments)
    model, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed, QUESTION_SIZE)
    # Always in memory: each image is asked about many times.
    train_data, eval_data = (
        QuestionsDataset(part, ImagePixelsDataset(part, "image", processor, cache=True), types)
        for part in (data.train, data.evaluation)
    )
    trainer, measured = train(
        model,
        processor,
        (train_data, eval_data),
        arguments,
        training,
        make_metrics(eval_data),
        prepare_output_folder(training, arguments, restart, "trainer"),
    )
    measured["question_only_by_group"] = score_groups(answer_from_questions_alone(train_data, eval_data), eval_data)
    measured["num_train_questions"], measured["num_eval_questions"] = len(train_data), len(eval_data)
    command = describe_command("examples.relational_reasoning")
    report_run(trainer.save_model, model, processor, data, arguments, training, measured, command)
    if training.process_index == 0:
        print("\nquestions: accuracy (from the question alone)")
        for name, accuracy in measured["accuracy_by_group"].items():
            print(f"  {name}: {100 * accuracy:.1f} % ({100 * measured['question_only_by_group'][name]:.1f} %)")


if __name__ == "__main__":
    run_script(main)
