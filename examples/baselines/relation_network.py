"""Relation Network (Santoro et al., 2017, arXiv 1706.01427): an MLP on every pair of cells of a small CNN."""

from itertools import pairwise

import torch
from torch import nn

from examples.baselines.common import BaselineConfig, BaselineModel


NUM_CHANNELS = 24


class RelationNetworkModel(BaselineModel):
    """
    Four convolutions, then g on all pairs of cells with the question, summed, then f.

    Of the configuration it uses `intermediate_size` (width of g and f), `image_size` and `question_size`.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        width = config.intermediate_size
        channels = [config.num_channels, *[NUM_CHANNELS] * 4]
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
                for before, after in pairwise(channels)
            )
        )
        # The first layer of g is linear in its parts, so each part is projected once and not once for each pair.
        self.first_cell, self.second_cell = (nn.Linear(NUM_CHANNELS + 2, width) for _ in range(2))
        self.question = None if config.question_size is None else nn.Linear(config.question_size, width, bias=False)
        self.pair_mlp = nn.Sequential(
            nn.ReLU(), *(part for _ in range(3) for part in (nn.Linear(width, width), nn.ReLU()))
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5)
        )
        self.classifier = nn.Linear(width, config.num_labels or 0)
        self.post_init()

    def compute_logits(self, pixel_values: torch.Tensor, question: torch.Tensor | None) -> torch.Tensor:
        cells = self.convolutions(pixel_values)
        batch_size, _, rows, columns = cells.shape
        grid = torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        ).to(cells)
        cells = torch.cat([cells, grid.expand(batch_size, -1, -1, -1)], dim=1)
        cells = cells.flatten(2).transpose(1, 2)  # (batch_size, num_cells, NUM_CHANNELS + 2)
        pairs = self.first_cell(cells).unsqueeze(1) + self.second_cell(cells).unsqueeze(2)
        if question is not None and self.question is not None:
            pairs = pairs + self.question(question.to(cells.dtype))[:, None, None]
        # (batch_size, num_cells, num_cells, width) -> (batch_size, width)
        relations = self.pair_mlp(pairs).sum(dim=(1, 2))
        return self.classifier(self.mlp(relations))
