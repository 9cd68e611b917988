"""The Trainer of the scripts: its losses, and what its callbacks do at which step."""

import types

import pytest
import torch
from transformers import TrainerState, TrainingArguments

from examples.errors import InputError
from examples.training.callbacks import CompleteLogCallback, EpochCallback
from examples.training.trainer import AiTTrainer, adapt_arguments, average_logged_loss


@pytest.fixture
def make_trainer(make_model, tmp_path):
    def make(**fields):
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **fields)
        return AiTTrainer(model=make_model(balance_loss_coef=10.0), args=arguments)

    return make


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_balance_loss_is_counted_once_and_logged_apart(make_trainer, make_images, smoothing):
    trainer, labels = make_trainer(label_smoothing_factor=smoothing), torch.tensor([0, 1, 2, 1])
    inputs = {"pixel_values": make_images(), "labels": labels}
    loss, outputs = trainer.compute_loss(trainer.model.train(), dict(inputs), return_outputs=True)
    task_loss = torch.nn.functional.cross_entropy(outputs["logits"], labels, label_smoothing=smoothing)
    assert outputs["balance_loss"] > 0.01
    torch.testing.assert_close(loss, task_loss + 10 * outputs["balance_loss"])
    torch.testing.assert_close(trainer.loss_parts["task_loss"][0], task_loss.detach())
    torch.testing.assert_close(trainer.loss_parts["balance_loss"][0], outputs["balance_loss"].detach())
    assert not trainer.loss_parts["task_loss"][0].requires_grad
    # An evaluation writes nothing, so that it has no balance loss to add or to log.
    loss, outputs = trainer.compute_loss(trainer.model.eval(), dict(inputs), return_outputs=True)
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(outputs["logits"], labels, label_smoothing=smoothing)
    )
    assert len(trainer.loss_parts["task_loss"]) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_shares_of_classes_are_smoothed_as_classes_are(make_trainer, make_images, smoothing):
    trainer = make_trainer(label_smoothing_factor=smoothing)
    shares = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.3, 0.0, 0.7], [0.5, 0.25, 0.25]])
    inputs = {"pixel_values": make_images(), "labels": shares}
    loss, outputs = trainer.compute_loss(trainer.model.train(), dict(inputs), return_outputs=True)
    logits = outputs["logits"]
    task_loss = torch.nn.functional.cross_entropy(logits, shares, label_smoothing=smoothing)
    torch.testing.assert_close(loss, task_loss + 10 * outputs["balance_loss"])
    torch.testing.assert_close(trainer.loss_parts["task_loss"], [task_loss.detach()])
    assert torch.equal(trainer.running_loss.total, loss.detach()) and trainer.running_loss.count == 1
    # The next batch may have classes.
    classes = {**inputs, "labels": torch.tensor([0, 1, 2, 1])}
    loss, outputs = trainer.compute_loss(trainer.model.eval(), dict(classes), return_outputs=True)
    expected = torch.nn.functional.cross_entropy(outputs["logits"], classes["labels"], label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


def test_logged_parts_are_means_since_the_last_log(make_trainer):
    trainer, logged = make_trainer(), []
    trainer.loss_parts = {"task_loss": [torch.tensor(1.0), torch.tensor(3.0)], "balance_loss": [torch.tensor(4.0)]}
    trainer.callback_handler.on_log = lambda args, state, control, logs: logged.append(dict(logs)) or control
    trainer.log({"eval_loss": 9.0})
    trainer.log({"loss": 5.0})
    trainer.log({"loss": 6.0})
    assert "task_loss" not in logged[0]
    assert (logged[1]["task_loss"], logged[1]["balance_loss"]) == (2.0, 4.0)
    assert "task_loss" not in logged[2]


def test_mean_training_loss_weighs_each_log_by_its_steps():
    state = TrainerState(
        log_history=[
            {"step": 2, "loss": 4.0},
            {"step": 2, "eval_loss": 100.0},
            {"step": 10, "loss": 1.0},
            {"step": 12, "loss": 7.0},
        ]
    )
    assert average_logged_loss(state) == pytest.approx((2 * 4.0 + 8 * 1.0 + 2 * 7.0) / 12)


@pytest.mark.parametrize(("epoch", "told"), [(0.0, 0), (0.999999999, 1), (1.0, 1), (1.5, 1), (3.0000001, 3)])
def test_training_set_is_told_its_epoch(epoch, told):
    seen = []
    callback = EpochCallback(types.SimpleNamespace(set_epoch=seen.append))
    callback.on_epoch_begin(None, types.SimpleNamespace(epoch=epoch), None)
    assert seen == [told]


@pytest.mark.parametrize(
    ("step", "should_save", "should_log"), [(3, False, False), (3, True, True), (10, False, True), (11, False, True)]
)
def test_losses_are_logged_at_every_save_and_at_the_last_step(step, should_save, should_log):
    control = types.SimpleNamespace(should_save=should_save, should_log=False)
    CompleteLogCallback().on_step_end(None, types.SimpleNamespace(global_step=step, max_steps=10), control)
    assert control.should_log == should_log
    control = types.SimpleNamespace(should_save=should_save, should_log=False)
    CompleteLogCallback().on_epoch_end(None, None, control)
    assert control.should_log == should_save


def test_loss_function_that_would_drop_the_balance_loss_is_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="would drop the balance loss"):
        AiTTrainer(model=make_model(), compute_loss_func=lambda outputs, labels, num_items_in_batch: 0)


def test_every_image_is_evaluated_whatever_training_drops(make_trainer):
    trainer = make_trainer(dataloader_drop_last=True, per_device_train_batch_size=4, per_device_eval_batch_size=4)
    trainer.train_dataset = trainer.eval_dataset = [{"pixel_values": torch.zeros(3, 8, 8)}] * 5
    assert [len(batch["pixel_values"]) for batch in trainer.get_eval_dataloader()] == [4, 1]
    assert [len(batch["pixel_values"]) for batch in trainer.get_train_dataloader()] == [4]


@pytest.mark.parametrize(
    "field",
    [
        {"prediction_loss_only": True},
        {"batch_eval_metrics": True},
        {"eval_do_concat_batches": False},
        {"label_names": ["answer"]},
    ],
)
def test_evaluation_without_measures_is_refused(field, tmp_path):
    (name,) = field
    with pytest.raises(InputError, match=f"`--{name}` .* leave it out"):
        adapt_arguments(TrainingArguments(output_dir=str(tmp_path), report_to="none", **field), 8)


def test_half_precision_without_effect_is_refused(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, fp16=True)
    with pytest.raises(InputError, match=r"`--fp16` has no effect on a CPU.*`--bf16 True --use_cpu True`"):
        adapt_arguments(arguments, 8)


def test_trained_weights_outlive_an_evaluation_in_half_precision(make_trainer, make_images):
    trainer = make_trainer(bf16_full_eval=True)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    images = make_images()
    trainer.evaluate([{"pixel_values": image, "labels": 1} for image in images])
    after = trainer.model.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
