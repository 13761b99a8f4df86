"""Train a network of one number in several processes on the CPU and predict with it: `small_processes.py COUNT FOLDER`.

Started by test_processes.py; Lightning starts the other processes by running the same command again.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.predict import predict_views
from engine.processes import gather, share_buffers, share_gradients
from engine.train import Plan, Task, fit


class Weight(nn.Module):
    """The loss is weight^2 x the sample's number / 2: a step depends on those before it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight**2 * images).mean() / 2}


class Numbers(torch.utils.data.Dataset):
    """The samples 1 to 12; `read` are those that this process read."""

    def __init__(self):
        self.read = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, item: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        self.read.append(item[1])
        return torch.tensor(item[1] + 1.0), torch.zeros(1), item[1]


class Broken(Numbers):
    """One of the numbers is none: its batch is left out by all processes, wherever it stands in a group of batches."""

    def __getitem__(self, item: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        number, target, index = super().__getitem__(item)
        return number * (torch.nan if index == 5 else 1), target, index


class Judge(nn.Module):
    """Its batch norm is what wrapped models wait for one another with."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probs": self.norm(images[:, None])}


class Few(Numbers):
    """Fewer than a part: there is none for a second process."""

    rows = keys = ("0", "1", "2")
    identity = ()

    def __len__(self) -> int:
        return 3


def shared(fabric: Fabric) -> list[float]:
    """A gradient of 1, 2, ... and a buffer of 0, 1, ... in each process: the mean, the first one's, the mean."""
    model = Judge()
    model.norm.weight.grad = torch.tensor([fabric.global_rank + 1.0])
    share_gradients(fabric, model)
    values = [model.norm.weight.grad.item()]
    for mean in (False, True):
        model.norm.running_mean.fill_(fabric.global_rank)
        share_buffers(fabric, model, mean)
        values.append(model.norm.running_mean.item())
    return values


def main(count: int, folder: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=count, strategy="ddp" if count > 1 else "auto")
    fabric.launch()
    model, samples = Weight(), Numbers()
    optimizer = torch.optim.SGD([{"params": [model.weight], "scale": 1.0}], lr=0.1)
    seen = []

    def validate(fabric: Fabric, net: nn.Module) -> dict[str, float]:
        seen.append(sorted(gather(fabric, list(range(fabric.global_rank, 5, fabric.world_size)))))
        return {"score": 0.5}

    plan = Plan(
        folder=folder, settings={"out_dir": "run"}, epochs=2, batch_size=4 // count, accumulate=2, clip_norm=3.0,
        seed=1, workers=0, rate=lambda done, history: 0.1, ema=0.5,
    )  # fmt: skip
    fit(fabric, Task(model, samples, validate, "score"), optimizer, plan, lambda text: None)
    file = folder / "prob_test.npz"
    predict_views(fabric, Judge(), Few(), {"default": file}, "one part", 2, 0, "predict")
    found = {"weight": model.weight.item(), "read": samples.read, "seen": list(seen), "shared": shared(fabric)}
    model = Weight()
    optimizer = torch.optim.SGD([{"params": [model.weight], "scale": 1.0}], lr=0.1)
    own = {"folder": folder / "broken", "epochs": 6, "skip_nonfinite": 6, "save_minutes": 0.0, "clip_norm": 0.0}
    fit(fabric, Task(model, Broken(), validate, "score"), optimizer, replace(plan, **own), lambda text: None)
    found["without"] = model.weight.item()
    (folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
