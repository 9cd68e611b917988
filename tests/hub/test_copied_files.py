"""The rules for files that travel with the weights: transformers copies them by regular expression into one folder."""

import ast
import re
import sys
from pathlib import Path

import pytest

import modeling_ait


FOLDER = Path(modeling_ait.__file__).parent
MODULES = sorted(path for path in FOLDER.rglob("*.py") if path.name != "__init__.py")
# Anything else would become a requirement of everyone who loads the model.
THIRD_PARTY = {"torch", "transformers", "huggingface_hub", "numpy", "safetensors"}
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def parse(path):
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_package_is_one_flat_folder_of_ait_files():
    assert len(MODULES) >= 4
    for path in MODULES:
        assert path.parent == FOLDER, path
        assert path.name.endswith("_ait.py"), path


@each_module
def test_siblings_are_imported_by_name_from_one_dot(path):
    names = {module.stem for module in MODULES}
    for node in parse(path):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            assert node.level == 1, ast.unparse(node)
            assert node.module in names, ast.unparse(node)
            # The copier's expression wants it at the start of a line, as it is where the module is imported at once.
            assert re.search(rf"^from \.{node.module} import ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


@each_module
def test_third_party_imports_are_those_of_transformers_itself(path):
    imported = set()
    for node in parse(path):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) <= THIRD_PARTY


@each_module
def test_annotations_stay_evaluated(path):
    """Postponed annotations switch off the checks of `@strict` and break loading remote code."""
    assert not [node for node in parse(path) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


@each_module
def test_no_text_looks_like_a_relative_import(path):
    """The copier reads lines, so a docstring line that begins so would name a file that does not exist."""
    real = sum(isinstance(node, ast.ImportFrom) and node.level > 0 for node in parse(path))
    found = re.findall(r"^\s*(?:from|import)\s+\.", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(found) == real


@each_module
def test_no_config_is_recognised_by_its_class(path):
    """A model from one copy of the code may get a configuration from another: their classes differ."""
    for node in parse(path):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("isinstance", "issubclass"):
            assert "AiTConfig" not in ast.unparse(node.args[1]), ast.unparse(node)


def test_modules_do_not_depend_on_the_package_file():
    for path in MODULES:
        assert not re.search(r"^\s*(from|import)\s+modeling_ait\b", path.read_text(encoding="utf-8"), re.MULTILINE), (
            path
        )
