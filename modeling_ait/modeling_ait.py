"""PyTorch AiT model: the Associative Transformer (Sun et al., CVPR 2025, arXiv 2309.12862)."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_ait import AiTAttention
from .configuration_ait import AiTConfig
from .distributed_ait import average_over_processes, count_processes
from .embeddings_ait import AiTEmbeddings, make_sinusoidal_positions, pool_tokens
from .inputs_ait import check_flags, check_images, check_labels
from .memory_ait import AiTMemory, AiTMemoryMixin, make_initial_memory, pack_memory, unpack_memory
from .outputs_ait import AiTClassifierOutput, AiTKwargs, AiTModelOutput, expand_output_workspace
from .saving_ait import AiTSavedModel
from .workspace_ait import AiTMemoryRetrieval, AiTMemoryWrite, AiTWorkspace


logger = logging.get_logger(__name__)


class AiTMLP(nn.Module):
    """Two-layer perceptron, (B, N, E) -> (B, N, E)."""

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class AiTOutputLayerNorm(nn.LayerNorm):
    """The norm on the MLP's output, a LayerNorm whose weights start as `output_norm_init`."""


class AiTLayer(GradientCheckpointingLayer):
    """
    One block: self-attention if it has any, MLP, and the workspace between the MLP and its residual.

    It takes the memory and returns a new one. It changes no buffer, so that activation checkpointing can run it twice.
    """

    def __init__(self, config: AiTConfig, has_attention: bool = True):
        super().__init__()
        self.attention = None
        if has_attention:
            self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.attention = AiTAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = AiTMLP(config)
        self.use_vit_norms = config.use_vit_norms
        has_workspace = config.num_memory_slots > 0
        # A ViT without a workspace has no use for the norm.
        norm_class = AiTOutputLayerNorm if has_workspace or not self.use_vit_norms else nn.Identity
        self.layernorm_output = norm_class(config.hidden_size, eps=config.layer_norm_eps)
        self.workspace = AiTWorkspace(config) if has_workspace else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor | None = None,
        update_memory: bool = False,
        output_energies: bool = False,
        output_write_attentions: bool = False,
        num_questions: int = 0,
        synchronize: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if self.attention is not None:
            attended, _ = self.attention(self.layernorm_before(hidden_states), num_questions, **kwargs)
            hidden_states = hidden_states + self.dropout(attended)

        mlp_output = self.mlp(self.layernorm_after(hidden_states))  # (batch_size, num_tokens, hidden_size)
        tokens = self.layernorm_output(mlp_output)
        # deviation: with `use_vit_norms` the residual gets the MLP's output without the norm, as in a ViT.
        update = mlp_output if self.use_vit_norms else tokens
        balance_loss = None
        if self.workspace is not None:
            retrieved, memory, balance_loss = self.workspace(
                memory, tokens, update_memory, output_energies, output_write_attentions, num_questions, synchronize
            )
            update = update + retrieved
        return hidden_states + self.dropout(update), memory, balance_loss


class AiTPreTrainedModel(AiTMemoryMixin, AiTSavedModel):
    """Weight initialisation, abilities and the handling of the memories that all AiT models share."""

    config: AiTConfig
    config_class = AiTConfig
    base_model_prefix = "ait"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["AiTEmbeddings", "AiTLayer", "AiTMemory"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keep_in_fp32_modules_strict = [r"memory\.layer_\d+"]
    _can_record_outputs = {
        "hidden_states": AiTLayer,
        "attentions": AiTAttention,
        "retrieval_attentions": OutputRecorder(AiTMemoryRetrieval, index=1),
        "write_attentions": OutputRecorder(AiTMemoryWrite, index=2),
        "energies": OutputRecorder(AiTMemoryRetrieval, index=2),
    }
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # For code that is not its own, the library passes over modules whose parameters are all their children's.
        if isinstance(module, nn.ParameterList):  # the prefix tokens
            for parameter in module:
                init.trunc_normal_(parameter, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, AiTEmbeddings) and module.position_embeddings is not None:
            positions = module.position_embeddings
            init.trunc_normal_(positions, mean=0.0, std=self.config.initializer_range)
            if self.config.position_embedding_init == "sinusoidal":
                patches = module.patch_embeddings
                table = make_sinusoidal_positions(patches.get_grid(patches.image_shape), self.config.hidden_size)
                start = positions.clone()
                start[:, -table.shape[1] :] = table
                init.copy_(positions, start)
        elif isinstance(module, AiTOutputLayerNorm):
            init.constant_(module.weight, self.config.output_norm_init)
        elif isinstance(module, AiTMemory):
            # What `reset` does, but for the memories that a checkpoint has brought.
            for layer_index, memory in enumerate(module.buffers_by_layer):
                init.copy_(memory, make_initial_memory(memory.shape, layer_index))

    def resize_positions(self, image_size: int | list[int] | tuple[int, int]) -> None:
        """
        Fit the model to images of another size, for good: interpolates its position table, as ViT does, once.

        Args:
            image_size (`int` or `(height, width)`):
                The new size in pixels, a multiple of `patch_size`. It becomes the config's `image_size`.

        Raises:
            `ValueError`: if the size cannot work, or if `pooling="flatten"` has fixed the number of tokens.
        """
        # Also checks the size.
        resized = type(self.config).from_dict({**self.config.to_dict(), "image_size": image_size})
        if self.config.pooling == "flatten" and resized.image_shape != self.config.image_shape:
            raise ValueError(
                f'A model with `pooling="flatten"` takes images of {self.config.image_size!r} pixels only, but got '
                f"{image_size!r}: its classifier is as wide as they have patches."
            )
        ait: AiTModel = self.base_model  # type: ignore[assignment]  # the library knows a `PreTrainedModel` only
        ait.embeddings.resize_positions(resized.image_shape)
        self.config.image_size = image_size


class AiTModel(AiTPreTrainedModel):
    r"""
    The AiT encoder: patch embeddings, blocks with a workspace each, pooling and a final LayerNorm.

    It owns one float32 memory per layer. A forward in training mode writes each once; in evaluation mode the memories
    are read only, so that a sample's output depends on no other sample.
    """

    def __init__(self, config: AiTConfig):
        super().__init__(config)
        self.embeddings = AiTEmbeddings(config)
        with_attention = set(config.layers_with_attention)
        self.layers = nn.ModuleList(
            [AiTLayer(config, index in with_attention) for index in range(config.num_hidden_layers)]
        )
        self.pooled_size = config.hidden_size * (self.embeddings.num_tokens if config.pooling == "flatten" else 1)
        self.layernorm = nn.LayerNorm(self.pooled_size, eps=config.layer_norm_eps)
        self.memory = AiTMemory(config)
        self.post_init()

    @property
    def memories(self) -> tuple[torch.Tensor, ...]:
        """The float32 memory of each layer, (num_memory_slots, memory_slot_size) each; empty without a workspace."""
        return self.memory.buffers_by_layer

    def is_written_in_training(self) -> bool:
        """Whether a forward that is not told otherwise writes the memories now."""
        if not (self.training and self.config.update_memory and self.memory.num_layers > 0):
            return False
        # An adapter wraps the memory to keep a copy of its own, though the workspace below is frozen.
        is_adapted = not isinstance(self.memory, AiTMemory) and not getattr(self.memory, "disable_adapters", False)
        workspaces: list[Any] = [layer.workspace for layer in self.layers]
        if is_adapted or any(p.requires_grad for workspace in workspaces for p in workspace.parameters()):
            return True
        if not torch.compiler.is_compiling():
            logger.warning_once(
                "All parameters of the workspace are frozen, so this training leaves the memories as they are. Set "
                "`config.update_memory = False` to say so, or pass `update_memory=True` to write them all the same."
            )
        return False

    @expand_output_workspace
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        question: torch.Tensor | None = None,
        update_memory: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTModelOutput:
        r"""
        Encode images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Images of the configured size, as the image processor returns them.
            question (`torch.FloatTensor` of shape `(batch_size[, num_questions], question_size)`, *optional*):
                Question vectors; needed if the configuration has a `question_size`, refused otherwise. Several for an
                image are asked as the config's `question_attention` says, see [`AiTForRelationalReasoning`].
            update_memory (`bool`, *optional*):
                Whether to write the batch into the memories before reading them. By default training does, unless the
                config's `update_memory` says no or all parameters of the workspace are frozen. When written, all
                samples of the batch compete, so an output depends on the other samples, and the memory buffers change
                once, at the end, unless a new value is not finite; the output's `memory_written` tells. `True` in
                evaluation mode is the official code's behaviour (online adaptation); `False` in training mode keeps
                the memories fixed.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether to take images of any multiple of the patch size, with positions interpolated as in ViT.
            output_workspace (`bool`, *optional*):
                Whether to return `retrieval_attentions`, `write_attentions` and `energies`.

        Raises:
            `ValueError`: if `pixel_values` or `question` is missing or does not fit the configuration.
        """
        check_flags(update_memory=update_memory, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        if update_memory is None:
            update_memory = self.is_written_in_training()
        update_memory = update_memory and self.memory.num_layers > 0
        has_others = update_memory and count_processes() > 1
        # Evaluation never waits for other processes: one may evaluate alone.
        is_shared = has_others and self.training
        synchronize = is_shared and self.config.synchronize_memory
        # With a device map the hooks of accelerate move the inputs.
        device = None if hasattr(self, "_hf_hook") or hasattr(self, "hf_device_map") else self.device
        pixel_values = check_images(pixel_values, question, device)

        hidden_states = self.embeddings(pixel_values.to(self.dtype), question, interpolate_pos_encoding)
        if self.config.pooling == "flatten" and hidden_states.shape[1] != self.embeddings.num_tokens:
            raise ValueError(
                f'A model with `pooling="flatten"` takes images of its configured size only '
                f"({self.config.image_size!r} pixels, `image_size`), with or without `interpolate_pos_encoding`."
            )
        num_questions = self.embeddings.count_appended_questions(question)
        memories: list = self.memory() or [None] * len(self.layers)
        if has_others:
            # FSDP2 casts what a layer takes and returns if it is of floating point: rounded anew in every step, a
            # memory would stay where it is for small update rates.
            memories = [pack_memory(memory) for memory in memories]
        balance_losses = []
        for layer_index, layer in enumerate(self.layers):
            hidden_states, memories[layer_index], balance_loss = layer(
                hidden_states,
                memories[layer_index],
                update_memory=update_memory,
                num_questions=num_questions,
                synchronize=synchronize,
                **kwargs,
            )
            balance_losses.append(balance_loss)

        total_balance_loss, memory_written = None, None
        if update_memory:
            memories = [unpack_memory(memory) for memory in memories]
            if is_shared and not synchronize:
                memories = average_over_processes(memories)
            memory_written = self.memory.commit(memories, synchronize)
            total_balance_loss = torch.stack([loss.to(balance_losses[0].device) for loss in balance_losses]).sum()

        pooled = pool_tokens(hidden_states, self.config, num_questions)
        if question is not None:
            pooled = pooled.reshape(*question.shape[:-1], self.pooled_size)
        return AiTModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=self.layernorm(pooled),  # (batch_size[, num_questions], pooled_size)
            balance_loss=total_balance_loss,
            memory_written=memory_written,
        )


class AiTClassifier(AiTPreTrainedModel):
    """What the models with a classifier on the pooled tokens share."""

    # The loss is a mean over the micro-batch plus a term that is no mean over samples: the Trainer has to divide both
    # by the accumulation steps, which it leaves out for models whose forward takes keyword arguments.
    accepts_loss_kwargs = False

    def __init__(self, config: AiTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.loss_type = "ForImageClassification"
        self.ait = AiTModel(config)
        self.classifier = nn.Linear(self.ait.pooled_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    def classify(
        self,
        pixel_values: torch.Tensor | None,
        question: torch.Tensor | None,
        labels: torch.Tensor | None,
        update_memory: bool | None,
        interpolate_pos_encoding: bool,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTClassifierOutput:
        """Encode and, with labels, compute the loss. Refused labels leave the memories as they were."""
        # Any, because the configuration's own type is a set of literals.
        problem_type: Any = self.config.problem_type
        if labels is not None:
            labels, problem_type = check_labels(labels, pixel_values, question, self.config)
        outputs = self.ait(pixel_values, question, update_memory, interpolate_pos_encoding, **kwargs)
        # Not before the images are taken too: the labels of a refused call decide nothing.
        self.config.problem_type = problem_type
        logits = self.classifier(outputs.pooler_output)  # (batch_size[, num_questions], num_labels)

        loss = None
        if labels is not None:
            flat_logits = logits.flatten(0, -2)  # (batch_size * num_questions, num_labels)
            if self.config.problem_type == "single_label_classification" and labels.is_floating_point():
                loss = nn.functional.cross_entropy(flat_logits, labels.to(logits))
            else:
                loss = self.loss_function(labels, flat_logits, self.config, **kwargs)
            if outputs.balance_loss is not None:
                loss = loss + self.config.balance_loss_coef * outputs.balance_loss.to(loss.device)

        return AiTClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            balance_loss=outputs.balance_loss,
            memory_written=outputs.memory_written,
            retrieval_attentions=outputs.retrieval_attentions,
            write_attentions=outputs.write_attentions,
            energies=outputs.energies,
        )


class AiTForImageClassification(AiTClassifier):
    r"""
    AiT with a linear classifier on the pooled tokens.

    Args:
        config ([`AiTConfig`]):
            Configuration. `num_labels` or `id2label` sets the classes.
    """

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        update_memory: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTClassifierOutput:
        r"""
        Classify images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Images of the configured size, as the image processor returns them.
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class indices in `[0, num_labels)`, or targets for the config's `problem_type`. With them the output
                has `loss`, which includes the balance loss when the memory was written.
            update_memory (`bool`, *optional*):
                Whether to write the memories, see [`AiTModel.forward`]. By default training does.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether to take images of another size, see [`AiTModel.forward`].
            output_workspace (`bool`, *optional*):
                Whether to return `retrieval_attentions`, `write_attentions` and `energies`.

        Raises:
            `ValueError`: if `pixel_values` is missing or its shape does not fit the configuration.

        Example:

        ```python
        >>> import torch
        >>> from modeling_ait import AiTConfig, AiTForImageClassification

        >>> model = AiTForImageClassification(AiTConfig.from_size("small", image_size=32, patch_size=4)).eval()
        >>> list(model(torch.zeros(1, 3, 32, 32)).logits.shape)
        [1, 2]
        ```"""
        question: Any = kwargs.pop("question", None)  # type: ignore[typeddict-item]  # refused further down
        return self.classify(pixel_values, question, labels, update_memory, interpolate_pos_encoding, **kwargs)


class AiTForRelationalReasoning(AiTClassifier):
    r"""
    AiT that answers questions about images (AiT, section "Relational reasoning"; Sort-of-CLEVR).

    A question vector becomes a token (LayerNorm, Linear, LayerNorm); a linear classifier on the pooled tokens gives
    the answer. Of several questions about an image none sees another, in two ways (`config.question_attention`):

    - `"joint"`, the paper's: each question is a sample of its own, with a copy of the image, in which all tokens see
      each other and all compete in the write.
    - `"independent"`: the image is encoded once, and each question attends to its tokens and itself. The image sees no
      question, and only image tokens are written into the memory, while questions retrieve from it as all tokens do.
      So an answer depends on no other question, in training and with a write in evaluation too.

    Args:
        config ([`AiTConfig`]):
            Configuration, with a `question_size`. `num_labels` or `id2label` sets the answers.

    Raises:
        `ValueError`: if the configuration has no `question_size`.
    """

    def __init__(self, config: AiTConfig):
        if config.question_size is None:
            raise ValueError(
                f"{type(self).__name__} needs the width of its question vector: set `question_size` in the config "
                "(18 for Sort-of-CLEVR). Without a question use AiTForImageClassification."
            )
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        question: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        update_memory: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[AiTKwargs],
    ) -> AiTClassifierOutput:
        r"""
        Answer one or several questions for each image.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Images of the configured size.
            question (`torch.FloatTensor` of shape `(batch_size[, num_questions], question_size)`):
                Question vectors: one for each image, or as many for each of them.
            labels (`torch.LongTensor` of shape `(batch_size[, num_questions])`, *optional*):
                Indices of the answers in `[0, num_labels)`; -100 leaves a question out. With them the output has
                `loss`, the mean over all questions, which includes the balance loss when the memory was written.
            update_memory (`bool`, *optional*):
                Whether to write the memories, see [`AiTModel.forward`]. By default training does.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether to take images of another size, see [`AiTModel.forward`].
            output_workspace (`bool`, *optional*):
                Whether to return `retrieval_attentions`, `write_attentions` and `energies`.

        Raises:
            `ValueError`: if `pixel_values` or `question` is missing or does not fit the configuration.
        """
        return self.classify(pixel_values, question, labels, update_memory, interpolate_pos_encoding, **kwargs)


# Here and not in the package, so that a model loaded from the Hub, without the package, saves its code again.
AiTModel.register_for_auto_class("AutoModel")
AiTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
AiTForRelationalReasoning.register_for_auto_class("AutoModelForVisualQuestionAnswering")

__all__ = ["AiTForImageClassification", "AiTForRelationalReasoning", "AiTModel", "AiTPreTrainedModel"]
