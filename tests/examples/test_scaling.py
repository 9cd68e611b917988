"""The measurement of the exchange between processes."""

import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples import scaling
from examples.errors import InputError
from modeling_ait import AiTConfig
from tests.examples.helpers import get_context
from tests.processes import SHARED, run_on_processes
from tests.test_distributed_ait import count_exchange


@pytest.mark.parametrize("synchronize", [True, False])
def test_bytes_are_those_that_the_collectives_take(tmp_path, synchronize):
    config = {"synchronize_memory": synchronize}
    codes, results, errors = run_on_processes(partial(count_exchange, config=config), 2, tmp_path)
    assert codes == [0, 0], errors
    expected = scaling.count_exchanged(AiTConfig(**SHARED, **config), 2)
    # Beside those of the layers there is one number in a step: whether all memories are finite.
    for sizes, _ in results:
        assert sum(sizes) == 4 * synchronize + SHARED["num_hidden_layers"] * sum(expected.values())


def test_bytes_do_not_grow_with_the_batch_and_gathering_grows_with_the_processes():
    rows = {number: scaling.simulate(number, "100 Gb/s") for number in (2, 4, 8)}
    received = [row["bytes_received_per_layer"] for row in rows.values()]
    config = AiTConfig.from_size("base", image_size=224, patch_size=16)
    gathered = 4 * config.num_memory_heads * config.num_memory_slots * config.bottleneck_size
    assert received[2] - received[1] == pytest.approx(4 * gathered, rel=0.01)
    assert rows[8]["exchange_seconds"] > rows[2]["exchange_seconds"]
    assert scaling.count_exchanged(config, 1) == {"gathered": 0, "summed": 0}


def test_measurement_writes_numbers_and_a_chart(tmp_path, capsys, monkeypatch):
    # Processes that need not import everything anew.
    context = get_context("examples.scaling")
    contexts = SimpleNamespace(get_context={"spawn": context}.__getitem__)
    monkeypatch.setattr(scaling, "multiprocessing", contexts)
    file = tmp_path / "scaling.json"
    scaling.main(["--num_processes", "1", "2", "--images_per_process", "2", "--num_steps", "1", "--output", str(file)])
    results = json.loads(file.read_text())
    assert [(row["num_processes"], row["synchronize_memory"]) for row in results["measured"]] == [
        (1, True),
        (1, False),
        (2, True),
        (2, False),
    ]
    *alone, together, apart = [row["bytes_per_layer"] for row in results["measured"]]
    assert alone == [0, 0] and together > apart > 0
    assert all(row["step_seconds"] > 0 and row["peak_mebibytes"] > 0 for row in results["measured"])
    assert len(results["computed"]) == len(scaling.LINKS) * len(scaling.NUM_SIMULATED)
    assert file.with_suffix(".png").stat().st_size > 0
    assert "2 processes, synchronize_memory True" in capsys.readouterr().out


def test_table_of_the_page_is_what_is_computed():
    page = Path("docs/several_processes.md").read_text(encoding="utf-8")
    for number in (8, 64, 512):
        rows = [scaling.simulate(number, link) for link in scaling.LINKS]
        shares = [f"{100 * row['exchange_seconds'] / row['compute_seconds']:.0f}" for row in rows]
        assert f"| {number} | {' | '.join(shares)} |" in page


def sleep(*_):
    time.sleep(60)


def test_processes_that_do_not_end_are_an_error_and_are_ended(monkeypatch):
    monkeypatch.setattr(scaling, "measure_rank", sleep)
    arguments = scaling.ScalingArguments(timeout=1)
    with pytest.raises(InputError, match=r"did not all end well: exit codes \[None, None\]"):
        scaling.measure(2, True, arguments)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes", "0"], "`--num_processes` takes numbers from 1"),
        (["--num_steps", "0"], "`--num_steps` must be at least 1"),
        (["--output", "scaling.txt"], "takes a JSON file"),
    ],
)
def test_arguments_that_cannot_work_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        scaling.main(flags)
