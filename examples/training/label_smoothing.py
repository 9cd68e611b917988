"""Label smoothing of classes, and of shares of classes."""

from dataclasses import dataclass

import torch
from transformers.trainer_pt_utils import LabelSmoother


@dataclass
class SharesSmoother(LabelSmoother):
    """The Trainer's smoothing, which takes classes (batch_size,), for their shares (batch_size, num_labels) as well."""

    def __call__(self, model_output, labels: torch.Tensor, shift_labels: bool = False) -> torch.Tensor:
        if not labels.is_floating_point():
            return super().__call__(model_output, labels, shift_labels)
        return torch.nn.functional.cross_entropy(model_output["logits"], labels, label_smoothing=self.epsilon)
