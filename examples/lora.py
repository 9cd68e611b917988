"""
Adapt an AiT to images by LoRA with transformers' Trainer: few weights are trained, and the memory goes with them.

    python -m examples.lora --model_name_or_path runs/digits --dataset_name path/to/images --output_dir runs/lora

Takes a recipe and the flags of `examples.image_classification`. The output folder gets the adapter, which holds a
classifier and a memory of its own, a model card and `results.json`, and `--push_to_hub True` uploads it. The
checkpoint stays as it is. An unfinished run is resumed when it is called again.
"""

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.errors import RESUME, InputError, flatten_message, refuse_unknown_name, run_script
from examples.parsing import ArgumentParser
from examples.training.adapter import LoraArguments
from examples.training.arguments import OF_TRAINER, OWN_TYPES, parse_arguments


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# Ends of the names of the linear layers of a block.
LAYERS = ("_proj", ".fc1", ".fc2")


def add_lora(model: "PreTrainedModel", arguments: LoraArguments) -> "PeftModel":
    """
    Put an adapter around a model, with a classifier and a memory of its own.

    Raises:
        InputError: if peft is not installed, or the model has no layers of these names.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("This needs peft: `pip install -e '.[examples]'`.") from error
    layers = sorted({name.rpartition(".")[2] for name, _ in model.named_modules() if name.endswith(LAYERS)})
    for target in arguments.target_modules:
        refuse_unknown_name(target.rpartition(".")[2], layers, "layer to adapt")
    config = peft.LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.target_modules,
        modules_to_save=["classifier", "memory"],
    )
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"`--target_modules` cannot be adapted: {flatten_message(error)}") from error


def make_save(adapted: Any) -> Callable[[str], None]:
    """Save the adapter into a folder, and the configuration whose classes and image size it was trained for."""

    def save(folder: str) -> None:
        adapted.save_pretrained(folder)
        # The stub that peft writes; where nobody wrote a card of their own, a complete one follows.
        Path(folder, "README.md").unlink(missing_ok=True)
        adapted.get_base_model().config.to_json_file(Path(folder, "config.json"))

    return save


def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        usage = "python -m examples.lora [RECIPE.yaml] [--flag value ...]"
        parser = ArgumentParser((LoraArguments, *OWN_TYPES), usage=usage, description=__doc__, epilog=OF_TRAINER)
        parser.print_help()
        raise SystemExit(0)
    lora_arguments, rest = ArgumentParser(LoraArguments).parse_some(argv)
    own_flags = [f"--{each.name}" for each in fields(LoraArguments)]
    data_arguments, model_arguments, run_arguments, training = parse_arguments(rest, __doc__, "lora", own_flags)
    if model_arguments.model_name_or_path is None:
        raise InputError("Name the checkpoint to adapt: `--model_name_or_path runs/digits`.")
    # Late, so that neither help nor a mistake in the arguments waits for them.
    from examples.data.images import make_datasets
    from examples.data.loading import load_image_data
    from examples.training.metrics import compute_metrics
    from examples.training.model import build_model
    from examples.training.progress import quieten_libraries
    from examples.training.publishing import push_folder
    from examples.training.results import describe_command, report_run
    from examples.training.run_folder import collect_arguments, is_finished, lock_output_folder, prepare_output_folder
    from examples.training.trainer import train
    from modeling_ait.card_ait import is_hub_id

    quieten_libraries(run_arguments.verbose)
    should_push = training.push_to_hub
    if should_push and not is_hub_id(model_arguments.model_name_or_path):
        raise InputError(
            f"Nobody else has the checkpoint of this adapter: push {model_arguments.model_name_or_path!r} first, then "
            "give its id on the Hub as `--model_name_or_path`."
        )
    arguments = collect_arguments(data_arguments, model_arguments, lora_arguments, training=training)
    with lock_output_folder(training):
        if is_finished(training, arguments, run_arguments.restart, "lora"):
            if should_push and training.process_index == 0:
                push_folder(training)
            return
        data = load_image_data(data_arguments)
        base, processor = build_model(model_arguments, data_arguments, data.label_names, training.seed)
        adapted = add_lora(base, lora_arguments)
        checkpoint = prepare_output_folder(training, arguments, run_arguments.restart, "lora")
        datasets = make_datasets(data, data_arguments, processor, training.seed, training.device)
        _, measured = train(
            adapted, processor, datasets, arguments, training, compute_metrics, checkpoint, run_arguments.verbose
        )
        measured["num_trainable_parameters"] = adapted.get_nb_trainable_parameters()[0]
        command = describe_command("examples.lora")
        report_run(make_save(adapted), adapted, processor, data, arguments, training, measured, command)
        if should_push and training.process_index == 0:
            push_folder(training)
    folder = str(training.output_dir)
    print(f"Trained {measured['num_trainable_parameters']:,} parameters. Load the adapter:\n")
    print("from peft import PeftModel\nfrom modeling_ait import AiTConfig, AiTForImageClassification\n")
    print(f"config = AiTConfig.from_pretrained({folder!r})")
    print("labels = {'id2label': config.id2label, 'label2id': config.label2id}")
    print("base = AiTForImageClassification.from_pretrained(")
    print(f"    {model_arguments.model_name_or_path!r}, ignore_mismatched_sizes=True, **labels\n)")
    print(f"base.resize_positions(config.image_size)\nmodel = PeftModel.from_pretrained(base, {folder!r})")


if __name__ == "__main__":
    run_script(main, RESUME)
