"""Saving in one step: base classes of the configuration and the models."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import create_repo, upload_file
from safetensors import safe_open
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .card_ait import (
    CARD_FILE,
    TAGS,
    TASKS,
    choose_card,
    explain_refusals,
    find_adapter,
    find_base_model,
    is_draft,
    is_users_card,
    make_card,
    read_remote_card,
    rename_card,
)
from .trainer_ait import complete_card


logger = logging.get_logger(__name__)

# Every checkpoint names all of them, so that a saved classifier opens with `AutoModel` and the other way round.
AUTO_MAP = {
    "AutoConfig": "configuration_ait.AiTConfig",
    "AutoModel": "modeling_ait.AiTModel",
    "AutoModelForImageClassification": "modeling_ait.AiTForImageClassification",
    "AutoModelForVisualQuestionAnswering": "modeling_ait.AiTForRelationalReasoning",
}

# What a push is told beside what a save is told.
HUB_OPTIONS = {"repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags"}


@contextmanager
def stage_files(save_directory: str | os.PathLike) -> Iterator[str]:
    """
    Give a folder to write files into, which are moved into `save_directory` at the end, over those of the same name.

    A failure before the end leaves `save_directory` as it was. Weights come before the JSON files that describe them.
    Files get the permissions that the umask leaves, whatever wrote them. Only a process that is killed leaves the
    folder itself behind, as `.save-*`.
    """
    os.makedirs(save_directory, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".save-", dir=save_directory) as staging:
        yield staging
        # Some writers make files that only their owner may read. A folder made here shows what the umask allows.
        probe = os.path.join(staging, ".mode")
        os.mkdir(probe)
        mode = os.stat(probe).st_mode & 0o666
        os.rmdir(probe)
        for name in sorted(os.listdir(staging), key=lambda name: (name.endswith(".json"), name)):
            path = os.path.join(staging, name)
            if os.path.isfile(path):
                os.chmod(path, mode)
            os.replace(path, os.path.join(save_directory, name))


def remove_other_shards(save_directory: str | os.PathLike, saved: list[str], variant: str | None = None) -> None:
    """Remove weights of an earlier save in other shards, which would be loaded in place of the saved ones."""
    infix = "" if variant is None else re.escape(f".{variant}")
    pattern = re.compile(rf"model{infix}(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index{infix}\.json")
    if any(pattern.fullmatch(name) for name in saved):
        for name in os.listdir(save_directory):
            if pattern.fullmatch(name) and name not in saved:
                os.remove(os.path.join(save_directory, name))


def is_broken(tensor: torch.Tensor) -> bool:
    """Whether a tensor, or a part that a quantized one is made of, holds a NaN or an infinity."""
    if hasattr(tensor, "__tensor_flatten__"):
        return any(is_broken(getattr(tensor, part)) for part in tensor.__tensor_flatten__()[0])
    if not tensor.is_floating_point() or tensor.is_meta:
        return False
    # A sum takes a tenth of the time, and is finite only if everything in it is. One that is not may have overflowed.
    if bool(tensor.sum(dtype=torch.float32).isfinite()):
        return False
    # Not every type of one byte can be asked.
    values = tensor.float() if tensor.element_size() == 1 else tensor
    return not bool(values.isfinite().all())


def find_broken_weights(model: PreTrainedModel) -> list[str]:
    """Names of the weights and memories that hold a NaN or an infinity."""
    return [name for name, tensor in model.state_dict().items() if is_broken(tensor)]


def holds_weights(folder: str, model: PreTrainedModel) -> bool:
    """Whether a local folder has exactly the weights and memories of a model, as safetensors."""
    state, found = model.state_dict(), set[str]()
    for file in sorted(Path(folder).glob("model*.safetensors")) if os.path.isdir(folder) else ():
        with safe_open(file, framework="pt") as weights:
            names = weights.keys()
            for name in names:
                tensor, own = weights.get_tensor(name), state.get(name)
                if own is None or own.is_meta or own.dtype != tensor.dtype or not torch.equal(own.cpu(), tensor):
                    return False
                found.add(name)
    return found == state.keys()


class AiTSavedConfig(PreTrainedConfig):
    """A configuration that is saved in one step."""

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any):
        """Save into a folder in one step: a save that fails leaves older files there as they were."""
        if os.path.isfile(save_directory):
            return super().save_pretrained(save_directory, push_to_hub, **kwargs)
        with stage_files(save_directory) as staging:
            super().save_pretrained(staging)
        if push_to_hub:
            kwargs.setdefault("repo_id", os.path.basename(os.path.abspath(save_directory)))
            with tempfile.TemporaryDirectory() as folder:
                super().save_pretrained(folder, push_to_hub=True, **kwargs)
        return None


class AiTSavedModel(PreTrainedModel):
    """A model that is saved in one step, with the code of every Auto class, and says so when it opens a broken one."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # What a Trainer and peft put on the cards that they write, which know nothing else of this model.
        self.model_tags = [*TAGS, *TASKS.get(type(self).__name__, ())[:1]]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any):
        """
        Open a checkpoint, and warn if it holds a NaN or an infinity, from which no memory ever recovers.

        Arguments are those of [`~transformers.PreTrainedModel.from_pretrained`].
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if broken := find_broken_weights(model):
            logger.warning(
                f"This checkpoint holds numbers that are not finite: {', '.join(broken[:5])}"
                f"{f' and {len(broken) - 5} more' if len(broken) > 5 else ''}. Broken memories can be given up with "
                "`model.reset_memories()`; for broken weights take an older checkpoint."
            )
        return loaded

    def save_pretrained(  # type: ignore[override]  # the arguments left out pass through `kwargs`
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ):
        """
        Save weights, configuration and code into a folder; a save that fails leaves an older checkpoint there intact.

        Everything is written beside the old files first and moved over them at the end. Arguments are those of
        [`~transformers.PreTrainedModel.save_pretrained`].
        """
        if kwargs.get("distributed_checkpoint") or os.path.isfile(save_directory):
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)
            return
        hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS & kwargs.keys()} if push_to_hub else {}
        # The code of every Auto class travels, whichever class is saved.
        self.config.auto_map = dict(AUTO_MAP)
        # A copy of the dictionary, because saving empties it.
        with stage_files(save_directory) as staging:
            super().save_pretrained(staging, is_main_process, None if state_dict is None else {**state_dict}, **kwargs)
            saved = os.listdir(staging)
        remove_other_shards(save_directory, saved, kwargs.get("variant"))
        if push_to_hub and is_main_process:
            repo_id = hub_options.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            # From a folder of its own, so that the local save is complete whatever becomes of the upload.
            with tempfile.TemporaryDirectory() as folder:
                super().save_pretrained(folder, state_dict=state_dict, **kwargs)
                self._push_folder(folder, repo_id, save_directory, **hub_options)

    def push_to_hub(  # type: ignore[override]  # wrapped there
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ):
        """
        Push weights, code and a complete model card to the Hub, in one commit.

        A card that somebody wrote or changed there stays as it is. A model that is as it was loaded from a local
        folder takes the card of that folder along. Arguments are those of
        [`~transformers.PreTrainedModel.push_to_hub`].

        Returns:
            `huggingface_hub.CommitInfo`.

        Raises:
            `huggingface_hub.errors.HfHubHTTPError`: if the Hub does not take it, with a note that says what to do.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            source = str(self.name_or_path)
            return self._push_folder(
                folder,
                repo_id,
                source if holds_weights(source, self) else None,
                private=private,
                token=token,
                revision=revision,
                tags=tags,
                commit_message=commit_message,
                commit_description=commit_description,
                create_pr=create_pr,
            )

    def save_card(self, folder: str | os.PathLike, name: str | None = None) -> None:
        """
        Write a complete model card, `README.md`, into a folder: of the model or, if it has one, of its adapter.

        It takes the place of what a Trainer or peft wrote there, and keeps what a Trainer's says of data, metrics and
        training. A card that somebody wrote or changed stays as it is. A `PeftModel` around an AiT has this too.

        Args:
            folder (`str` or `os.PathLike`): The folder, which is made if it is not there.
            name (`str`, *optional*): Name of the model; by default that of the folder.
        """
        place = Path(folder, CARD_FILE)
        text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else None
        if text is None or not is_users_card(text):
            self._write_card(folder, self._make_card(name or Path(folder).resolve().name, text))

    def push_card(
        self, repo_id: str, token: bool | str | None = None, revision: str | None = None, create_pr: bool = False
    ):
        """
        Complete the model card of a repository that others pushed this model, or its adapter, to.

        For what ends with a card of their own: `trainer.push_to_hub()` of a plain Trainer, and `push_to_hub` of a
        `PeftModel`, which has this method too. A card that somebody wrote or changed stays as it is.

        Args:
            repo_id (`str`): The repository.
            token (`bool` or `str`, *optional*): As in [`~transformers.PreTrainedModel.push_to_hub`].
            revision (`str`, *optional*): Branch of the repository.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to make a pull request of it.

        Returns:
            `huggingface_hub.CommitInfo`, or `None` where the card stays as it is.

        Raises:
            `huggingface_hub.errors.HfHubHTTPError`: if the Hub does not take it, with a note that says what to do.
        """
        with explain_refusals(repo_id):
            remote = read_remote_card(repo_id, token, revision)
            card = choose_card(self._make_card(repo_id, remote), remote, [])
            if card is None:
                return None
            return upload_file(
                path_or_fileobj=card.encode(),
                path_in_repo=CARD_FILE,
                repo_id=repo_id,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message="Complete the model card",
            )

    def _make_card(self, name: str, draft: str | None) -> str:
        """A complete card of this model, with what a Trainer's card says of its training."""
        adapter, source = find_adapter(self), str(self.name_or_path)
        # What a base model was made from is not what its adapter belongs to.
        base_model = find_base_model(source) if adapter is None else str(adapter.base_model_name_or_path or source)
        card = make_card(self, name, base_model)
        return complete_card(card, draft, name) if draft is not None and is_draft(draft) else card

    def _write_card(self, folder: str | os.PathLike, text: str) -> None:
        with stage_files(folder) as staging:
            Path(staging, CARD_FILE).write_text(text, encoding="utf-8")

    def _push_folder(
        self,
        folder: str,
        repo_id: str,
        card_folder: str | os.PathLike | None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        tags: list[str] | str | None = None,
        **options: Any,
    ):
        """Push a saved model with its card: the one in `card_folder` if there is one, else a new one."""
        with explain_refusals(repo_id):
            repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
            given = None if card_folder is None else Path(card_folder, CARD_FILE)
            new = given.read_text(encoding="utf-8") if given is not None and given.is_file() else None
            if new is None or is_draft(new):
                new = self._make_card(repo_id, new)
            new = rename_card(new, repo_id)
            # Those of every model are on each card of ours, and nobody asked to put them on another.
            added = [tag for tag in self.model_tags or () if tag not in (*TAGS, *TASKS.get(type(self).__name__, ()))]
            asked = [*([tags] if isinstance(tags, str) else tags or ()), *added]
            card = choose_card(new, read_remote_card(repo_id, token, revision), asked)
            if card is not None:
                Path(folder, CARD_FILE).write_text(card, encoding="utf-8")
            return self._upload_modified_files(folder, repo_id, {}, token=token, revision=revision, **options)
