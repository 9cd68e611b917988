"""The model card of a push: what the model is and what its memory does, and whose card may be replaced."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RevisionNotFoundError,
)
from transformers import PreTrainedModel


CARD_FILE = "README.md"
TAGS = ("ait", "associative-transformer", "vision", "custom_code")
# Task of each class, and the Auto class that opens it.
TASKS = {
    "AiTForImageClassification": ("image-classification", "AutoModelForImageClassification"),
    "AiTForRelationalReasoning": ("visual-question-answering", "AutoModelForVisualQuestionAnswering"),
}
BASE_TASK = ("image-feature-extraction", "AutoModel")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SEAL = re.compile(r"\n<!-- Card written by modeling_ait: ([0-9a-f]{16}) -->\s*\Z")
# What transformers writes where there is no card.
STUB = "This is the model card of a 🤗 transformers model that has been pushed on the Hub."
ADVICE = {
    401: "The Hub does not know the token: log in by `hf auth login`, or set `HF_TOKEN` to one with write access.",
    403: "The token may not write there: take one with write access, and a repository that is yours.",
    404: "There is no such repository or revision, or the token may not see it.",
    409: "The name is taken by something else: choose another.",
}
TEMPLATE = """\
# {name}

An Associative Transformer (AiT, CVPR 2025, [arXiv 2309.12862](https://arxiv.org/abs/2309.12862)): a vision transformer
with a memory in every layer{origin}.

## Use

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained({model_id}, trust_remote_code=True)
outputs = model(pixel_values{question})
```

With the package `modeling_ait` imported, `trust_remote_code` is not needed.

## Memory

Training writes the memories, once per forward pass; inference reads them and never writes: a prediction depends
on no other image. `update_memory=True` writes in inference too. The memories are part of the checkpoint, and averages
over training images: treat them as you treat the weights.

## Model

| | |
|---|---|
{rows}

## Intended use and limits

Research, and images like those that it was trained on. It has not been tested for decisions about people.
"""


def is_hub_id(name: Any) -> bool:
    """Whether a text is the id of a repository rather than a folder."""
    return isinstance(name, str) and HUB_ID.fullmatch(name) is not None and not os.path.exists(name)


def find_base_model(name: str | None) -> str | None:
    """The model of the Hub that a checkpoint is made from: itself, or what the card of its folder names."""
    if is_hub_id(name):
        return name
    with suppress(OSError, ValueError):
        base_model = ModelCard.load(Path(str(name), CARD_FILE)).data.base_model
        return base_model if isinstance(base_model, str) else None
    return None


def make_card_data(model: PreTrainedModel, name: str, base_model: str | None = None, **more: Any) -> ModelCardData:
    """
    The metadata of a card.

    Args:
        model: The model.
        name: Name of the model.
        base_model: Id of the model that it was made from; another name is left out.
        more: Fields of `ModelCardData` beside them, such as `datasets` or `eval_results`.
    """
    task, _ = TASKS.get(type(model).__name__, BASE_TASK)
    return ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag=task,
        tags=[*TAGS, task],
        model_name=name,
        base_model=base_model if is_hub_id(base_model) and base_model != name else None,
        ignore_metadata_errors=False,
        **more,
    )


def make_card(model: PreTrainedModel, name: str, base_model: str | None = None, **more: Any) -> str:
    """
    Write the card of a model that nothing but itself is known of.

    Args:
        model: The model.
        name: Id of its repository.
        base_model: Id of the model that it was made from.
        more: Fields of `ModelCardData` beside them.
    """
    config: Any = model.config
    data = make_card_data(model, name, base_model, **more)
    _, auto_class = TASKS.get(type(model).__name__, BASE_TASK)
    origin = f", made from `{data.base_model}`" if data.base_model else ""
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    image, patch = (" x ".join(map(str, shape)) for shape in (config.image_shape, config.patch_shape))
    rows = {
        "Parameters": f"{model.num_parameters():,}",
        "Layers, width, heads, MLP": ", ".join(map(str, sizes)),
        "Image, patch": f"{image}, {patch} pixels",
        "Memory": f"{config.num_memory_slots} slots of {config.memory_slot_size} in every layer",
        "Write heads, bottleneck": f"{config.num_memory_heads}, {config.bottleneck_size}",
        "Labels": config.num_labels if type(model).__name__ in TASKS else "none",
    }
    for result in data.eval_results or ():
        where = f"{result.dataset_name}, split {result.dataset_split}"
        rows[f"{result.metric_name or result.metric_type} on {where}"] = result.metric_value
    text = TEMPLATE.format(
        name=name,
        origin=origin,
        auto_class=auto_class,
        model_id=json.dumps(name),
        question="" if config.question_size is None else ", question=question",
        rows="\n".join(f"| {what} | {value} |" for what, value in rows.items()),
    )
    return seal_card(f"---\n{data.to_yaml()}\n---\n\n{text}")


def digest_card(card: ModelCard) -> str:
    """A hash of what a card says, however its metadata are laid out."""
    metadata = json.dumps(card.data.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(f"{metadata}\n{SEAL.sub('', card.text).strip()}".encode()).hexdigest()[:16]


def seal_card(text: str) -> str:
    """Mark a card as written by a program, so that one that somebody has changed since is told from it."""
    text = SEAL.sub("", text).rstrip() + "\n"
    return f"{text}\n<!-- Card written by modeling_ait: {digest_card(ModelCard(text))} -->\n"


def is_users_card(text: str) -> bool:
    """Whether somebody wrote or changed a card, which must not be replaced then."""
    try:
        card = ModelCard(text)
        if found := SEAL.search(text):
            return digest_card(card) != found[1]
        if STUB not in text:
            return True
        stub = ModelCard.from_template(
            ModelCardData(), model_description=f"{STUB} This model card has been automatically generated."
        )
        return card.text.strip() != stub.text.strip()
    except Exception:
        # Whatever is wrong with it, no program of ours wrote it.
        return True


def read_remote_card(repo_id: str, token: str | bool | None = None, revision: str | None = None) -> str | None:
    """The card of a repository, at a revision or, if that is not there yet, where it will branch off."""
    try:
        file = hf_hub_download(repo_id, CARD_FILE, revision=revision, token=token)
    except RevisionNotFoundError:
        return None if revision is None else read_remote_card(repo_id, token)
    except EntryNotFoundError:
        return None
    return Path(file).read_text(encoding="utf-8")


def choose_card(new: str, remote: str | None, tags: list[str]) -> str | None:
    """
    The card to upload; `None` leaves the one of the repository as it is.

    Args:
        new: Card of the model.
        remote: Card of the repository, if it has one.
        tags: Tags that were asked for, which even a card of the user's gets.
    """
    is_kept = remote is not None and is_users_card(remote) and not is_users_card(new)
    text = remote if is_kept and remote is not None else new
    card = ModelCard(text, ignore_metadata_errors=True)
    before = card.data.get("tags") or []
    missing = [tag for tag in tags if tag not in before]
    if not missing:
        return None if is_kept else text
    card.data["tags"] = [*before, *missing]
    return str(card) if is_users_card(text) else seal_card(str(card))


def advise(error: BaseException) -> str:
    """What to do about a Hub that does not take a push, in one line."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, HfHubHTTPError) and status is not None:
        if status >= 500:
            return f"The Hub has a fault of its own ({status}): call the same again later."
        return ADVICE.get(status, f"The Hub refused it with status {status}.")
    if isinstance(error, LocalTokenNotFoundError):
        return ADVICE[401]
    if isinstance(error, (TypeError, ValueError)):
        return "The arguments cannot work."
    return "The Hub cannot be reached: see to the network, then call the same again."


@contextmanager
def explain_refusals(repo_id: str) -> Iterator[None]:
    """Add one line of advice to what the Hub's client raises; a push is one commit, so nothing is there by halves."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{repo_id!r} was not pushed, and no file here has changed. {advise(error)}")
        raise
