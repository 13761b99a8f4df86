"""Learning rates as functions of the epochs that are done: nothing to carry along, so a resumed run has the same."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import choose

# name -> rate and the last epoch (counted from 1) that it holds for. The rates of the published write-up,
# where `>2: 1.5e-4` means from the third epoch on. AdamShortRun is named there only: a few epochs, falling steps.
STEPS: dict[str, list[tuple[float, float]]] = {
    "AdamAndrew35": [(3e-4, 2), (1.5e-4, 10), (1e-4, 15), (5e-6, 20), (1e-6, 25), (5e-7, float("inf"))],
    "Adam45": [
        (3e-4, 5), (1.5e-4, 10), (5e-5, 15), (1e-5, 20), (5e-6, 25), (1e-6, 30), (5e-7, 35), (1e-7, 40),
        (5e-8, float("inf")),
    ],
    "Adam20": [(1.5e-4, 8), (5e-5, 12), (1e-5, 16), (5e-6, float("inf"))],
    "AdamShortRun": [(3e-4, 2), (1e-4, 4), (3e-5, 6), (1e-5, float("inf"))],
}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """What the shapes need to know of a run. final: the last rate in parts of the highest one."""

    epochs: int
    warmup: float = 0.0
    final: float = 0.0


def constant(done: float, span: Span) -> float:
    """1, after the warm-up."""
    return 1.0


def cosine(done: float, span: Span) -> float:
    """From 1 down to span.final along half a cosine.

    >>> [round(cosine(done, Span(epochs=4)), 3) for done in (0, 1, 2, 4)]
    [1.0, 0.854, 0.5, 0.0]
    """
    share = (done - span.warmup) / max(span.epochs - span.warmup, 1e-9)
    return span.final + (1 - span.final) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def one_cycle(done: float, span: Span) -> float:
    """Smith & Topin's 1cycle as torch draws it: up from 1/25 over 30 % of the run, down to 1/250,000, along cosines."""
    top, share = 0.3, done / span.epochs
    if share < top:
        return _between(1 / 25, 1.0, share / top)
    return _between(1.0, 1 / 25e4, min((share - top) / (1 - top), 1.0))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


# name -> the rate in parts of the highest one, by the epochs done; `plateau` has falling steps by the history besides
SHAPES: dict[str, Callable[[float, Span], float]] = {
    "constant": constant,
    "cosine": cosine,
    "onecycle": one_cycle,
    "plateau": constant,
}
SCHEDULERS = (*STEPS, *SHAPES)


def learning_rate(scheduler: str, epoch: int) -> float:
    """Adam's learning rate in an epoch of the published step schedules.

    >>> learning_rate("AdamAndrew35", 2), learning_rate("AdamAndrew35", 3)
    (0.0003, 0.00015)
    """
    return next(rate for rate, last in choose(STEPS, scheduler, "--scheduler") if epoch <= last)


def plateau_factor(scores: list[float], factor: float = 0.5, patience: int = 2) -> float:
    """factor for every time that `patience` epochs in a row brought no better score, and one more did not either.

    >>> plateau_factor([0.1, 0.3, 0.3, 0.2, 0.1])
    0.5
    """
    best, waited, reductions = -math.inf, 0, 0
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited > patience:
            waited, reductions = 0, reductions + 1
    return factor**reductions


def make_rate(
    scheduler: str, lr: float | None, select: str, span: Span
) -> Callable[[float, list[dict]], float]:
    """(epochs done, the history of scores) -> learning rate.

    lr: the first epoch's of a step schedule, whose later ones change in proportion (None: as published), or the
    highest of a shape. The warm-up rises from nearly 0 in proportion to the steps.
    """
    if scheduler in STEPS:
        scale = lr / learning_rate(scheduler, 1) if lr else 1.0
        return lambda done, history: scale * learning_rate(scheduler, int(done) + 1)
    shape = choose(SHAPES, scheduler, "--scheduler")

    def rate(done: float, history: list[dict]) -> float:
        if done < span.warmup:
            return lr * max(done / span.warmup, 1e-3)
        falling = plateau_factor([row[select] for row in history]) if scheduler == "plateau" else 1.0
        return lr * falling * shape(done, span)

    return rate


def annealed(
    rate: Callable[[float, list[dict]], float], start: float, last: float, epochs: float
) -> Callable[[float, list[dict]], float]:
    """`rate` until `start` epochs are done, then from its value there to `last` in `epochs` along half a cosine, and
    constant: the phase of weight averaging (torch's SWALR).
    """

    def swa_rate(done: float, history: list[dict]) -> float:
        if done < start:
            return rate(done, history)
        share = min((done - start) / epochs, 1.0) if epochs else 1.0
        return _between(rate(start, history), last, share)

    return swa_rate
