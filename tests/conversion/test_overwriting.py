"""A conversion into a folder in use: refused without a flag, and the old model stays until the new one is whole."""

import os
import signal
from pathlib import Path

import pytest
import torch
import transformers.modeling_utils
from transformers import ViTConfig, ViTForImageClassification

from conversion import common
from conversion.common import ConversionError
from conversion.convert_vit import convert_model, main
from modeling_ait import AiTForImageClassification
from tests.examples.helpers import get_context


def make_source(folder, hidden_size=16):
    torch.manual_seed(hidden_size)
    ViTForImageClassification(
        ViTConfig(
            hidden_size=hidden_size,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=4,
        )
    ).save_pretrained(folder)
    return folder


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def kill(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def convert_until_killed(point, options):
    """Convert in this process, which kills itself."""
    if point == "half of the weights":
        save = transformers.modeling_utils.safe_save_file

        def save_half(tensors, path, *arguments, **more):
            save(tensors, path, *arguments, **more)
            os.truncate(path, os.path.getsize(path) // 2)
            kill()

        transformers.modeling_utils.safe_save_file = save_half
    elif point == "no model card yet":
        common.seal_card = kill
    main(options)


@pytest.mark.parametrize("point", ["half of the weights", "no model card yet"])
def test_killed_conversion_leaves_the_old_model(point, tmp_path):
    output = tmp_path / "ait"
    main(["--model", str(make_source(tmp_path / "old")), "--output_dir", str(output)])
    before = read_all(output)
    options = ["--model", str(make_source(tmp_path / "new", 24)), "--output_dir", str(output), "--overwrite"]
    process = get_context(__name__).Process(target=convert_until_killed, args=(point, options))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert read_all(output) == before
    main(options)
    assert AiTForImageClassification.from_pretrained(output).config.hidden_size == 24


def test_weights_in_other_shards_do_not_survive_an_overwrite(tmp_path):
    output = tmp_path / "ait"
    old = convert_model(ViTForImageClassification.from_pretrained(make_source(tmp_path / "old")))
    old.save_pretrained(output, max_shard_size="10KB")
    assert len(list(output.glob("model-*.safetensors"))) > 1
    (output / "adapter_model.safetensors").write_bytes(b"mine")
    main(["--model", str(make_source(tmp_path / "new", 24)), "--output_dir", str(output), "--overwrite"])
    assert {path.name for path in output.glob("*.safetensors*")} == {"model.safetensors", "adapter_model.safetensors"}
    assert AiTForImageClassification.from_pretrained(output).config.hidden_size == 24


@pytest.mark.parametrize(
    "name",
    ["model-00001-of-00002.safetensors", "config.json", "README.md", "preprocessor_config.json", "run_arguments.json"],
)
def test_folder_with_work_in_it_is_refused(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConversionError, match=f"holds {name} already. Say `--overwrite`"):
        common.refuse_existing_model(tmp_path, overwrite=False)
    common.refuse_existing_model(tmp_path, overwrite=True)
    Path(tmp_path, name).unlink()
    (tmp_path / "notes.txt").write_text("mine")
    common.refuse_existing_model(tmp_path, overwrite=False)
