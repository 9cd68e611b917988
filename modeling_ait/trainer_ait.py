"""Complete model cards where transformers' Trainer writes its own."""

import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from .card_ait import CARD_FILE, SEAL, choose_card, is_hub_id, is_users_card, read_remote_card, seal_card


# The data set and the results, as a Trainer's card has them in sentences.
SUMMARY = re.compile(
    r"^This model (?:is|was) .* on (?P<data>.+ datasets?)\.\n"
    r"(?:It achieves the following results on the evaluation set:\n(?P<results>(?:- .+\n)+))?",
    flags=re.MULTILINE,
)


NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


def read_results(draft: ModelCard, task: str) -> list[EvalResult]:
    """The metrics of a Trainer's card as a model index has them."""
    summary = SUMMARY.search(draft.text)
    lines = (summary["results"] or "").splitlines() if summary else []
    values = dict(line.removeprefix("- ").rpartition(": ")[::2] for line in lines)
    names = {name.lower().replace(" ", "_"): name for name in values}
    ids = draft.data.get("datasets") or []
    data = "unknown" if summary is None else re.sub(r"^the | datasets?$", "", summary["data"])
    data = "unknown" if data == "an unknown" else data
    return [
        EvalResult(
            task_type=task,
            dataset_type=ids[0] if ids else data,
            dataset_name=data,
            dataset_split="evaluation",
            metric_type=metric,
            metric_name=names[metric],
            metric_value=float(values[names[metric]]),
        )
        for metric in draft.data.get("metrics") or []
        # A list, or nothing, has no place in a model index.
        if metric in names and NUMBER.fullmatch(values[names[metric]])
    ]


def complete_card(card: str, draft: str, name: str) -> str:
    """
    Add to a card of ours what a Trainer's card knows: licence, language, data, metrics and how it was trained.

    Args:
        card: Card of the model.
        draft: Card as transformers' Trainer wrote it.
        name: Name of the model.
    """
    own, other = ModelCard(card), ModelCard(draft, ignore_metadata_errors=True)
    known = other.data.to_dict()
    for field in ("license", "language", "datasets", "metrics"):
        if known.get(field):
            own.data[field] = known[field]
    if own.data.get("base_model") is None and is_hub_id(known.get("base_model")):
        own.data["base_model"] = known["base_model"]
    before = own.data.get("tags") or []
    # Tags of the base model are ours to say: peft's may name a folder.
    added = [tag for tag in known.get("tags") or [] if tag not in before and not tag.startswith("base_model:")]
    own.data["tags"] = [*before, *added]
    results = other.data.get("eval_results") or read_results(other, own.data.get("pipeline_tag"))
    if results:
        # The parser of a card forgets the name where no results stand with it.
        own.data["model_name"], own.data["eval_results"] = name, results
    sections = [SEAL.sub("", own.text).strip()]
    if summary := SUMMARY.search(other.text):
        measured = f" On the evaluation set:\n\n{summary['results'].strip()}" if summary["results"] else ""
        sections.append(f"## Evaluation\n\nTrained on {summary['data']}.{measured}")
    _, found, training = other.text.partition("\n## Training procedure\n")
    if found:
        sections.append(f"## Training procedure\n{training.rstrip()}")
    return seal_card(f"---\n{own.data.to_yaml()}\n---\n\n" + "\n\n".join(sections))


class AiTCardMixin:
    """
    Lets a Trainer write and push complete model cards: `class MyTrainer(AiTCardMixin, Trainer): pass`.

    The Trainer's own card is completed: licence, task, tags, base model, metrics, what the memory does and how the
    model is opened, for a whole model and for an adapter. A card that somebody wrote or changed, in the output folder
    or on the Hub, stays as it is. A push during training takes card and code along, without which nobody could open
    what it pushes.
    """

    card_source: tuple[str | None, str | None] | None = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **described: Any,
    ):
        """Push model, image processor and card. Arguments are those of [`~transformers.Trainer.push_to_hub`]."""
        # It saves the model before it waits, into the folder that is being uploaded.
        self._finish_current_push()  # type: ignore[attr-defined]
        self.card_source = token, revision
        try:
            return super().push_to_hub(  # type: ignore[misc]  # of `Trainer`
                commit_message, blocking, token, revision, private, **described
            )
        finally:
            self.card_source = None

    def create_model_card(self, *arguments: Any, **described: Any) -> None:
        """Write the card. Arguments are those of [`~transformers.Trainer.create_model_card`]."""
        trainer: Any = self
        if not trainer.is_world_process_zero():
            return
        place = Path(trainer.args.output_dir, CARD_FILE)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        if not hasattr(model, "save_card"):
            # Of no AiT there is nothing more to say.
            super().create_model_card(*arguments, **described)  # type: ignore[misc]
            return
        if not place.is_file() or not is_users_card(place.read_text(encoding="utf-8", errors="replace")):
            super().create_model_card(*arguments, **described)  # type: ignore[misc]
            model.save_card(place.parent, trainer.hub_model_id)
        if trainer.hub_model_id is None:
            return
        token, revision = self.card_source or (None, None)
        access = token or trainer.args.hub_token, revision or trainer.args.hub_revision
        remote = read_remote_card(trainer.hub_model_id, *access)
        tags = described.get("tags") or []
        local = place.read_text(encoding="utf-8", errors="replace")
        card = choose_card(local, remote, [tags] if isinstance(tags, str) else tags)
        # What stays as it is there is written here, because the whole folder is uploaded.
        model._write_card(place.parent, remote if card is None and remote is not None else card or local)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        trainer: Any = self
        # The push before may still read the output folder. The Trainer then leaves this one out, or is told not to.
        # The Trainer has the attribute on the first process alone.
        before = getattr(trainer, "push_in_progress", None)
        is_left_out = before is not None and not before.is_done() and not trainer.args.hub_always_push
        if trainer.is_world_process_zero() and trainer.args.hub_strategy != "end" and not is_left_out:
            trainer._finish_current_push()
            for file in Path(checkpoint_folder).glob("*_ait.py"):
                shutil.copy(file, trainer.args.output_dir)
            self.create_model_card()
        super()._push_from_checkpoint(checkpoint_folder)  # type: ignore[misc]
