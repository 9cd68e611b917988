"""The shapes of the benchmark. Nothing here imports torch, so that a help text need not wait for it."""

from dataclasses import dataclass, field
from typing import Any


REFERENCE = "vit"
OFFICIAL = "official"
NARROW_MEMORY = {"num_memory_slots": 32, "memory_slot_size": 16, "num_memory_heads": 4, "bottleneck_size": 64}


@dataclass(frozen=True)
class Shape:
    """A shape of model and batch; `memory` holds settings of the workspace that are not the defaults."""

    width: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    batch_size: int
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def num_patches(self) -> int:
        """Patches of an image: its tokens, without a CLS token, which not all models have."""
        return (self.image_size // self.patch_size) ** 2

    def make_fields(self) -> dict[str, Any]:
        """Return the fields of an `AiTConfig`; the MLP is four times as wide as the tokens."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_labels": 10,
            **self.memory,
        }


SHAPES = {
    "width_64": Shape(64, 2, 4, 32, 8, 128, NARROW_MEMORY),
    "width_64_wide_memory": Shape(64, 2, 4, 32, 8, 128),
    "width_128": Shape(128, 2, 4, 32, 4, 128),
    "width_192": Shape(192, 12, 3, 32, 4, 32),
    "width_192_224px": Shape(192, 12, 3, 224, 16, 16),
    "small": Shape(768, 2, 12, 32, 4, 128),
    "medium": Shape(768, 6, 12, 32, 4, 128),
    "base": Shape(768, 12, 12, 32, 4, 128),
}
