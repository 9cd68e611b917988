"""
The run of `examples/image_classification.py` as an explicit Accelerate loop.

    accelerate launch -m examples.image_classification_accelerate examples/recipes/digits.yaml
    python -m examples.image_classification_accelerate examples/recipes/digits.yaml --output_dir runs/digits_loop

It takes the same recipes and flags and writes the same folder; the loop is in `examples/training/loop.py`. Of
transformers' training arguments it uses those for AdamW, the schedule, batches, epochs, accumulation, bf16, clipping,
evaluation, checkpoints and the Hub.
"""

import sys
from functools import partial

from examples.errors import RESUME, run_script
from examples.training.arguments import parse_arguments, refuse_unused_arguments


def main(argv: list[str] | None = None) -> None:
    data_arguments, model_arguments, run_arguments, training = parse_arguments(
        sys.argv[1:] if argv is None else argv, __doc__, "image_classification_accelerate"
    )
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.data.images import make_datasets
    from examples.data.loading import load_image_data
    from examples.training.loop import USED_ARGUMENTS, make_accelerator, make_loaders, run_loop
    from examples.training.model import build_model
    from examples.training.picture import draw_run
    from examples.training.progress import quieten_libraries
    from examples.training.publishing import push_folder
    from examples.training.results import describe_command, report_run
    from examples.training.run_folder import collect_arguments, is_finished, lock_output_folder, prepare_output_folder
    from examples.training.termination import Termination

    refuse_unused_arguments(training, USED_ARGUMENTS)
    quieten_libraries(run_arguments.verbose)
    arguments = collect_arguments(data_arguments, model_arguments, training=training)
    with lock_output_folder(training):
        if is_finished(training, arguments, run_arguments.restart, "accelerate"):
            if training.push_to_hub and training.process_index == 0:
                push_folder(training)
            return
        data = load_image_data(data_arguments)
        model, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed)
        # The second name is the older one; transformers 5.17 has no other.
        if getattr(training, "activation_checkpointing", None) or training.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        datasets = make_datasets(data, data_arguments, processor, training.seed, training.device)
        loaders = make_loaders(datasets, training)
        accelerator = make_accelerator(model, training)
        checkpoint = prepare_output_folder(training, arguments, run_arguments.restart, "accelerate")
        termination = Termination()
        with termination.listen(training):
            measured = run_loop(
                accelerator,
                model,
                loaders,
                training,
                checkpoint,
                model_arguments.reset_memory,
                termination,
                run_arguments.verbose,
            )
        unwrapped = accelerator.unwrap_model(model)
        # Where FSDP has spread the weights, the first process gets them whole.
        weights = accelerator.get_state_dict(unwrapped)
        save = partial(unwrapped.save_pretrained, is_main_process=accelerator.is_main_process, state_dict=weights)
        command = describe_command("examples.image_classification_accelerate")
        report_run(save, unwrapped, processor, data, arguments, training, measured, command)
        if run_arguments.visualize:
            draw_run(unwrapped, processor, data, training)
        if training.push_to_hub and accelerator.is_main_process:
            push_folder(training)
        # Leaving while another process still reports can hang it in its communication.
        accelerator.wait_for_everyone()
        accelerator.end_training()


if __name__ == "__main__":
    run_script(main, RESUME)
