"""The plot of online adaptation: every axis has its name, shading is explained, nothing is cut off."""

import copy
import json

import pytest

from examples.comparison.adaptation import CORRUPTIONS, WAYS
from examples.comparison.adaptation_plots import make_figure
from examples.comparison.plots import load_pyplot


def make_results(num_models):
    guards = ("images", "blank", "blank, movement limit 0.5", "blank, rate 0.01")
    models = []
    for model in range(num_models):
        drift = {
            corruption: {way: {"accuracies": [0.9, 0.1 * model + 0.05 * index]} for index, way in enumerate(WAYS)}
            for corruption in CORRUPTIONS
        }
        rows = [{"step": step, "distance": step + model, "spread": 0.5, "clean_accuracy": 0.9} for step in (0, 1, 5)]
        models.append({"drift": drift, "blanks": {guard: {"written": copy.deepcopy(rows)} for guard in guards}})
    return {"models": models}


def list_labels(figure):
    return [[line.get_label() for line in axis.lines] + [axis.get_title()] for axis in figure.axes]


@pytest.mark.parametrize("num_models", [1, 3])
def test_plot_explains_itself(num_models):
    results = make_results(num_models)
    figure = make_figure(results)
    assert len(figure.axes) == 9
    for axis in figure.axes:
        assert axis.get_xlabel() in ("severity of the corruption", "batches written")
        assert axis.get_title() or axis.get_ylabel() or axis in figure.axes[3:6]
    text = figure.get_suptitle()
    assert ("standard deviation" in text) == (num_models > 1) and ("3 models" in text) == (num_models == 3)
    for axis in figure.axes[:6]:
        low, high = axis.get_ylim()
        for band in axis.collections:
            heights = band.get_paths()[0].vertices[:, 1]
            assert low <= heights.min() and heights.max() <= high
    # As it is drawn from the file, whose names are sorted.
    again = make_figure(json.loads(json.dumps(results, sort_keys=True)))
    assert list_labels(again) == list_labels(figure)
    load_pyplot().close("all")
