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
# What peft puts below a stub, and how a Trainer's card begins and which sections it leaves to be written.
PEFT_VERSION = re.compile(r"\n### Framework versions\s+- PEFT \S+\s*\Z")
DRAFT = "<!-- This model card has been generated automatically according to the information the Trainer had access to."
BLANKS = ("Model description", "Intended uses & limitations", "Training and evaluation data")
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
{use}
outputs = model(pixel_values{question})
```

With the package `modeling_ait` imported, `trust_remote_code` is not needed.

## Memory

{adapter_memory}\
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
USE = """\
from transformers import {auto_class}

model = {auto_class}.from_pretrained({model_id}, trust_remote_code=True)"""
USE_ADAPTER = """\
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained(
    {base_id}, trust_remote_code=True{labels}
)
base.resize_positions({image_shape})
model = PeftModel.from_pretrained(base, {model_id})"""
OWN_MEMORY = """\
The adapter has memories of its own, which training wrote: its `modules_to_save` names `memory`, and they are in its
file. While it is disabled, or another one is active, those of the base model or of the other are read."""
NO_MEMORY = """\
The adapter has no memories of its own, as its `modules_to_save` does not name `memory`: it reads those of the base
model, as they are in the base model's checkpoint."""
# As many labels as a card names.
MAX_LABELS = 100


def is_hub_id(name: Any) -> bool:
    """Whether a text is the id of a repository rather than a folder."""
    return isinstance(name, str) and HUB_ID.fullmatch(name) is not None and not os.path.exists(name)


def find_base_model(name: str | None) -> str | None:
    """The model of the Hub that a checkpoint is made from: itself, or what the card of its folder names."""
    if is_hub_id(name):
        return name
    if not name:
        # A model that was not loaded; the working directory is none.
        return None
    with suppress(OSError, ValueError):
        base_model = ModelCard.load(Path(str(name), CARD_FILE)).data.base_model
        return base_model if isinstance(base_model, str) else None
    return None


def find_adapter(model: PreTrainedModel) -> Any:
    """The configuration of the active adapter of peft, or `None` for a model that has none, however it came there."""
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        return None
    # A model within a `PeftModel` does not know which one is active.
    names = model.active_adapters() if getattr(model, "_hf_peft_config_loaded", False) else []
    return adapters.get(names[0] if names else "default", next(iter(adapters.values())))


def make_card_data(model: PreTrainedModel, name: str, base_model: str | None = None, **more: Any) -> ModelCardData:
    """
    The metadata of a card.

    Args:
        model: The model; one with an adapter stands for its adapter.
        name: Name of the model.
        base_model: Id of the model that it was made from; another name is left out.
        more: Fields of `ModelCardData` beside them, such as `datasets` or `eval_results`.
    """
    task, _ = TASKS.get(type(model).__name__, BASE_TASK)
    adapter = find_adapter(model)
    base_model = base_model if is_hub_id(base_model) and base_model != name else None
    tags = [*TAGS, task]
    if adapter is not None:
        tags += [adapter.peft_type.lower(), *([f"base_model:adapter:{base_model}"] if base_model else [])]
    return ModelCardData(
        library_name="transformers" if adapter is None else "peft",
        license="apache-2.0",
        pipeline_tag=task,
        tags=tags,
        model_name=name,
        base_model=base_model,
        ignore_metadata_errors=False,
        **more,
    )


def quote_code(value: Any) -> str:
    """Write a text, or a list of texts, as Python that cannot end the block of code that it stands in."""
    return json.dumps(value).replace("`", "\\u0060")


def describe_use(model: PreTrainedModel, name: str, adapter: Any) -> str:
    """The lines of Python that open a model, or an adapter upon its base model."""
    config: Any = model.config
    _, auto_class = TASKS.get(type(model).__name__, BASE_TASK)
    if adapter is None:
        return USE.format(auto_class=auto_class, model_id=quote_code(name))
    labels = ""
    if type(model).__name__ in TASKS and "classifier" in (adapter.modules_to_save or ()):
        # The adapter's classifier takes the place of the base model's, which may have other classes.
        names = [config.id2label[index] for index in range(config.num_labels)]
        labels = f"num_labels={config.num_labels}"
        if config.num_labels <= MAX_LABELS:
            labels = f"id2label=dict(enumerate({quote_code(names)}))"
        labels = f", {labels}, ignore_mismatched_sizes=True"
    return USE_ADAPTER.format(
        auto_class=auto_class,
        base_id=quote_code(name_base(adapter)),
        labels=labels,
        image_shape=tuple(config.image_shape),
        model_id=quote_code(name),
    )


def describe_memory(adapter: Any) -> str:
    """Whose memories an adapter reads."""
    return OWN_MEMORY if "memory" in (adapter.modules_to_save or ()) else NO_MEMORY


def name_base(adapter: Any) -> str:
    """The base model of an adapter, without the path of a folder that nobody else has."""
    base = str(adapter.base_model_name_or_path or "")
    return base if is_hub_id(base) else Path(base).name or "the base model"


def make_card(model: PreTrainedModel, name: str, base_model: str | None = None, **more: Any) -> str:
    """
    Write the card of a model that nothing but itself is known of, or of its adapter if it has one.

    Args:
        model: The model.
        name: Id of its repository.
        base_model: Id of the model that it was made from, or that an adapter belongs to.
        more: Fields of `ModelCardData` beside them.
    """
    config: Any = model.config
    adapter = find_adapter(model)
    data = make_card_data(model, name, base_model, **more)
    origin = f", made from `{data.base_model}`" if data.base_model else ""
    if adapter is not None:
        origin = f"; this is an adapter of `{data.base_model or name_base(adapter)}`, without the model itself"
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
    own_modules = () if adapter is None else adapter.modules_to_save or ()
    if adapter is not None:
        rows["Parameters, with the adapter"] = rows.pop("Parameters")
        rows["Adapter"] = f"{adapter.peft_type.value}, with its own {', '.join(own_modules) or 'matrices alone'}"
    for result in data.eval_results or ():
        where = f"{result.dataset_name}, split {result.dataset_split}"
        rows[f"{result.metric_name or result.metric_type} on {where}"] = result.metric_value
    text = TEMPLATE.format(
        name=name,
        origin=origin,
        use=describe_use(model, name, adapter),
        question="" if config.question_size is None else ", question=question",
        adapter_memory="" if adapter is None else f"{describe_memory(adapter)}\n\n",
        rows="\n".join(f"| {what} | {value} |" for what, value in rows.items()),
    )
    return seal_card(f"---\n{data.to_yaml()}\n---\n\n{text}")


def digest_card(card: ModelCard) -> str:
    """A hash of what a card says, however its metadata are laid out."""
    metadata, text = card.data.to_dict(), SEAL.sub("", PEFT_VERSION.sub("", card.text))
    if metadata.get("library_name") == "peft":
        # Whenever an adapter is saved, peft writes these anew into the card that is there.
        metadata = {name: value for name, value in metadata.items() if name not in ("base_model", "tags")}
        text = re.sub(r"^- PEFT \S+\n", "", text, flags=re.MULTILINE)
    described = json.dumps(metadata, sort_keys=True, default=str)
    return hashlib.sha256(f"{described}\n{text.strip()}".encode()).hexdigest()[:16]


def seal_card(text: str) -> str:
    """Mark a card as written by a program, so that one that somebody has changed since is told from it."""
    text = SEAL.sub("", text).rstrip() + "\n"
    return f"{text}\n<!-- Card written by modeling_ait: {digest_card(ModelCard(text))} -->\n"


def rename_card(text: str, name: str) -> str:
    """
    Give a card of a model, where a program wrote it, another name: in its title, in its code and in its metadata.

    Args:
        text: The card. That of an adapter, or one that somebody wrote or changed, stays as it is.
        name: Name of a folder or repository, of letters, digits, `_`, `-`, `.` and `/`.
    """
    if is_users_card(text) or SEAL.search(text) is None or re.fullmatch(r"[\w./-]+", name) is None:
        return text
    card = ModelCard(text)
    if card.data.get("library_name") == "peft":
        return text
    body = re.sub(r"^# .*$", f"# {name}", SEAL.sub("", card.text), count=1, flags=re.MULTILINE)
    body = re.sub(r'(from_pretrained\(|model=)"(?:[^"\\]|\\.)*"', rf'\1"{name}"', body)
    if card.data.get("eval_results"):
        card.data["model_name"] = name
    return seal_card(f"---\n{card.data.to_yaml()}\n---\n\n{body.strip()}")


def is_draft(text: str) -> bool:
    """Whether transformers' Trainer wrote a card, and nobody has filled in what it leaves blank."""
    return DRAFT in text and all(f"\n## {title}\n\nMore information needed\n" in text for title in BLANKS)


def is_users_card(text: str) -> bool:
    """Whether somebody wrote or changed a card, which must not be replaced then."""
    try:
        card = ModelCard(text)
        if found := SEAL.search(PEFT_VERSION.sub("", text)):
            return digest_card(card) != found[1]
        if is_draft(text):
            return False
        description = f"{STUB} This model card has been automatically generated."
        stubs = (
            ModelCard.from_template(ModelCardData(), model_description=description),
            ModelCard.from_template(ModelCardData()),
        )
        return PEFT_VERSION.sub("", card.text).strip() not in [stub.text.strip() for stub in stubs]
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
