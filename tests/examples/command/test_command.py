"""The command `ait`, in the clone and from a wheel that is unpacked beside nothing else."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples import command
from examples.command import COMMANDS, INSTALL, NEEDED, choose_module, find_scripts, make_help, run_command
from examples.errors import InputError
from tests.examples.conftest import make_tiny_flags
from tests.test_repository import IMPORT_NAMES


REPOSITORY = Path(__file__).parents[3]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
CALL = "from modeling_ait_cli import main; main()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel of a copy of this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("modeling_ait", "examples", "conversion", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "results", "checkpoints", "fixtures")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    built = subprocess.run([sys.executable, "-c", BUILD, folder], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (archive,) = folder.glob("*.whl")
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(unpacked)
    return unpacked


def call(wheel, folder, code, *arguments):
    """Run code in an empty folder, with the wheel's packages and without the clone."""
    environment = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_wheel_has_two_names_at_top_level_and_every_script_and_recipe(wheel):
    names = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"modeling_ait", "modeling_ait_cli"}
    inside = wheel / "modeling_ait_cli"
    for room in ("examples", "conversion"):
        files = [path for path in (REPOSITORY / room).rglob("*") if path.suffix in (".py", ".yaml", ".md")]
        wanted = {path.relative_to(REPOSITORY) for path in files if "command" not in path.parts}
        wanted -= {Path("examples/README.md")}
        wanted = {path for path in wanted if path.parts[1] not in ("results", "checkpoints")}
        assert {path for path in wanted if not (inside / path).exists()} == set()
    entry = next(wheel.glob("*.dist-info")) / "entry_points.txt"
    assert "ait = modeling_ait_cli:main" in entry.read_text()


def test_project_lists_every_package():
    folders = {
        path.parent.relative_to(REPOSITORY)
        for room in ("examples", "conversion")
        for path in (REPOSITORY / room).rglob("__init__.py")
    } - {Path("examples/command")}
    listed = {f"modeling_ait_cli.{'.'.join(folder.parts)}" for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == listed | {"modeling_ait", "modeling_ait_cli"}


def test_wheel_trains_from_an_empty_folder(wheel, tmp_path):
    flags = make_tiny_flags("runs/digits", dataset_name=None, max_steps=1)
    result = call(wheel, tmp_path, CALL, "train", "digits", *flags)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "runs/digits/results.json").read_text())
    assert results["command"].startswith("ait train digits --max_train_samples")
    assert results["arguments"]["dataset_name"] == "digits"
    code = (
        "import sys, modeling_ait_cli as cli\nfrom pathlib import Path\n"
        "sys.path.insert(0, cli.find_scripts())\nfrom examples.sharing import list_files_to_push\n"
        "print(*list_files_to_push(Path('runs/digits')))"
    )
    assert "modeling_ait.py" in call(wheel, tmp_path, code).stdout.split()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_wheel_compares_in_processes_that_find_the_scripts(wheel, tmp_path):
    sizes = ["--max_steps", "1", "--max_train_samples", "16", "--max_eval_samples", "8", "--use_cpu", "True"]
    flags = ["--architectures", "ait", "--seeds", "0", "--num_cost_rounds", "0", *sizes]
    result = call(wheel, tmp_path, CALL, "compare", "digits", *flags)
    assert result.returncode == 0, result.stderr
    (run,) = json.loads((tmp_path / "runs/compare/comparison.json").read_text())["runs"]
    assert run["command"].startswith("python -m examples.image_classification")


def test_help_lists_the_commands_and_imports_no_torch(wheel, tmp_path):
    heavy = "import sys; from modeling_ait_cli import main; main(); print(sorted({'torch', 'yaml'} & {*sys.modules}))"
    for arguments in ((), ("--help",)):
        result = call(wheel, tmp_path, heavy, *arguments)
        assert result.stdout.splitlines()[-1] == "[]", result.stderr
        for name, (_, what) in COMMANDS.items():
            assert sum(line.split()[:1] == [name] and what in line for line in result.stdout.splitlines()) == 1
    assert all(len(line) <= 100 for line in make_help().splitlines())
    result = call(wheel, tmp_path, CALL, "train", "--help")
    assert "usage: ait train [RECIPE.yaml]" in result.stdout and "python -m" not in result.stdout
    assert "    ait train digits\n" in result.stdout


def test_wheel_says_its_version(wheel, tmp_path):
    assert call(wheel, tmp_path, CALL, "--version").stdout == f"modeling-ait {command.version('modeling-ait')}\n"


def test_scripts_of_the_clone_are_found():
    assert find_scripts() == str(REPOSITORY)


@pytest.fixture
def arguments_of_process(monkeypatch):
    """A command changes the process's arguments."""
    monkeypatch.setattr(sys, "argv", ["ait"])
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_command_runs_its_script_under_its_own_name(arguments_of_process, capsys):
    with pytest.raises(SystemExit):
        run_command("convert-official", ["--help"])
    assert "usage: ait convert-official --checkpoint" in capsys.readouterr().out
    assert sys.argv == ["ait convert-official", "--help"]
    with pytest.raises(SystemExit):
        run_command("lora", ["--help"])
    assert "usage: ait lora [RECIPE.yaml]" in capsys.readouterr().out


def test_training_takes_the_script_of_its_data():
    assert choose_module("train", ["digits"]) == "examples.image_classification"
    assert choose_module("train", ["sort_of_clevr_cpu"]) == "examples.relational_reasoning"
    assert choose_module("train", ["digits", "--dataset_name=sort_of_clevr"]) == "examples.relational_reasoning"
    assert choose_module("train", ["--dataset_name", "path/to/images"]) == "examples.image_classification"
    assert choose_module("train", ["sort_of_clevr_cpu", "--help"]) == "examples.image_classification"
    assert choose_module("train-loop", ["sort_of_clevr_cpu"]) == "examples.image_classification_accelerate"


def test_mistakes_end_with_one_line(arguments_of_process, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        command.main(["trian"])
    assert ended.value.code == "error: There is no command 'trian'. Did you mean 'train'? `ait --help` lists all."
    monkeypatch.setitem(COMMANDS, "draw", ("examples.nowhere", "nothing"))
    with pytest.raises(InputError, match="`ait draw` is not part of this installation"):
        run_command("draw", [])
    monkeypatch.setattr(command, "NEEDED", (*NEEDED, "no_such_package"))
    with pytest.raises(SystemExit) as ended:
        command.main(["train", "digits"])
    assert ended.value.code == f"error: `ait train` needs no_such_package, which is not installed: {INSTALL}"


def test_commands_are_modules_of_this_clone():
    for name, (module, _) in COMMANDS.items():
        assert find_spec(module) is not None, name


def test_needed_packages_are_those_of_the_extra():
    extra = {requirement.split(">")[0] for requirement in PROJECT["project"]["optional-dependencies"]["examples"]}
    assert {IMPORT_NAMES.get(name, name) for name in NEEDED} == extra
