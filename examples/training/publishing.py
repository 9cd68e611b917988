"""The model card of a run, and pushing its folder to the Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers import PreTrainedModel, TrainingArguments

from examples.data.loading import ImageData


CARD_TEMPLATE = Path(__file__).parent / "model_card_template.md"


def write_model_card(
    model: PreTrainedModel,
    data: ImageData,
    results: dict[str, Any],
    training: TrainingArguments,
    folder: Path,
) -> None:
    """Fill the template with what this run is, as the `README.md` of a folder."""
    name = training.hub_model_id or Path(str(training.output_dir)).resolve().name
    card_data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="image-classification",
        tags=["ait", "associative-transformer", "image-classification", "vision", "custom_code"],
        model_name=name,
        # A folder of the user's own is no data set of the Hub.
        datasets=[data.name] if data.name.count("/") == 1 and not Path(data.name).exists() else None,
        eval_results=None,
    )
    metadata = card_data.to_dict()
    metadata["model-index"] = [
        {
            "name": name,
            "results": [
                {
                    "task": {"type": "image-classification", "name": "Image Classification"},
                    "dataset": {"type": Path(data.name).name, "name": Path(data.name).name},
                    "metrics": [{"type": "accuracy", "name": "Accuracy", "value": results["accuracy"]}],
                }
            ],
        }
    ]
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(CARD_TEMPLATE),
        name=name,
        dataset=Path(data.name).name,
        label_names=", ".join(data.label_names),
        config=model.config,
        results=results,
        arguments=results["arguments"],
    )
    card.save(folder / "README.md")


def push_folder(training: TrainingArguments) -> None:
    """Push the finished output folder, with code and card and without checkpoints, to `hub_model_id` on the Hub."""
    api = HfApi(token=training.hub_token)
    repo_id = training.hub_model_id or Path(str(training.output_dir)).resolve().name
    repo_id = api.create_repo(repo_id, private=training.hub_private_repo, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repo_id,
        folder_path=str(training.output_dir),
        commit_message="End of training",
        ignore_patterns=["checkpoint-*", ".save-*", "runs/*"],
        revision=training.hub_revision,
    )
    print(f"Pushed to {repo_id}.")
