"""The measurement of the exchange between processes."""

import json
from pathlib import Path

import pytest

from examples import scaling
from examples.errors import InputError
from modeling_ait import AiTConfig
from tests.processes import TINY, run_on_processes
from tests.test_distributed_ait import count_exchange


def test_bytes_are_those_that_the_collectives_take(tmp_path):
    codes, results, errors = run_on_processes(count_exchange, 2, tmp_path)
    assert codes == [0, 0], errors
    expected = scaling.count_exchanged(AiTConfig(**TINY), 2)
    for sizes, _ in results:
        assert sum(sizes) == TINY["num_hidden_layers"] * sum(expected.values()) > 0


def test_bytes_do_not_grow_with_the_batch_and_gathering_grows_with_the_processes():
    rows = {number: scaling.simulate(number, "100 Gb/s") for number in (2, 4, 8)}
    received = [row["bytes_received_per_layer"] for row in rows.values()]
    config = AiTConfig.from_size("base", image_size=224, patch_size=16)
    gathered = 4 * config.num_memory_heads * config.num_memory_slots * config.bottleneck_size
    assert received[2] - received[1] == pytest.approx(4 * gathered, rel=0.01)
    assert rows[8]["exchange_seconds"] > rows[2]["exchange_seconds"]
    assert scaling.count_exchanged(config, 1) == {"gathered": 0, "summed": 0}


def test_measurement_writes_numbers_and_a_chart(tmp_path, capsys):
    file = tmp_path / "scaling.json"
    scaling.main(["--num_processes", "1", "2", "--images_per_process", "2", "--num_steps", "1", "--output", str(file)])
    results = json.loads(file.read_text())
    assert [(row["num_processes"], row["synchronize_memory"]) for row in results["measured"]] == [
        (1, True),
        (1, False),
        (2, True),
        (2, False),
    ]
    exchanged = [row["bytes_per_layer"] > 0 for row in results["measured"]]
    assert exchanged == [False, False, True, False]
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
