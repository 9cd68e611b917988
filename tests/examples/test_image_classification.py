"""Both training scripts, end to end on tiny runs: what they write, resuming, several processes, refusals."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from filelock import FileLock
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import Trainer

from examples import image_classification, image_classification_accelerate
from examples.data.arguments import DataArguments
from examples.data.images import make_datasets
from examples.data.loading import load_image_data
from examples.errors import InputError
from examples.training.checkpoints import is_complete_checkpoint
from examples.training.trainer import AiTTrainer
from modeling_ait import AiTForImageClassification
from tests.examples.helpers import assert_same_weights, find_free_port, read_results


REPOSITORY = Path(__file__).parents[2]
SCRIPTS = pytest.mark.parametrize(
    "script", [image_classification, image_classification_accelerate], ids=["trainer", "accelerate"]
)
MARKERS = {image_classification: "trainer_state.json", image_classification_accelerate: "progress.json"}
# Without dropout and without a moving memory, so that a learning rate of next to nothing leaves the model still.
STILL = {"hidden_dropout_prob": 0.0, "memory_dropout_prob": 0.0, "update_memory": False}


@SCRIPTS
def test_two_steps_write_a_complete_folder(script, make_flags, tmp_path, capsys):
    folder = tmp_path / "run"
    script.main(make_flags(folder))
    assert {path.name for path in folder.iterdir() if path.is_file()} >= {
        "README.md",
        "config.json",
        "configuration_ait.py",
        "example.png",
        "embeddings_ait.py",
        "hopfield_ait.py",
        "model.safetensors",
        "modeling_ait.py",
        "preprocessor_config.json",
        "results.json",
        "saving_ait.py",
        "memory_ait.py",
        "workspace_ait.py",
    }
    assert not [path for path in folder.iterdir() if path.name.startswith(".save-")]
    model = AiTForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {index: str(index) for index in range(10)}
    assert not torch.equal(model.ait.memories[0], AiTForImageClassification(model.config).ait.memories[0])

    results = read_results(folder)
    assert results["num_eval_samples"] == 51
    assert 51 * results["accuracy"] == pytest.approx(round(51 * results["accuracy"]))
    assert (results["num_steps"], results["seed"]) == (2, 42)
    assert results["arguments"]["crop_padding"] == 1
    assert results["versions"]["transformers"] == transformers.__version__
    assert math.isfinite(results["train_loss"]) and results["train_seconds"] > 0

    card = ModelCard.load(folder / "README.md")
    assert "{" not in card.text.replace("{{", "{") and "None" not in card.text
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", results["accuracy"])
    assert (result.task_type, result.dataset_name) == ("image-classification", "digits")
    assert f"{100 * results['accuracy']:.2f} %" in capsys.readouterr().out


@pytest.mark.skipif(
    getattr(transformers.AutoImageProcessor, "is_dummy", False),
    reason="AutoImageProcessor of this transformers needs torchvision",
)
def test_printed_lines_load_the_folder_and_classify_an_image(make_flags, tmp_path, capsys):
    image_classification.main(make_flags(tmp_path / "run"))
    lines = capsys.readouterr().out.strip().splitlines()[-3:]
    assert lines[0] == "from transformers import pipeline"
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "'label'" in result.stdout


@SCRIPTS
def test_same_seed_gives_the_same_weights_and_another_seed_others(script, make_flags, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for folder, seed in ((first, 3), (second, 3), (other, 7)):
        script.main(make_flags(folder, seed=seed))
    assert_same_weights(first, second)
    assert read_results(first)["accuracy"] == read_results(second)["accuracy"]
    weights = [load_file(folder / "model.safetensors")["classifier.weight"] for folder in (first, other)]
    assert not torch.equal(*weights)


AUGMENTATIONS = {
    "horizontal_flip": True,
    "auto_augment": "trivialaugment",
    "random_erasing": 0.25,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}


@SCRIPTS
@pytest.mark.parametrize("architecture", ["ait", "perceiver"])
def test_augmented_training_is_the_same_however_images_are_fetched(
    script, architecture, make_flags, tmp_path, monkeypatch
):
    given = []
    forward = AiTForImageClassification.forward

    # The Trainer reads the signature.
    @functools.wraps(forward)
    def record(self, *args, **kwargs):
        given.append((self.training, kwargs.get("labels")))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(AiTForImageClassification, "forward", record)
    flags = {**AUGMENTATIONS, "architecture": architecture}
    first, second = tmp_path / "first", tmp_path / "second"
    script.main(make_flags(first, **flags))
    script.main(make_flags(second, **flags, cache_images=False, dataloader_num_workers=2, augment_on_device=True))
    assert_same_weights(first, second)
    results = read_results(first)
    assert math.isfinite(results["train_loss"]) and math.isfinite(results["eval_loss"])
    # The accuracy is of whole images.
    assert 51 * results["accuracy"] == pytest.approx(round(51 * results["accuracy"]))
    if architecture == "ait":
        shares = [labels for is_training, labels in given if is_training]
        assert len(shares) == 4 and all(labels.shape == (16, 10) for labels in shares)
        assert all(labels is None or labels.dtype == torch.int64 for is_training, labels in given if not is_training)
        torch.testing.assert_close(shares[0].sum(1), torch.ones(16))


def test_how_images_are_fetched_may_change_when_a_run_goes_on(make_flags, tmp_path, capsys):
    folder = tmp_path / "run"
    image_classification.main(make_flags(folder))
    image_classification.main(make_flags(folder, cache_images=False, dataloader_num_workers=1, augment_on_device=True))
    assert "holds this run, finished" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"mixup_alpha None, now 0\.5"):
        image_classification.main(make_flags(folder, mixup_alpha=0.5))


@SCRIPTS
def test_finished_run_is_told_and_not_repeated(script, make_flags, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    script.main(make_flags(folder))
    before = list_times(folder)
    accuracy = f"{100 * read_results(folder)['accuracy']:.2f} %"
    capsys.readouterr()
    # Nothing is loaded or built for it.
    monkeypatch.setattr("examples.data.loading.load_image_data", None)
    script.main(make_flags(folder))
    printed = capsys.readouterr().out
    assert "holds this run, finished" in printed and accuracy in printed
    assert list_times(folder) == before


def list_times(folder):
    """When each file of the folder was changed, but for the lock."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}


@SCRIPTS
def test_finished_run_with_other_arguments_is_kept_until_the_new_one_is_complete(
    script, make_flags, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    script.main(make_flags(folder))
    first = shutil.copytree(folder, tmp_path / "first")
    with pytest.raises(InputError, match=r"a finished run with other arguments: seed 42, now 7.*--restart True"):
        script.main(make_flags(folder, seed=7))
    assert_same_weights(folder, first)
    with monkeypatch.context() as patch:
        patch.setattr("examples.training.results.report_run", fail)
        with pytest.raises(RuntimeError, match="stopped"):
            script.main(make_flags(folder, seed=7, restart=True))
    assert AiTForImageClassification.from_pretrained(folder)
    script.main(make_flags(folder, seed=7, restart=True))
    assert read_results(folder)["seed"] == 7
    assert not (folder / "previous_results.json").exists()


def fail(*args, **kwargs):
    raise RuntimeError("stopped")


@SCRIPTS
def test_checkpoints_of_another_training_are_neither_resumed_nor_deleted(script, make_flags, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-4").mkdir(parents=True)
    (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"mine")
    for flags in ({}, {"restart": True}):
        with pytest.raises(
            InputError, match=r"checkpoint-4 is of another training and is neither resumed nor deleted"
        ):
            script.main(make_flags(folder, **flags))
    assert (folder / "checkpoint-4" / "model.safetensors").read_bytes() == b"mine"


@SCRIPTS
def test_two_runs_do_not_work_in_one_folder(script, make_flags, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(InputError, match=r"Another run works in .*run"):
        script.main(make_flags(folder))
    script.main(make_flags(folder))


@SCRIPTS
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_checkpoint_is_passed_over_and_kept(script, make_flags, tmp_path, damage, caplog, monkeypatch):
    monkeypatch.setattr(transformers.logging.get_logger("examples.training.checkpoints"), "propagate", True)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    flags = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    script.main(make_flags(whole, **flags))
    with monkeypatch.context() as patch:
        patch.setattr("examples.training.results.report_run", fail)
        with pytest.raises(RuntimeError, match="stopped"):
            script.main(make_flags(folder, **flags))
    newest = folder / "checkpoint-4"
    (file,) = [*newest.glob("optimizer.pt"), *newest.glob("optimizer.bin")]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-10])
    assert not is_complete_checkpoint(newest) and is_complete_checkpoint(folder / "checkpoint-3")
    script.main(make_flags(folder, **flags))
    assert_same_weights(folder, whole)
    assert read_results(folder)["resumed_from_step"] == 3


def test_loop_refuses_an_argument_that_it_does_not_read(make_flags, tmp_path):
    for flag, value in (("label_smoothing_factor", 0.1), ("optim", "sgd"), ("load_best_model_at_end", True)):
        more = {"eval_strategy": "steps", "save_strategy": "steps"} if flag == "load_best_model_at_end" else {}
        with pytest.raises(InputError, match=f"`{flag}` .* has no effect in this loop: leave it out"):
            image_classification_accelerate.main(make_flags(tmp_path / "run", **{flag: value}, **more))


@SCRIPTS
def test_epochs_without_a_batch_are_refused(script, make_flags, tmp_path):
    flags = {"dataloader_drop_last": True, "max_train_samples": 3, "per_device_train_batch_size": 8}
    with pytest.raises(InputError, match=r"`--dataloader_drop_last` leaves no batch: there are 3 training samples"):
        script.main(make_flags(tmp_path / "run", **flags))


def test_loop_divides_the_last_group_of_an_epoch_by_its_own_batches(make_flags, tmp_path):
    """Five batches in groups of four: the mean loss does not depend on the groups."""
    flags = {"max_steps": None, "max_train_samples": 40, "per_device_train_batch_size": 8, "num_train_epochs": 1}
    losses = []
    for steps in (1, 4):
        folder = tmp_path / str(steps)
        image_classification_accelerate.main(
            make_flags(folder, **flags, learning_rate=1e-30, gradient_accumulation_steps=steps, model_config=STILL)
        )
        losses.append(read_results(folder)["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_training_loss_of_a_run_shorter_than_its_log_interval_is_finite(make_flags, tmp_path):
    image_classification.main(make_flags(tmp_path / "run", logging_steps=500))
    assert math.isfinite(read_results(tmp_path / "run")["train_loss"])


@SCRIPTS
def test_killed_run_resumes_bit_for_bit(script, make_flags, tmp_path):
    """Killed in the middle of the second epoch, with accumulation, dropout, augmentation and a shuffled order."""
    flags = {
        "max_steps": 7,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 5,
        "lr_scheduler_type": "cosine",
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script.main(make_flags(whole, **flags))

    # The run hangs before it reports, so that the kill leaves checkpoints and no results.
    code = f"""
import sys, time
from pathlib import Path
import examples.training.results
import {script.__name__} as script
def hang(*args, **kwargs):
    Path(sys.argv[1]).touch()
    time.sleep(600)
examples.training.results.report_run = hang
script.main(sys.argv[2:])
"""
    marker = tmp_path / "reached"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(marker), *make_flags(killed, **flags)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marker.exists(), process.stderr.read().decode()[-2000:] if process.poll() is not None else "no progress"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()

    # As if it had been killed while it wrote its second checkpoint: that one is passed over.
    shutil.rmtree(killed / "checkpoint-7", ignore_errors=True)
    weights = next((killed / "checkpoint-6").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert not (killed / "model.safetensors").exists()
    script.main(make_flags(killed, **flags))
    assert read_results(killed)["resumed_from_step"] == 3
    assert_same_weights(killed, whole)
    assert read_results(killed)["accuracy"] == read_results(whole)["accuracy"]
    assert read_results(killed)["train_loss"] == pytest.approx(read_results(whole)["train_loss"], rel=1e-5)


@SCRIPTS
def test_run_killed_after_its_last_step_is_only_reported(script, make_flags, tmp_path):
    folder = tmp_path / "run"
    flags = make_flags(folder, max_steps=3, save_strategy="steps", save_steps=3)
    script.main(flags)
    first = shutil.copytree(folder, tmp_path / "first")
    (folder / "results.json").unlink()
    (folder / "model.safetensors").unlink()
    script.main(flags)
    assert_same_weights(folder, first)
    assert read_results(folder)["num_steps"] == read_results(folder)["resumed_from_step"] == 3
    assert read_results(folder)["accuracy"] == read_results(first)["accuracy"]
    assert read_results(folder)["train_loss"] == pytest.approx(read_results(first)["train_loss"], rel=1e-5)


@SCRIPTS
def test_unfinished_run_with_other_arguments_is_refused_unless_restarted(script, make_flags, tmp_path, caplog):
    folder = tmp_path / "run"
    flags = {"save_strategy": "steps", "save_steps": 1}
    script.main(make_flags(folder, **flags))
    (folder / "results.json").unlink()
    with pytest.raises(InputError, match=r"learning_rate 5e-05, now 0\.001.*--restart"):
        script.main(make_flags(folder, **flags, learning_rate=1e-3))
    (folder / "checkpoint-2" / MARKERS[script]).unlink()
    script.main(make_flags(folder, **flags, learning_rate=1e-3, restart=True))
    assert read_results(folder)["arguments"]["learning_rate"] == 1e-3


@SCRIPTS
def test_checkpoint_is_fine_tuned_with_a_new_head(script, make_flags, image_folder, tmp_path):
    script.main(make_flags(tmp_path / "digits"))
    script.main(
        [
            *make_flags(tmp_path / "animals", dataset_name=image_folder, model_name_or_path=tmp_path / "digits"),
            *("--model_config", "{}"),
        ]
    )
    model = AiTForImageClassification.from_pretrained(tmp_path / "animals")
    assert model.config.id2label == {0: "cat", 1: "dog"}
    assert model.config.hidden_size == 16


@SCRIPTS
def test_two_processes_evaluate_every_sample_once(script, make_flags, tmp_path):
    """51 samples in batches of 20 on two processes: what is padded for even batches must not count."""
    folder = tmp_path / "run"
    port = find_free_port()
    launch = ["--nproc_per_node=2", f"--master_port={port}", "-m", script.__name__]
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, *make_flags(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    model = AiTForImageClassification.from_pretrained(folder)
    arguments = DataArguments("digits", max_eval_samples=51)
    data = load_image_data(arguments)
    _, samples = make_datasets(data, arguments, transformers.ViTImageProcessorPil.from_pretrained(folder), seed=0)
    with torch.no_grad():
        logits = model(torch.stack([samples[index]["pixel_values"] for index in range(51)])).logits
    labels = torch.tensor([int(samples[index]["labels"]) for index in range(51)])
    results = read_results(folder)
    # The Trainer averages the loss over padded batches; its accuracy is exact.
    tolerance = 1e-4 if script is image_classification_accelerate else 1e-2
    assert results["accuracy"] == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
    assert results["eval_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), rel=tolerance
    )


@pytest.fixture
def make_trainer(make_model, tmp_path):
    def make(**fields):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=1, **fields
        )
        return AiTTrainer(model=make_model(balance_loss_coef=2.0), args=arguments)

    return make


def test_logs_tell_task_loss_and_balance_loss_apart(make_flags, tmp_path):
    image_classification.main(make_flags(tmp_path / "run", save_strategy="steps", save_steps=2))
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    logs = [entry for entry in state["log_history"] if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert entry["balance_loss"] > 0
        assert entry["loss"] == pytest.approx(entry["task_loss"] + 0.01 * entry["balance_loss"], abs=1e-5)


def test_label_smoothing_keeps_the_balance_loss(make_trainer, make_images):
    trainer = make_trainer(label_smoothing_factor=0.1)
    inputs = {"pixel_values": make_images(), "labels": torch.tensor([0, 1, 2, 1])}
    model = trainer.model.train()
    memories = [memory.clone() for memory in model.ait.memories]
    loss, outputs = trainer.compute_loss(model, dict(inputs), return_outputs=True)
    smoothed = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"], label_smoothing=0.1)
    torch.testing.assert_close(loss, smoothed + 2.0 * outputs.balance_loss)
    assert trainer.loss_parts["task_loss"][0] == pytest.approx(float(smoothed), rel=1e-5)
    # The plain Trainer loses it, which is why there is a Trainer of our own.
    with torch.no_grad():
        for memory, before in zip(model.ait.memories, memories):
            memory.copy_(before)
    plain = Trainer(model=model, args=trainer.args).compute_loss(model, dict(inputs))
    torch.testing.assert_close(plain, smoothed)


def test_replaced_loss_is_refused(make_model):
    with pytest.raises(ValueError, match="compute_loss_func"):
        AiTTrainer(model=make_model(), compute_loss_func=lambda *args, **kwargs: 0)


@pytest.mark.parametrize(
    ("flags", "low", "high"),
    [
        # Recomputed layers give the same weights; half precision near ones, and another loss others.
        ({"gradient_checkpointing": True}, 0.0, 1e-6),
        ({"bf16": True}, 1e-7, 1e-3),
        ({"label_smoothing_factor": 0.9}, 1e-6, 1e-3),
    ],
)
def test_training_option_does_what_it_says(flags, low, high, make_flags, tmp_path):
    image_classification.main(make_flags(tmp_path / "plain"))
    image_classification.main(make_flags(tmp_path / "run", **flags))
    plain, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "run"))
    difference = max(float((plain[name] - other[name]).abs().max()) for name in plain if "memory" not in name)
    assert low <= difference <= high
    assert math.isfinite(read_results(tmp_path / "run")["train_loss"])


def test_mistake_is_one_line_without_a_traceback(tmp_path):
    flags = ["--dataset_name", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "examples.image_classification", *flags]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: There is no folder")
    assert "Traceback" not in result.stderr


@SCRIPTS
@pytest.mark.parametrize("architecture", ["vit", "ait_no_workspace", "perceiver"])
def test_baseline_is_trained_by_the_same_script(script, architecture, make_flags, tmp_path, capsys):
    folder = tmp_path / "run"
    script.main(make_flags(folder, architecture=architecture))
    results = read_results(folder)
    assert results["num_steps"] == 2
    assert results["arguments"]["architecture"] == architecture
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if "memory." in name or "workspace" in name]
    assert results["num_parameters"] == sum(tensor.numel() for tensor in tensors.values())
    # The card speaks of AiT: a model of another design has none.
    assert (folder / "README.md").exists() == (architecture == "ait_no_workspace")
    assert f"Saved in {folder}" in capsys.readouterr().out


@SCRIPTS
def test_memory_is_reset_every_epoch_on_request(script, make_flags, tmp_path):
    """In one epoch it changes nothing; in two it does."""
    runs = {}
    for steps in (4, 8):
        for reset in (False, True):
            folder = tmp_path / f"{steps}-{reset}"
            script.main(make_flags(folder, max_steps=steps, reset_memory=reset))
            runs[steps, reset] = load_file(folder / "model.safetensors")["ait.memory.layer_0"]
    assert torch.equal(runs[4, False], runs[4, True])
    assert not torch.equal(runs[8, False], runs[8, True])


@SCRIPTS
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"architecture": "vitt"}, "no architecture 'vitt'. Did you mean 'vit'"),
        ({"architecture": "vit", "reset_memory": True}, "`reset_memory` needs the architecture 'ait'"),
        ({"architecture": "vit", "baseline_config": '{"vit": {"depth": 3}}'}, "unknown key 'depth'"),
        ({"architecture": "vit", "baseline_config": '{"vit": 3}'}, "must be a mapping"),
    ],
)
def test_impossible_architecture_is_refused(script, flags, message, make_flags, tmp_path):
    with pytest.raises(InputError, match=message):
        script.main(make_flags(tmp_path / "run", **flags))
