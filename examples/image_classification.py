"""
Train AiT on images with transformers' Trainer.

    python -m examples.image_classification examples/recipes/digits.yaml
    python -m examples.image_classification examples/recipes/cifar10.yaml --size small --output_dir runs/cifar10
    python -m examples.image_classification --dataset_name path/to/folder --model_name_or_path runs/cifar10
    python -m examples.image_classification examples/recipes/cifar10.yaml --architecture ait_no_workspace

A recipe is a YAML file with any of the arguments; flags override it. The output folder gets the model with its code,
image processor, model card and `results.json`. An unfinished run is resumed when it is called again.
"""

import sys

from examples.errors import RESUME, run_script
from examples.training.arguments import parse_arguments


def main(argv: list[str] | None = None) -> None:
    data_arguments, model_arguments, run_arguments, training = parse_arguments(
        sys.argv[1:] if argv is None else argv, __doc__
    )
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.data.images import make_datasets
    from examples.data.loading import load_image_data
    from examples.training.metrics import compute_metrics
    from examples.training.model import build_model
    from examples.training.picture import draw_run
    from examples.training.progress import quieten_libraries
    from examples.training.publishing import push_folder
    from examples.training.results import describe_command, report_run
    from examples.training.run_folder import collect_arguments, is_finished, lock_output_folder, prepare_output_folder
    from examples.training.trainer import train

    quieten_libraries(run_arguments.verbose)
    should_push = training.push_to_hub
    arguments = collect_arguments(data_arguments, model_arguments, training=training)
    with lock_output_folder(training):
        if not is_finished(training, arguments, run_arguments.restart, "trainer"):
            data = load_image_data(data_arguments)
            model, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed)
            checkpoint = prepare_output_folder(training, arguments, run_arguments.restart, "trainer")
            datasets = make_datasets(data, data_arguments, processor, training.seed, training.device)
            trainer, measured = train(
                model, processor, datasets, arguments, training, compute_metrics, checkpoint, run_arguments.verbose
            )
            command = describe_command("examples.image_classification")
            report_run(trainer.save_model, model, processor, data, arguments, training, measured, command)
            if run_arguments.visualize:
                draw_run(model, processor, data, training)
        if should_push and training.process_index == 0:
            push_folder(training)


if __name__ == "__main__":
    run_script(main, RESUME)
