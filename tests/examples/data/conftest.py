"""Fixtures for the tests of the data."""

import pytest
from transformers import ViTImageProcessorPil


@pytest.fixture
def processor():
    return ViTImageProcessorPil(size={"height": 8, "width": 8})
