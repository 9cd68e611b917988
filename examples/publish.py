"""
Publish a finished run: push it to the Hub, or copy what others need of it into a folder.

    python -m examples.publish runs/mine --repo_id user/my-ait
    python -m examples.publish runs/digits --output examples/checkpoints/digits
    python -m examples.publish examples/checkpoints/digits --repo_id user/ait-digits

Weights, configuration, processor, model card, results and pictures are published, no checkpoint, log or optimizer.
What is pushed carries the model's code, so that it opens anywhere; a folder does not, and opens where `modeling_ait`
is imported.
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from examples.errors import InputError, flatten_message, read_json, refuse_lost_link, run_script
from examples.parsing import ArgumentParser
from examples.sharing import CODE_FILES, MODEL_CODE, list_files_to_push, push_files


CONFIG_FILE, ADAPTER_FILE, INDEX_FILE = "config.json", "adapter_config.json", "model.safetensors.index.json"


@dataclass
class PublishArguments:
    """Where to."""

    repo_id: str | None = field(default=None, metadata={"help": "Repository of the Hub, made if need be."})
    private: bool = field(default=False, metadata={"help": "Make a new repository a private one."})
    revision: str | None = field(default=None, metadata={"help": "Branch to push to. Default: main."})
    output: str | None = field(default=None, metadata={"help": "Folder to copy to."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the model that is there already."})


def parse(argv: list[str]) -> tuple[Path, PublishArguments]:
    """Parse the command line: the folder of the run, and where it goes."""
    usage = "python -m examples.publish FOLDER (--repo_id NAME | --output FOLDER) [--flag value ...]"
    parser = ArgumentParser((PublishArguments,), description=__doc__, usage=usage)
    has_folder = bool(argv) and not argv[0].startswith("-")
    (arguments,) = parser.parse(argv[1:] if has_folder else argv)
    if not has_folder:
        raise InputError("Name the folder of a finished run first, before all flags.")
    if bool(arguments.repo_id) == bool(arguments.output):
        raise InputError("Give one of `--repo_id`, a repository of the Hub, and `--output`, a folder.")
    if arguments.output is not None and (arguments.private or arguments.revision is not None):
        raise InputError("`--private` and `--revision` belong to `--repo_id`: leave them out.")
    if arguments.repo_id is not None and arguments.overwrite:
        raise InputError("`--overwrite` belongs to `--output`: a push keeps what was there in the commits before it.")
    return Path(argv[0]), arguments


def list_files(folder: Path) -> list[str]:
    """
    The files of a model's folder that may be published.

    Raises:
        InputError: if it has no configuration or not all weights, one of its files is damaged, or it is no AiT or an
            export of one.
    """
    from safetensors import SafetensorError, safe_open

    from examples.exporting.folders import EXPORT_FILE
    from examples.training.loading import read_saved_json

    files = list_files_to_push(folder) if folder.is_dir() else []
    if (folder / EXPORT_FILE).exists():
        raise InputError(
            f"{str(folder)!r} is an export ({EXPORT_FILE}), whose README.md holds for the whole folder: publish the "
            "checkpoint that it was made from, or upload the folder as it is, by `hf upload`."
        )
    if ADAPTER_FILE in files and CONFIG_FILE not in files:
        raise InputError(f"{str(folder)!r} is an adapter that peft saved: its model's `push_to_hub` publishes it.")
    if CONFIG_FILE not in files or not any(name.endswith(".safetensors") for name in files):
        raise InputError(f"{str(folder)!r} has no finished model: {CONFIG_FILE} and safetensors weights are needed.")
    if (model_type := (read_saved_json(str(folder), CONFIG_FILE) or {}).get("model_type")) != "ait":
        raise InputError(f"{str(folder)!r} holds a model of type {model_type!r}: AiT models alone are published.")
    shards = (read_saved_json(str(folder), INDEX_FILE) or {}).get("weight_map") if INDEX_FILE in files else {}
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{str(folder)!r} has no finished model: {INDEX_FILE} names no files of weights.")
    if missing := sorted({*shards.values()} - {*files}):
        raise InputError(f"{str(folder)!r} has no finished model: {missing[0]} is missing, which {INDEX_FILE} names.")
    for name in files:
        if name.endswith(".json"):
            read_saved_json(str(folder), name)
        elif name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, framework="pt"):
                    pass
            except SafetensorError as error:
                raise InputError(
                    f"{str(folder / name)!r} is no whole safetensors file: {flatten_message(error)}."
                ) from None
    return files


def copy_model(source: Path, target: Path, with_code: bool) -> None:
    """Copy a model into a folder, with the code that opens it anywhere or without it."""
    from modeling_ait.saving_ait import AUTO_MAP, stage_files

    files = list_files(source)
    code = [name for name in files if name in CODE_FILES]
    with stage_files(target) as staging:
        for name in files:
            if with_code or name not in code:
                shutil.copyfile(source / name, Path(staging, name))
        config = json.loads(Path(source, CONFIG_FILE).read_text(encoding="utf-8"))
        config.pop("auto_map", None)
        if with_code:
            config["auto_map"] = AUTO_MAP
            if not code and MODEL_CODE is not None:
                package = Path(str(MODEL_CODE.origin)).parent
                for name in sorted(CODE_FILES):
                    shutil.copyfile(package / name, Path(staging, name))
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        Path(staging, CONFIG_FILE).write_text(text, encoding="utf-8")
        copied = os.listdir(staging)
    # What an earlier model left there would be loaded in place of this one, or shown beside it.
    for name in set(list_files_to_push(target)) - set(copied):
        Path(target, name).unlink()


def complete_card(folder: Path, source: Path, name: str) -> None:
    """
    Write a card where a run left none or a Trainer's unfinished one, or rename the one that the run wrote.

    Raises:
        InputError: for an adapter whose base model nobody else has, or that has no card of its own.
    """
    from examples.training.loading import MODEL_CLASSES, load_checkpoint, read_config
    from modeling_ait.card_ait import CARD_FILE, is_draft, is_hub_id, rename_card

    card, adapter = folder / CARD_FILE, folder / ADAPTER_FILE
    is_missing = not card.exists() or is_draft(card.read_text(encoding="utf-8", errors="replace"))
    if adapter.exists():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        if not is_hub_id(base):
            raise InputError(
                f"{str(source)!r} is an adapter of {base!r}, which nobody else has: publish that first, then train "
                "the adapter with its id on the Hub as `--model_name_or_path`."
            )
        if is_missing:
            raise InputError(f"{str(source)!r} is an adapter without a card: its model's `save_card` writes one.")
    elif is_missing:
        classes = {model_class.__name__: model_class for model_class in MODEL_CLASSES}
        architecture = (read_config(str(source)).get("architectures") or ["AiTForImageClassification"])[0]
        load_checkpoint(str(source), classes[architecture], is_classifier_new=False).save_card(folder, name)
    else:
        text = card.read_bytes().decode("utf-8", errors="surrogateescape")
        card.write_bytes(rename_card(text, name).encode("utf-8", errors="surrogateescape"))


def is_published(folder: Path) -> bool:
    """Whether a folder holds an AiT, and neither the run that made it nor an export of it."""
    from examples.exporting.folders import EXPORT_FILE
    from examples.training.checkpoints import list_checkpoints
    from examples.training.run_folder import ARGUMENTS_FILE

    is_other = bool(list_checkpoints(folder)) or any(
        (folder / name).exists() for name in (EXPORT_FILE, ARGUMENTS_FILE)
    )
    return not is_other and read_json(folder / CONFIG_FILE).get("model_type") == "ait"


def refuse_other_files(output: Path, overwrite: bool) -> None:
    """Raise an `InputError` for a folder that holds something, unless it is an AiT that may be overwritten."""
    refuse_lost_link(output)
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"`--output` {str(output)!r} is a file: name a folder.")
    # What git keeps in a clone of a repository is no work of anyone's.
    found = [name for name in os.listdir(output) if not name.startswith(".")]
    if found and not is_published(output):
        raise InputError(f"`--output` {str(output)!r} holds something else than a published AiT: name another folder.")
    if found and not overwrite:
        raise InputError(f"{str(output)!r} holds a model already: name another folder, or `--overwrite True`.")


def main(argv: list[str] | None = None) -> None:
    folder, arguments = parse(list(sys.argv[1:] if argv is None else argv))
    list_files(folder)
    if arguments.output:
        output = Path(arguments.output)
        if output.resolve() == folder.resolve():
            raise InputError(f"`--output` {arguments.output!r} is the run itself: name another folder.")
        refuse_other_files(output, arguments.overwrite)
        with tempfile.TemporaryDirectory() as staging:
            copy_model(folder, Path(staging), with_code=False)
            complete_card(Path(staging), folder, output.resolve().name)
            copy_model(Path(staging), output, with_code=False)
        print(f"Written: {output}.")
        return
    with tempfile.TemporaryDirectory() as staging:
        copy_model(folder, Path(staging), with_code=True)
        complete_card(Path(staging), folder, str(arguments.repo_id))
        repo_id = push_files(
            Path(staging),
            str(arguments.repo_id),
            f"{str(folder)!r} is complete",
            InputError,
            arguments.private or None,
            arguments.revision,
            "Publish the model",
        )
    print(f"Pushed to {repo_id}.")


if __name__ == "__main__":
    run_script(main)
