"""Tiny AiT models for the common tests."""

import json
from pathlib import Path

import torch
from transformers import ViTImageProcessorPil
from transformers.utils import logging

from modeling_ait import AiTConfig, AiTForImageClassification, AiTModel


class AiTModelTester:
    """Makes configurations and inputs; its attributes are what the common tests expect of the outputs' shapes.

    Args:
        fields: Fields of the configuration that differ from the tiny one.
    """

    batch_size = 5
    # Neither images nor patches are square, so that height and width cannot be mistaken for each other.
    image_size = (12, 18)
    patch_size = (4, 3)
    num_channels = 3
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, **fields):
        self.fields = fields
        self.seq_length = 18 + (fields.get("pooling") == "cls")

    def get_config(self) -> AiTConfig:
        tiny = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 37,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_channels": self.num_channels,
            "num_memory_slots": 6,
            "memory_slot_size": 8,
            "num_memory_heads": 2,
            # Fewer than the tokens of a batch, which therefore compete.
            "bottleneck_size": 20,
        }
        return AiTConfig(**{**tiny, **self.fields})

    def prepare_config_and_inputs_for_common(self) -> tuple[AiTConfig, dict[str, torch.Tensor]]:
        pixel_values = torch.rand(self.batch_size, self.num_channels, *self.image_size)
        return self.get_config(), {"pixel_values": pixel_values}


def save_checkpoints(folder: Path):
    """Save tiny checkpoints where the pipeline tests, told of the folder, look for them instead of on the Hub."""
    logging.disable_progress_bar()
    config = AiTModelTester().get_config()
    height, width = config.image_shape
    image_processor = ViTImageProcessorPil(size={"height": height, "width": width})
    summary = {}
    for model_class in (AiTModel, AiTForImageClassification):
        name = model_class.__name__
        checkpoint = folder / config.model_type / name
        model_class(config).save_pretrained(checkpoint)
        image_processor.save_pretrained(checkpoint)
        summary[name] = {"tokenizer_classes": [], "processor_classes": [type(image_processor).__name__]}
    reports = folder / "reports"
    reports.mkdir()
    (reports / "tiny_model_summary.json").write_text(json.dumps(summary), encoding="utf-8")
