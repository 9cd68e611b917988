"""What both conversions share: renaming by a table, loading into the model, and writing the result."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import ViTImageProcessorPil

from examples.errors import InputError
from examples.parsing import find_wrong_statistics
from examples.sharing import FILES_OF_A_MODEL, escape_markdown, find_files, push_files, quote_python, redact, show
from modeling_ait import AiTPreTrainedModel
from modeling_ait.card_ait import make_card_data, seal_card
from modeling_ait.saving_ait import remove_other_shards, stage_files


CARD_TEMPLATE = Path(__file__).parent / "model_card_template.md"
# What a conversion writes over, and the record of a training, which would write over the conversion.
WRITTEN_FILES = (*FILES_OF_A_MODEL, "*.safetensors.index.json", "run_arguments.json")

# Target names of a weight, and how to turn its tensor into one tensor for each of them.
WeightMap = Mapping[str, tuple[tuple[str, ...], Callable[[torch.Tensor], Iterable[torch.Tensor]]]]


class ConversionError(InputError):
    """A checkpoint or option that cannot be converted, with a message that needs no traceback."""


def keep(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """Take a weight over as it is."""
    return (tensor,)


def expand_layers(weight_map: WeightMap, num_layers: int) -> WeightMap:
    """Repeat the entries with a `{layer}` in their names for every layer."""
    expanded = {}
    for source, (targets, transform) in weight_map.items():
        for layer in range(num_layers) if "{layer}" in source else (0,):
            expanded[source.format(layer=layer)] = (tuple(name.format(layer=layer) for name in targets), transform)
    return expanded


def convert_weights(
    weights: Mapping[str, torch.Tensor],
    weight_map: WeightMap,
    ignored: Iterable[str],
    expected: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """
    Rename and transform every weight, and check that the result is exactly what the model expects.

    Args:
        weights: Tensors of the checkpoint by name.
        weight_map: Where each goes, already expanded over the layers.
        ignored: Names that may be there and have no counterpart.
        expected: The model's state dict, for names and shapes; it may be on the meta device.

    Raises:
        ConversionError: for missing or extra weights, one whose shape contradicts the others, or one that holds
            anything but finite floating-point numbers.
    """
    missing = sorted(weight_map.keys() - weights.keys())
    extra = sorted(weights.keys() - weight_map.keys() - set(ignored))
    if missing or extra:
        parts = [f"{kind} {', '.join(names)}" for kind, names in (("missing", missing), ("unknown", extra)) if names]
        raise ConversionError(f"The checkpoint has not the weights that it should have: {'; '.join(parts)}.")
    converted = {}
    for source, (targets, transform) in weight_map.items():
        if not weights[source].is_floating_point():
            raise ConversionError(f"The weight {source} holds {weights[source].dtype}, not floating-point numbers.")
        if not weights[source].isfinite().all():
            raise ConversionError(f"The weight {source} holds a NaN or an infinity: the checkpoint is broken.")
        try:
            tensors = list(transform(weights[source]))
        except RuntimeError as error:
            raise ConversionError(
                f"The weight {source} of shape {tuple(weights[source].shape)} contradicts the other weights: {error}"
            ) from error
        for name, tensor in zip(targets, tensors):
            if tensor.shape != expected[name].shape:
                raise ConversionError(
                    f"The weight {source} of shape {tuple(weights[source].shape)} contradicts the other weights: "
                    f"they ask for {tuple(expected[name].shape)} in {name}, which would get {tuple(tensor.shape)}."
                )
            converted[name] = tensor.contiguous()
    return converted


def check_statistics(**statistics: list[float] | None) -> None:
    """Raise unless the mean and the standard deviation that images are normalised with can work."""
    if wrong := find_wrong_statistics(**statistics):
        raise ConversionError(wrong)


def load_converted(model: AiTPreTrainedModel, converted: dict[str, torch.Tensor]) -> None:
    """Give the model, which may be on the meta device, its weights, without another copy of them."""
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.to(dtypes[name]) for name, tensor in converted.items()}, assign=True)
    model.eval()


def refuse_existing_model(output_dir: Path, overwrite: bool) -> None:
    """Raise unless the folder is free of what a conversion or a training writes, or may be overwritten."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ConversionError(f"`--output_dir` {str(output_dir)!r} is a file, not a folder.")
    found = find_files(output_dir, WRITTEN_FILES)
    if found and not overwrite:
        raise ConversionError(
            f"{str(output_dir)!r} holds {found[0]} already. Say `--overwrite` to replace what a conversion writes, or "
            "name another folder."
        )


def read_labels(path: str | None, num_labels: int) -> dict[int, str] | None:
    """Read a JSON file that maps class indices to names, and check that it names every class."""
    if path is None:
        return None
    try:
        names = json.loads(Path(path).read_text(encoding="utf-8"))
        id2label = {
            int(index): str(name) for index, name in (names.items() if isinstance(names, dict) else enumerate(names))
        }
    except (OSError, ValueError, TypeError) as error:
        raise ConversionError(f'`--id2label` {path!r} must be JSON such as {{"0": "cat", ...}}: {error}') from error
    if sorted(id2label) != list(range(num_labels)):
        raise ConversionError(
            f"`--id2label` {path!r} names the classes {sorted(id2label)}, "
            f"but the checkpoint has 0 to {num_labels - 1}."
        )
    return id2label


def save_converted(
    model: AiTPreTrainedModel,
    processor: ViTImageProcessorPil,
    output_dir: Path,
    source: str,
    command: str,
    push_to_hub: str | None,
    base_model: str | None = None,
) -> None:
    """
    Write weights, code, image processor and model card into the folder, and push it if a repository is named.

    All is written aside first, so that an older model stays until this one is complete. The card names `base_model`,
    if that is an id of the Hub.
    """
    name = push_to_hub or output_dir.resolve().name
    card = ModelCard.from_template(
        make_card_data(model, show(name), base_model),
        template_path=str(CARD_TEMPLATE),
        title=escape_markdown(name),
        model_id=quote_python(name),
        class_name=type(model).__name__,
        config=model.config,
        source=escape_markdown(source),
        command=command,
    )
    with stage_files(output_dir) as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        Path(staging, "README.md").write_text(seal_card(redact(str(card))), encoding="utf-8")
        saved = os.listdir(staging)
    remove_other_shards(output_dir, saved)
    if push_to_hub is not None:
        push_files(output_dir, push_to_hub, f"The model is saved in {str(output_dir)!r}", ConversionError)
