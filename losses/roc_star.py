"""ROC-star (C. Reiss 2020, after Yan et al. 2003): in each class positives shall score above negatives."""

import torch
from torch import nn
from torch.nn import functional

MOST = 1000  # positives and negatives whose pairs set a margin


class ROCStar(nn.Module):
    """Mean over the known (sample, class) pairs of the mean of relu(score of negative - score of positive + margin)^2.

    Each sample is compared with the samples of the other kind in the batch and among the last `memory` training
    samples (the original compares with a draw from the last epoch). Scores are probabilities; a soft target is a
    positive from .5 on. A class's margin starts at `gamma`; whenever the memory has been filled anew it becomes such
    that `delta` times as many well-ordered pairs lie within it as there are badly ordered ones.

    Memory and margins are buffers, so they are saved, and training goes on from them exactly. In evaluation nothing is
    remembered.
    """

    def __init__(self, num_classes: int, memory: int = 4096, delta: float = 2.0, gamma: float = 0.2):
        super().__init__()
        self.delta = delta
        self.register_buffer("scores", torch.zeros(memory, num_classes))
        self.register_buffer("truths", torch.full((memory, num_classes), torch.nan))
        self.register_buffer("margins", torch.full((num_classes,), gamma))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        scores = logits.float().sigmoid()
        others = torch.cat([self.scores, scores.detach()])
        truths = torch.cat([self.truths, targets.float()])
        above = mean_excess(others, truths < 0.5, scores - self.margins) * (targets >= 0.5)
        below = mean_excess(-others, truths >= 0.5, -scores - self.margins) * (targets < 0.5)
        if self.training:
            self.remember(scores.detach(), targets)
        return (above + below).sum() / targets.isfinite().sum().clamp(min=1)

    def remember(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        """Put the batch in the place of the oldest samples."""
        size = len(self.scores)
        scores, targets = scores[-size:], targets[-size:]
        rows = (self.seen + torch.arange(len(scores), device=scores.device)) % size
        self.scores[rows], self.truths[rows] = scores, targets.float()
        turns = self.seen // size
        self.seen += len(scores)
        if self.seen // size > turns:
            columns = zip(self.scores.T, self.truths.T, self.margins, strict=True)
            self.margins.copy_(torch.stack([margin(*column, self.delta) for column in columns]))


def mean_excess(others: torch.Tensor, counted: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Mean of relu(other - point)^2 over the counted others: (M, K), (M, K), (N, K) -> (N, K).

    From running sums over the sorted others instead of all M x N pairs, in double precision.
    """
    values, order = others.T.double().contiguous().sort(dim=1)
    weights = counted.T.gather(1, order).double()
    points = points.T.double().contiguous()
    start = torch.searchsorted(values, points.detach(), right=True)  # the first other above each point
    sums = (functional.pad((weights * values**power).cumsum(1), (1, 0)) for power in range(3))
    count, first, second = (total[:, -1:] - total.gather(1, start) for total in sums)
    excess = second - 2 * points * first + points**2 * count
    return (excess.clamp(min=0) / weights.sum(1, keepdim=True).clamp(min=1)).T.float()


def margin(scores: torch.Tensor, truths: torch.Tensor, before: torch.Tensor, delta: float) -> torch.Tensor:
    """A class's margin: the distance of the well-ordered pair in place delta x (number of badly ordered pairs).

    `before` is kept when no pair is well ordered.
    """
    positives, negatives = scores[truths >= 0.5][:MOST], scores[truths < 0.5][:MOST]
    gap = (positives[:, None] - negatives).flatten()
    right = gap[gap > 0].sort().values
    place = int(delta * max(int((gap < 0).sum()) - 1, 0))
    return right[min(place, len(right) - 1)] if len(right) else before
