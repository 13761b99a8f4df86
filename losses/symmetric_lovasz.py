"""Symmetric Lovasz hinge: the convex surrogate of 1 - IoU, for a class and for its absence."""

import torch
from torch import nn


class SymmetricLovasz(nn.Module):
    """Half of the Lovasz hinge (Berman et al. 2018) of the class plus half of that of its absence, mean over classes.

    A class's set is its samples in the batch. With soft targets t a sample belongs to the set by the share t, and the
    hinge is 1 - (2t - 1) x logit. Unknown samples are not in the batch of their class; classes without any known sample
    are left out.
    """

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, counted = logits.float(), targets.isfinite().any(0)
        both = (lovasz_hinge(logits, targets) + lovasz_hinge(-logits, 1 - targets)) / 2
        return (both * counted).sum() / counted.sum().clamp(min=1)


def lovasz_hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The Lovasz hinge of each column: (N, K) logits and targets in 0..1 or NaN -> (K,).

    The positive hinge errors, in falling order, times the growth of 1 - IoU as each sample in turn counts as wrong.
    """
    known, truth = targets.isfinite(), targets.nan_to_num()
    errors = (1 - logits * (2 * truth - 1)).masked_fill(~known, -torch.inf)
    errors, order = errors.sort(dim=0, descending=True, stable=True)  # unknown ones come last, and add nothing
    inside, outside = truth.gather(0, order), ((1 - truth) * known).gather(0, order)
    total = inside.sum(0)
    union = (total + outside.cumsum(0)).clamp(min=torch.finfo(errors.dtype).tiny)
    lost = 1 - (total - inside.cumsum(0)) / union
    growth = torch.diff(lost, dim=0, prepend=torch.zeros_like(lost[:1]))
    return (errors.relu() * growth).sum(0)
