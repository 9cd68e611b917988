"""The house: what may import what, how long files and functions may be, and what no tracked file may hold."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[1]
# Rooms from the top to the bottom: each may import itself and the rooms below that are named.
ROOMS = {
    "examples": {
        *("examples.training", "examples.comparison", "examples.benchmarking", "examples.baselines", "examples.data"),
        *("examples.exporting", "examples.visualization", "examples.demonstration", "conversion"),
    },
    "examples.demonstration": {
        *("examples.training", "examples.comparison", "examples.visualization", "examples.data"),
    },
    "examples.exporting": {"examples.training", "examples.data"},
    "examples.benchmarking": {"examples.comparison", "examples.training", "examples.baselines", "examples.data"},
    "examples.comparison": {"examples.training", "examples.baselines", "examples.data"},
    "examples.training": {"examples.baselines", "examples.data", "examples.visualization"},
    "examples.visualization": {"examples.data"},
    "examples.baselines": set(),
    "examples.data": set(),
    "conversion": set(),
    "modeling_ait": set(),
}
ANYWHERE = {"modeling_ait", "examples.errors", "examples.parsing", "examples.sharing"}
BINARY_FILES = {".parquet", ".png", ".pth", ".safetensors"}
IMPORT_NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}


def list_modules():
    return sorted(
        path for room in ("modeling_ait", "conversion", "examples") for path in (REPOSITORY / room).rglob("*.py")
    )


def name_module(path):
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)


def list_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def get_room(module):
    return next(room for room in sorted(ROOMS, key=len, reverse=True) if f"{module}.".startswith(f"{room}."))


def is_script(path):
    return path.name != "__main__.py" and '__name__ == "__main__"' in path.read_text(encoding="utf-8")


def list_tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout, so nothing is tracked")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()]


def test_imports_run_one_way():
    scripts = {name_module(path) for path in list_modules() if is_script(path) and path.parent.name == "examples"}
    assert len(scripts) >= 8
    wrong = []
    for path in list_modules():
        module = name_module(path)
        room = get_room(module)
        for imported in list_imports(path):
            if imported.split(".")[0] not in ("examples", "conversion", "modeling_ait", "tests"):
                continue
            allowed = {room, *ROOMS[room], *(ANYWHERE if room != "modeling_ait" else ())}
            is_allowed = imported in ANYWHERE or (imported.split(".")[0] != "tests" and get_room(imported) in allowed)
            if not is_allowed or imported in scripts - {module} or (room == "modeling_ait"):
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_files_and_functions_are_short():
    wrong = []
    for path in list_modules():
        text = path.read_text(encoding="utf-8")
        limit = 300 if name_module(path).startswith("examples") else 480
        if len(text.splitlines()) >= limit + (limit == 300):
            wrong.append(f"{path.name} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                # The docstring of a public forward is as long as its arguments need.
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = node.end_lineno - (body[0].lineno if body else node.end_lineno) + 1
                if length > 60:
                    wrong.append(f"{name_module(path)}.{node.name} has {length} lines")
    assert not wrong


def test_what_is_imported_is_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def list_names(requirements):
        return {re.split(r"[\[>=<]", requirement)[0].lower() for requirement in requirements}

    needed = list_names(project["dependencies"])
    optional = project["optional-dependencies"]
    extra = needed | list_names(optional["examples"]) | list_names(optional["export"]) | list_names(optional["demo"])
    wrong = []
    for path in list_modules():
        declared = needed if path.is_relative_to(REPOSITORY / "modeling_ait") else extra
        for imported in list_imports(path):
            name = imported.split(".")[0]
            if name in sys.stdlib_module_names or name in ("examples", "conversion", "modeling_ait"):
                continue
            if IMPORT_NAMES.get(name, name) not in declared:
                wrong.append(f"{name_module(path)} imports {name}")
    assert not wrong


def test_no_link_leaves_the_repository():
    for path in list_tracked():
        if path.is_symlink():
            assert not path.readlink().is_absolute(), path
            assert path.resolve().is_relative_to(REPOSITORY), path


def test_no_tracked_file_holds_a_path_of_a_machine():
    # Put together, so that this file does not find itself.
    pattern = re.compile("(?<![\\w.])/(?:" + "|".join(("home", "root", "work", "Users", "mnt")) + r")/\w")
    wrong = []
    for path in list_tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            # What tools leave behind holds paths that cannot be read here.
            assert path.suffix in BINARY_FILES, path
            continue
        wrong += [f"{path.name}: {match.group()}" for match in pattern.finditer(text)]
    assert not wrong
