"""The model card of a run, and pushing its folder to the Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, TrainingArguments

from examples.data.arguments import AUGMENTATIONS, QUESTION_AUGMENTATIONS
from examples.data.catalog import find_benchmark
from examples.data.loading import ImageData
from examples.errors import InputError
from examples.sharing import escape_markdown, push_files, quote_code, quote_python, redact, show
from modeling_ait.card_ait import (
    describe_memory,
    describe_use,
    find_adapter,
    find_base_model,
    is_hub_id,
    make_card_data,
    seal_card,
)


# The picture of the memories, in the folder of a run.
FIGURE = "memory.png"
CARD_TEMPLATE = Path(__file__).parent / "model_card_template.md"


def name_split(data: ImageData, arguments: dict[str, Any]) -> str:
    """The split that was evaluated on, as a card names it."""
    found = arguments.get("train_split") if arguments.get("hold_out") else getattr(data.evaluation, "split", None)
    split = str(arguments.get("eval_split") or found or "test")
    return f"{split}, held-out part" if split == arguments.get("train_split") else split


def describe_metrics(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The accuracies of a run as a model index has them: over all, and over each kind of question."""
    metrics = [{"type": "accuracy", "name": "Accuracy", "value": results["accuracy"]}]
    for group, value in results.get("accuracy_by_group", {}).items():
        metrics.append({"type": "accuracy", "name": f"Accuracy, {show(group)}", "value": value})
    return metrics


def list_augmentations(arguments: dict[str, Any]) -> str:
    """The augmentations of a run that were on, by the names of their arguments."""
    values = {name: arguments.get(name) for name in (*AUGMENTATIONS, *QUESTION_AUGMENTATIONS)}
    return (
        ", ".join(name if value is True else f"{name}: {value}" for name, value in values.items() if value) or "none"
    )


def describe_source(source: str) -> str:
    """A model that a run went on from: an id that a reader can look up, or a folder, without the place where it is."""
    return quote_code(source) if is_hub_id(source) else f"{quote_code(Path(source).resolve().name)}, a local folder"


def write_model_card(
    model: PreTrainedModel,
    data: ImageData,
    results: dict[str, Any],
    training: TrainingArguments,
    folder: Path,
    has_figure: bool = False,
) -> None:
    """
    Fill the template with what this run is, as the `README.md` of a folder, which may show a figure beside it.

    Args:
        model: The model, or the one within a `PeftModel` whose adapter the card is of.
        data: What it was trained on.
        results: What was measured, and the arguments.
        training: Arguments of the training.
        folder: Where the card is written.
        has_figure: Whether the figure of the memories lies there.
    """
    name = training.hub_model_id or Path(str(training.output_dir)).resolve().name
    arguments = results["arguments"]
    dataset, split = show(Path(data.name).name), show(name_split(data, arguments))
    benchmark = find_benchmark(data.name)
    # A folder of the user's own is no data set of the Hub.
    hub_id = benchmark.hub_id if benchmark is not None else data.name if is_hub_id(data.name) else None
    source = arguments.get("model_name_or_path")
    adapter = find_adapter(model)
    # What a base model was made from is not what its adapter belongs to.
    base_model = find_base_model(source) if adapter is None else source
    card_data = make_card_data(
        model, show(name), base_model, metrics=["accuracy"], datasets=[hub_id] if hub_id else None
    ).to_dict()
    task = card_data["pipeline_tag"]
    config = {"config": show(arguments["dataset_config_name"])} if arguments.get("dataset_config_name") else {}
    card_data["model-index"] = [
        {
            "name": show(name),
            "results": [
                {
                    "task": {"type": task, "name": task.replace("-", " ").title()},
                    "dataset": {"type": hub_id or dataset, "name": dataset, **config, "split": split},
                    "metrics": describe_metrics(results),
                }
            ],
        }
    ]
    card = ModelCard.from_template(
        ModelCardData(**card_data),
        template_path=str(CARD_TEMPLATE),
        title=escape_markdown(name),
        model_id=quote_python(name),
        dataset=escape_markdown(dataset),
        split=escape_markdown(split),
        source=None if source is None else describe_source(source),
        adapter_use=None if adapter is None else describe_use(model, name, adapter),
        adapter_memory=None if adapter is None else describe_memory(adapter),
        takes_question=model.config.question_size is not None,
        label_names=", ".join(map(escape_markdown, data.label_names)),
        config=model.config,
        results=results,
        arguments=arguments,
        augmentation=list_augmentations(arguments),
        figure=FIGURE if has_figure else None,
    )
    (folder / "README.md").write_text(seal_card(redact(str(card))), encoding="utf-8")


def push_folder(training: TrainingArguments) -> None:
    """
    Push the finished output folder to `hub_model_id` on the Hub: weights, code, card and results, nothing else.

    Raises:
        InputError: if the Hub does not take it. The folder stays as it is.
    """
    folder = Path(str(training.output_dir))
    repo_id = training.hub_model_id or folder.resolve().name
    repo_id = push_files(
        folder,
        repo_id,
        f"The run is finished in {str(folder)!r}",
        InputError,
        training.hub_private_repo,
        training.hub_revision,
        "End of training",
    )
    print(f"Pushed to {repo_id}.")
