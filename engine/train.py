"""The training loop: epochs over batches, validation, checkpoints. It goes on from any kill to the same numbers.

All randomness is derived from (seed, epoch, position), none is carried along: a run that was killed and resumed sees
the same samples, crops and dropout masks as one that was not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from common.errors import UserError
from common.seeds import rng
from engine import checkpoints
from engine.data import Batches, Samples, batches_of, epoch_order, loader
from engine.history import draw_curves, epoch_text, write_log
from metrics.classification import average_precision


@dataclass
class Plan:
    """What a run shall do. `settings` are the resolved flags, saved beside every checkpoint."""

    folder: Path
    settings: dict
    classes: Sequence[str]
    epochs: int
    batch_size: int
    accumulate: int
    clip_norm: float
    learning_rate: Callable[[int], float]
    seed: int
    workers: int
    draw_weights: np.ndarray | None = None
    draws: int = 0
    save_minutes: float = 20.0


@dataclass
class Progress:
    """Where a run is: `epoch` is under way, `step` of its batches are done, with the sum of their losses."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch with the highest mean PR-AUC, the first of equals; 0 when there is none yet."""
        return max(self.history, key=lambda row: row["pr_auc"])["epoch"] if self.history else 0


def fit(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    train: Samples,
    valid: Samples,
    say: Callable[[str], None],
) -> Progress:
    """Train until plan.epochs are done, from plan.folder/last.pth where there is one. Returns the final progress.

    model and optimizer come from `fabric.setup`. Raises UserError on a loss that is not finite.
    """
    progress = _restore(fabric, model, optimizer, plan)
    while progress.epoch <= plan.epochs:
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate(progress.epoch)
        train_loss = _train_epoch(fabric, model, optimizer, plan, train, progress)
        valid_loss, probs = validate(fabric, model, valid, plan.batch_size, plan.workers)
        _end_epoch(fabric, model, optimizer, plan, progress, train_loss, valid_loss, probs, valid.targets)
        text = epoch_text(progress.history[-1], plan.classes, progress.best)
        say(f"{text}  ({time.monotonic() - started:.0f} s)")
    return progress


def _train_epoch(
    fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, samples: Samples, progress: Progress
) -> float:
    """Train on what is left of the epoch; returns the epoch's mean loss."""
    order = epoch_order(len(samples), plan.seed, progress.epoch, plan.draw_weights, plan.draws)
    batches = Batches(
        order, plan.batch_size, progress.epoch, progress.step, drop_last=True,
        rank=fabric.global_rank, world=fabric.world_size,
    )  # fmt: skip
    steps = progress.step + len(batches)
    data = loader(samples, batches, plan.workers, fabric.device.type == "cuda")
    data = fabric.setup_dataloaders(data, use_distributed_sampler=False)
    model.train()
    saved = time.monotonic()
    bar = tqdm(
        batches_of(data), f"train {plan.settings['out_dir']} epoch {progress.epoch}", steps, initial=progress.step,
        leave=False, disable=fabric.global_rank > 0,
    )  # fmt: skip
    for images, targets, _ in bar:
        # Dropout's randomness depends on the position alone, so that a resumed run draws the same.
        torch.manual_seed(_position_seed(fabric, plan, progress))
        last = progress.step + 1 == steps
        stepped = last or (progress.step + 1) % plan.accumulate == 0
        with fabric.no_backward_sync(model, enabled=not stepped):
            loss = sum(model(images, targets).values())
            fabric.backward(loss / plan.accumulate)
        _check_finite(loss, progress)
        progress.loss_sum += loss.item()
        progress.step += 1
        if stepped:
            if plan.clip_norm:
                fabric.clip_gradients(model, optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad()
            if not last and time.monotonic() - saved > plan.save_minutes * 60:
                _save_state(fabric, model, optimizer, plan, progress)
                saved = time.monotonic()
        bar.set_postfix(loss=f"{progress.loss_sum / progress.step:.4f}", refresh=False)
    return progress.loss_sum / progress.step


def _position_seed(fabric: Fabric, plan: Plan, progress: Progress) -> int:
    return int(rng(plan.seed, "dropout", progress.epoch, progress.step, fabric.global_rank).integers(2**63))


def _check_finite(loss: torch.Tensor, progress: Progress) -> None:
    if not torch.isfinite(loss):
        raise UserError(
            f"the training loss is {loss.item()} in epoch {progress.epoch}, batch {progress.step + 1}: a lower --lr, "
            "--mixed_precision 0 or a smaller --clipnorm may help; the checkpoints so far are kept"
        )


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, samples: Samples, batch_size: int, workers: int
) -> tuple[float, np.ndarray]:
    """Mean loss and probabilities (N, K) of the samples, in their order."""
    batches = Batches(np.arange(len(samples))[fabric.global_rank :: fabric.world_size], batch_size)
    data = fabric.setup_dataloaders(loader(samples, batches, workers), use_distributed_sampler=False)
    model.eval()
    results = []
    for images, targets, index in tqdm(batches_of(data), "validate", len(batches), leave=False):
        out = model(images, targets)
        results.append((index.cpu().numpy(), out["probs"].cpu().numpy(), float(out["loss"]) * len(index)))
    results = _gather(fabric, results)
    order = np.argsort(np.concatenate([index for index, _, _ in results]))
    probs = np.concatenate([probs for _, probs, _ in results])[order]
    return sum(loss for _, _, loss in results) / len(samples), probs


def _gather(fabric: Fabric, results: list) -> list:
    if fabric.world_size == 1:
        return results
    parts: list[list] = [[] for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(parts, results)
    return [result for part in parts for result in part]


def _end_epoch(fabric, model, optimizer, plan, progress, train_loss, valid_loss, probs, targets) -> None:
    """Score the epoch, advance `progress` past it, and write the checkpoints, the log and the picture."""
    scores = average_precision(probs, targets)
    known = scores[np.isfinite(scores)]
    row = {
        "epoch": progress.epoch,
        "lr": plan.learning_rate(progress.epoch),
        "train_loss": train_loss,
        "valid_loss": valid_loss,
        "pr_auc": float(known.mean()) if len(known) else 0.0,
        **{f"AP {name}": float(score) for name, score in zip(plan.classes, scores, strict=True)},
    }
    progress.history.append(row)
    progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
    if fabric.global_rank == 0:
        weights = {
            "model": model.module.state_dict(), "settings": plan.settings, "epoch": row["epoch"], "scores": row,
        }  # fmt: skip
        checkpoints.save(weights, plan.folder / f"{checkpoints.epoch_name(row['epoch'])}.pth")
        if progress.best == row["epoch"]:
            checkpoints.save(weights, plan.folder / "best.pth")
        write_log(progress.history, plan.folder / "log.csv")
        draw_curves(progress.history, plan.folder / "curves.png")
    # Written last: until it is there, a resumed run repeats the epoch's end, to the same files.
    _save_state(fabric, model, optimizer, plan, progress)


def _save_state(fabric, model, optimizer, plan: Plan, progress: Progress) -> None:
    if fabric.global_rank == 0:
        state = {
            "model": model.module.state_dict(),
            "optimizer": optimizer.optimizer.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "settings": plan.settings,
            "epoch": progress.epoch,
            "progress": vars(progress),
        }
        checkpoints.save(state, plan.folder / "last.pth")
    fabric.barrier()


def _restore(fabric, model, optimizer, plan: Plan) -> Progress:
    path = plan.folder / "last.pth"
    if not path.exists():
        return Progress()
    state = checkpoints.read(path, "--resume")
    checkpoints.load_model(model.module, state, path, "--resume")
    optimizer.optimizer.load_state_dict(state["optimizer"])
    if not plan.settings.get("resetscale"):
        fabric.strategy.precision.load_state_dict(state["precision"])
    return Progress(**state["progress"])
