"""LoRA through the Trainer: what is saved, how it comes back, and that a killed run goes on to the same adapter."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTImageProcessorPil

from examples import lora
from examples.errors import InputError
from tests.examples.helpers import read_results


@pytest.fixture
def base(make_model, tmp_path):
    """A checkpoint for images of 8 x 8 pixels with the ten classes of the digits."""
    folder = tmp_path / "base"
    names = {index: str(index) for index in range(10)}
    model = make_model(
        image_size=8, num_labels=10, id2label=names, label2id={name: index for index, name in names.items()}
    )
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True).save_pretrained(folder)
    return folder


@pytest.fixture
def adapt(base, capsys):
    """Adapt the checkpoint in four steps, and return what was printed."""

    def run(folder, **flags):
        tiny = {
            "model_name_or_path": base, "dataset_name": "digits", "max_train_samples": 64, "max_eval_samples": 51,
            "crop_padding": 1, "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 16, "logging_steps": 1,
            "learning_rate": 0.01, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "lora_rank": 2,
            "output_dir": folder,
        }  # fmt: skip
        given = {name: value for name, value in {**tiny, **flags}.items() if value is not None}
        lora.main([part for name, value in given.items() for part in (f"--{name}", str(value))])
        return capsys.readouterr().out

    return run


def assert_same_adapter(folder, other):
    weights, others = (load_file(path / "adapter_model.safetensors") for path in (folder, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


def test_folder_has_the_adapter_with_classifier_and_memory_and_the_base_stays(adapt, base, tmp_path):
    before = (base / "model.safetensors").read_bytes()
    adapt(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir() if path.is_file() and not path.name.startswith(".")}
    assert names == {
        *(
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "config.json",
            "example.png",
            "preprocessor_config.json",
        ),
        *("results.json", "run_arguments.json"),
    }
    weights, old = load_file(tmp_path / "run" / "adapter_model.safetensors"), load_file(base / "model.safetensors")
    short = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    kept = {name for name in short if ".lora_" not in name}
    memories = {"ait.memory.layer_0", "ait.memory.layer_1"}
    assert kept == {"classifier.weight", "classifier.bias", *memories}
    for name in kept:
        assert not torch.equal(short[name], old[name]), name
    assert {name.split(".lora_")[0].split(".")[-1] for name in short.keys() - kept} == {"q_proj", "v_proj"}
    assert (base / "model.safetensors").read_bytes() == before
    results = read_results(tmp_path / "run")
    # Two matrices of rank 2 for queries and values of two layers, and the classifier.
    assert results["num_trainable_parameters"] == 2 * 2 * (2 * 16 + 16 * 2) + 16 * 10 + 10
    assert results["arguments"]["lora_rank"] == 2
    assert (results["num_steps"], results["num_eval_samples"]) == (4, 51)


def test_printed_lines_load_the_adapter_with_other_classes_and_another_image_size(adapt, image_folder, tmp_path):
    printed = adapt(
        tmp_path / "run", dataset_name=image_folder, model_config='{"image_size": 16}', max_train_samples=None,
        max_eval_samples=None, crop_padding=None,
    )  # fmt: skip
    code = printed[printed.index("from peft") :] + (
        "import torch\n"
        "assert model.config.id2label == {0: 'cat', 1: 'dog'}\n"
        "assert model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 2)\n"
        "from safetensors.torch import load_file\n"
        f"weights = load_file({str(tmp_path / 'run' / 'adapter_model.safetensors')!r})\n"
        "for index, memory in enumerate(model.get_memories()):\n"
        "    assert torch.equal(memory, weights[f'base_model.model.ait.memory.layer_{index}'])\n"
        "assert torch.equal(model.classifier.weight, weights['base_model.model.classifier.weight'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("lost", ["results.json", "checkpoint-4"])
def test_killed_run_goes_on_to_the_same_adapter(adapt, tmp_path, lost):
    """Killed before its results, after the last step; or after the second of four."""
    adapt(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("results.json", "adapter_model.safetensors"):
        (tmp_path / "killed" / name).unlink()
    if lost == "checkpoint-4":
        shutil.rmtree(tmp_path / "killed" / lost)
    adapt(tmp_path / "killed")
    assert read_results(tmp_path / "killed")["resumed_from_step"] == (4 if lost == "results.json" else 2)
    assert_same_adapter(tmp_path / "whole", tmp_path / "killed")
    assert read_results(tmp_path / "killed")["accuracy"] == read_results(tmp_path / "whole")["accuracy"]


def test_checkpoint_of_an_adapter_is_named_to_go_on_from(adapt, tmp_path):
    adapt(tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    adapt(tmp_path / "other", resume_from_checkpoint=checkpoint)
    assert read_results(tmp_path / "other")["resumed_from_step"] == 2
    assert_same_adapter(tmp_path / "whole", tmp_path / "other")
    claim = checkpoint / "written_by.json"
    claim.write_text(claim.read_text().replace("lora", "trainer"))
    with pytest.raises(InputError, match="is no complete checkpoint"):
        adapt(tmp_path / "third", resume_from_checkpoint=checkpoint)


def test_finished_run_is_told_and_others_are_refused(adapt, tmp_path):
    adapt(tmp_path / "run")
    before = (tmp_path / "run" / "adapter_model.safetensors").stat().st_mtime_ns
    assert "holds this run, finished" in adapt(tmp_path / "run")
    assert (tmp_path / "run" / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"other arguments: lora_rank 2, now 4"):
        adapt(tmp_path / "run", lora_rank=4)
    place = tmp_path / "run" / "run_arguments.json"
    written = json.loads(place.read_text())
    assert written.pop("lora_dropout") == 0.0
    place.write_text(json.dumps(written))
    assert "holds this run, finished" in adapt(tmp_path / "run")
    adapt(tmp_path / "run", lora_rank=4, restart=True)
    assert read_results(tmp_path / "run")["arguments"]["lora_rank"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model_name_or_path": None}, r"Name the checkpoint to adapt: `--model_name_or_path"),
        ({"model_name_or_path": "nowhere"}, r"'nowhere'"),
        ({"lora_rank": 0}, r"`--lora_rank` and `--lora_alpha` must be at least 1, but got 0 and 16"),
        ({"lora_alpha": -1}, r"must be at least 1, but got 2 and -1"),
        ({"lora_dropout": 1.0}, r"`--lora_dropout` must be at least 0 and below 1"),
        ({"target_modules": "query"}, r"There is no layer to adapt 'query'. Did you mean 'query_proj'"),
        ({"target_modules": "mlp.q_proj"}, r"`--target_modules` cannot be adapted: "),
        (
            {"push_to_hub": True},
            r"Nobody else has the checkpoint of this adapter: push '.*base' first, then give its id",
        ),
        ({"visualize": True}, r"`--visualize True` has no effect: of an adapter no picture is drawn"),
        ({"lora_rnak": 3}, r"There is no flag '--lora_rnak'. Did you mean '--lora_rank'"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(adapt, tmp_path, flags, message):
    with pytest.raises(InputError, match=message) as error:
        adapt(tmp_path / "run", **flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_missing_peft_names_the_extra(adapt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"needs peft: `pip install -e '\.\[examples\]'`"):
        adapt(tmp_path / "run")


def test_write_is_adapted_when_it_is_asked_for(adapt, tmp_path):
    adapt(tmp_path / "run", target_modules="query_proj")
    names = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert {name.split(".")[-4] for name in names if ".lora_A" in name} == {"write"}


def test_help_lists_the_flags_of_the_adapter_and_the_training(capsys):
    with pytest.raises(SystemExit):
        lora.main(["--help"])
    printed = capsys.readouterr().out
    assert "--target_modules" in printed and "--dataset_name" in printed and "--help_trainer" in printed
