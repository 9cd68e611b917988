"""What the tests of the generated benchmarks share."""

import io
import math

import numpy as np
from PIL import Image


NUM_SCENES = 20_000


def decode(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def assert_share(observed, expected, num_samples, rounding=0.0005):
    """Within four standard errors of a proportion, and the rounding of the published one."""
    error = math.sqrt(expected * (1 - expected) / num_samples)
    assert abs(observed - expected) < 4 * error + rounding, (observed, expected)
