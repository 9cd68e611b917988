"""The Associative Transformer (AiT, CVPR 2025) as a transformers model.

Importing this package registers the model with the Auto classes of transformers.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVisualQuestionAnswering,
)
from transformers.utils import is_torchvision_available, is_vision_available

from .configuration_ait import AiTConfig
from .hopfield_ait import compute_energy, retrieve_patterns
from .modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel, AiTPreTrainedModel
from .trainer_ait import AiTCardMixin


AutoConfig.register(AiTConfig.model_type, AiTConfig, exist_ok=True)
AutoModel.register(AiTConfig, AiTModel, exist_ok=True)
AutoModelForImageClassification.register(AiTConfig, AiTForImageClassification, exist_ok=True)
AutoModelForVisualQuestionAnswering.register(AiTConfig, AiTForRelationalReasoning, exist_ok=True)

image_processor_classes: dict[str, type] = {}
if is_vision_available():
    from transformers import ViTImageProcessorPil

    image_processor_classes["pil"] = ViTImageProcessorPil
if is_torchvision_available():
    from transformers import ViTImageProcessor

    image_processor_classes["torchvision"] = ViTImageProcessor
# transformers 5.17 ships `AutoImageProcessor` as a stand-in that refuses every call where torchvision is missing.
if image_processor_classes and not getattr(AutoImageProcessor, "is_dummy", False):
    AutoImageProcessor.register(AiTConfig, image_processor_classes=image_processor_classes, exist_ok=True)

__version__ = "0.1.0"

__all__ = [
    "AiTCardMixin",
    "AiTConfig",
    "AiTForImageClassification",
    "AiTForRelationalReasoning",
    "AiTModel",
    "AiTPreTrainedModel",
    "compute_energy",
    "retrieve_patterns",
]
