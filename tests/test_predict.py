"""test.py through its command line: views, seeds, determinism, going on, refusals."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import make_small_data, predict_flags, train_flags

import test as predict
import train
from augment.views import VIEWS
from cells.store import Store, write_shard
from common.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = make_small_data(tmp_path_factory.mktemp("trained"))
    train.main(train_flags(folder))
    return folder


@pytest.fixture
def out(trained):
    """The folder of raw predictions, empty at the start of each test."""
    folder = trained / "results" / "submissions" / "run" / "fold0" / "epoch_002"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return folder


def load(path: Path) -> tuple[list, np.ndarray]:
    with np.load(path, allow_pickle=False) as saved:
        return saved["ids"].tolist(), saved["probs"]


def test_all_views_from_one_reading(trained, out, monkeypatch):
    reads = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, *args, **more: reads.append(args) or read(self, *args, **more))
    predict.main(predict_flags(trained, "--augment", "all", "--seed", "1"))
    assert len(reads) == 36  # 12 images x 3 cells, for eight views
    results = {view: load(out / f"{view}_seed1" / "prob_test.npz") for view in VIEWS}
    for ids, probs in results.values():
        assert ids == [f"test_image{image:02d}+{cell}" for image in range(12) for cell in (1, 2, 3)]
        assert probs.shape == (36, 19) and probs.dtype == np.float32
    assert len({probs.tobytes() for _, probs in results.values()}) == 8
    assert not list(out.glob(".parts*"))


@pytest.mark.parametrize("more", [["--batch_size", "5"], ["--workers", "2"]])
def test_batch_size_and_workers_change_nothing(trained, out, more):
    file = out / "fliplr_seed3" / "prob_test.npz"
    predict.main(predict_flags(trained, "--augment", "fliplr", "--seed", "3"))
    expected = load(file)[1]
    file.unlink()
    predict.main(predict_flags(trained, "--augment", "fliplr", "--seed", "3", *more))
    np.testing.assert_allclose(load(file)[1], expected, atol=1e-5)


def test_seeds_are_different_crops_and_0_is_the_whole(trained, out):
    predict.main(predict_flags(trained, "--seeds", "0,1,2"))
    zero, one, two = (load(out / f"default_seed{seed}" / "prob_test.npz")[1] for seed in range(3))
    assert not np.allclose(zero, one) and not np.allclose(one, two)


def test_an_interrupted_run_goes_on(trained, out, monkeypatch):
    flags = predict_flags(trained, "--augment", "default,flipud", "--batch_size", "1")
    predict.main(flags)
    files = [out / f"{view}_seed0" / "prob_test.npz" for view in ("default", "flipud")]
    expected = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()

    import engine.predict

    forward, calls = engine.predict._probs, itertools.count(1)

    def stop(*args):
        if next(calls) == 50:  # in the second of three parts of 16 cells x 2 views
            raise KeyboardInterrupt
        return forward(*args)

    with monkeypatch.context() as patch:
        patch.setattr("engine.predict._probs", stop)
        with pytest.raises(KeyboardInterrupt):
            predict.main(flags)
    assert not any(path.exists() for path in files)

    rest = []
    with monkeypatch.context() as patch:
        patch.setattr("engine.predict._probs", lambda *args: rest.append(1) or forward(*args))
        predict.main(flags)
    assert len(rest) == 2 * (36 - 16)
    assert [path.read_bytes() for path in files] == expected


def test_what_is_there_is_not_made_again(trained, out, monkeypatch):
    predict.main(predict_flags(trained))
    monkeypatch.setattr("engine.predict._probs", lambda *args: pytest.fail("predicted again"))
    predict.main(predict_flags(trained))


def test_predictions_of_other_weights_are_made_again(trained, out):
    predict.main(predict_flags(trained, "--predict_epoch", "2"))
    file = out / "default_seed0" / "prob_test.npz"
    before = load(file)[1]
    with np.load(file) as saved:
        made_by = int(saved["made_by"])
    file.write_bytes(b"damaged")
    predict.main(predict_flags(trained))
    assert np.array_equal(load(file)[1], before)
    np.savez(file, ids=np.array(["x"]), probs=np.zeros((1, 19), np.float32), made_by=made_by + 1)
    predict.main(predict_flags(trained))
    assert np.array_equal(load(file)[1], before)


def test_predictions_of_changed_crops_are_made_again(trained, out):
    predict.main(predict_flags(trained))
    file = out / "default_seed0" / "prob_test.npz"
    shard = trained / "crops" / "test" / "test_image03.zip"
    ids, before = load(file)
    content, made = shard.read_bytes(), file.stat().st_mtime_ns
    shard.write_bytes(content)  # newer, but the same
    predict.main(predict_flags(trained))
    assert file.stat().st_mtime_ns == made
    store = Store(shard.parent)
    write_shard(shard, {cell: 255 - store.read("test_image03", cell) for cell in store.cells("test_image03")})
    predict.main(predict_flags(trained))
    changed = [key for key, first, second in zip(ids, before, load(file)[1], strict=True) if (first != second).any()]
    assert changed == ["test_image03+1", "test_image03+2", "test_image03+3"]
    shard.write_bytes(content)


def test_out_of_fold(trained, out):
    predict.main(predict_flags(trained, "--dataset", "valid"))
    ids, _ = load(out / "default_seed0" / "prob_valid.npz")
    assert {key.split("+")[0] for key in ids} == {"image00", "image04", "image08"}


def test_no_validation_by_another_split(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "data")
    weights = folder / "results" / "models" / "run" / "fold0" / "002.pth"
    other = predict_flags(folder, "--dataset", "valid", "--network_path", str(weights), "--fold", "1")
    with pytest.raises(UserError, match="--fold 1: the network was trained on this fold's images; its own is 0"):
        predict.main(other)
    path = folder / "cv_folds" / "random_folds4" / "images.csv"
    table = pd.read_csv(path)
    table.assign(Fold=(table["Fold"] + 1) % 4).to_csv(path, index=False)
    with pytest.raises(UserError, match="images.csv is not the split that the network was trained with"):
        predict.main(predict_flags(folder, "--dataset", "valid"))


CHANGES = {
    "flipud": lambda image: image[::-1],
    "fliplr": lambda image: image[:, ::-1],
    "transpose": lambda image: image.swapaxes(0, 1),
    "flipud_transpose": lambda image: image[::-1].swapaxes(0, 1),
    "fliplr_transpose": lambda image: image[:, ::-1].swapaxes(0, 1),
    "--BGR": lambda image: image[..., [2, 1, 0, 3]],
}


@pytest.mark.parametrize("name", CHANGES)
def test_views_and_bgr_are_what_they_are_called(trained, out, name):
    """What a view says of a crop is what the default says of the changed crop."""
    exact = ["--img_size", "48", "--crop_size", "48"]  # as the crops are, as rounding knows no symmetry
    more = [name, "1"] if name == "--BGR" else ["--augment", name]
    predict.main(predict_flags(trained, *exact, *more))
    view = "default" if name == "--BGR" else name
    ids, seen = load(out / f"{view}_seed0" / "prob_test.npz")
    shard = next((trained / "crops" / "test").glob("*image03*"))
    content, store = shard.read_bytes(), Store(shard.parent)
    crops = {cell: store.read("test_image03", cell) for cell in store.cells("test_image03")}
    write_shard(shard, {cell: np.ascontiguousarray(CHANGES[name](crop)) for cell, crop in crops.items()})
    predict.main(predict_flags(trained, *exact))
    shard.write_bytes(content)
    changed = load(out / "default_seed0" / "prob_test.npz")[1]
    rows = [row for row, key in enumerate(ids) if key.startswith("test_image03+")]
    others = [row for row in range(len(ids)) if row not in rows]
    assert len(rows) == 3 and not np.allclose(changed[others], seen[others], atol=1e-4)
    np.testing.assert_allclose(changed[rows], seen[rows], atol=1e-5)


def test_best_epoch_and_network_path(trained, out):
    predict.main(predict_flags(trained, "--predict_epoch", "best"))
    assert (out.parent / "epoch_best" / "default_seed0" / "prob_test.npz").exists()
    path = trained / "results" / "models" / "run" / "fold0" / "002.pth"
    predict.main(predict_flags(trained, "--network_path", str(path)))
    assert (out / "default_seed0" / "prob_test.npz").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment", "rot90"], "--augment rot90 is not known"),
        (["--seeds", "1,x"], "--seeds 1,x must be whole numbers"),
        (["--predict_epoch", "9"], "--predict_epoch does not exist: .*009.pth"),
        (["--predict_epoch", "first"], "--predict_epoch first must be"),
        (["--fold", "3"], "--predict_epoch does not exist: .*fold3"),
        (["--arch", "resnet18"], "--arch resnet18: .*002.pth was trained with --arch test_resnet"),
        (["--num_classes", "28"], "--num_classes 28: .* was trained with --num_classes 19"),
        (["--dataset", "private"], "--dataset does not exist"),
        (["--network_path", "none.pth"], "--network_path does not exist: none.pth"),
        (["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["--workers", "-1"], "--workers -1 must be at least 0"),
        (["--crop_size", "0"], "--crop_size 0 must be at least 1"),
        (["--img_size", "0"], "--img_size 0 must be at least 1"),
    ],
)
def test_bad_flags(trained, flags, message):
    with pytest.raises(UserError, match=message):
        predict.main(predict_flags(trained, *flags))


def test_a_damaged_crop_is_named(trained, out, tmp_path):
    folder = make_small_data(tmp_path)
    shard = folder / "crops" / "test" / "test_image03.zip"
    shard.write_bytes(shard.read_bytes()[:200])
    flags = [*predict_flags(trained), "--img_dir", str(folder / "crops")]
    with pytest.raises(UserError, match="test_image03"):
        predict.main(flags)
