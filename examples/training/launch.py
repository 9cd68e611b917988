"""Launches that do not do what they say: several processes were asked for, and they do not train together."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from examples.errors import InputError


if TYPE_CHECKING:
    from transformers import TrainingArguments

# What torchrun, Intel MPI, Open MPI and MVAPICH tell a process.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def read_number(names: tuple[str, ...], environment: Mapping[str, str]) -> int | None:
    """The first of these variables that is a whole number; `None` if none is."""
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), None)


def refuse_split_launch(training: "TrainingArguments", script: str) -> None:
    """
    Refuse a launch whose processes do not belong to one group, so that each would train alone into one folder.

    Args:
        training: Arguments of the training, which have set up the process group.
        script: Name of the script.

    Raises:
        InputError: if the environment tells of more processes than the group has; all but the first exit silently.
    """
    size, rank = read_number(SIZES, os.environ), read_number(RANKS, os.environ)
    right = f"torchrun --nproc_per_node {size or 2} -m examples.{script} ..."
    advice = f"Start them by `{right}`, with `--use_cpu True` at its end where not every process has a GPU."
    if size is not None and size != training.world_size:
        if rank:
            raise SystemExit(1)
        raise InputError(
            f"{size} processes were started, but this one trains in a group of {training.world_size}: each would "
            f"train alone, into the same folder. {advice}"
        )
    # For several processes without a GPU for each, `accelerate launch` names an address and starts one process.
    is_simple_launch = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if size is None and is_simple_launch and training.world_size == 1:
        raise InputError(
            "`accelerate launch` was asked for several processes, but started one, as it does where not every process "
            f"has a GPU. {advice} For a single process leave out `--num_processes`."
        )
