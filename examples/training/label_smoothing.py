"""Label smoothing of classes, and of shares of classes."""

from dataclasses import dataclass

import torch
from transformers.trainer_pt_utils import LabelSmoother


@dataclass
class SharesSmoother(LabelSmoother):
    """The Trainer's smoothing, which takes classes (batch_size,), for shares (batch_size, num_labels) as well."""

    def __call__(self, model_output, labels, *args, **kwargs):
        if not labels.is_floating_point():
            return super().__call__(model_output, labels, *args, **kwargs)
        return torch.nn.functional.cross_entropy(model_output["logits"], labels, label_smoothing=self.epsilon)
