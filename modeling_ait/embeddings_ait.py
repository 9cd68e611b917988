"""What turns images, questions and learned tokens into the tokens of AiT."""

import math

import torch
from torch import nn

from .configuration_ait import AiTConfig


def interpolate_positions(
    position_embeddings: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> torch.Tensor:
    """
    Stretch the positions of the patches to another grid, (1, P + N, E) -> (1, P + N', E), as transformers' ViT does.

    Bicubic, in float32. The P positions in front, of the CLS, register and question tokens, stay as they are.

    Args:
        position_embeddings (`torch.Tensor` of shape `(1, num_tokens, hidden_size)`): The table.
        old_grid (`(rows, columns)`): Patches that the table was made for.
        new_grid (`(rows, columns)`): Patches that it shall serve.
    """
    # A size that an exported graph leaves open is no `int`: comparing it would fix it for good.
    if all(isinstance(length, int) for length in new_grid) and old_grid == new_grid:
        return position_embeddings
    num_prefix_tokens = position_embeddings.shape[1] - old_grid[0] * old_grid[1]
    prefix, patches = position_embeddings[:, :num_prefix_tokens], position_embeddings[:, num_prefix_tokens:]
    patches = patches.unflatten(1, old_grid).permute(0, 3, 1, 2)  # (1, hidden_size, rows, columns)
    patches = nn.functional.interpolate(patches.float(), size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([prefix, patches.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)


def make_sinusoidal_positions(grid: tuple[int, int], hidden_size: int, amplitude: float = 0.5) -> torch.Tensor:
    """
    Sines and cosines of the column and the row of each patch, (rows, columns) -> (1, N, E), as in ViT-MAE.

    Args:
        grid (`(rows, columns)`): Patches of an image.
        hidden_size (`int`): Width E. The first half tells the column, the second the row.
        amplitude (`float`, *optional*, defaults to 0.5): Largest value.
    """
    num_frequencies = -(-hidden_size // 4)
    frequencies = 10_000.0 ** (-torch.arange(num_frequencies, device="cpu") / num_frequencies)
    row, column = (torch.arange(length, device="cpu")[:, None] * frequencies for length in grid)
    angles = torch.stack([column.expand(grid[0], -1, -1), row[:, None].expand(-1, grid[1], -1)], dim=2)
    table = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (rows, columns, 2, 2 * num_frequencies)
    return amplitude * table.flatten(2).flatten(0, 1)[None, :, :hidden_size]


class AiTConvolutionalStem(nn.Module):
    """
    Embed an image by strided convolutions, (B, C, H, W) -> (B, N, E), after Xiao et al. (2021, arXiv 2106.14881).

    One convolution for each of `stem_strides`, the last with `hidden_size` channels, those before it with
    `stem_channels`, by default halved towards the first; a norm and a GELU between two. The norms are over the
    channels of all positions together (GroupNorm with one group): unlike BatchNorm no sample sees another. A stride
    of 1 looks at 3 x 3 positions.
    """

    def __init__(self, strides: list[int], config: AiTConfig):
        super().__init__()
        halved = [max(8, config.hidden_size >> (len(strides) - index)) for index in range(1, len(strides))]
        channels = [config.num_channels, *(config.stem_channels or halved), config.hidden_size]
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(before, after, kernel_size=max(3, 2 * stride - 1), stride=stride, padding=max(1, stride - 1))
                for before, after, stride in zip(channels, channels[1:], strides)
            ]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(1, after, eps=config.layer_norm_eps) for after in channels[1:-1]])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms):
            pixel_values = nn.functional.gelu(norm(convolution(pixel_values)))
        return self.convolutions[-1](pixel_values).flatten(2).transpose(1, 2)


class AiTPatchEmbeddings(nn.Module):
    """
    Split images into patches and embed each, (B, C, H, W) -> (B, N, E): LayerNorm, Linear, LayerNorm.

    With `use_vit_norms` it is the Linear alone; with `stem_strides`, a convolutional stem and the last LayerNorm.
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.image_shape = config.image_shape
        self.patch_shape = config.patch_shape
        self.num_channels = config.num_channels
        patch_size = self.patch_shape[0] * self.patch_shape[1] * config.num_channels
        norm_class = nn.Identity if config.use_vit_norms else nn.LayerNorm
        self.stem = None
        if config.stem_strides is not None:
            self.stem = AiTConvolutionalStem(config.stem_strides, config)
        else:
            self.layernorm_before = norm_class(patch_size, eps=config.layer_norm_eps)
            self.projection = nn.Linear(patch_size, config.hidden_size)
        self.layernorm_after = norm_class(config.hidden_size, eps=config.layer_norm_eps)

    def get_grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image of this height and width."""
        return image_shape[0] // self.patch_shape[0], image_shape[1] // self.patch_shape[1]

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        if pixel_values.dim() != 4:
            raise ValueError(
                "`pixel_values` must have the shape (batch_size, num_channels, height, width), "
                f"but got {tuple(pixel_values.shape)}."
            )
        batch_size, num_channels, height, width = pixel_values.shape
        if num_channels != self.num_channels:
            raise ValueError(
                f"The images have {num_channels} channels, but the model was configured for {self.num_channels} "
                "(`num_channels`). Convert the images (for instance with `image.convert('RGB')`) or change the config."
            )
        if not interpolate_pos_encoding and (height, width) != self.image_shape:
            raise ValueError(
                f"The images are {height} x {width} pixels (height x width), but the model was configured for "
                f"{self.image_shape[0]} x {self.image_shape[1]} (`image_size`). Resize them with the image processor, "
                "or pass `interpolate_pos_encoding=True`."
            )
        (rows, columns), (patch_height, patch_width) = self.get_grid((height, width)), self.patch_shape
        if (rows * patch_height, columns * patch_width) != (height, width) or rows * columns == 0:
            raise ValueError(
                f"The images are {height} x {width} pixels (height x width), which is no multiple of the patches' "
                f"{patch_height} x {patch_width} (`patch_size`)."
            )
        if self.stem is not None:
            # deviation: with `stem_strides` convolutions embed the patches; in the paper it is one projection.
            return self.layernorm_after(self.stem(pixel_values))
        # Copied twice, channels and then patches: rows of pixels that stay together copy faster than single ones.
        pixel_values = pixel_values.permute(0, 2, 3, 1).contiguous()  # (batch_size, height, width, channels)
        patches = pixel_values.reshape(batch_size, rows, patch_height, columns, patch_width * num_channels)
        patches = patches.transpose(2, 3).flatten(3)  # (batch_size, rows, columns, patch_size)
        patches = patches.flatten(1, 2)  # (batch_size, num_patches, patch_size)
        return self.layernorm_after(self.projection(self.layernorm_before(patches)))


class AiTQuestionEmbeddings(nn.Module):
    """Embed question vectors as tokens, (B[, Q], question_size) -> (B, Q, E): LayerNorm, Linear, LayerNorm."""

    def __init__(self, question_size: int, config: AiTConfig):
        super().__init__()
        self.question_size = question_size
        self.layernorm_before = nn.LayerNorm(question_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(question_size, config.hidden_size)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, question: torch.Tensor) -> torch.Tensor:
        if question.dim() not in (2, 3) or question.shape[-1] != self.question_size or question.shape[1] == 0:
            raise ValueError(
                f"`question` must have the shape (batch_size, {self.question_size}) (`question_size`) or, with one or "
                f"more for each image, (batch_size, num_questions, {self.question_size}), "
                f"but got {tuple(question.shape)}."
            )
        tokens = self.layernorm_after(self.projection(self.layernorm_before(question)))
        return tokens.unsqueeze(1) if question.dim() == 2 else tokens


def pool_tokens(hidden_states: torch.Tensor, config: AiTConfig, num_questions: int = 0) -> torch.Tensor:
    """
    Make one vector of the tokens of a sample or question, as `pooling` says, (B, N, E) -> (B, E) or (B, N * E).

    With `num_questions` independent questions at the end it makes one for each, (B, N + Q, E) -> (B, Q, E), from the
    tokens that it saw: the image's and itself.
    """
    if num_questions > 0:
        num_image_tokens = hidden_states.shape[1] - num_questions
        image, questions = hidden_states.split([num_image_tokens, num_questions], dim=1)
        if config.pooling == "question":
            return questions
        return (image.sum(dim=1, keepdim=True) + questions) / (num_image_tokens + 1)
    if config.pooling == "mean":
        return hidden_states.mean(dim=1)
    if config.pooling == "flatten":
        return hidden_states.flatten(1)
    # Behind the register tokens, or first of all.
    return hidden_states[:, config.num_register_tokens if config.pooling == "question" else 0]


class AiTEmbeddings(nn.Module):
    """
    Patch embeddings, behind a CLS token, register tokens and a question where the configuration asks for them.

    Several questions for an image each get a copy of its tokens, (B * Q, 1 + N, E), or, with
    `question_attention="independent"`, follow them, (B, N + Q, E). All questions share one position.
    """

    def __init__(self, config: AiTConfig):
        super().__init__()
        self.has_independent_questions = config.question_attention == "independent"
        self.patch_embeddings = AiTPatchEmbeddings(config)
        # The CLS token, then the register tokens, as far as there are any.
        numbers = [number for number in (int(config.pooling == "cls"), config.num_register_tokens) if number > 0]
        self.prefix_tokens = nn.ParameterList([torch.zeros(1, number, config.hidden_size) for number in numbers])
        self.question_embeddings = (
            AiTQuestionEmbeddings(config.question_size, config) if config.question_size is not None else None
        )
        num_prefix_tokens = sum(numbers) + (config.question_size is not None)
        self.num_tokens = num_prefix_tokens + math.prod(self.patch_embeddings.get_grid(config.image_shape))
        self.position_embeddings = (
            nn.Parameter(torch.zeros(1, self.num_tokens, config.hidden_size))
            if config.position_embedding_type == "learned"
            else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    @torch.no_grad()
    def resize_positions(self, image_shape: tuple[int, int]) -> None:
        """Fit to images of another height and width for good: interpolate the position table, if there is one."""
        patches = self.patch_embeddings
        old_grid, new_grid = patches.get_grid(patches.image_shape), patches.get_grid(image_shape)
        if self.position_embeddings is not None:
            table = interpolate_positions(self.position_embeddings, old_grid, new_grid)
            self.position_embeddings = nn.Parameter(table.clone(), self.position_embeddings.requires_grad)
        self.num_tokens += math.prod(new_grid) - math.prod(old_grid)
        patches.image_shape = image_shape

    def forward(
        self,
        pixel_values: torch.Tensor,
        question: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> torch.Tensor:
        if (question is None) != (self.question_embeddings is None):
            raise ValueError(
                "This model was configured without a question (`question_size` is None), but `question` was given."
                if self.question_embeddings is None
                else f"This model needs `question`, of shape (batch_size, {self.question_embeddings.question_size})."
            )
        patches = self.patch_embeddings(pixel_values, interpolate_pos_encoding)
        questions = []
        if self.question_embeddings is not None and question is not None:
            questions.append(self.question_embeddings(question.to(pixel_values.dtype)))
            if not self.has_independent_questions:
                # (batch_size, num_questions, hidden_size) -> (batch_size * num_questions, 1, hidden_size)
                patches = patches.repeat_interleave(questions[0].shape[1], dim=0)
                questions[0] = questions[0].flatten(0, 1).unsqueeze(1)
        prefix_tokens = [prefix.expand(patches.shape[0], -1, -1) for prefix in self.prefix_tokens]
        positions = self.get_positions(pixel_values)
        if not self.has_independent_questions:
            embeddings = torch.cat([*prefix_tokens, *questions, patches], dim=1)
            embeddings = embeddings if positions is None else embeddings + positions
        else:
            image = torch.cat([*prefix_tokens, patches], dim=1)
            if positions is not None:
                num_prefix_tokens = image.shape[1] - patches.shape[1]
                prefix, own, rest = positions.split([num_prefix_tokens, 1, patches.shape[1]], dim=1)
                image, questions[0] = image + torch.cat([prefix, rest], dim=1), questions[0] + own
            embeddings = torch.cat([image, *questions], dim=1)
        return self.dropout(embeddings)

    def get_positions(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """The position table, (1, num_tokens, hidden_size), interpolated to the size of these images; or `None`."""
        if self.position_embeddings is None:
            return None
        patches = self.patch_embeddings
        (height, width), old_grid = pixel_values.shape[2:], patches.get_grid(patches.image_shape)
        return interpolate_positions(self.position_embeddings, old_grid, patches.get_grid((height, width)))

    def count_appended_questions(self, question: torch.Tensor | None) -> int:
        """How many of the tokens at the end are questions that see the image and themselves only."""
        if question is None or not self.has_independent_questions:
            return 0
        return question.shape[1] if question.dim() == 3 else 1
