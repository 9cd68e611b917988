"""
Train AiT, or a baseline, to answer questions about images (Sort-of-CLEVR), with transformers' Trainer.

    python -m examples.relational_reasoning examples/recipes/sort_of_clevr_cpu.yaml
    python -m examples.relational_reasoning examples/recipes/sort_of_clevr_cpu.yaml --architecture relation_network

It takes the recipes and flags of `examples.image_classification` and writes the same folder. `results.json` has the
accuracy for each type and subtype of question, beside what a reader of the question alone could reach.
"""

import sys

from examples.data.arguments import AUGMENTATIONS, DataArguments, refuse_streaming
from examples.errors import RESUME, InputError, run_script
from examples.training.arguments import parse_arguments


def choose_types(arguments: DataArguments) -> list[str]:
    """The types of questions to train on."""
    from examples.data.sort_of_clevr import QUESTION_TYPES

    types = arguments.question_types or list(QUESTION_TYPES)
    if unknown := sorted(set(types) - set(QUESTION_TYPES)):
        raise InputError(f"There is no question type {unknown[0]!r}. Known types: {', '.join(QUESTION_TYPES)}.")
    if arguments.augment_on_device:
        raise InputError("`--augment_on_device` is for image classification: leave it out.")
    for name in AUGMENTATIONS:
        if getattr(arguments, name):
            raise InputError(
                f"Changed images have other answers: leave out `--{name}`, or take `--augment_questions`."
            )
    return types


def main(argv: list[str] | None = None) -> None:
    data_arguments, model_arguments, run_arguments, training = parse_arguments(
        sys.argv[1:] if argv is None else argv, __doc__, "relational_reasoning"
    )
    refuse_streaming(data_arguments, "relational_reasoning")
    types = choose_types(data_arguments)
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.data.questions import load_questions, make_question_datasets
    from examples.data.sort_of_clevr import QUESTION_SIZE
    from examples.training.metrics import answer_from_questions_alone, make_metrics, score_groups
    from examples.training.model import build_model
    from examples.training.picture import draw_run
    from examples.training.progress import quieten_libraries
    from examples.training.publishing import push_folder
    from examples.training.results import describe_command, report_run
    from examples.training.run_folder import collect_arguments, is_finished, lock_output_folder, prepare_output_folder
    from examples.training.trainer import train

    quieten_libraries(run_arguments.verbose)
    should_push, restart, seed = training.push_to_hub, run_arguments.restart, training.seed
    arguments = collect_arguments(data_arguments, model_arguments, training=training)
    with lock_output_folder(training):
        if not is_finished(training, arguments, restart, "trainer"):
            data = load_questions(data_arguments)
            model, processor = build_model(model_arguments, data_arguments, data.label_names, seed, QUESTION_SIZE)
            train_data, eval_data = make_question_datasets(data, data_arguments, processor, types, seed)
            checkpoint = prepare_output_folder(training, arguments, restart, "trainer")
            metrics_of, verbose = make_metrics(eval_data), run_arguments.verbose
            trainer, measured = train(
                model, processor, (train_data, eval_data), arguments, training, metrics_of, checkpoint, verbose
            )
            alone = score_groups(answer_from_questions_alone(train_data, eval_data), eval_data)
            measured["question_only_by_group"] = alone
            measured["num_train_questions"] = train_data.num_questions
            measured["num_eval_questions"] = len(eval_data.answers)
            command = describe_command("examples.relational_reasoning")
            report_run(trainer.save_model, model, processor, data, arguments, training, measured, command)
            if training.process_index == 0:
                print("\nquestions: accuracy (from the question alone)")
                for name, accuracy in measured["accuracy_by_group"].items():
                    print(f"  {name}: {100 * accuracy:.1f} % ({100 * alone[name]:.1f} %)")
            if run_arguments.visualize:
                draw_run(model, processor, data, training)
        if should_push and training.process_index == 0:
            push_folder(training)


if __name__ == "__main__":
    run_script(main, RESUME)
