"""The model under transformers' own Trainer, as a user calls it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from modeling_ait import AiTCardMixin


def make_dataset(num_samples=16):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(num_samples, 3, 8, 12, generator=generator)
    labels = torch.randint(0, 3, (num_samples,), generator=generator)
    return Dataset.from_dict({"pixel_values": images.numpy(), "labels": labels.numpy()}).with_format("torch")


def make_arguments(folder, **fields):
    return TrainingArguments(
        output_dir=str(folder),
        **{
            "report_to": "none",
            "use_cpu": True,
            "max_steps": 1,
            "disable_tqdm": True,
            "save_strategy": "no",
            **fields,
        },
    )


@pytest.mark.parametrize("num_steps", [1, 4])
def test_balance_loss_gradient_is_divided_by_the_accumulation_steps(make_model, tmp_path, num_steps):
    """The same micro-batch, once or four times: mean gradients are equal if the memory does not move."""
    model = make_model(memory_update_rate=0.0, balance_loss_coef=10.0)
    with torch.no_grad():
        for memory in model.ait.memories:
            memory.copy_(torch.nn.functional.normalize(memory, dim=-1))
    reference = copy.deepcopy(model).train()
    data = make_dataset(4)
    repeated = Dataset.from_dict(
        {name: np.concatenate([np.asarray(data[name])] * num_steps) for name in ("pixel_values", "labels")}
    ).with_format("torch")

    # Plain SGD with rate 1 and no clipping turns the update into the gradient.
    arguments = make_arguments(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=num_steps, learning_rate=1.0,
        max_grad_norm=0.0, lr_scheduler_type="constant", train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=repeated,
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1.0}),
    )
    trainer.train()

    outputs = reference(torch.as_tensor(data["pixel_values"][:]), labels=torch.as_tensor(data["labels"][:]))
    outputs.loss.backward()
    for (name, before), after in zip(reference.named_parameters(), model.parameters()):
        torch.testing.assert_close(
            before.detach() - after.detach(), before.grad, rtol=1e-4, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}"
        )


def test_compute_metrics_sees_logits_only(make_model, tmp_path):
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction)
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    model = make_model()
    trainer = Trainer(
        model=model,
        args=make_arguments(tmp_path, per_device_eval_batch_size=5),
        eval_dataset=make_dataset(),
        compute_metrics=compute_metrics,
    )
    metrics = trainer.evaluate()
    assert isinstance(seen[0].predictions, np.ndarray)
    assert seen[0].predictions.shape == (16, 3)
    data = make_dataset()
    with torch.no_grad():
        logits = model.eval()(torch.as_tensor(data["pixel_values"][:])).logits
    expected = (logits.argmax(-1) == torch.as_tensor(data["labels"][:])).float().mean()
    assert metrics["eval_accuracy"] == pytest.approx(float(expected))


@pytest.mark.parametrize("fields", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(make_model, tmp_path, fields):
    dropouts = {"memory_dropout_prob": 0.2, "hidden_dropout_prob": 0.1}
    initial = make_model(**dropouts)
    common = {"per_device_train_batch_size": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, **fields}

    def train(model, **options):
        trainer = Trainer(model=model, args=make_arguments(tmp_path, **common), train_dataset=make_dataset())
        trainer.train(**options)
        return model.state_dict()

    uninterrupted = train(copy.deepcopy(initial))
    other = make_model(**dropouts)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(0.5)  # all that counts must come from the checkpoint
    resumed = train(other, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert uninterrupted.keys() == resumed.keys()
    for name, tensor in uninterrupted.items():
        assert torch.equal(tensor, resumed[name]), name
    assert not torch.equal(uninterrupted["ait.memory.layer_0"], initial.ait.memories[0])


class CardTrainer(AiTCardMixin, Trainer):
    """What README shows."""


@pytest.fixture
def pushing(make_model, tmp_path):
    """A Trainer whose last push is still reading the output folder, the folder as it is, and what happens in order."""
    model = make_model()
    trainer = CardTrainer(model, make_arguments(tmp_path / "run", hub_model_id="user/slow"))
    trainer.hub_model_id = "user/slow"
    order = []
    trainer.push_in_progress = SimpleNamespace(
        is_done=lambda: "waited" in order, wait_until_done=lambda: order.append("waited")
    )
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "README.md").write_text("The card that is being uploaded.")
    return trainer, tmp_path / "run", tmp_path / "checkpoint", order


def test_push_that_the_trainer_leaves_out_changes_nothing_of_the_one_before(pushing):
    trainer, folder, checkpoint, order = pushing
    trainer._push_from_checkpoint(str(checkpoint))
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "README.md": "The card that is being uploaded."
    }
    assert order == []


def test_other_processes_push_nothing(pushing, monkeypatch):
    trainer, folder, checkpoint, order = pushing
    del trainer.push_in_progress
    monkeypatch.setattr(Trainer, "is_world_process_zero", lambda _: False)
    trainer._push_from_checkpoint(str(checkpoint))
    assert [path.name for path in folder.iterdir()] == ["README.md"] and order == []


@pytest.mark.parametrize("is_last", [False, True])
def test_push_that_is_made_anyway_waits_for_the_one_before(pushing, monkeypatch, is_last):
    trainer, _, checkpoint, order = pushing
    trainer.args.hub_always_push = True
    monkeypatch.setattr(CardTrainer, "create_model_card", lambda *_, **__: order.append("card"))
    for upload in ("_push_from_checkpoint", "push_to_hub"):
        monkeypatch.setattr(Trainer, upload, lambda *_: order.append("pushed"))
    if is_last:
        trainer.push_to_hub()
    else:
        trainer._push_from_checkpoint(str(checkpoint))
    assert order == (["waited", "pushed"] if is_last else ["waited", "card", "pushed"])
