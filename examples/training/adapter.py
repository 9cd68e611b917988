"""How an adapter is made: the arguments of `examples.lora`."""

from dataclasses import dataclass, field
from typing import ClassVar

from examples.errors import InputError


@dataclass
class LoraArguments:
    """How to adapt."""

    _argument_group_name: ClassVar[str] = "adapter"

    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "Weight of the adapter, divided by its rank."})
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout in front of the adapter, while it is trained."}
    )
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"],
        metadata={
            "help": "Names of the layers that are adapted, in every block: q_proj, k_proj, v_proj, o_proj "
            "(self-attention), fc1, fc2 (MLP); query_proj, key_proj, value_proj, output_proj (write), "
            "pattern_proj (retrieval)."
        },
    )

    def __post_init__(self) -> None:
        if self.lora_rank < 1 or self.lora_alpha < 1:
            raise InputError(
                f"`--lora_rank` and `--lora_alpha` must be at least 1, but got {self.lora_rank} and {self.lora_alpha}."
            )
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"`--lora_dropout` must be at least 0 and below 1, but got {self.lora_dropout}.")
        if not self.target_modules:
            raise InputError("`--target_modules` names no layer: leave it out for q_proj and v_proj.")
