"""Launches whose processes would not train together are refused in one line, with the command that is right."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples import image_classification, image_classification_accelerate, relational_reasoning
from examples.errors import InputError
from examples.training.launch import RANKS, SIZES, refuse_split_launch
from tests.examples.helpers import read_results


REPOSITORY = Path(__file__).parents[3]
LAUNCHES = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    "accelerate": ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"],
}


@pytest.fixture(autouse=True)
def no_launch(monkeypatch):
    """Whatever launched the tests does not reach them."""
    for name in (*SIZES, *RANKS, "LOCAL_RANK", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("launch", "said"), [("torchrun", "group of 1"), ("accelerate", "started one")])
def test_launch_of_processes_that_train_alone_is_refused_in_one_line(launch, said, tmp_path):
    folder = tmp_path / "run"
    flags = ["examples/recipes/digits.yaml", "--use_cpu", "False", "--output_dir", str(folder)]
    result = subprocess.run(
        [sys.executable, "-m", *LAUNCHES[launch], "examples.image_classification_accelerate", *flags],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0]
    assert "`torchrun --nproc_per_node 2 -m examples.image_classification_accelerate ...`" in lines[0]
    assert "`--use_cpu True`" in lines[0]
    assert not folder.exists()


@pytest.mark.parametrize("script", [image_classification, image_classification_accelerate, relational_reasoning])
@pytest.mark.parametrize("size", SIZES)
def test_every_script_refuses_a_size_that_its_group_does_not_have(script, size, make_flags, tmp_path, monkeypatch):
    monkeypatch.setenv(size, "3")
    name = script.__name__.rpartition(".")[2]
    # As a cluster starts its processes; with `--use_cpu` they would look for each other here.
    flags = make_flags(tmp_path / "run", use_cpu=None)
    with pytest.raises(InputError, match=f"3 processes were started.*--nproc_per_node 3 -m examples.{name} "):
        script.main(flags)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv(RANKS[SIZES.index(size)], "1")
    with pytest.raises(SystemExit) as ended:
        script.main(flags)
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("environment", "world_size"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "2", "RANK": "1"}, 2),
        ({"WORLD_SIZE": ""}, 1),
        ({"ACCELERATE_USE_CPU": "True"}, 1),
        ({"MASTER_ADDR": "127.0.0.1"}, 1),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "False"}, 2),
    ],
)
def test_launch_that_does_what_it_says_is_taken(environment, world_size, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refuse_split_launch(SimpleNamespace(world_size=world_size), "image_classification")


def test_results_record_the_world_size(make_flags, tmp_path):
    image_classification.main(make_flags(tmp_path / "run", max_steps=1))
    assert read_results(tmp_path / "run")["world_size"] == 1
