"""The plot of accuracies: its scale lies around the runs, and ends where accuracy does."""

import re

import pytest

from examples.comparison.plots import draw_accuracies


@pytest.mark.parametrize("accuracies", [[0.9682], [1.0], [0.98, 0.99, 1.0]])
def test_scale_goes_no_further_than_100_percent(accuracies, tmp_path):
    draw_accuracies({"Triangle, original": ({"ait": [{"accuracy": one} for one in accuracies]}, 50.0)}, tmp_path / "a")
    # Text is drawn as paths, each behind what it says.
    ticks = [float(text) for text in re.findall(r"<!-- ([\d.]+) -->", (tmp_path / "a.svg").read_text())]
    assert len(ticks) > 2 and min(ticks) > 80 and max(ticks) <= 100.5
    assert (tmp_path / "a.png").stat().st_size > 1000
