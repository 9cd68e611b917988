"""AiT model configuration."""

import math
from collections.abc import Sequence
from dataclasses import fields
from types import NoneType
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .saving_ait import AiTSavedConfig


ConfigT = TypeVar("ConfigT", bound=PreTrainedConfig)

logger = logging.get_logger(__name__)

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
MAX_SIZE = 2**31 - 1
# A configuration keeps a name for each.
MAX_LABELS = 10**7
# Memories and norms are computed in float32: a number beyond it is infinite there.
FLOAT32_MAX = 3.4e38
# Weights of more than this many bytes in float32 are warned of before they are allocated.
LARGE_MODEL_BYTES = 32 * 2**30
PAPER_SIZES = {
    "small": {"num_hidden_layers": 2},
    "medium": {"num_hidden_layers": 6},
    "base": {"num_hidden_layers": 12},
}


def make_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Turn a side or a pair (height, width) into the pair."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def strict_config(config_class: type[ConfigT]) -> type[ConfigT]:
    """Check the types of all fields by `@strict`, but raise its errors as a `ValueError` of one line."""
    config_class = strict(config_class)
    set_strictly = config_class.__setattr__

    def set_field(self, name: str, value: Any):
        try:
            set_strictly(self, name, value)
        except StrictDataclassFieldValidationError as error:
            expected = next(field.type for field in fields(config_class) if field.name == name)  # type: ignore[arg-type]
            expected = getattr(expected, "__name__", expected) if isinstance(expected, type) else expected
            raise ValueError(f"`{name}` must be of type {expected}, but got {value!r}.") from error

    config_class.__setattr__ = set_field  # type: ignore[method-assign]
    return config_class


@strict_config
class AiTConfig(AiTSavedConfig):
    r"""
    Configuration of an Associative Transformer (AiT). The defaults are the paper's Base size on 224-pixel images.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width E of the tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of blocks, each with a memory of its own.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Heads of the self-attention. Must divide `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the MLP.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP, a key of `transformers.activations.ACT2FN`.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the embeddings and on both residual branches, in [0, 1).
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the self-attention probabilities, in [0, 1).
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights, those of the workspace too.
        layer_norm_eps (`float`, *optional*, defaults to 1e-05):
            Epsilon of every LayerNorm but the write's, whose epsilon is 1e-6.
        image_size (`int` or `(height, width)`, *optional*, defaults to 224):
            Image size in pixels. A multiple of `patch_size`.
        patch_size (`int` or `(height, width)`, *optional*, defaults to 16):
            Patch size in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the images.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether the query, key and value projections of the self-attention have a bias.
        num_memory_slots (`int`, *optional*, defaults to 32):
            M, memory slots per layer. 0 removes the workspace and leaves a pre-norm ViT block with an output norm.
        memory_slot_size (`int`, *optional*, defaults to 32):
            D, width of a slot and of each write head.
        num_memory_heads (`int`, *optional*, defaults to 8):
            S, heads of the write.
        bottleneck_size (`int`, *optional*, defaults to 512):
            k, tokens that each slot and head keeps out of all tokens of the batch. `None` keeps all.
        memory_update_rate (`float`, *optional*, defaults to 0.1):
            alpha, share of the newly written content in the moving average, in [0, 1]. Nothing draws a memory back to
            where it started: if the same tokens are written again and again, all slots end up equal (cosine 1.0), and
            only `model.reset_memories()` or other tokens change that. Watch the cosine between slots in training.
        memory_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on the write's output in training, in [0, 1).
        differentiable_write (`bool`, *optional*, defaults to `True`):
            Whether gradients flow through the new memory into the write, as in the paper. `False` is the official
            code: the write's value and output projections and its norm then never get a gradient, so that a bare
            `DistributedDataParallel` needs `find_unused_parameters=True` (the Trainer sets it).
        hopfield_beta (`float`, *optional*, defaults to 1.0):
            beta, inverse temperature of the Hopfield retrieval, positive.
        num_retrieval_steps (`int`, *optional*, defaults to 1):
            Hopfield retrieval steps per layer.
        balance_loss_coef (`float`, *optional*, defaults to 0.01):
            sigma, weight of the balance loss in `loss`, not negative.
        position_embedding_type (`str`, *optional*, defaults to `"learned"`):
            `"learned"`, or `"none"` as in the official code.
        position_embedding_init (`str`, *optional*, defaults to `"normal"`):
            What learned positions start as: noise, `"normal"`, or `"sinusoidal"`, sines and cosines of row and column
            as in ViT-MAE, here with amplitude 0.5. The positions of CLS, register and question tokens start as noise.
        output_norm_init (`float`, *optional*, defaults to 1.0):
            What the weights of the norm on the MLP's output start as. Less than 1 starts with blocks that change
            little, as a LayerScale does.
        pooling (`str`, *optional*, defaults to `"mean"`):
            What the classifier sees: `"mean"` over the tokens, all of them (`"flatten"`, the official code), a
            prepended `"cls"` token, or the token of the `"question"`.
        question_size (`int`, *optional*):
            Width of the question vector of [`AiTForRelationalReasoning`], for instance 18 for Sort-of-CLEVR. `None` is
            a model without a question.
        question_attention (`str`, *optional*, defaults to `"joint"`):
            How questions are asked. `"joint"`: a question and the patches of its image see each other, so that each
            question takes a pass of its own, as in the paper. `"independent"`: the image is encoded once for all its
            questions, each of which sees it and itself only; for `pooling` of `"question"`, or `"mean"` over the image
            and one question. A model trained in one way can be used in the other.
        use_vit_norms (`bool`, *optional*, defaults to `False`):
            Whether the norms stand where a ViT has them: none around the patch projection, and none on the MLP's way
            into the residual (the workspace still gets normed tokens). It lets a pretrained ViT become an AiT.
        update_memory (`bool`, *optional*, defaults to `True`):
            Whether training writes the memories; the argument `update_memory` of a forward wins. It can be changed on
            a loaded model (`model.config.update_memory = False`) and is saved with it. A workspace whose parameters
            are all frozen is not written either, unless the forward says so or an adapter has memories of its own.
        synchronize_memory (`bool`, *optional*, defaults to `True`):
            Whether the tokens of all processes of a data-parallel training (`torch.distributed`, the default group)
            compete in one bottleneck, so that memories, balance loss and averaged gradients are those of one process
            with the whole batch. With `False` each process has a bottleneck of its own for its share of the batch, so
            that more tokens are kept in all and the balance loss is each process's own, and only the new memories are
            exchanged: their mean, with unit rows, is what all processes go on with. Evaluation exchanges nothing.
        num_register_tokens (`int`, *optional*, defaults to 0):
            Learned tokens behind the CLS token, such as DeiT's distillation token.
        stem_strides (`list[int]`, *optional*):
            Strides of the convolutions that embed the patches (Xiao et al., 2021), for instance `[2, 2, 2]` for
            patches of 8 pixels: each at least 2, or 1 in between for a convolution that keeps the size, such as
            `[3, 1, 5]`; their product is the side of the (square) patches. Between two stands a norm and a GELU.
            `None` is the paper's linear projection.
        stem_channels (`list[int]`, *optional*):
            Channels of these convolutions but the last, which has `hidden_size`; one fewer than `stem_strides`. By
            default each has half of those of the next, and at least 8.
        attention_layers (`list[int]`, *optional*):
            The layers with self-attention, counted from 0 and in ascending order, for instance `[1, 3]`; `None` is all
            of them, `[]` none, which needs `pooling` over all tokens. The other layers have their MLP and workspace,
            and unless the memory is written nothing in them moves from token to token. So one can measure whether a
            memory saves attention layers, as the paper claims.

    Raises:
        `ValueError`: for a value that cannot work; the message names the field, the value and what is allowed.

    Example:

    ```python
    >>> from modeling_ait import AiTConfig, AiTModel

    >>> configuration = AiTConfig.from_size("small", image_size=32, patch_size=4)
    >>> model = AiTModel(configuration)
    ```"""

    model_type = "ait"
    keys_to_ignore_at_inference = [
        "hidden_states",
        "attentions",
        "balance_loss",
        "memory_written",
        "retrieval_attentions",
        "write_attentions",
        "energies",
    ]

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = False
    num_memory_slots: int = 32
    memory_slot_size: int = 32
    num_memory_heads: int = 8
    bottleneck_size: int | None = 512
    memory_update_rate: float | int = 0.1
    memory_dropout_prob: float | int = 0.1
    differentiable_write: bool = True
    hopfield_beta: float | int = 1.0
    num_retrieval_steps: int = 1
    balance_loss_coef: float | int = 0.01
    position_embedding_type: str = "learned"
    position_embedding_init: str = "normal"
    output_norm_init: float | int = 1.0
    pooling: str = "mean"
    question_size: int | None = None
    question_attention: str = "joint"
    update_memory: bool = True
    synchronize_memory: bool = True
    use_vit_norms: bool = False
    num_register_tokens: int = 0
    stem_strides: list[int] | None = None
    stem_channels: list[int] | None = None
    attention_layers: list[int] | None = None

    def __post_init__(self, **kwargs: Any):
        for name in ("id2label", "label2id"):
            self._require(isinstance(getattr(self, name), (dict, NoneType)), name, "a mapping or None")
        num_labels = kwargs.get("num_labels", 0)
        if not isinstance(num_labels, int) or not 0 <= num_labels <= MAX_LABELS:
            raise ValueError(f"`num_labels` must be an integer from 0 to {MAX_LABELS}, but got {num_labels!r}.")
        super().__post_init__(**kwargs)
        # `@strict` runs the same checks, but wraps their errors in a class that is no `ValueError`: raise plain ones.
        self.validate_architecture()
        self.validate_tokens()
        self.validate_image_sizes()
        num_bytes = 4 * self.estimate_parameters()
        if num_bytes > LARGE_MODEL_BYTES:
            logger.warning_once(
                f"This configuration describes about {num_bytes / 4:.3g} parameters, {num_bytes / 2**30:.3g} GiB in "
                f"float32 (from {LARGE_MODEL_BYTES / 2**30:.0f} GiB on there is this warning). Are `hidden_size` "
                f"{self.hidden_size}, `intermediate_size` {self.intermediate_size}, `num_hidden_layers` "
                f"{self.num_hidden_layers} and `image_size` {self.image_size!r} as they should be?"
            )

    def estimate_parameters(self) -> int:
        """Number of parameters and memory values to within a few percent, without building anything."""
        width, inner = self.hidden_size, self.num_memory_heads * self.memory_slot_size
        layer = 2 * width * self.intermediate_size
        if self.num_memory_slots > 0:
            layer += 2 * width * inner + (2 * inner + width + self.num_memory_slots) * self.memory_slot_size
        pixels = math.prod(self.patch_shape) * self.num_channels
        num_tokens = math.prod(self.image_shape) // math.prod(self.patch_shape)
        num_tokens += self.num_register_tokens
        positions = num_tokens * width if self.position_embedding_type == "learned" else 0
        classifier = (num_tokens if self.pooling == "flatten" else 1) * width * (self.num_labels or 0)
        layers = self.num_hidden_layers * layer + len(self.layers_with_attention) * 4 * width**2
        return layers + pixels * width + positions + classifier

    def _require(self, is_valid: bool, name: str, allowed: str) -> None:
        """Raise a `ValueError` that names the field, its value and what is allowed, unless it is valid."""
        if not is_valid:
            raise ValueError(f"`{name}` must be {allowed}, but got {getattr(self, name)!r}.")

    def validate_architecture(self):
        """Raise a `ValueError` that names a field which cannot work. `@strict` runs this again before saving."""
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_channels",
            "memory_slot_size",
            "num_memory_heads",
            "num_retrieval_steps",
        ):
            self._require(0 < getattr(self, name) <= MAX_SIZE, name, "a positive integer below 2**31")
        for name, allowed in (
            ("num_memory_slots", "0 (no workspace) or a positive integer below 2**31"),
            ("num_register_tokens", "0 or a positive integer below 2**31"),
        ):
            self._require(0 <= getattr(self, name) <= MAX_SIZE, name, allowed)
        self._require(
            self.question_size is None or 0 < self.question_size <= MAX_SIZE,
            "question_size",
            "a positive integer or None, below 2**31",
        )
        self._require(
            self.bottleneck_size is None or 0 < self.bottleneck_size <= MAX_SIZE,
            "bottleneck_size",
            "a positive integer below 2**31, or None to keep every token",
        )
        self._require(
            self.hidden_size % self.num_attention_heads == 0,
            "num_attention_heads",
            f"a divisor of `hidden_size` ({self.hidden_size})",
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "memory_dropout_prob"):
            self._require(0.0 <= getattr(self, name) < 1.0, name, "at least 0 and below 1")
        self._require(0.0 <= self.memory_update_rate <= 1.0, "memory_update_rate", "between 0 and 1")
        # Below it a row of equal values would be divided by nothing in float32, and other numbers would count as 0.
        for name in ("initializer_range", "hopfield_beta", "layer_norm_eps"):
            self._require(1e-12 <= getattr(self, name) <= FLOAT32_MAX, name, "positive (at least 1e-12) and finite")
        self._require(
            self.memory_slot_size > 1 or self.memory_update_rate < 1.0,
            "memory_update_rate",
            "below 1 with `memory_slot_size=1`, where the norm of what is written leaves nothing",
        )
        self._require(0.0 <= self.balance_loss_coef <= FLOAT32_MAX, "balance_loss_coef", "finite and not negative")
        self._require(
            self.problem_type is None or self.problem_type in PROBLEM_TYPES,
            "problem_type",
            f"None or one of {PROBLEM_TYPES}",
        )
        layers = self.attention_layers
        self._require(
            layers is None
            or (layers == sorted(set(layers)) and all(0 <= index < self.num_hidden_layers for index in layers)),
            "attention_layers",
            f"None, or indices of the {self.num_hidden_layers} layers from 0 on in ascending order",
        )
        self._require(self.hidden_act in ACT2FN, "hidden_act", f"one of {sorted(ACT2FN)}")

    def validate_tokens(self):
        """Raise a `ValueError` if positions, pooling and questions do not fit each other."""
        self._require(
            self.position_embedding_type in ("learned", "none"), "position_embedding_type", '"learned" or "none"'
        )
        self._require(
            self.position_embedding_init in ("normal", "sinusoidal"),
            "position_embedding_init",
            '"normal" or "sinusoidal"',
        )
        self._require(
            self.position_embedding_init == "normal" or self.position_embedding_type == "learned",
            "position_embedding_init",
            '"normal" without learned positions',
        )
        self._require(0.0 <= self.output_norm_init <= FLOAT32_MAX, "output_norm_init", "finite and not negative")
        self._require(
            self.pooling in ("mean", "flatten", "cls", "question"), "pooling", '"mean", "flatten", "cls" or "question"'
        )
        self._require(
            self.question_size is not None or self.pooling != "question", "pooling", "another without `question_size`"
        )
        self._require(
            self.question_attention in ("joint", "independent"), "question_attention", '"joint" or "independent"'
        )
        self._require(
            self.attention_layers != [] or self.pooling in ("mean", "flatten"),
            "attention_layers",
            f"None or at least one layer with `pooling={self.pooling!r}`, whose token would never see the image",
        )
        if self.question_attention == "independent":
            self._require(self.question_size is not None, "question_attention", '"joint" without `question_size`')
            self._require(
                self.pooling in ("mean", "question"),
                "pooling",
                '"question" or "mean" with `question_attention="independent"`',
            )

    def validate_image_sizes(self):
        """Raise a `ValueError` if images, patches and the strides of the stem do not fit each other."""
        for name in ("image_size", "patch_size"):
            size = getattr(self, name)
            sides = (size, size) if isinstance(size, int) else tuple(size)
            self._require(
                len(sides) == 2 and all(0 < side <= MAX_SIZE for side in sides),
                name,
                "a positive integer below 2**31 or a pair (height, width) of them",
            )
        self._require(
            all(image % patch == 0 for image, patch in zip(self.image_shape, self.patch_shape)),
            "image_size",
            f"a multiple of `patch_size` ({self.patch_size!r}) in height and width",
        )
        if self.stem_strides is not None:
            self._require(not self.use_vit_norms, "stem_strides", "None with `use_vit_norms`")
            self._require(
                min(self.stem_strides[:1] + self.stem_strides[-1:], default=0) >= 2
                and min(self.stem_strides) >= 1
                and self.patch_shape == (math.prod(self.stem_strides), math.prod(self.stem_strides)),
                "stem_strides",
                "None, or integers of at least 2 (1 is allowed between the first and the last) whose product is both "
                f"sides of `patch_size` ({self.patch_size!r})",
            )
        num_convolutions = len(self.stem_strides or ())
        self._require(
            self.stem_channels is None
            or (len(self.stem_channels) + 1 == num_convolutions and min(self.stem_channels, default=1) >= 1),
            "stem_channels",
            f"None, or a positive integer for each of `stem_strides` ({self.stem_strides!r}) but the last",
        )

    @property
    def layers_with_attention(self) -> Sequence[int]:
        """Indices of the layers that have self-attention, from 0."""
        return range(self.num_hidden_layers) if self.attention_layers is None else self.attention_layers

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return make_pair(self.image_size)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return make_pair(self.patch_size)

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "AiTConfig":
        """
        Build the configuration of one of the paper's sizes.

        Args:
            size (`str`):
                `"small"` (2 layers), `"medium"` (6) or `"base"` (12); all are 768 wide with 12 heads.
            kwargs:
                Any other field.

        Raises:
            `ValueError`: for an unknown size.
        """
        if size not in PAPER_SIZES:
            raise ValueError(f"`size` must be one of {sorted(PAPER_SIZES)}, but got {size!r}.")
        return cls(**{**PAPER_SIZES[size], **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """
        Build a configuration from a dictionary, as `from_pretrained` does.

        Raises:
            `ValueError`: if the dictionary is the configuration of another kind of model.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This checkpoint holds a model of type {model_type!r}, but {cls.__name__} reads {cls.model_type!r} "
                "only. Load it with its own class or with the Auto classes of transformers."
            )
        return super().from_dict(config_dict, **kwargs)


AiTConfig.register_for_auto_class()

__all__ = ["AiTConfig"]
