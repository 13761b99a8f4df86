"""On a CUDA device: mixed precision learns, goes on with its loss scale, and predicts what the CPU does."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import make_small_data, predict_flags, train_flags

import test as predict
import train
from engine import checkpoints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = ["--gpu_id", "0"]


@pytest.mark.parametrize("more", [[], ["--fused", "1"], ["--mixed_precision", "0"], ["--ema", "0.5"]])
def test_training_on_a_gpu_goes_on(more, tmp_path):
    data = make_small_data(tmp_path)
    train.main([*train_flags(data), *GPU, *more, "--clipnorm", "1", "--epochs", "1"])
    folder = data / "results" / "models" / "run" / "fold0"
    scale = checkpoints.read(folder / "last.pth", "")["precision"]
    assert bool(scale) == ("--mixed_precision" not in more)
    train.main([*train_flags(data), *GPU, *more, "--clipnorm", "1"])
    log = pd.read_csv(folder / "log.csv")
    assert log["epoch"].tolist() == [1, 2] and np.isfinite(log["train_loss"]).all()


def test_both_devices_predict_alike(tmp_path):
    data = make_small_data(tmp_path)
    train.main([*train_flags(data), *GPU])
    file = data / "results" / "submissions" / "run" / "fold0" / "epoch_002" / "default_seed0" / "prob_test.npz"

    def predicted(device: str) -> np.ndarray:
        file.unlink(missing_ok=True)
        predict.main([*predict_flags(data), "--gpu_id", device])
        with np.load(file) as saved:
            return saved["probs"]

    np.testing.assert_allclose(predicted("0"), predicted("cpu"), atol=0.01)
