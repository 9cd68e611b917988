"""Saving into folders that hold an older checkpoint, with and without failures, and loading from them."""

import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import transformers
from safetensors import safe_open
from transformers.utils import logging

import modeling_ait
from modeling_ait import AiTConfig, AiTForImageClassification, AiTModel
from modeling_ait.saving_ait import is_broken, stage_files

from .loading import assert_same_model, assert_same_weights, load_elsewhere


CODE_FILES = {path.name for path in Path(modeling_ait.__file__).parent.glob("*_ait.py")}
WHOLE_CHECKPOINT = CODE_FILES | {"config.json", "model.safetensors"}


def list_names(folder):
    # A killed save leaves its staging folder behind, which no later one looks at.
    return {path.name for path in folder.iterdir() if not path.name.startswith(".save-")}


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("part", ["classifier", "base"])
def test_save_writes_safetensors_and_code_with_every_auto_class(make_trained, tmp_path, part):
    model = make_trained()
    saved = model if part == "classifier" else model.ait
    saved.save_pretrained(tmp_path)
    assert list_names(tmp_path) == WHOLE_CHECKPOINT
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["auto_map"] == {
        "AutoConfig": "configuration_ait.AiTConfig",
        "AutoModel": "modeling_ait.AiTModel",
        "AutoModelForImageClassification": "modeling_ait.AiTForImageClassification",
        "AutoModelForVisualQuestionAnswering": "modeling_ait.AiTForRelationalReasoning",
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        memories = {name: file.get_tensor(name) for name in file.keys() if "memory." in name}  # noqa: SIM118
    prefix = "ait." if part == "classifier" else ""
    assert memories.keys() == {f"{prefix}memory.layer_0", f"{prefix}memory.layer_1"}
    for index, memory in enumerate(model.ait.memories):
        assert torch.equal(memories[f"{prefix}memory.layer_{index}"], memory)
        assert not torch.equal(memory, AiTModel(model.config).memories[index])


def test_folder_loads_without_the_package_whichever_class_was_saved(make_trained, run_python, tmp_path):
    model = make_trained()
    model.save_pretrained(tmp_path / "classifier")
    model.ait.save_pretrained(tmp_path / "base")
    checkpoints = [
        {"pretrained_model_name_or_path": str(tmp_path / name), "trust_remote_code": True}
        for name in ("classifier", "base")
    ]
    whole, base = load_elsewhere(run_python, tmp_path, *checkpoints)
    assert_same_model(whole, model)
    for name, tensor in model.ait.state_dict().items():
        assert torch.equal(base.tensors[f"base.{name}"], tensor), name
        assert torch.equal(base.tensors[f"classifier.ait.{name}"], tensor), name
    for loaded in (whole, base):
        assert {module.split(".")[0] for module in loaded.modules} == {"transformers_modules"}


@pytest.mark.parametrize("part", ["classifier", "base"])
def test_missing_memory_starts_afresh_and_is_named(make_trained, tmp_path, caplog, monkeypatch, part):
    model = make_trained()
    (model if part == "classifier" else model.ait).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["ait.memory.layer_0" if part == "classifier" else "memory.layer_0"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})

    # The library's loggers do not reach the handler that records messages.
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    model_class = AiTForImageClassification if part == "classifier" else AiTModel
    torch.manual_seed(123)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    key = "ait.memory.layer_0" if part == "classifier" else "memory.layer_0"
    assert set(info["missing_keys"]) == {key}
    assert not info["unexpected_keys"]
    assert key in caplog.text
    assert "MISSING" in caplog.text

    fresh = model_class(AiTConfig.from_pretrained(tmp_path)).state_dict()
    for name, tensor in loaded.state_dict().items():
        expected = fresh[name] if name == key else tensors[name]
        assert torch.equal(tensor, expected), name
    assert 0.3 < loaded.get_buffer(key).std() < 3.0


def test_save_in_shards_and_whole_by_turns_loads_what_was_saved_last(make_trained, tmp_path):
    for seed, size in enumerate(["8KB", "50GB", "8KB", "12KB", "50GB"]):
        model = make_trained(seed)
        model.save_pretrained(tmp_path, max_shard_size=size)
        assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path), model)
        assert_same_weights(AiTModel.from_pretrained(tmp_path), model.ait)
        weights = {name for name in list_names(tmp_path) if ".safetensors" in name}
        if size == "50GB":
            assert weights == {"model.safetensors"}
        else:
            index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
            shards = set(index["weight_map"].values())
            assert len(shards) > 1
            assert weights == shards | {"model.safetensors.index.json"}


@pytest.mark.parametrize("sizes", [("50GB", "50GB"), ("8KB", "50GB"), ("50GB", "8KB")])
def test_variant_and_default_weights_live_side_by_side(make_trained, tmp_path, sizes):
    default, half, newer, newest = (make_trained(seed) for seed in range(4))
    half.half()
    default_size, variant_size = sizes

    def check(**models):
        for variant, model in models.items():
            options = {} if variant == "default" else {"variant": variant}
            loaded = AiTForImageClassification.from_pretrained(tmp_path, dtype=model.dtype, **options)
            assert_same_weights(loaded, model)

    default.save_pretrained(tmp_path, max_shard_size=default_size)
    half.save_pretrained(tmp_path, variant="fp16", max_shard_size=variant_size)
    check(default=default, fp16=half)
    assert all(memory.dtype == torch.float32 for memory in half.ait.memories)
    # Each in the other's number of files, so that both leave files behind.
    newer.save_pretrained(tmp_path, max_shard_size=variant_size)
    check(default=newer, fp16=half)
    newest.save_pretrained(tmp_path, variant="fp16", max_shard_size=default_size)
    check(default=newer, fp16=newest)
    listed = [name for name in list_names(tmp_path) if name.endswith(".safetensors")]
    indices = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.index*.json")]
    assert len(indices) == (variant_size == "8KB") + (default_size == "8KB")
    named = {name for index in indices for name in index["weight_map"].values()}
    whole = {"model.safetensors"} if variant_size == "50GB" else set()
    whole |= {"model.fp16.safetensors"} if default_size == "50GB" else set()
    assert set(listed) == named | whole


def test_weights_beside_a_saved_adapter_stay(make_trained, tmp_path, monkeypatch):
    """An adapter is saved beside the weights that it adapts; the file names are all that counts here."""
    model = make_trained()
    model.save_pretrained(tmp_path)

    def save_adapter(self, folder, *arguments, **options):
        safetensors.torch.save_file({"lora": torch.ones(2)}, f"{folder}/adapter_model.safetensors")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", save_adapter)
    make_trained(1).save_pretrained(tmp_path)
    assert list_names(tmp_path) == WHOLE_CHECKPOINT | {"adapter_model.safetensors"}
    assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path), model)


def test_weights_are_moved_before_the_json_that_describes_them(tmp_path, monkeypatch):
    moved, replace = [], os.replace

    def record(source, target):
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    with stage_files(tmp_path) as staging:
        for name in ("config.json", "model.safetensors", "model.safetensors.index.json", "a_ait.py"):
            Path(staging, name).write_text("x")
    assert moved == ["a_ait.py", "model.safetensors", "config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_saved_files_get_the_permissions_of_the_umask(make_trained, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        make_trained().save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_saving_leaves_the_state_dict_of_the_caller_whole(make_trained, tmp_path):
    model = make_trained()
    state = model.state_dict()
    names = set(state)
    model.save_pretrained(tmp_path, state_dict=state)
    assert set(state) == names
    assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path), model)


def fill_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_half(write):
    """Wrap a function that writes `(tensors, path)`: it leaves half of the file and fails, as on a full disk."""

    def wrapper(tensors, path, *arguments, **options):
        write(tensors, path, *arguments, **options)
        with open(path, "r+b") as file:
            file.truncate(file.seek(0, 2) // 2)
        fill_disk()

    return wrapper


def copy_half(source, target, **options):
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])
    fill_disk()


# What each failure replaces, in the module where transformers looks it up.
FAILURES = {
    "weights": ("transformers.modeling_utils.safe_save_file", write_half(safetensors.torch.save_file)),
    "code": ("transformers.dynamic_module_utils.shutil.copyfile", copy_half),
    "configuration": ("transformers.configuration_utils.PreTrainedConfig.to_json_string", fill_disk),
    "rename": ("os.replace", fill_disk),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("size", ["50GB", "8KB"], ids=["whole", "sharded"])
def test_full_disk_leaves_the_older_checkpoint(make_trained, tmp_path, monkeypatch, failure, size):
    old, new = make_trained(0), make_trained(1)
    old.save_pretrained(tmp_path, max_shard_size=size)
    before = read_files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*FAILURES[failure])
        with pytest.raises(OSError, match="No space left"):
            new.save_pretrained(tmp_path, max_shard_size=size)
    assert read_files(tmp_path) == before
    assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path), old)
    new.save_pretrained(tmp_path, max_shard_size=size)
    assert list_names(tmp_path) == before.keys()
    assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path), new)


@pytest.mark.parametrize("failure", ["code", "configuration", "rename"])
def test_full_disk_leaves_the_older_configuration(make_trained, tmp_path, monkeypatch, failure):
    model = make_trained()
    model.save_pretrained(tmp_path)
    before = read_files(tmp_path)
    config = AiTConfig.from_pretrained(tmp_path)
    config.hopfield_beta = 2.0
    with monkeypatch.context() as patch:
        patch.setattr(*FAILURES[failure])
        with pytest.raises(OSError, match="No space left"):
            config.save_pretrained(tmp_path)
    assert read_files(tmp_path) == before
    config.save_pretrained(tmp_path)
    assert list_names(tmp_path) == before.keys()
    assert AiTConfig.from_pretrained(tmp_path).hopfield_beta == 2.0
    assert_same_weights(AiTForImageClassification.from_pretrained(tmp_path), model)


KILL = """
import os, signal, sys
from modeling_ait import AiTForImageClassification
import transformers.modeling_utils

new, *folders = sys.argv[1:]
model = AiTForImageClassification.from_pretrained(new)
write, replace = transformers.modeling_utils.safe_save_file, os.replace

for num_replaced, folder in enumerate(folders, start=-1):
    process = os.fork()
    if process == 0:
        if num_replaced < 0:
            # In the middle of the weights: half of them are on the disk.
            def write_half(tensors, path, *arguments, **options):
                write(tensors, path, *arguments, **options)
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            transformers.modeling_utils.safe_save_file = write_half
        def count_down(source, target, left=[num_replaced]):
            # The configuration's own step into the staging folder is none of those that count.
            if ".save-" not in os.path.dirname(target):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
            replace(source, target)
        os.replace = count_down
        model.save_pretrained(folder)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def test_killed_save_leaves_one_of_the_two_checkpoints_whole(make_trained, run_python, tmp_path):
    """Killed while it writes, or after any number of the renames that end it; the last process is left alone."""
    old, new = make_trained(0), make_trained(1)
    new.save_pretrained(tmp_path / "new")
    folders = [tmp_path / f"killed-{index}" for index in range(len(WHOLE_CHECKPOINT) + 2)]
    for folder in folders:
        old.save_pretrained(folder)
    result = run_python(KILL, tmp_path / "new", *folders, has_package=True)
    assert result.returncode == 0, result.stderr
    assert list(map(int, result.stdout.split())) == [-signal.SIGKILL] * (len(folders) - 1) + [0]

    winners = []
    for folder in folders:
        loaded = AiTForImageClassification.from_pretrained(folder)
        winners.append(new if torch.equal(loaded.classifier.weight, new.classifier.weight) else old)
        assert_same_weights(loaded, winners[-1])
        new.save_pretrained(folder)
        assert list_names(folder) == WHOLE_CHECKPOINT
        assert_same_weights(AiTForImageClassification.from_pretrained(folder), new)
    assert winners[:2] == [old, old]
    assert winners[-1] is new


TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_that_is_not_finite_is_found_and_no_large_one(dtype):
    largest = torch.finfo(dtype).max
    for values in ([], [0.0], [largest] * 9, [largest, -largest] * 5, [-largest] * 9):
        assert not is_broken(torch.tensor(values, dtype=torch.float64).to(dtype)), values
    infinite = [] if dtype == torch.float8_e4m3fn else [float("inf"), float("-inf")]
    for value in (float("nan"), *infinite):
        for others in ([1.0], [-value], [largest] * 9):
            assert is_broken(torch.tensor([*others, value, 0.0], dtype=torch.float64).to(dtype)), (value, others)
    assert not is_broken(torch.empty(3, dtype=dtype, device="meta"))
    assert not is_broken(torch.ones(3, dtype=torch.int8))


@pytest.mark.parametrize(("value", "expected"), [(1.0, False), (float("nan"), True), (float("inf"), True)])
def test_parts_of_a_quantized_weight_are_looked_at(value, expected):
    # Such weights answer neither `isfinite` nor `abs`.
    weight = SimpleNamespace(
        __tensor_flatten__=lambda: (["qdata", "scale"], None),
        qdata=torch.ones(2, 3, dtype=torch.int8),
        scale=torch.tensor([1.0, value]),
    )
    assert is_broken(weight) is expected
