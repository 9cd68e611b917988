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
from examples.data.questions import load_questions, make_question_datasets
from examples.data.sort_of_clevr import QUESTION_SIZE, QUESTION_TYPES
from examples.errors import InputError, run_script
from examples.training.arguments import ModelArguments, parse_arguments
from examples.training.metrics import answer_from_questions_alone, make_metrics, score_groups
from examples.training.model import build_model
from examples.training.publishing import push_folder
from examples.training.results import describe_command, report_run
from examples.training.run_folder import collect_arguments, is_finished, lock_output_folder
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
        if is_finished(training, arguments, run_arguments.restart):
            return
        run(data_arguments, model_arguments, training, types, arguments, run_arguments.restart, should_push)


def run(
    data_arguments: DataArguments,
    model_arguments: ModelArguments,
    training: TrainingArguments,
    types: list[str],
    arguments: dict[str, Any],
    restart: bool,
    should_push: bool,
) -> None:
    """Train, report and push, once it is clear that the output folder may be written."""
    data = load_questions(data_arguments)
    model, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed, QUESTION_SIZE)
    train_data, eval_data = make_question_datasets(data, data_arguments, processor, types, training.seed)
    trainer, measured = train(
        model,
        processor,
        (train_data, eval_data),
        arguments,
        training,
        make_metrics(eval_data),
        restart,
    )
    measured["question_only_by_group"] = score_groups(answer_from_questions_alone(train_data, eval_data), eval_data)
    measured["num_train_questions"], measured["num_eval_questions"] = len(train_data.answers), len(eval_data.answers)
    if trainer.is_world_process_zero():
        command = describe_command("examples.relational_reasoning")
        report_run(model, processor, data, arguments, training, measured, command)
        print("\nquestions: accuracy (from the question alone)")
        for name, accuracy in measured["accuracy_by_group"].items():
            print(f"  {name}: {100 * accuracy:.1f} % ({100 * measured['question_only_by_group'][name]:.1f} %)")
        if should_push:
            push_folder(training)


if __name__ == "__main__":
    run_script(main)
