"""Recipes: arguments in a YAML file, checked before anything is built from them."""

import dataclasses
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from examples.errors import InputError, flatten_message, refuse_unknown_keys, suggest
from examples.sharing import set_hub_token


RECIPES = Path(__file__).parents[1] / "recipes"
ENDINGS = (".yaml", ".yml")


def find_recipe(name: str) -> str:
    """The path of a recipe that is shipped under a name such as `digits`; any other text stays as it is."""
    shipped = RECIPES / f"{name}.yaml"
    if name.endswith(ENDINGS) or Path(name).name != name or not shipped.exists():
        return name
    return str(shipped.relative_to(Path.cwd()) if shipped.is_relative_to(Path.cwd()) else shipped)


def read_recipe(path: str) -> dict[str, Any]:
    """Read a YAML recipe into a dictionary; a token of the Hub goes into the environment instead."""
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = sorted(recipe.name for recipe in RECIPES.glob("*.yaml"))
        hint = suggest(Path(path).stem, [recipe.removesuffix(".yaml") for recipe in shipped])
        raise InputError(
            f"There is no recipe {path!r}.{hint} Shipped in examples/recipes/: {', '.join(shipped)}."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"The recipe {path!r} is no text in UTF-8: {error}.") from None
    except OSError as error:
        raise InputError(f"The recipe {path!r} cannot be read: {error.strerror}.") from None
    except yaml.MarkedYAMLError as error:
        # Without the line itself, which the error has too: it may hold a token.
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join((error.problem or error.context or "it cannot be read").split())
        raise InputError(f"The recipe {path!r} is not valid YAML{place}: {problem}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {path!r} is not valid YAML: {flatten_message(error)}") from None
    if not isinstance(recipe, dict):
        kind = "empty" if recipe is None else "a list" if isinstance(recipe, list) else "a single value"
        raise InputError(f"The recipe {path!r} must be a mapping of arguments, such as `seed: 0`, but is {kind}.")
    if (token := recipe.pop("hub_token", None)) is not None:
        if not isinstance(token, str):
            raise InputError(f"The recipe {path!r} has a `hub_token` that is no text.")
        set_hub_token(token)
    return recipe


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a recipe is of an annotated type; a text may stand for a number, as on the command line."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is list and isinstance(value, list):
            # The command line's conversion does not reach into a list.
            kind = get_args(option)[0]
            if all(fits(item, kind) and (kind is str or not isinstance(item, str)) for item in value):
                return True
        elif option is bool or isinstance(value, bool):
            if option is bool and isinstance(value, (bool, str)):
                return True
        elif option in (int, float):
            if isinstance(value, (int, str) if option is int else (int, float, str)):
                return True
        elif isinstance(option, type) and issubclass(option, Enum):
            if isinstance(value, str):
                return True
        elif option is Any or isinstance(value, get_origin(option) or option):
            return True
    return False


def describe_type(hint: Any) -> str:
    """An annotated type in words."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    names = {bool: "true or false", int: "a whole number", float: "a number", dict: "a mapping", list: "a list"}
    described = [names.get(get_origin(option) or option, "a text") for option in options if option is not NoneType]
    return " or ".join(dict.fromkeys(described))


def check_recipe(recipe: dict[str, Any], types: tuple[type, ...], where: str) -> None:
    """Raise an `InputError` for a key of a recipe that is unknown, or whose value is of another type."""
    hints: dict[str, Any] = {}
    for dataclass_type in types:
        annotated = get_type_hints(dataclass_type)
        hints |= {f.name: annotated[f.name] for f in dataclasses.fields(dataclass_type) if f.init}
    refuse_unknown_keys(recipe, set(hints), where)
    for key, value in recipe.items():
        if not fits(value, hints[key]):
            hint = " YAML reads an unquoted yes or no so: write it in quotes." if isinstance(value, bool) else ""
            raise InputError(f"{where} has `{key}` {value!r}, but it takes {describe_type(hints[key])}.{hint}")


def split_recipe(arguments: list[str]) -> tuple[str | None, list[str]]:
    """
    Take the recipe off the front of a command line, a path or the name of a shipped one.

    Raises:
        InputError: for two recipes, or one that does not stand first.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = [*map(find_recipe, arguments[:2]), *arguments[2:]]
    names = [argument for argument in arguments if argument.endswith(ENDINGS) and not argument.startswith("-")]
    if len(arguments) > 1 and arguments[0] in names and arguments[1] in names:
        raise InputError(f"One recipe at a time, but got {arguments[0]!r} and {arguments[1]!r}.")
    if arguments and arguments[0] in names:
        return arguments[0], arguments[1:]
    if arguments and not arguments[0].startswith("-"):
        hint = suggest(arguments[0], sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise InputError(
            f"{arguments[0]!r} is neither a flag nor a recipe: a file that ends in .yaml, or the name of a shipped "
            f"one.{hint}"
        )
    return None, arguments
