"""Stand-ins for what the common tests import and the source archive does not carry.

The archive holds the files of transformers' `tests` folder without its subfolders. What is missing is:

- `tests.exporters`, `tests.generation`: mixins with more tests. AiT does not generate, and the tests of its export are
  in this repository.
- `tests.utils`: a table with a value other than the default for every field of the base configuration.
- `tests.pipelines`: for each task, how to build a pipeline and what to ask of it. Both tasks of AiT are written out
  below. The classes of the other tasks are only named, when older versions are imported: any such name will do.
"""

import importlib.util
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import ImageClassificationPipeline, ImageFeatureExtractionPipeline

import tests


MISSING_PACKAGES = ("tests.exporters", "tests.generation", "tests.pipelines", "tests.utils")


class ExportTesterMixin:
    """The export tests, without a test."""


class GenerationTesterMixin:
    """The generation tests, without a test. The common tests check that AiT, unable to generate, stays clear of it."""


config_common_kwargs = {
    "architectures": ["AiTModel"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "label"},
    "is_encoder_decoder": True,
    "label2id": {"label": 0},
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}


def make_images() -> list[Image.Image]:
    """Make images of several sizes and colour modes, as users have them."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return [image, image.resize((9, 50)), image.convert("RGBA"), image.convert("LA"), image.convert("L")]


class ImageClassificationPipelineTests(unittest.TestCase):
    """What the common pipeline tests ask of image classification."""

    def get_test_pipeline(self, model, tokenizer=None, image_processor=None, dtype="float32"):
        # A pipeline that is given a model ignores its `dtype`: without the cast nothing would run in half precision.
        model = model.to(getattr(torch, dtype))
        return ImageClassificationPipeline(model=model, image_processor=image_processor, top_k=2), make_images()

    def run_pipeline_test(self, pipeline, examples):
        answers = pipeline(examples)
        self.assertEqual(len(answers), len(examples))
        for answer in answers:
            self.assertEqual({entry["label"] for entry in answer}, set(pipeline.model.config.id2label.values()))
            self.assertAlmostEqual(sum(entry["score"] for entry in answer), 1.0, places=2)
        self.assertEqual(pipeline(examples[0]), answers[0])


class ImageFeatureExtractionPipelineTests(unittest.TestCase):
    """What the common pipeline tests ask of image feature extraction."""

    def get_test_pipeline(self, model, tokenizer=None, image_processor=None, dtype="float32"):
        model = model.to(getattr(torch, dtype))
        return ImageFeatureExtractionPipeline(model=model, image_processor=image_processor), make_images()

    def run_pipeline_test(self, pipeline, examples):
        hidden_size = pipeline.model.config.hidden_size
        features = pipeline(examples)
        self.assertEqual(len(features), len(examples))
        for feature in features:
            self.assertEqual(np.shape(feature), (1, pipeline.model.embeddings.num_tokens, hidden_size))
        self.assertEqual(pipeline(examples[0]), features[0])
        self.assertEqual(np.shape(pipeline(examples[0], pool=True)), (1, hidden_size))


STAND_INS = {
    stand_in.__name__: stand_in
    for stand_in in (
        ExportTesterMixin,
        GenerationTesterMixin,
        ImageClassificationPipelineTests,
        ImageFeatureExtractionPipelineTests,
    )
} | {"config_common_kwargs": config_common_kwargs}


def name_pipeline_tests(name: str) -> type:
    """Make an empty class for a task that AiT does not have."""
    if not name.endswith("PipelineTests"):
        raise AttributeError(name)
    return type(name, (), {})


class StandInFinder(MetaPathFinder, Loader):
    """Import any module of the missing packages as one that holds the stand-ins."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname.startswith(MISSING_PACKAGES):
            return importlib.util.spec_from_loader(fullname, self, is_package=fullname in MISSING_PACKAGES)
        return None

    def exec_module(self, module: ModuleType):
        vars(module).update(STAND_INS, __getattr__=name_pipeline_tests)


@contextmanager
def importable_common_tests(folder: Path) -> Iterator[None]:
    """Let the common tests be imported as modules of the package `tests`, the name that they have for themselves."""
    tests.__path__.insert(0, str(folder))
    sys.meta_path.insert(0, StandInFinder())
    # They look for the library's sources beside themselves; here it is the installed library that is tested.
    with mock.patch("transformers.utils.direct_transformers_import", lambda path: transformers):
        yield
