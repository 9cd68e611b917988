"""The model card of a run, and pushing its folder to the Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, TrainingArguments

from examples.data.loading import ImageData
from examples.errors import InputError
from examples.sharing import escape_markdown, push_files, quote_python, redact, show


# The picture of the memories, in the folder of a run.
FIGURE = "memory.png"
CARD_TEMPLATE = Path(__file__).parent / "model_card_template.md"


def write_model_card(
    model: PreTrainedModel,
    data: ImageData,
    results: dict[str, Any],
    training: TrainingArguments,
    folder: Path,
    has_figure: bool = False,
) -> None:
    """Fill the template with what this run is, as the `README.md` of a folder, which may show a figure beside it."""
    name = training.hub_model_id or Path(str(training.output_dir)).resolve().name
    dataset = show(Path(data.name).name)
    card_data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="image-classification",
        tags=["ait", "associative-transformer", "image-classification", "vision", "custom_code"],
        model_name=show(name),
        # A folder of the user's own is no data set of the Hub.
        datasets=[show(data.name)] if data.name.count("/") == 1 and not Path(data.name).exists() else None,
        eval_results=None,
    )
    metadata = card_data.to_dict()
    metadata["model-index"] = [
        {
            "name": show(name),
            "results": [
                {
                    "task": {"type": "image-classification", "name": "Image Classification"},
                    "dataset": {"type": dataset, "name": dataset},
                    "metrics": [{"type": "accuracy", "name": "Accuracy", "value": results["accuracy"]}],
                }
            ],
        }
    ]
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(CARD_TEMPLATE),
        title=escape_markdown(name),
        model_id=quote_python(name),
        dataset=escape_markdown(dataset),
        label_names=", ".join(map(escape_markdown, data.label_names)),
        config=model.config,
        results=results,
        arguments=results["arguments"],
        figure=FIGURE if has_figure else None,
    )
    card.content = redact(card.content)
    card.save(folder / "README.md")


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
