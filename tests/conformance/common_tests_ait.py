"""The common tests, mixed into test classes for AiT.

Only `python -m tests.conformance` can import this module, which is why its name keeps plain pytest from collecting it.
"""

import unittest
from unittest import mock

from transformers import set_seed

from modeling_ait import AiTConfig, AiTForImageClassification, AiTModel
from modeling_ait.embeddings_ait import AiTPatchEmbeddings
from tests import test_modeling_common as common
from tests.conformance.tiny_ait import AiTModelTester
from tests.test_configuration_common import ConfigTester
from tests.test_pipeline_mixin import PipelineTesterMixin


# The common tests look names up to know which classes take labels. These are their own copies of the library's tables.
common.MODEL_MAPPING_NAMES = {**common.MODEL_MAPPING_NAMES, AiTConfig.model_type: "AiTModel"}
common.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES = {
    **common.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    AiTConfig.model_type: "AiTForImageClassification",
}


class AiTModelTest(common.ModelTesterMixin, unittest.TestCase):
    """AiT as in the paper."""

    all_model_classes = (AiTModel, AiTForImageClassification)
    test_resize_embeddings = False
    # The common tests take a model without a year in a copyright line for an old one, and spare it a test.
    test_can_init_all_missing_weights_before_2023 = True
    config_fields = {}

    def setUp(self):
        set_seed(0)
        self.model_tester = AiTModelTester(**self.config_fields)
        self.config_tester = ConfigTester(
            self, config_class=AiTConfig, has_text_modality=False, hidden_size=36, **self.config_fields
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        # The common test wants an `nn.Embedding`; here, as in the library's vision models, patches are embedded.
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIsInstance(model.get_input_embeddings(), AiTPatchEmbeddings)
            replacement = AiTPatchEmbeddings(config)
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)
            self.assertIsNone(model.get_output_embeddings())

    def test_enable_input_require_grads_with_gradient_checkpointing(self):
        # Without a `weight` to watch in the input embeddings the common test would look at no model and be skipped.
        weight = property(lambda embeddings: embeddings.projection.weight)
        with mock.patch.object(AiTPatchEmbeddings, "weight", weight, create=True):
            super().test_enable_input_require_grads_with_gradient_checkpointing()


class AiTOfficialModelTest(AiTModelTest):
    """AiT as in the official code."""

    # No gradient ever reaches the value path of a detached write, and the test insists on one.
    test_all_params_have_gradient = False
    config_fields = {"differentiable_write": False, "pooling": "flatten", "position_embedding_type": "none"}


class AiTWithoutWorkspaceModelTest(AiTModelTest):
    """AiT without its memory: a plain vision transformer."""

    config_fields = {"num_memory_slots": 0, "pooling": "cls", "qkv_bias": True}

    @unittest.skip("Without a workspace there is no memory to keep in float32.")
    def test_keep_in_fp32_modules_exist(self):
        pass


class AiTPipelineTest(PipelineTesterMixin, unittest.TestCase):
    """AiT in the library's pipelines."""

    pipeline_model_mapping = {
        "image-feature-extraction": AiTModel,
        "image-classification": AiTForImageClassification,
    }

    def setUp(self):
        set_seed(0)

    # The library asks for timm here, which its own feature extractors use and AiT does not.
    def test_pipeline_image_feature_extraction(self):
        self.run_task_tests(task="image-feature-extraction")

    def test_pipeline_image_feature_extraction_fp16(self):
        self.run_task_tests(task="image-feature-extraction", dtype="float16")
