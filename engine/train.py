"""The training loop: epochs over batches, validation, checkpoints. It goes on from any kill to the same numbers.

All randomness is derived from (seed, epoch, position), none is carried along: a run that was killed and resumed sees
the same samples, crops and dropout masks as one that was not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import UserError
from common.seeds import rng
from engine import checkpoints
from engine.averages import refresh, running_mean
from engine.data import Batches, batches_of, epoch_order, loader
from engine.history import draw_curves, epoch_text, write_log
from engine.processes import share_buffers, share_gradients
from engine.settings import SAMPLES

Mix = Callable[[torch.Tensor, Any, np.random.Generator], tuple[torch.Tensor, Any]]


class Task(NamedTuple):
    """What is trained: a model under the contract of `models`, its samples, and how well it does.

    train: items asked for by an `Item` are (image, target, index); `train.collate`, where there is one, makes the
    batch. validate(fabric, model) -> the epoch's scores by name; the epoch with the highest `select` is the best.
    """

    model: nn.Module
    train: Dataset
    validate: Callable[[Fabric, nn.Module], dict[str, float]]
    select: str
    draw_weights: np.ndarray | None = None


@dataclass
class Plan:
    """How a run goes. `settings` are the resolved flags, saved beside every checkpoint."""

    folder: Path
    settings: dict
    epochs: int
    batch_size: int
    accumulate: int
    clip_norm: float
    rate: Callable[[float, list[dict]], float]  # (epochs done, the history) -> learning rate
    seed: int
    workers: int
    draws: int = 0  # samples an epoch, drawn by the task's draw_weights; 0: every sample once
    save_minutes: float = 20.0
    mix: Mix | None = None
    ema: float = 0.0  # decay of the running mean of the weights; 0: none
    patience: int = 0  # epochs without a better one until the run stops; 0: never
    swa_start: int = 0  # the first epoch whose end joins the mean of the weights of swa.pth; 0: none
    held: Sequence[nn.Module] = ()  # layers that stay in evaluation mode, see `optimizers.batch_norms`
    skip_nonfinite: int = 0  # batches whose loss or gradients are not finite that a run may leave out


@dataclass
class Progress:
    """Where a run is: `epoch` is under way, `step` of its batches are done, `summed` of them had finite losses, whose
    sums by name are `sums`.
    """

    epoch: int = 1
    step: int = 0
    summed: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    skipped: int = 0  # batches of the whole run that were left out, see `_leave_out`
    history: list[dict] = field(default_factory=list)

    def best(self, select: str) -> int:
        """The epoch with the highest score, the first of equals; 0 when there is none yet."""
        return max(self.history, key=lambda row: row[select])["epoch"] if self.history else 0

    def ended(self, plan: Plan, select: str) -> bool:
        """Whether all epochs are done, or `patience` of them went by without a better one."""
        waited = self.epoch - 1 - self.best(select)
        return self.epoch > plan.epochs or bool(plan.patience and waited >= plan.patience)


class Run(NamedTuple):
    """A run in progress: `model` is wrapped for the device, `core` the same without the wrapping."""

    fabric: Fabric
    task: Task
    plan: Plan
    progress: Progress
    core: nn.Module
    model: nn.Module
    optimizer: Any
    ema: AveragedModel | None
    swa: AveragedModel | None

    @property
    def judged(self) -> nn.Module:
        """The model that is validated and saved for prediction: the mean of the weights where one is kept."""
        return self.ema.module if self.ema else self.core


def fit(
    fabric: Fabric, task: Task, optimizer: torch.optim.Optimizer, plan: Plan, say: Callable[[str], None]
) -> Progress:
    """Train until plan.epochs are done, from plan.folder/last.pth where there is one. Returns the final progress.

    The groups of `optimizer` have a further entry `scale`: their learning rate in parts of the plan's.
    Raises UserError on more losses and gradients that are not finite than plan.skip_nonfinite.
    """
    compiled = torch.compile(task.model) if plan.settings.get("compile") else task.model
    model, optimizer = fabric.setup(compiled, optimizer)
    ema = running_mean(task.model, plan.ema) if plan.ema else None
    swa = AveragedModel(task.model) if plan.swa_start else None
    run = Run(fabric, task, plan, Progress(), task.model, model, optimizer, ema, swa)
    run = run._replace(progress=_restore(run))
    while not run.progress.ended(plan, task.select):
        started = time.monotonic()
        _train_epoch(run)
        for model in dict.fromkeys([run.core, run.judged]):  # in the same order in all processes
            share_buffers(fabric, model)
        losses = {name: total / max(run.progress.summed, 1) for name, total in run.progress.sums.items()}
        with fabric.autocast():  # not the wrapped model: a process may have nothing to validate, and waits for none
            scores = task.validate(fabric, run.judged.eval())
        _end_epoch(run, losses, scores)
        text = epoch_text(run.progress.history[-1], task.select, run.progress.best(task.select))
        say(f"{text}  ({time.monotonic() - started:.0f} s)")
    if swa and swa.n_averaged and _average_of(plan.folder / "swa.pth") != run.progress.epoch - 1:
        _end_average(run, say)
    return run.progress


def _average_of(path: Path) -> int:
    """The last epoch in the mean of weights of a file; 0 where there is none."""
    return checkpoints.read(path, "--result_dir")["epoch"] if path.exists() else 0


def _end_average(run: Run, say: Callable[[str], None]) -> None:
    """Recompute the averaged network's running means, if any are not held, from the training samples, judge it and save
    it as swa.pth.
    """
    fabric, task, plan, last = run.fabric, run.task, run.plan, run.progress.epoch - 1
    with fabric.autocast():
        if not plan.held:
            order = epoch_order(len(task.train), plan.seed, last, task.draw_weights, plan.draws)
            batches = Batches(
                order, plan.batch_size, last, drop_last=True, rank=fabric.global_rank, world=fabric.world_size
            )
            data = fabric.setup_dataloaders(loader(task.train, batches, plan.workers), use_distributed_sampler=False)
            torch.manual_seed(plan.seed)  # of dropout before a norm: the same means however often it is made
            refresh(run.swa, tqdm(batches_of(data), "average", len(batches), leave=False))
            share_buffers(fabric, run.swa.module, mean=True)
        scores = task.validate(fabric, run.swa.module.eval())
    say(f"mean of {int(run.swa.n_averaged)} epochs' weights: {task.select} {scores[task.select]:.4f}, swa.pth")
    if fabric.global_rank == 0:
        state = {"model": run.swa.module.state_dict(), "settings": plan.settings, "epoch": last, "scores": scores}
        checkpoints.save(state, plan.folder / "swa.pth")


def _train_epoch(run: Run) -> None:
    """Train on what is left of the epoch."""
    fabric, plan, progress = run.fabric, run.plan, run.progress
    order = epoch_order(len(run.task.train), plan.seed, progress.epoch, run.task.draw_weights, plan.draws)
    batches = Batches(
        order, plan.batch_size, progress.epoch, progress.step, drop_last=True,
        rank=fabric.global_rank, world=fabric.world_size,
    )  # fmt: skip
    steps = progress.step + len(batches)
    data = loader(run.task.train, batches, plan.workers, fabric.device.type == "cuda")
    data = fabric.setup_dataloaders(data, use_distributed_sampler=False)
    run.model.train()
    for layer in plan.held:
        layer.eval()
    saved = time.monotonic()
    bar = tqdm(
        batches_of(data), f"train {plan.settings['out_dir']} epoch {progress.epoch}", steps, initial=progress.step,
        leave=False, disable=fabric.global_rank > 0,
    )  # fmt: skip
    for images, targets, _ in bar:
        stepped = _train_batch(run, images, targets, steps)
        due = time.monotonic() - saved > plan.save_minutes * 60
        if stepped and fabric.world_size > 1:  # clocks differ, and saving waits for all
            due = fabric.broadcast(due)
        if stepped and progress.step < steps and due:
            _save_state(run)
            saved = time.monotonic()
        bar.set_postfix(loss=f"{progress.sums.get('train_loss', 0) / max(progress.summed, 1):.4f}", refresh=False)


def _train_batch(run: Run, images: torch.Tensor, targets: Any, steps: int) -> bool:
    """One batch of an epoch of `steps`; whether the optimiser stepped."""
    fabric, plan, progress = run.fabric, run.plan, run.progress
    # Randomness depends on the position alone, so that a resumed run draws the same.
    generator = rng(plan.seed, "dropout", progress.epoch, progress.step, fabric.global_rank)
    torch.manual_seed(int(generator.integers(2**63)))
    if plan.mix:
        images, targets = plan.mix(images, targets, generator)
    stepped = progress.step + 1 == steps or (progress.step + 1) % plan.accumulate == 0
    # The norms' running means take in a batch before its loss is known.
    before = [buffer.clone() for buffer in run.core.buffers()] if plan.skip_nonfinite else []
    with fabric.no_backward_sync(run.model, enabled=not stepped):
        losses = run.model(images, targets)
        loss = sum(losses.values())
        finite = _is_finite(run, loss)
        if finite:
            fabric.backward(loss / plan.accumulate)
    if finite:
        progress.summed += 1
        parts = losses if len(losses) > 1 else {}
        for name, value in {"train_loss": loss, **{f"train_{name}": part for name, part in parts.items()}}.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + float(value.detach())
    else:
        _leave_out(run, f"the training loss is {loss.item()}")
        for buffer, value in zip(run.core.buffers(), before, strict=True):
            buffer.copy_(value)
    if stepped and not finite:  # the batch whose backward would have done it is left out
        share_gradients(fabric, run.core)
    if stepped:
        _step(run, progress.epoch - 1 + progress.step / steps)
    progress.step += 1
    return stepped


def _step(run: Run, done: float) -> None:
    """The optimiser's step, `done` epochs into the run; none when all its batches were left out or the gradients are
    not finite, of which a loss scale takes care itself.
    """
    weights = [weight for weight in run.core.parameters() if weight.grad is not None]
    if not weights:
        return
    rate = run.plan.rate(done, run.progress.history)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    # Not by Fabric's own method, which refuses the fused optimisers under a loss scale; torch's scaler takes them.
    scaler = getattr(run.fabric.strategy.precision, "scaler", None)
    if scaler and run.plan.clip_norm:
        scaler.unscale_(run.optimizer.optimizer)
    if not scaler or run.plan.clip_norm:
        norm = nn.utils.get_total_norm([weight.grad for weight in weights])
        if not scaler and not torch.isfinite(norm):
            run.optimizer.zero_grad()
            _leave_out(run, f"the norm of the gradients is {norm.item()}")
            return
        if run.plan.clip_norm:
            nn.utils.clip_grads_with_norm_(weights, run.plan.clip_norm, norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema:
        run.ema.update_parameters(run.core)


def _is_finite(run: Run, loss: torch.Tensor) -> bool:
    """Whether the loss is finite on every device."""
    finite = torch.isfinite(loss.detach()).float()
    if run.fabric.world_size > 1:
        finite = run.fabric.all_reduce(finite, reduce_op="sum") == run.fabric.world_size
    return bool(finite)


def _leave_out(run: Run, reason: str) -> None:
    """Count a batch that is not learned from; UserError when there were too many."""
    progress = run.progress
    progress.skipped += 1
    if progress.skipped > run.plan.skip_nonfinite:
        raise UserError(
            f"{reason} in epoch {progress.epoch}, batch {progress.step + 1}, the {progress.skipped}. time in this run "
            f"(--skip_nonfinite {run.plan.skip_nonfinite}): a lower --lr, --mixed_precision 0 or a smaller --clipnorm "
            "may help, with another --out_dir, from one of the checkpoints so far with --resume FILE --preload self"
        )


def _end_epoch(run: Run, losses: dict[str, float], scores: dict[str, float]) -> None:
    """Advance the progress past the epoch, and write the checkpoints, the log and the picture."""
    plan, progress = run.plan, run.progress
    if run.swa and progress.epoch >= plan.swa_start:
        run.swa.update_parameters(run.core)
    lr = plan.rate(progress.epoch - 1, progress.history)
    row = {"epoch": progress.epoch, "lr": lr, **losses, "skipped": progress.skipped, **scores}
    progress.history.append(row)
    progress.epoch, progress.step, progress.summed, progress.sums = progress.epoch + 1, 0, 0, {}
    if run.fabric.global_rank == 0:
        weights = {
            "model": run.judged.state_dict(), "settings": plan.settings, "epoch": row["epoch"], "scores": row,
        }  # fmt: skip
        checkpoints.save(weights, plan.folder / f"{checkpoints.epoch_name(row['epoch'])}.pth")
        if progress.best(run.task.select) == row["epoch"]:
            checkpoints.save(weights, plan.folder / "best.pth")
        write_log(progress.history, plan.folder / "log.csv")
        draw_curves(progress.history, run.task.select, plan.folder / "curves.png")
    # Written last: until it is there, a resumed run repeats the epoch's end, to the same files.
    _save_state(run)


def _save_state(run: Run) -> None:
    if run.fabric.global_rank == 0:
        state = {
            "model": run.core.state_dict(),
            "ema": run.ema.state_dict() if run.ema else None,
            "swa": run.swa.state_dict() if run.swa else None,
            "optimizer": run.optimizer.optimizer.state_dict(),
            "precision": run.fabric.strategy.precision.state_dict(),
            "settings": run.plan.settings,
            "epoch": run.progress.epoch,
            "progress": vars(run.progress),
            "processes": run.fabric.world_size,
        }
        checkpoints.save(state, run.plan.folder / "last.pth")
    run.fabric.barrier()


def _restore(run: Run) -> Progress:
    path = run.plan.folder / "last.pth"
    if not path.exists():
        return Progress()
    state = checkpoints.read(path, "--resume")
    samples = state["settings"].get(SAMPLES)
    if samples and samples != run.plan.settings.get(SAMPLES):
        raise UserError(f"{path} is of a run on other samples: the cells or images that it learns from have changed "
            "since; choose another --out_dir or remove it")  # fmt: skip
    processes = state.get("processes", run.fabric.world_size)
    if state["progress"]["step"] and processes != run.fabric.world_size:
        raise UserError(f"{path} is of the middle of an epoch, of which {processes} processes (GPUs) did their shares: "
            f"until its end --gpu_id with as many is right, not {run.fabric.world_size}")  # fmt: skip
    checkpoints.load_model(run.core, state, path, "--resume")
    if run.ema:
        run.ema.load_state_dict(state["ema"])
    if run.swa:
        run.swa.load_state_dict(state["swa"])
    for before, group in zip(state["optimizer"]["param_groups"], run.optimizer.param_groups, strict=True):
        if "fused" in group:  # the flag may change
            before["fused"] = group["fused"]
    run.optimizer.optimizer.load_state_dict(state["optimizer"])
    if state["precision"] and not run.plan.settings.get("resetscale"):  # a run on a CPU has no scale
        run.fabric.strategy.precision.load_state_dict(state["precision"])
    return Progress(**state["progress"])
