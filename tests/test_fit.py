"""The training loop on a network of one number: means, what is left out, when it stops, what is averaged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from common.errors import UserError
from engine import checkpoints
from engine.device import make_fabric
from engine.train import Plan, Progress, Task, fit


class One(nn.Module):
    """The loss is weight x the sample's number; the batch norm counts the batches that it sees in training."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1, momentum=0.5)

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        self.norm(images.repeat(2)[:, None])  # twice: a batch may be one sample
        return {"loss": (self.weight * images).mean()}


class Numbers(Dataset):
    """Samples that are numbers; `looks` counts how often one is read."""

    def __init__(self, *values: float):
        self.values, self.looks = torch.tensor(values), 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        self.looks += 1
        return self.values[item[1]], torch.zeros(1), item[1]


def run(
    folder: Path, samples: Numbers, scores: list[float] = (0.5,), scale: float = 1.0,
    draw_weights: np.ndarray | None = None, **plan,
) -> tuple[Progress, pd.DataFrame]:  # fmt: skip
    """Train with SGD; the epochs' scores are `scores`, the last one again and again. The progress and the log."""
    model, given = One(), iter([*scores, *[scores[-1]] * 99])
    optimizer = torch.optim.SGD([{"params": [model.weight], "scale": scale}], lr=0.1)
    task = Task(model, samples, lambda fabric, net: {"score": next(given)}, "score", draw_weights)
    settings = {"out_dir": "run"}
    whole = {"epochs": 1, "batch_size": 1, "accumulate": 1, "clip_norm": 0.0, "seed": 1, "workers": 0} | plan
    made = Plan(folder=folder, settings=settings, rate=lambda done, history: 0.1, **whole)
    folder.mkdir(exist_ok=True)
    progress = fit(make_fabric("cpu", False), task, optimizer, made, lambda text: None)
    return progress, pd.read_csv(folder / "log.csv")


def last_weight(folder: Path) -> float:
    return float(checkpoints.read(folder / "last.pth", "")["model"]["weight"])


def test_batches_are_accumulated_to_their_mean_and_the_epoch_ends_with_a_step(tmp_path):
    run(tmp_path / "two", Numbers(3.0, 5.0), accumulate=2, ema=0.1)
    assert last_weight(tmp_path / "two") == pytest.approx(1 - 0.1 * 4)
    assert int(checkpoints.read(tmp_path / "two" / "last.pth", "")["ema"]["n_averaged"]) == 1
    run(tmp_path / "three", Numbers(4.0, 4.0, 4.0), accumulate=2)  # the third steps alone, as half a batch
    assert last_weight(tmp_path / "three") == pytest.approx(1 - 0.1 * (4 + 2))


def test_gradients_are_clipped_and_groups_learn_at_their_own_rate(tmp_path):
    run(tmp_path / "clipped", Numbers(3.0), clip_norm=0.5)
    assert last_weight(tmp_path / "clipped") == pytest.approx(1 - 0.1 * 0.5)
    run(tmp_path / "short", Numbers(3.0), clip_norm=4.0)
    assert last_weight(tmp_path / "short") == pytest.approx(1 - 0.1 * 3)
    run(tmp_path / "slow", Numbers(3.0), scale=0.5)
    assert last_weight(tmp_path / "slow") == pytest.approx(1 - 0.1 * 0.5 * 3)


def test_an_epoch_draws_as_many_samples_as_it_is_told_by_their_weights(tmp_path):
    samples = Numbers(1.0, 2.0, 3.0)
    run(tmp_path, samples, draws=4, draw_weights=np.array([0.0, 0.0, 1.0]))
    assert samples.looks == 4 and last_weight(tmp_path) == pytest.approx(1 - 0.1 * 3 * 4)


def test_batches_that_are_not_finite_are_left_out_counted_and_too_many_stop(tmp_path):
    samples = Numbers(0.25, np.nan, 0.25, np.nan)
    progress, log = run(tmp_path / "a", samples, epochs=2, skip_nonfinite=4)
    assert progress.skipped == 4 and log["skipped"].tolist() == [2, 4]
    # Each of the finite batches takes .1 x .25 from the weight: the mean of .25 x 1 and .25 x .975, and so on.
    np.testing.assert_allclose(log["train_loss"], [0.25 * 0.9875, 0.25 * 0.9375], rtol=1e-5)
    state = checkpoints.read(tmp_path / "a" / "last.pth", "")["model"]
    kept = 0.25 * (1 - 0.5**4)  # the running mean has seen the four finite batches, from 0 half-way to .25 each time
    assert state["norm.running_mean"].item() == pytest.approx(kept) and int(state["norm.num_batches_tracked"]) == 4
    with pytest.raises(UserError, match=r"the training loss is nan in epoch 2, batch \d, the 4. time .*nonfinite 3"):
        run(tmp_path / "b", samples, epochs=2, skip_nonfinite=3)


class Steep(torch.autograd.Function):
    """A loss of 1 whose gradient is 1, but NaN for numbers below 0."""

    @staticmethod
    def forward(ctx, weight, numbers):
        ctx.save_for_backward(numbers)
        return weight * 0 + 1

    @staticmethod
    def backward(ctx, grad):
        return grad * (torch.nan if (ctx.saved_tensors[0] < 0).any() else 1), None


@pytest.mark.parametrize("clip_norm", [0.0, 5.0])
def test_gradients_that_are_not_finite_are_left_out_counted_and_too_many_stop(tmp_path, monkeypatch, clip_norm):
    monkeypatch.setattr(One, "forward", lambda self, images, targets: {"loss": Steep.apply(self.weight, images)[0]})
    samples = Numbers(1.0, -1.0, 1.0)
    progress, log = run(tmp_path / "a", samples, epochs=2, skip_nonfinite=2, clip_norm=clip_norm)
    assert progress.skipped == 2 and log["train_loss"].tolist() == [1, 1]
    assert last_weight(tmp_path / "a") == pytest.approx(1 - 4 * 0.1)
    with pytest.raises(UserError, match=r"the norm of the gradients is nan in epoch 2, batch \d, the 2. time"):
        run(tmp_path / "b", samples, epochs=2, skip_nonfinite=1, clip_norm=clip_norm)


def test_it_stops_without_a_better_epoch_and_the_best_is_kept(tmp_path):
    scores = [0.1, 0.7, 0.3, 0.6, 0.9]
    progress, log = run(tmp_path / "run", Numbers(1.0), scores, epochs=9, patience=2)
    assert log["epoch"].tolist() == [1, 2, 3, 4] and progress.best("score") == 2
    best = checkpoints.read(tmp_path / "run" / "best.pth", "")
    assert best["epoch"] == 2 and best["scores"]["score"] == 0.7
    np.testing.assert_allclose(best["model"]["weight"], 0.8, rtol=1e-6)


def test_the_running_mean_of_the_weights_takes_the_buffers_along(tmp_path):
    """The first step's weights are taken as they are, then the mean keeps the decay of itself, 1 - 2^(-2/3) at most."""
    for decay, kept in ((0.1, 0.1), (0.9, 1 - 2 ** (-2 / 3))):
        run(tmp_path / str(decay), Numbers(3.0, 5.0), epochs=2, batch_size=2, ema=decay)
        first, second, last = (
            checkpoints.read(tmp_path / str(decay) / name, "") for name in ("001.pth", "002.pth", "last.pth")
        )
        for name, start in (("weight", 0.6), ("norm.running_mean", 2.0)):
            np.testing.assert_allclose(first["model"][name], start, rtol=1e-6)
            mean = kept * start + (1 - kept) * float(last["model"][name])
            np.testing.assert_allclose(second["model"][name], mean, rtol=1e-6)
            np.testing.assert_allclose(last["ema"][f"module.{name}"], mean, rtol=1e-6)


def test_the_mean_over_epochs_is_made_once(tmp_path):
    samples = Numbers(1.0, 2.0, 3.0)
    run(tmp_path / "run", samples, epochs=3, batch_size=2, swa_start=2)
    first = (tmp_path / "run" / "swa.pth").read_bytes()
    made = checkpoints.read(tmp_path / "run" / "swa.pth", "")
    weights = [float(checkpoints.read(tmp_path / "run" / f"00{epoch}.pth", "")["model"]["weight"]) for epoch in (2, 3)]
    np.testing.assert_allclose(made["model"]["weight"], np.mean(weights), rtol=1e-6)
    assert made["epoch"] == 3
    samples.looks = 0
    run(tmp_path / "run", samples, epochs=3, batch_size=2, swa_start=2)
    assert samples.looks == 0
    (tmp_path / "run" / "swa.pth").unlink()
    run(tmp_path / "run", samples, epochs=3, batch_size=2, swa_start=2)
    assert samples.looks == 2 and (tmp_path / "run" / "swa.pth").read_bytes() == first  # one of three is left over
