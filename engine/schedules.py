"""Learning rates: step schedules of the HPA systems, by name, a rate for each epoch (counted from 1)."""

from common.errors import choose

# name -> [(rate, last epoch at this rate), ...]; the last rate goes on for ever. The rates of the published write-up,
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


def learning_rate(scheduler: str, epoch: int) -> float:
    """Adam's learning rate in an epoch.

    >>> learning_rate("AdamAndrew35", 2), learning_rate("AdamAndrew35", 3)
    (0.0003, 0.00015)
    """
    return next(rate for rate, last in choose(STEPS, scheduler, "--scheduler") if epoch <= last)
