"""Flags of the scripts: help that shows each once, and mistakes in one line."""

import math
import re
import sys
from argparse import SUPPRESS, Action, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable
from typing import Any, NoReturn

from transformers.hf_argparser import HfArgumentParser

from examples.errors import InputError, flatten_message, suggest


TYPE_NAMES = {"int": "a whole number", "float": "a number"}


def find_wrong_statistics(**statistics: list[float] | None) -> str | None:
    """What is wrong with the mean and the deviation that images shall be normalised with; `None` if they can work."""
    for name, values in statistics.items():
        if values is not None and not all(math.isfinite(value) for value in values):
            return f"`--{name}` takes finite numbers, but got {values}."
        if values is not None and name == "image_std" and min(values) <= 0:
            return f"`--image_std` takes numbers above 0, but got {values}."
    return None


def name_program(text: str | None) -> str | None:
    """Name scripts and recipes in a text as the command `ait` takes them, if that was called."""
    if text is None or not sys.argv[0].startswith("ait "):
        return text
    text = re.sub(r"python -m (examples|conversion)\.\w+", sys.argv[0], text)
    return re.sub(r"examples/recipes/(\w+)\.yaml", r"\1", text)


class HelpFormatter(RawDescriptionHelpFormatter):
    """Shows each flag once, with its default where it has one, and the lines of the description as they are."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=119)

    def add_argument(self, action: Action) -> None:
        # `--no_flag` is another name of `--flag False`.
        if not any(name.startswith("--no_") for name in action.option_strings):
            super().add_argument(action)

    def _format_action_invocation(self, action: Action) -> str:
        name = next((name for name in action.option_strings if name.startswith("--")), "")
        value = "" if action.nargs == 0 else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{name} {value}".strip()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        names = {"string_to_bool": "BOOL", "int": "INT", "float": "FLOAT"}
        return names.get(getattr(action.type, "__name__", ""), "TEXT")

    def _get_help_string(self, action: Action) -> str | None:
        text = re.sub(r"\s+", " ", action.help or "")
        if action.default is False or action.default in (None, SUPPRESS, "", [], {}):
            return text
        default = getattr(action.default, "value", action.default)
        if isinstance(default, list):
            default = " ".join(map(str, default))
        return f"{text} (default: {str(default).replace('%', '%%')})"


class ArgumentParser(HfArgumentParser):
    """
    Parser of dataclasses that takes flags as they are written, and says in one line what is wrong with one.

    Raises:
        InputError: for a flag that does not exist, a value of another type, or values that a dataclass refuses.
    """

    def __init__(self, types: Any, **options: Any):
        for name in ("description", "prog", "usage"):
            options[name] = name_program(options.get(name))
        super().__init__(types, formatter_class=HelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        flag, _, problem = re.sub(r"^argument (--\w+)[^:]*", r"\1", message).partition(": ")
        if wrong := re.fullmatch(r"invalid (\w+) value: (.*)", problem, flags=re.DOTALL):
            problem = f"takes {TYPE_NAMES.get(wrong[1], wrong[1])}, but got {wrong[2]}"
        elif wrong := re.match(r"Truthy value expected: got (.*) but", problem, flags=re.DOTALL):
            problem = f"takes True or False, but got {wrong[1]!r}"
        elif wrong := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", problem, flags=re.DOTALL):
            problem = f"takes one of {wrong[2]}, but got {wrong[1]}"
        elif problem.startswith("expected"):
            problem = f"stands without a value: {problem}"
        raise InputError(f"`{flag}` {problem}. `--help` says more." if problem else f"{message}.")

    def parse(self, arguments: list[str], other_flags: Iterable[str] = ()) -> tuple[Any, ...]:
        """Parse into one dataclass for each type; for a misspelt flag, those known elsewhere are suggested as well."""
        *parsed, rest = self.parse_some(arguments)
        self.refuse(rest, other_flags)
        return tuple(parsed)

    def parse_some(self, arguments: list[str]) -> tuple[Any, ...]:
        """Parse into one dataclass for each type, and a list of what is left over."""
        try:
            return self.parse_args_into_dataclasses(arguments, return_remaining_strings=True, look_for_args_file=False)
        except InputError:
            raise
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            message = flatten_message(error)
            if "assign use_cpu" in message:
                message = "without a GPU that knows bfloat16, `bf16` and `bf16_full_eval` need `--use_cpu True`."
            raise InputError(f"These arguments do not work: {message}") from error

    def parse_plain(self, arguments: list[str]) -> Namespace:
        """Parse arguments that were added one by one; flags that do not exist are refused before missing ones."""
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        options, rest = self.parse_known_args(arguments)
        self.refuse(rest)
        missing = [action.option_strings[-1] for action in required if getattr(options, action.dest) is None]
        if missing:
            raise InputError(f"`{missing[0]}` is missing. `--help` says what it takes.")
        return options

    def list_flags(self) -> list[str]:
        """All flags by the name that the help shows."""
        return [name for action in self._actions for name in action.option_strings[-2:] if "-" not in name[2:]]

    def refuse(self, rest: Iterable[str], other_flags: Iterable[str] = ()) -> None:
        """Raise an `InputError` about the first argument that is left over."""
        for argument in rest:
            if argument.endswith((".yaml", ".yml")) and not argument.startswith("-"):
                raise InputError(f"The recipe {argument!r} must stand first, before all flags.")
            if not argument.startswith("-"):
                raise InputError(f"{argument!r} stands where a flag should: `--name value`. `--help` lists them.")
            name = argument.partition("=")[0]
            flag = f"--{name.lstrip('-').replace('-', '_')}"
            raise InputError(
                f"There is no flag {name!r}.{suggest(flag, [*self.list_flags(), *other_flags])} `--help` lists all."
            )
