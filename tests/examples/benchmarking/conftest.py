"""What the tests of the benchmark share."""

import pytest

from examples.benchmarking.shapes import Shape


@pytest.fixture
def tiny_shape():
    memory = {"num_memory_slots": 3, "memory_slot_size": 4, "num_memory_heads": 2, "bottleneck_size": 2}
    return Shape(8, 1, 2, 8, 4, 4, memory)
