"""No secret reaches a file or an output, nothing breaks out of a page, and a push takes a list of files."""

import ast
import importlib
import io
import json
import logging
import os
import shlex
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import yaml

from examples import compare, image_classification
from examples.errors import InputError, run_script
from examples.sharing import (
    HIDDEN,
    RedactedStream,
    escape_markdown,
    join_command,
    list_files_to_push,
    quote_code,
    quote_python,
    redact,
    show,
    take_hub_token,
)

from .conftest import TINY_MODEL


# No prefix tells it, so that it has to be known.
SECRET = "Zq7" + "secret" * 4
HOSTILE = (
    "two\nlines",
    "``` \n# heading",
    "<script>alert(1)</script>",
    '"); import os; ("',
    "right\u202eto left",
    "a|b",
    "back\\slash\\",
    "nul\x00 and escape\x1b[31m",
    "line\u2028separator",
    "caf\udce9",
    "`tick`",
    "{{ 7 * 7 }}",
    "---\nlicense: other",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A token that a test moves into the environment does not stay there."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "")


def find_secret(folder):
    """Files whose bytes hold the secret, read to the last."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("script", ["image_classification", "image_classification_accelerate"])
@pytest.mark.parametrize("way", ["flag", "flag with =", "recipe", "environment"])
def test_token_reaches_no_file_and_no_output(script, way, make_flags, tmp_path, monkeypatch, capfd):
    output_dir, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    flags = make_flags(output_dir, max_steps=2, save_strategy="steps", save_steps=1)
    if way == "flag":
        flags += ["--hub_token", SECRET]
    elif way == "flag with =":
        flags += [f"--hub-token={SECRET}"]
    elif way == "recipe":
        recipe.write_text(yaml.safe_dump({"hub_token": SECRET}))
        flags = [str(recipe), *flags]
    else:
        monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    importlib.import_module(f"examples.{script}").main(flags)
    assert not find_secret(output_dir)
    output = capfd.readouterr()
    assert SECRET not in output.out + output.err
    assert (output_dir / "checkpoint-2" / "manifest.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hub_tokken", SECRET],
        ["--hub_tok", SECRET],
        [f"--hub_token={SECRET}", "--output_dirr", "x"],
        ["--hub_token", SECRET, "--model_config", "{"],
        ["--hub_token", SECRET, "--dataset_name", "./nowhere"],
        ["recipe.yaml"],
    ],
)
def test_token_reaches_no_error(arguments, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"hub_token: {SECRET}\nunknown: 1\n")
    arguments = [str(recipe) if argument == "recipe.yaml" else argument for argument in arguments]
    output = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, output)
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    try:
        run_script(lambda: image_classification.main([*arguments, "--output_dir", str(tmp_path / "run")]))
    except BaseException:
        # As the interpreter does.
        traceback.print_exc()
    assert "Error" in output.getvalue() or "error" in output.getvalue()
    assert SECRET not in output.getvalue()
    assert not [path for path in tmp_path.rglob("*.json") if SECRET in path.read_text()]


def test_commands_of_a_comparison_hold_no_token():
    """The runs inherit it from the environment."""
    left = take_hub_token(["--hub_token", SECRET, "--max_steps", "2", f"--hub-tok={SECRET}", "--disable_tqdm", "True"])
    assert left == ["--max_steps", "2", "--disable_tqdm", "True"]
    assert os.environ["HF_TOKEN"] == SECRET


def test_comparison_keeps_the_token_of_flag_and_recipe_out_of_its_folder(tmp_path, monkeypatch, capfd):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "dataset_name": "digits",
                "max_train_samples": 16,
                "max_eval_samples": 8,
                "max_steps": 1,
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
                "hub_token": SECRET + "Recipe",
                "model_config": TINY_MODEL,
            }
        )
    )
    folder = tmp_path / "runs"
    flags = [str(recipe), "--architectures", "ait", "--seeds", "0", "--output_dir", str(folder)]
    flags += ["--num_cost_rounds", "0", "--hub_token", SECRET]
    monkeypatch.setattr(sys, "argv", ["compare", *flags])
    for _ in range(2):
        compare.main(flags)
    assert (folder / "comparison.json").exists()
    assert not find_secret(folder)
    output = capfd.readouterr()
    assert SECRET not in output.out + output.err
    assert "1 of them finished" in output.out


def test_secrets_are_found_by_variable_flag_and_form(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "1234567890abcdef")
    monkeypatch.setenv("SHORT_TOKEN", "main")
    monkeypatch.setattr(sys, "argv", ["script", "--hub_token", SECRET])
    text = redact(f"{SECRET} 1234567890abcdef hf_abcdefghijklmnop main")
    assert text == "HIDDEN HIDDEN HIDDEN main"


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "CLIENT_SECRET", "db_password"])
def test_variables_that_are_called_secret_are_hidden(name, monkeypatch):
    monkeypatch.setenv(name, "zebra-crossing")
    assert redact("a zebra-crossing") == "a HIDDEN"


def test_secret_that_begins_with_another_is_hidden_whole(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "zebra-crossing")
    monkeypatch.setenv("OTHER_TOKEN", "zebra-crossing-at-night")
    assert redact("zebra-crossing-at-night, zebra-crossing") == "HIDDEN, HIDDEN"


def test_secrets_are_found_as_json_and_messages_write_them(monkeypatch):
    secret = "wört\"with\\and'quotes"
    monkeypatch.setenv("HF_TOKEN", secret)
    for written in (secret, json.dumps([secret]), repr([secret]), f"{ValueError(secret)!r}"):
        text = redact(written)
        assert HIDDEN in text
        assert "quotes" not in text


@pytest.mark.parametrize(
    "text",
    [
        f'hub_token: "{SECRET}\nseed: 0\n',
        f"hub_token: {SECRET}: 3\n",
        f"hub_token:\t{SECRET}: [\n",
        f"hub_token: [{SECRET}\n",
        f"hub_token: [{SECRET}]\n",
        f"hub_token: '{SECRET}' x\n",
        f"hub_tokn: {SECRET}\n",
    ],
)
def test_broken_recipe_shows_no_token(text, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError) as caught:
        image_classification.main([str(recipe), "--output_dir", str(tmp_path / "run")])
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_output_is_redacted_and_never_fails(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    stream = RedactedStream(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    print(f"token {SECRET}, café, caf\udce9", file=stream)
    stream.flush()
    assert stream.buffer.getvalue() == b"token HIDDEN, caf\\xe9, caf\\udce9\n"


def test_script_redacts_what_its_libraries_log(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", errors)
    logger = logging.getLogger("a library of the test")
    logger.addHandler(logging.StreamHandler(errors))
    run_script(lambda: logger.warning("the token is %s", SECRET))
    assert errors.getvalue() == "the token is HIDDEN\n"


def test_push_takes_the_files_of_the_model_alone(tmp_path):
    kept = ["README.md", "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "modeling_ait.py"]
    kept += ["model.safetensors.index.json", "preprocessor_config.json", "results.json", "example.png", "memory.png"]
    left = [
        "training_args.bin",
        ".lock",
        "previous_results.json",
        "run_arguments.json",
        "optimizer.pt",
        "notes_ait.py",
    ]
    for name in (*kept, *left, "checkpoint-8/model.safetensors", "runs/modeling_ait.py", ".save-1/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "configuration_ait.py").symlink_to(tmp_path / "secret.txt")
    assert list_files_to_push(tmp_path) == sorted(kept)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_what_it_is(text):
    assert ast.literal_eval(quote_python(text)) == text
    assert quote_python(text).isprintable()
    for shown in (show(text), escape_markdown(text), quote_code(text), join_command(["python", text])):
        assert shown.isprintable()
    assert "<" not in escape_markdown(text).replace("\\<", "")
    assert "|" not in escape_markdown(text).replace("\\|", "")
    assert "`" not in escape_markdown(text).replace("\\`", "")


def test_plain_names_are_not_escaped():
    assert escape_markdown("sort_of_clevr-2, 3.5 (test)") == "sort_of_clevr-2, 3.5 (test)"
    assert quote_code("recipes/a.yaml") == "`recipes/a.yaml`"
    assert join_command(["python", "-m", "x y", '{"a": 1}']) == shlex.join(["python", "-m", "x y", '{"a": 1}'])


def test_joined_command_gives_the_shell_the_same_arguments():
    arguments = ["two\nlines", "it's", "back\\slash\nend", "tab\t'quote'", "$HOME `id`\n", "\u202e"]
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    command = join_command([sys.executable, "-c", code, *arguments])
    assert "\n" not in command
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={"LC_ALL": "C.UTF-8"})
    assert json.loads(result.stdout) == arguments
