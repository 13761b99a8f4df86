"""The whole command sequence, flag for flag, from images to a scored submission; only sizes and epochs are smaller."""

import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import convertpredictions
import ensemble
import evaluate
import makefolds
import segment
import synthesize
import test as predict
import train
from cells.masks import encode_mask
from cells.table import write_table
from competitions import hpa

SCRIPTS = {
    "segment": segment, "makefolds": makefolds, "train": train, "test": predict, "ensemble": ensemble,
    "convertpredictions": convertpredictions, "evaluate": evaluate,
}  # fmt: skip

SEGMENT = """
segment --metadata DATA/train.csv --root_dir DATA/train --meta_dir META --crop_dir CROPS --img_dir IMGS --cache_dir CACHE
segment --metadata DATA/sample_submission.csv --root_dir DATA/test --meta_dir META --crop_dir CROPS --img_dir IMGS --cache_dir CACHE
"""  # noqa: E501

TRAIN = """
train --out_dir Cell_BCE --loss BCE --gpu_id 0 --arch ARCH --scheduler AdamShortRun --epochs 2 --num_classes 19
    --img_size 96 --crop_size 64 --batch_size 4 --effective_batch 8 --split_name random_folds3 --fold 0 --workers 0
    --in_channels 4 --puzzle 0 --cell cell --result_dir RESULTS --img_path CROPS --folds_dir FOLDS
train --out_dir Cell_Focal --loss Focal --gpu_id 0 --arch ARCH --scheduler AdamShortRun --epochs 1 --num_classes 19
    --img_size 96 --crop_size 64 --batch_size 4 --effective_batch 8 --split_name random_folds3 --fold 0 --workers 0
    --in_channels 4 --puzzle 0 --cell cell --result_dir RESULTS --img_path CROPS --folds_dir FOLDS
    --resume RESULTS/models/Cell_BCE/fold0/001.pth --preload self
train --out_dir Image_Focal --loss Focal --gpu_id 0 --arch ARCH --scheduler AdamAndrew35 --epochs 1 --num_classes 19
    --img_size 96 --crop_size 64 --batch_size 2 --effective_batch 2 --split_name random_folds3 --fold 0 --workers 0
    --in_channels 4 --puzzle 0 --cell image --result_dir RESULTS --img_path IMGS --folds_dir FOLDS
"""

PREDICT = """
test --base_dir RESULTS --out_dir MODEL --gpu_id 0 --arch ARCH --predict_epoch EPOCH --augment all --num_classes 19
    --img_size 96 --crop_size 64 --batch_size 30 --fold 0 --workers 0 --in_channels 4 --puzzle 0 --seed 1
    --dataset DATASET --img_dir STORE --cellorimage KIND --folds_dir FOLDS
convertpredictions --dataset DATASET --augment all --model MODEL --epoch EPOCH --cellorimage KIND --seeds 1 --rank 0
    --predictions_path RESULTS/submissions --meta_csv_path METACSV --cell_meta_csv_path CELLCSV --out_path OUT
    --add_datetime 0 --batch_size 100 --folds 0
"""

ENSEMBLE = """
ensemble OUT/config.csv --dataset test --submission 1 --rank 0 --meta_csv DATA/sample_submission.csv
    --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT --add_datetime 0 --batch_size 100
"""

MODELS = {"Cell_BCE": (2, "cell"), "Cell_Focal": (1, "cell"), "Image_Focal": (1, "image")}


PUBLISHED = """
segment --metadata DATA/train.csv --root_dir DATA/train --nuc_model dpn_unet_nuclei_v1.pth
    --cell_model dpn_unet_cell_3ch_v1.pth --meta_dir META --crop_dir CROPS --img_dir IMGS --cache_dir CACHE
train --out_dir Cell_BCE --loss BCE --gpu_id 0 --arch class_densenet121_dropout --scheduler AdamShortRun --epochs 6
    --num_classes 19 --img_size 768 --crop_size 512 --batch_size 17 --effective_batch 34 --split_name random_folds10
    --fold 0 --workers 8 --in_channels 4 --puzzle 0 --cell cell --resume BFpretrain.pth --preload bestfitting
    --result_dir RESULTS --img_path CROPS --clipnorm 1 --alpha 4 --alpha_schedule 0.5 --labelmask MASK --dataset train
    --sample -1 --mixed_precision 1 --resetscale 0
train --out_dir Image_Focal --loss Focal --scheduler AdamAndrew35 --epochs 35 --cell image --img_path IMGS
test --base_dir RESULTS --out_dir Cell_BCE --gpu_id 0,1 --arch class_densenet121_dropout --predict_epoch 6 --augment all
    --num_classes 19 --img_size 768 --crop_size 512 --batch_size 30 --fold 0 --workers 8 --in_channels 4 --puzzle 0
    --seed 1 --dataset test --img_dir CROPS --cellorimage cell
test --network_path X.pth --seeds 1,2 --split_name random_folds10 --BGR 1 --out_dir Y --img_dir CROPS --augment default,fliplr
convertpredictions --dataset test --augment all --model Cell_BCE --epoch 6 --cellorimage cell --seeds 1 --rank 0
    --predictions_path RESULTS/submissions --meta_csv_path DATA/sample_submission.csv --truncate 4
    --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT --add_datetime 0 --batch_size 100
ensemble ensemble_configs/ensemble_kaggle016.csv --dataset test --submission 1 --rank 0
    --meta_csv DATA/sample_submission.csv --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT
    --add_datetime 0 --batch_size 100
"""  # noqa: E501


def test_published_flags_are_taken():
    """The sequence that users script against, at its real sizes, and its further flags."""
    for line in PUBLISHED.strip().replace("\n    ", " ").splitlines():
        script, *flags = shlex.split(line)
        if script == "train":
            args, competition = train.settled(flags)
            assert (args.batch_size, args.effective_batch) == (17, 34) and competition.name == "hpa"
        else:
            SCRIPTS[script].get_args_parser().parse_args(flags)


def call(text: str, **names: Path | str | int) -> None:
    """Run commands, one for each line that is not indented, with the capital names put in."""
    for line in text.strip().replace("\n    ", " ").splitlines():
        words = shlex.split(line)
        for name, value in sorted(names.items(), key=lambda item: -len(item[0])):
            words = [word.replace(name, str(value)) if not word.startswith("--") else word for word in words]
        assert not SCRIPTS[words[0]].main(words[1:]), line


def whole_road(data: Path, work: Path, arch: str) -> Path:
    """Run the sequence on `data`; returns the submission."""
    places = {"META": "meta", "CROPS": "crops", "IMGS": "images", "CACHE": "cache", "RESULTS": "results", "OUT": "out"}
    names = {"DATA": data, "ARCH": arch, "FOLDS": work / "folds", **{key: work / name for key, name in places.items()}}
    call(SEGMENT, **names)
    call("makefolds --metadata DATA/train.csv --cell_metadata META/train_cell.csv --split_name random_folds3 "
         "--folds_dir FOLDS",
         **names)  # fmt: skip
    call(TRAIN, **names)
    predict_all(names, "test", data / "sample_submission.csv", work / "meta" / "sample_submission_cell.csv")
    config = pd.read_csv(Path(__file__).parents[1] / "ensemble_configs" / "ensemble_kaggle016.csv")
    config["Predictions"] = [f"probabilities_{model}_{epoch}.csv" for model, (epoch, _) in MODELS.items()]
    write_table(config, work / "out" / "config.csv")
    call(ENSEMBLE, **names)
    return work / "out" / "submission_config.csv"


def predict_all(names: dict, dataset: str, meta_csv: Path, cell_csv: Path) -> None:
    for model, (epoch, kind) in MODELS.items():
        store = names["CROPS"] if kind == "cell" else names["IMGS"]
        call(PREDICT, MODEL=model, EPOCH=epoch, KIND=kind, STORE=store, DATASET=dataset, METACSV=meta_csv,
             CELLCSV=cell_csv, **names)  # fmt: skip


def check_submission(path: Path, data: Path, cells: Path) -> None:
    """Every image in its place, and for each kept cell the nineteen classes with confidences in 0..1."""
    submission = pd.read_csv(path)
    sample = pd.read_csv(data / "sample_submission.csv")
    assert submission.columns.tolist() == sample.columns.tolist()
    assert submission["ID"].tolist() == sample["ID"].tolist()
    table = pd.read_csv(cells)
    counts = table[table["keep"] == 1].groupby("ImageID").size()
    assert len(counts)
    for image, text in zip(submission["ID"], submission["PredictionString"], strict=True):
        words = text.split()
        if image in counts:
            assert len(words) == 3 * 19 * counts[image]
            assert all(0 <= float(word) <= 1 for word in words[1::3]) and set(words[::3]) == set(map(str, range(19)))


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A small made-up data set after the whole sequence with the published network."""
    data, work = tmp_path_factory.mktemp("données test"), tmp_path_factory.mktemp("work")
    flags = ["--train", "9", "--test", "3", "--size", "320x288", "--seed", "5", "--cells", "3-5", "--jobs", "1"]
    synthesize.main(["--competition", "hpa", "--out_dir", str(data), *flags])
    return data, work, whole_road(data, work, "class_densenet121_dropout")


@pytest.mark.slow
def test_made_up_images(road):
    data, work, submission = road
    check_submission(submission, data, work / "meta" / "sample_submission_cell.csv")
    call("evaluate --competition hpa --submission SUBMISSION --truth DATA/truth.csv --out_path OUT",
         SUBMISSION=submission, DATA=data, OUT=work / "score")  # fmt: skip
    scores = pd.read_csv(work / "score" / "score_submission_config.csv")
    assert scores["Class"].tolist() == [*hpa.CLASSES, "mean"] and 0 <= scores["AP"].iloc[-1] <= 1


@pytest.mark.slow
def test_out_of_fold_score(road, capsys):
    data, work, _ = road
    names = {"CROPS": work / "crops", "IMGS": work / "images", "RESULTS": work / "results", "FOLDS": work / "folds",
             "ARCH": "class_densenet121_dropout", "OUT": work / "valid"}  # fmt: skip
    predict_all(names, "valid", data / "train.csv", work / "meta" / "train_cell.csv")
    capsys.readouterr()
    call("ensemble CONFIG --dataset valid --rank 0 --meta_csv DATA/train.csv --cell_meta_csv_path META/train_cell.csv "
         "--out_path OUT --add_datetime 0 --truth DATA/train_truth.csv",
         CONFIG=work / "out" / "config.csv", DATA=data, META=work / "meta", OUT=work / "valid")  # fmt: skip
    assert "mean" in capsys.readouterr().out
    assert len(pd.read_csv(work / "valid" / "ensemble_config.csv"))


@pytest.mark.slow
def test_real_images(real_data, tmp_path):
    """The three real images as training and, in 16 bits, as test images."""
    data = tmp_path / "data"
    (data / "test").mkdir(parents=True)
    shutil.copytree(real_data / "hpa" / "train", data / "train")
    shutil.copy(real_data / "hpa" / "train.csv", data / "train.csv")
    rows = []
    for image in pd.read_csv(data / "train.csv")["ID"]:
        for channel in hpa.CHANNELS:
            picture = cv2.imread(str(data / "train" / f"{image}_{channel}.png"), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(data / "test" / f"{image}_{channel}.png"), picture.astype(np.uint16) * 257)
        height, width = picture.shape
        empty = f"0 1 {encode_mask(np.zeros((height, width), bool))}"
        rows.append({"ID": image, "ImageWidth": width, "ImageHeight": height, "PredictionString": empty})
    write_table(pd.DataFrame(rows), data / "sample_submission.csv")
    submission = whole_road(data, tmp_path / "work", "test_resnet")
    cells = tmp_path / "work" / "meta" / "sample_submission_cell.csv"
    check_submission(submission, data, cells)
    assert 35 <= len(pd.read_csv(cells)) <= 60
