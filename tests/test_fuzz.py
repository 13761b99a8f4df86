"""Damaged files: each reader says so in one sentence, or gives what was there; none hangs, crashes or makes things up.

PODIUM_FUZZ=5000 is the number of cases a reader; without it some hundred. What a checksum covers must come back as it
was or be refused; elsewhere (a digit in a CSV, a pixel of a JPEG) a result must still be of the right type and range.
"""

import gzip
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from small_data import picture

import competitions
import convertpredictions
import ensemble
import findduplicates
import synthesize
from cells import rle
from cells.groups import read_groups
from cells.images import read_rgb, read_size
from cells.masks import decode_mask, decode_rles, encode_mask
from cells.store import Store, read_image_png, write_image_png, write_shard
from cells.table import read_cells, read_probabilities, read_table, write_table
from cells.triples import format_triples, parse_triples, read_rows, write_rows
from common.errors import UserError
from common.fetch import FetchError, gunzip
from common.foreign import read_state
from common.seeds import rng
from competitions import cytologia, hpa, hpa_external, neurons, pannuke_files, riva
from engine import checkpoints, image_cells, nuclei, predict
from engine.settings import claim_folder
from engine.targets import read_mask
from models.weights import read_weights
from pictures.curves import read_log

CASES = int(os.environ.get("PODIUM_FUZZ", 100))
LONGEST = 10  # seconds of CPU a case: on a busy machine the clock says nothing
MEMORY = 3 << 30  # bytes that a case may take beyond what is taken
CLASSES = ("A", "B")
IDS = ["a", "b", "ü 日"]


class Reader(NamedTuple):
    """A file, as bytes, what reads it, and what is right: by default exactly what the whole file gives."""

    name: str  # of the file
    data: bytes
    read: Callable[[Path], Any]
    valid: Callable[[Any, Any], bool] | None = None
    errors: tuple[type[Exception], ...] = (UserError,)


def saved(write: Callable[[Path], None], name: str, folder: Path) -> bytes:
    write(folder / name)
    return (folder / name).read_bytes()


def csv(columns: dict[str, list]) -> bytes:
    return pd.DataFrame(columns).to_csv(index=False).encode()


def png(array: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


def grey() -> np.ndarray:
    return rng(1, "grey").integers(0, 255, (24, 20), dtype=np.uint8)


def labels() -> np.ndarray:
    image = np.zeros((24, 24), np.uint16)
    image[2:9, 3:12], image[12:20, 5:22] = 1, 2
    return image


def state() -> dict:
    return {
        "model": {f"layer{number}.weight": torch.arange(300.0) * number for number in range(3)},
        "settings": {"arch": "test_resnet", "lr": 0.1}, "epoch": 3, "scores": {"mAP": 0.5},
    }  # fmt: skip


def channel_of_four(path: Path) -> np.ndarray:
    for name in hpa.CHANNELS[1:]:
        pixels = grey() if path.parent.name == "8" else grey().astype(np.uint16) * 257
        path.with_name(f"x_{name}.png").write_bytes(png(pixels))
    return hpa.read_image(path.parent, "x")


def every_crop(path: Path) -> list:
    store = Store(path.parent)
    return [(cell, store.read("x", cell, raw=True)) for cell in store.cells("x")]


def nucleus_labels(path: Path) -> np.ndarray:
    nuclei.read_labels.cache_clear()
    return nuclei.read_labels(path, 0)


def fold_arrays(path: Path) -> tuple:
    pannuke_files.open_folds.cache_clear()
    read = pannuke_files.read_image(path.parents[1], "fold1_00001")
    masks = pannuke_files.read_masks(path.parents[1], "fold1_00001", CLASSES)
    return read, masks, pannuke_files.read_metadata(path.parents[1])


def pannuke_fold(path: Path) -> None:
    """The arrays beside the one at `path`."""
    for name, array in arrays().items():
        if not path.with_name(name).exists():
            np.save(path.with_name(name), array)


def arrays() -> dict[str, np.ndarray]:
    masks = np.zeros((2, 16, 16, 3), np.int32)
    masks[:, 3:7, 3:9, 0] = 1
    masks[..., 2] = masks[..., 0] == 0
    images = rng(3, "arrays").integers(0, 255, (2, 16, 16, 3)).astype(np.uint8)
    return {"images.npy": images, "masks.npy": masks, "types.npy": np.array(["Breast", "Liver"])}


def with_fold(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def own(path: Path) -> Any:
        pannuke_fold(path)
        return read(path)

    return own


def triples(path: Path) -> list:
    return [(row.id, row.width, *map(list, parse_triples(row.text, 2, row.where))) for row in read_rows(path)]


def neurons_cells(path: Path) -> pd.DataFrame:
    return neurons.read_cells(path, classes=CLASSES)


def opinions(path: Path) -> list:
    write_table(probabilities(), path.with_name("p.csv"))
    return [(own.kind, own.weights) for own in ensemble.read_opinions(path, path.parent, CLASSES)]


def probabilities() -> pd.DataFrame:
    return pd.DataFrame({"ImageID": IDS, "CellID": [1, 2, 3], "A": [0.25, 0.5, 1.0], "B": [0.0, 0.125, 0.75]})


def cells() -> pd.DataFrame:
    mask = encode_mask(labels() == 1)
    return pd.DataFrame(
        {
            "Image": [f"{name}+1" for name in IDS], "ImageID": IDS, "CellID": 1, "ImageWidth": 24, "ImageHeight": 24,
            "PredictionString": mask, "x1": 3, "y1": 2, "x2": 12, "y2": 9, "score": 0.5, "keep": 1,
        }
    )  # fmt: skip


def claimed(path: Path) -> bool:
    path.with_name("001.pth").touch()
    claim_folder(path.parent, {"lr": 0.1, "loss": "BCE"}, {})
    return True


def drawn(path: Path) -> bool:
    synthesize.claim_folder(path.parent, {"competition": "hpa", "seed": 1}, overwrite=False)
    return True


def numbers(table: pd.DataFrame, *columns: str) -> bool:
    return bool(np.isfinite(table[list(columns)].to_numpy(float)).all())


def is_cells(table: pd.DataFrame, _: Any) -> bool:
    own = ["CellID", "ImageWidth", "ImageHeight", "x1", "y1", "x2", "y2"]
    return numbers(table, *own) and not table.duplicated(["ImageID", "CellID"]).any()


def are_probabilities(table: pd.DataFrame, _: Any) -> bool:
    return bool(table[list(CLASSES)].ge(0).all(axis=None) and table[list(CLASSES)].le(1).all(axis=None))


def are_labels(limit: int) -> Callable[[pd.DataFrame, Any], bool]:
    def valid(table: pd.DataFrame, _: Any) -> bool:
        parts = [part for text in table["Label"] for part in text.split("|") if part]
        return table["ID"].is_unique and all(int(part) < limit for part in parts)

    return valid


def an_image(image: np.ndarray, _: Any) -> bool:
    return image.ndim == 3 and image.shape[2] == 3 and image.dtype in (np.uint8, np.uint16)


def anything(result: Any, _: Any) -> bool:
    return True


def readers(folder: Path) -> dict[str, Reader]:
    """All readers of the repository; `folder` to write the whole files to."""
    crops = {1: picture(100, 1), 2: picture(200, 2).astype(np.uint16) * 256}
    box = {"x1": [1.0, 2.5], "y1": [1.0, 2.0], "x2": [9.0, 8.0], "y2": [7.0, 9.5]}
    runs = [rle.encode(labels() == cell) for cell in (1, 2)]
    weights = {name: [1.0, 0.5] for name in CLASSES}
    fold = "fold1/"
    np.savez(folder / "p.npz", ids=np.array(IDS), probs=probabilities()[list(CLASSES)].to_numpy(np.float32), made_by=77)
    np.savez(folder / "m.npz", masks=arrays()["masks.npy"][0])
    torch.save(state(), folder / "old.pth", _use_new_zipfile_serialization=False)
    rows = [(name, 24, 24, format_triples([encode_mask(labels() == 1)], np.array([[0.5, 0.25]]))) for name in IDS]
    return {
        "hpa channel": Reader("8/x_red.png", png(grey()), channel_of_four),
        "hpa channel, 16 bits": Reader("x_red.png", png(grey().astype(np.uint16) * 257), channel_of_four),
        "colour PNG": Reader("x.png", png(picture(90, 5)[..., :3]), read_rgb),
        "JPEG": Reader("x.jpg", png(picture(90, 5)[..., :3], ".jpg"), read_rgb, an_image),
        "TIFF": Reader("x.tif", png(picture(90, 5)[..., :3], ".tif"), read_rgb, an_image),
        "size of a PNG": Reader("x.png", png(grey()), read_size, lambda size, _: min(size) > 0),
        "size of a JPEG": Reader("x.jpg", png(grey(), ".jpg"), read_size, lambda size, _: min(size) > 0),
        "resized image": Reader(
            "x.png", saved(lambda path: write_image_png(path, picture(9, 9)), "i.png", folder), read_image_png
        ),
        "crop store": Reader("x.zip", saved(lambda path: write_shard(path, crops), "c.zip", folder), every_crop),
        "label image": Reader(
            "x.cells.png", png(labels()), lambda path: image_cells.read_labels([path.parent], "x", np.array([1, 2]))
        ),
        "nuclei": Reader("x.nuclei.png", png(labels()), nucleus_labels),
        "kept cells": Reader(
            "x.csv", b"# mark\n" + cells().assign(CellID=[1, 2, 3]).to_csv(index=False).encode(),
            lambda path: image_cells.kept_cells([path.parent], "x"), lambda found, _: found.dtype.kind == "i",
        ),
        "raw predictions": Reader(
            "p.npz", (folder / "p.npz").read_bytes(), lambda path: convertpredictions.load(path, 2, False)
        ),
        "who made predictions": Reader(
            "p.npz", (folder / "p.npz").read_bytes(), predict._made_by, lambda found, whole: found in (None, whole)
        ),
        "pannuke masks": Reader(
            "masks/x.npz", (folder / "m.npz").read_bytes(),
            lambda path: pannuke_files.read_masks(path.parents[1], "x", CLASSES),
        ),
        **{
            f"pannuke {name}": Reader(f"{fold}{name}", saved(lambda path, own=array: np.save(path, own), name, folder),
                                      with_fold(fold_arrays), anything)
            for name, array in arrays().items()
        },
        "checkpoint": Reader(
            "x.pth", saved(lambda path: checkpoints.save(state(), path), "w.pth", folder),
            lambda path: checkpoints.read(path, "--resume"),
        ),
        "weights": Reader(
            "x.pth", saved(lambda path: torch.save(state()["model"], path), "s.pth", folder),
            lambda path: read_weights(path, "--pretrained"),
        ),
        "foreign weights": Reader(
            "x.pth", saved(lambda path: torch.save(state(), path), "f.pth", folder),
            lambda path: read_state(path, "--nuc_model"),
        ),
        "foreign weights, older form": Reader(
            "x.pth", (folder / "old.pth").read_bytes(), lambda path: read_state(path, "--nuc_model"),
            lambda found, _: all(isinstance(value, torch.Tensor) for value in found.values()),
        ),
        "cells table": Reader("x.csv", cells().to_csv(index=False).encode(), read_cells, is_cells),
        "cells table, Parquet": Reader(
            "x.parquet", saved(lambda path: write_table(cells(), path), "c.parquet", folder), read_cells
        ),
        "probabilities": Reader(
            "x.csv", probabilities().to_csv(index=False).encode(), lambda path: read_probabilities(path, CLASSES),
            are_probabilities,
        ),
        "any table": Reader(
            "x.csv", csv({"ID": IDS, "Number": [1, 2, 3], "Part": [0.5, 1.5, -2.0]}),
            lambda path: read_table(path, {"ID": str, "Number": int, "Part": float}, key=["ID"]),
            lambda table, _: numbers(table, "Number", "Part"),
        ),
        "hpa train.csv": Reader(
            "x.csv", csv({"ID": IDS, "Label": ["0", "5|16", "18"]}), hpa.read_metadata, are_labels(19)
        ),
        "hpa sample": Reader(
            "x.csv", csv({"ID": IDS, "ImageWidth": 9, "ImageHeight": 8, "PredictionString": "0 1 eNo="}),
            hpa.read_metadata, anything,
        ),
        "submission": Reader("x.csv", saved(lambda path: write_rows(path, rows), "t.csv", folder), triples, anything),
        "riva annotations": Reader(
            "x.csv", csv({"image_filename": ["a.png", "b.png"], "x": [50.0, 60.5], "y": [50, 70], "width": 100,
                          "height": 100, "class_name": ["NILM", "SCC"], "class": [0, 7]}),
            riva.read_metadata, are_labels(8),
        ),
        "cytologia train.csv": Reader(
            "x.csv", csv({"NAME": ["a.png", "b.png"], **box, "class": ["PNN", "SS"]}), cytologia.read_metadata,
            are_labels(23),
        ),
        "cytologia test.csv": Reader(
            "x.csv", csv({"trustii_id": ["1", "2"], "NAME": ["a.png", "a.png"]}), cytologia.read_metadata,
            lambda table, _: table["Count"].sum() > 0,
        ),
        "neurons train.csv": Reader(
            "x.csv", csv({"id": ["a", "a"], "annotation": runs, "width": 24, "height": 24, "cell_type": "A"}),
            neurons_cells, is_cells,
        ),
        "external table": Reader(
            "x.csv", csv({"Image": ["https://h/1/2_A1_1"], "Label": ["Nucleoplasm"], "Cellline": ["U"],
                          "in_trainset": ["False"], "Label_idx": ["0"]}),
            hpa_external.read_external, anything,
        ),
        "groups": Reader(
            "x.csv", csv({"ID": IDS, "Cluster": [0, 0, 1], "Keep": [1, 0, 1]}),
            lambda path: read_groups(path, keep=True), lambda table, _: table["Keep"].isin([0, 1]).all(),
        ),
        "label mask": Reader(
            "x.csv", csv({"ID": IDS, "A": [1, 0, 1], "B": 1}), lambda path: read_mask(path, CLASSES), anything
        ),
        "ensemble CSV": Reader(
            "x.csv", csv({"Predictions": "p.csv", "Type": ["cell", "bag"], **weights}), opinions,
            lambda found, _: all(np.isfinite(own).all() and (own >= 0).all() for _, own in found),
        ),
        "hashes": Reader(
            "x.csv", b'\n"a",12:34,0123456789abcdef\n"b",12:35,0123456789abcdef', findduplicates.read_log, anything
        ),
        "training log": Reader(
            "log.csv", csv({"epoch": [1, 2], "train_loss": [0.5, 0.25], "mAP": [0.1, 0.2]}), read_log,
            lambda log, _: numbers(log, "epoch", "train_loss"),
        ),
        "settings of a run": Reader("settings.json", json.dumps({"lr": 0.1, "loss": "BCE"}).encode(), claimed),
        "settings of made-up data": Reader(
            "settings.json", json.dumps({"competition": "hpa", "seed": 1}, indent=2).encode(), drawn
        ),
        "class names": Reader(
            "x.txt", "Zelle\nKern ü\n".encode(), lambda path: competitions.parse_classes(str(path)),
            lambda names, _: len(set(names)) == len(names) > 0,
        ),
        "gzip": Reader(
            "x.gz", gzip.compress(b"pixels" * 99), lambda path: gunzip(path.read_bytes()), errors=(FetchError,)
        ),
    }  # fmt: skip


def damage(data: bytes, generator: np.random.Generator) -> bytes:
    """The file cut off, with bits flipped, bytes lost, doubled or overwritten."""
    kind, spot = generator.integers(9), int(generator.integers(len(data)))
    end = min(len(data), spot + 1 + int(generator.integers(40)))
    changed = bytearray(data)
    if kind == 0:
        return data[:spot]
    if kind == 1:
        return data[:spot] + data[end:]
    if kind == 2:
        return data[:end] + data[spot:]
    if kind == 3:
        changed[spot:end] = bytes(end - spot)
    elif kind == 4:
        changed[spot : spot + 4] = b"\xff\xff\xff\x7f"[: len(data) - spot]  # a lying number
    elif kind == 5:
        changed[spot:end] = generator.bytes(end - spot)
    else:
        for place in generator.integers(len(data), size=1 if kind < 8 else 8):
            changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def same(found: Any, whole: Any) -> bool:
    """Whether two results are equal, arrays and tables too."""
    if isinstance(whole, pd.DataFrame):
        return found.equals(whole)
    if isinstance(whole, (np.ndarray, torch.Tensor)):
        return np.array_equal(found, whole) and found.dtype == whole.dtype
    if isinstance(whole, (list, tuple)):
        return len(found) == len(whole) and all(map(same, found, whole))
    if isinstance(whole, dict):
        return found.keys() == whole.keys() and all(same(found[name], whole[name]) for name in whole)
    return found == whole


@pytest.fixture
def bounds() -> Iterator[None]:
    """No case may take more memory than MEMORY, or more than LONGEST (see `outcome`)."""

    def too_long(*_) -> None:
        raise TimeoutError

    before, limits = signal.signal(signal.SIGPROF, too_long), resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.signal(signal.SIGPROF, before)


def outcome(reader: Reader, path: Path, whole: Any) -> str | None:
    """What is wrong with how a damaged file is read; None where nothing is."""
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        found = reader.read(path)
    except reader.errors as error:
        return None if str(error) and "\n" not in str(error).strip() else f"not one sentence: {error}"
    except BaseException as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None if (reader.valid or same)(found, whole) else f"taken for right: {str(found)[:200]}"


@pytest.mark.parametrize("name", [
    "hpa channel", "hpa channel, 16 bits", "colour PNG", "JPEG", "TIFF", "size of a PNG", "size of a JPEG",
    "resized image", "crop store", "label image", "nuclei", "kept cells", "raw predictions", "who made predictions",
    "pannuke masks", "pannuke images.npy", "pannuke masks.npy", "pannuke types.npy", "checkpoint", "weights",
    "foreign weights", "foreign weights, older form", "cells table", "cells table, Parquet", "probabilities",
    "any table", "hpa train.csv", "hpa sample", "submission", "riva annotations", "cytologia train.csv",
    "cytologia test.csv", "neurons train.csv", "external table", "groups", "label mask", "ensemble CSV", "hashes",
    "training log", "settings of a run", "settings of made-up data", "class names", "gzip",
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_damaged_files(tmp_path: Path, bounds, capfd, name: str) -> None:
    reader = readers(tmp_path)[name]
    path = tmp_path / "damaged" / reader.name
    path.parent.mkdir(parents=True)
    path.write_bytes(reader.data)
    whole = reader.read(path)
    assert (reader.valid or same)(whole, whole)
    wrong = []
    for case in range(CASES):
        path.write_bytes(damage(reader.data, rng(case, name)))
        fault = outcome(reader, path, whole)
        wrong += [f"case {case}: {fault}"] if fault else []
    assert not wrong, f"{len(wrong)} of {CASES}\n" + "\n".join(wrong[:8])


@pytest.mark.parametrize("kind", ["mask text", "run lengths"])
def test_damaged_texts(kind: str) -> None:
    mask = rng(4, "mask").random((30, 20)) < 0.4
    text = encode_mask(mask) if kind == "mask text" else rle.encode(mask)
    for case in range(10 * CASES):
        damaged = damage(text.encode(), rng(case, kind)).decode(errors="replace")
        try:
            found = decode_mask(damaged, 30, 20) if kind == "mask text" else rle.decode(damaged, 30, 20)
        except UserError:
            if kind == "mask text":
                with pytest.raises(UserError):
                    decode_rles([damaged], 30, 20)
            continue
        assert found.shape == mask.shape and found.dtype == bool
        assert kind == "run lengths" or np.array_equal(found, mask)
        if kind == "mask text":
            assert decode_rles([damaged], 30, 20)


def test_a_png_that_claims_to_be_huge(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    for side in (50_000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "x.png").write_bytes(data)
        for read in (read_rgb, read_size, read_image_png):
            with pytest.raises(UserError, match="x.png is not a readable"):
                read(tmp_path / "x.png")
