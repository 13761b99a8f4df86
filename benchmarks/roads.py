"""The roads of all competitions at their smallest, stage by stage, for checks that go through all of them.

A line a stage: its name, and the command with paths relative to the folder that all of it is in.
"""

from pathlib import Path

import pandas as pd

import competitions
from cells.table import KEY, read_cells, write_table
from common.seeds import rng

FIND = "--meta_dir meta --crop_dir crops --img_dir images --cache_dir cache --img_size 64 --gpu_id cpu"
NET = "--result_dir results --folds_dir folds --split_name folds2 --fold 0 --gpu_id cpu --seed 1 --save_minutes 0"
CLASSIFY = "--arch test_resnet --img_size 48 --crop_size 32 --batch_size 4 --epochs 2 --lr 0.001"
DETECT = "--img_size 32 --batch_size 2 --effective_batch 2 --epochs 2 --lr 0.001 --ema 0.9"
PREDICT = "--base_dir results --folds_dir folds --split_name folds2 --fold 0 --gpu_id cpu --batch_size 4"
CONVERT = "--predictions_path results/submissions --out_path tables --seeds 0 --augment default,fliplr"

ROADS = {
    "hpa": f"""
synthesize: synthesize --competition hpa --out_dir data --train 4 --test 2 --size 128 --cells 2-3 --seed 3
findduplicates: findduplicates --metadata data/train.csv --root_dir data/train --out found/duplicates.csv --workers \
    0
segment: segment --metadata data/train.csv --root_dir data/train --workers 0 --edge_rule none {FIND}
segment 2 workers: segment --metadata data/sample_submission.csv --root_dir data/test --workers 2 --edge_rule none \
    {FIND}
makefolds: makefolds --metadata data/train.csv --cell_metadata meta/train_cell.csv --split_name folds2 --folds_dir \
    folds --groups found/duplicates.csv --tables
train cells: train --out_dir Cells --cell cell --img_path crops --scheduler AdamShortRun --loss BCE {NET} {CLASSIFY}
train images: train --out_dir Images --cell image --img_path images --loss Focal --ema 0.9 --swa_start 1 --swa_lr \
    0.5 --scheduler cosine {NET} {CLASSIFY}
test: test --out_dir Cells --predict_epoch 2 --dataset test --img_dir crops --augment default,fliplr {PREDICT}
test images: test --out_dir Images --predict_epoch 2 --dataset test --img_dir images --augment default,fliplr \
    {PREDICT}
test out of fold: test --out_dir Cells --predict_epoch 2 --dataset valid --img_dir crops {PREDICT}
convertpredictions: convertpredictions --model Cells --epoch 2 --cellorimage cell --meta_csv_path \
    data/sample_submission.csv --cell_meta_csv_path meta/sample_submission_cell.csv {CONVERT}
convert images: convertpredictions --model Images --epoch 2 --cellorimage image --meta_csv_path \
    data/sample_submission.csv --cell_meta_csv_path meta/sample_submission_cell.csv {CONVERT}
ensemble: ensemble config.csv --submission 1 --meta_csv data/sample_submission.csv --tables_path tables \
    --cell_meta_csv_path meta/sample_submission_cell.csv --out_path out
infer: infer --ensemble config.csv --metadata data/sample_submission.csv --root_dir data/test --base_dir results \
    --work_dir infer --out_path infer/submission.csv --views default,fliplr --seeds 0 --workers 0 --gpu_id cpu \
    --img_size 64 --edge_rule none
evaluate: evaluate --submission out/submission_config.csv --truth data/truth.csv --out_path score
pseudolabels: pseudolabels --tables found/opinion.csv --metadata data/train.csv --cell_metadata meta/train_cell.csv \
    --quantise 4 --out soft/soft.csv
visualize overlays: visualize overlays --metadata data/sample_submission.csv --root_dir data/test --out_path pics \
    --size 128 --cell_meta_csv_path meta/sample_submission_cell.csv --probabilities out/ensemble_config.csv
visualize sheets: visualize contact_sheet --cell_meta_csv_path meta/sample_submission_cell.csv --crop_dir crops/test \
    --probabilities out/ensemble_config.csv --out_path pics --size 32 --limit 4
visualize misses: visualize misses --root_dir data/test --cell_meta_csv_path meta/sample_submission_cell.csv --size \
    64 --probabilities out/ensemble_config.csv --truth data/truth.csv --out_path pics --limit 6
visualize curves: visualize curves results/models/Cells/fold0 results/models/Images/fold0 --out_path pics
visualize analysis: visualize analysis --metadata data/train.csv --root_dir data/train --out_path pics
download: download --metadata kaggle_2021.tsv --root_dir external --out external.csv --host ADDRESS --parallel 1 \
    --per_second 10000 --wait 0.01
""",
    "riva": f"""
synthesize: synthesize --competition riva --out_dir data --train 4 --val 0 --test 2 --size 128 --cells 2-4 --seed 1
segment: segment --competition riva --metadata data/annotations/train.csv --root_dir data/images/train --finder \
    truth --workers 0 {FIND}
makefolds: makefolds --competition riva --metadata data/annotations/train.csv --cell_metadata meta/train_cell.csv \
    --split_name folds2 --folds_dir folds
train detector: train --competition riva --out_dir Detector --arch centernet_fpn_test_resnet --warmup_epochs 0 \
    --metadata data/annotations/train.csv --root_dir data/images/train {NET} {DETECT}
train cells: train --competition riva --out_dir Cells --cell cell --img_path crops --warmup_epochs 0 {NET} \
    {CLASSIFY}
segment network: segment --competition riva --metadata data/images/test --root_dir data/images/test --dataset test \
    --weights results/models/Detector/fold0/best.pth --workers 0 --max_cells 5 --score_threshold 0 {FIND}
test: test --competition riva --out_dir Cells --predict_epoch 2 --dataset test --img_dir crops --cellorimage cell \
    --augment default,fliplr {PREDICT}
convertpredictions: convertpredictions --competition riva --model Cells --epoch 2 --cellorimage cell --meta_csv_path \
    data/images/test --cell_meta_csv_path meta/test_cell.csv {CONVERT}
ensemble: ensemble config.csv --competition riva --submission 1 --meta_csv data/images/test --cell_meta_csv_path \
    meta/test_cell.csv --tables_path tables --out_path out
evaluate: evaluate --competition riva --submission out/submission_config.csv --truth data/annotations/test.csv \
    --out_path score
evaluate boxes: evaluate --competition riva --cell_meta_csv_path meta/test_cell.csv --truth \
    data/annotations/test.csv --probabilities out/ensemble_config.csv --out_path score
visualize overlays: visualize overlays --competition riva --metadata data/images/test --root_dir data/images/test \
    --size 128 --cell_meta_csv_path meta/test_cell.csv --probabilities out/ensemble_config.csv --out_path pics
visualize analysis: visualize analysis --competition riva --metadata data/annotations/train.csv --root_dir \
    data/images/train --out_path pics
""",
    "cytologia": f"""
synthesize: synthesize --competition cytologia --out_dir data --train 4 --test 2 --size 128 --cells 1-3 --seed 1 \
    --class_balance flat
findduplicates: findduplicates --competition cytologia --metadata data/train.csv --root_dir data/train --workers 0 \
    --out found/duplicates.csv
clean: clean --competition cytologia --metadata data/train.csv --root_dir data/train --out_dir clean --groups \
    found/duplicates.csv --backgrounds 2
segment: segment --competition cytologia --metadata data/train.csv --root_dir data/train --finder truth --workers 0 \
    {FIND}
makefolds: makefolds --competition cytologia --metadata data/train.csv --cell_metadata meta/train_cell.csv \
    --split_name folds2 --folds_dir folds --groups found/duplicates.csv
train detector: train --competition cytologia --out_dir Detector --arch centernet_fpn_test_resnet --optimizer AdamW \
    --metadata data/train.csv --root_dir data/train --augment riva --mosaic_epochs 1 --warmup_epochs 0 {NET} \
    {DETECT}
train cells: train --competition cytologia --out_dir Cells --cell cell --img_path crops {NET} {CLASSIFY}
train images: train --competition cytologia --out_dir Images --cell image --img_path images --loss Focal --mixup 0 \
    --cutmix 0 {NET} {CLASSIFY}
segment network: segment --competition cytologia --metadata data/test.csv --root_dir data/test --workers 0 --weights \
    results/models/Detector/fold0/best.pth --max_cells 4 --score_threshold 0 {FIND}
test: test --competition cytologia --out_dir Cells --predict_epoch 2 --dataset test --img_dir crops --cellorimage \
    cell --augment default,fliplr {PREDICT}
test images: test --competition cytologia --out_dir Images --predict_epoch 2 --dataset test --img_dir images \
    --cellorimage image --augment default,fliplr {PREDICT}
convertpredictions: convertpredictions --competition cytologia --model Cells --epoch 2 --cellorimage cell \
    --meta_csv_path data/test.csv --cell_meta_csv_path meta/test_cell.csv {CONVERT}
convert images: convertpredictions --competition cytologia --model Images --epoch 2 --cellorimage image \
    --meta_csv_path data/test.csv --cell_meta_csv_path meta/test_cell.csv {CONVERT}
ensemble: ensemble config.csv --competition cytologia --submission 1 --meta_csv data/test.csv --cell_meta_csv_path \
    meta/test_cell.csv --tables_path tables --out_path out
evaluate: evaluate --competition cytologia --submission out/submission_config.csv --truth data/test_truth.csv \
    --out_path score
visualize overlays: visualize overlays --competition cytologia --metadata data/test.csv --root_dir data/test --size \
    128 --cell_meta_csv_path meta/test_cell.csv --probabilities out/ensemble_config.csv --out_path pics
""",
    "pannuke": f"""
synthesize: synthesize --competition pannuke --out_dir data --train 6 --size 128 --cells 3-6 --seed 1
makefolds: makefolds --competition pannuke --metadata data --folds_dir folds --split_name folds2 --by fold
train class maps: train --competition pannuke --out_dir Maps --arch unet_light_test_resnet --metadata data \
    --root_dir data --progressive 32 --augment pannuke_at_once --swa_start 1 --patience 0 {NET} {DETECT}
segment network: segment --competition pannuke --metadata data/fold1 --root_dir data/fold1 --dataset fold0 --workers \
    0 --edge_rule none --weights results/models/Maps/fold0/002.pth {FIND}
submit: submit --competition pannuke --metadata data/fold1 --cell_meta_csv_path meta/fold1_cell.csv --out_path \
    out/submission.csv
evaluate: evaluate --competition pannuke --truth data/fold1 --submission out/submission.csv --out_path score
visualize overlays: visualize overlays --competition pannuke --metadata data/fold1 --root_dir data/fold1 --truth \
    data/fold1 --cell_meta_csv_path meta/fold1_cell.csv --out_path pics --size 128
""",
    "neurons": f"""
synthesize: synthesize --competition neurons --out_dir data --train 4 --test 2 --size 128 --cells 2-4 --seed 1
findduplicates: findduplicates --competition neurons --metadata data/train.csv --root_dir data/train --workers 0 \
    --out found/duplicates.csv
makefolds: makefolds --competition neurons --metadata data/train.csv --folds_dir folds --split_name folds2
train class maps: train --competition neurons --out_dir Cells --arch unet_light_test_resnet --metadata \
    data/train.csv --root_dir data/train --depths 1 --scheduler constant {NET} {DETECT}
train masks: train --competition neurons --out_dir Masks --arch maskrcnn_light_test_resnet --num_classes 3 \
    --metadata data/train.csv --root_dir data/train --scheduler constant {NET} {DETECT} --epochs 1
segment network: segment --competition neurons --metadata data/sample_submission.csv --root_dir data/test --workers \
    0 --edge_rule none --weights results/models/Cells/fold0/best.pth {FIND}
submit: submit --competition neurons --metadata data/sample_submission.csv --out_path out/submission.csv \
    --cell_meta_csv_path meta/sample_submission_cell.csv
evaluate: evaluate --competition neurons --truth data/test_truth.csv --submission out/submission.csv --out_path \
    score
visualize overlays: visualize overlays --competition neurons --metadata data/sample_submission.csv --root_dir \
    data/test --cell_meta_csv_path meta/sample_submission_cell.csv --out_path pics --size 128
""",
}  # fmt: skip


def before(competition: str, stage: str) -> None:
    """Write what a stage reads and no other stage writes, into the current folder."""
    classes = list(competitions.get(competition).CLASSES)
    if stage == "ensemble":
        kinds = {"Cells": "cell", "Images": "image"}
        rows = [
            {"Predictions": path.name, "Type": kinds[path.stem.split("_")[1]], **dict.fromkeys(classes, 1.0)}
            for path in sorted(Path("tables").glob("*.csv"))
        ]
        write_table(pd.DataFrame(rows), "config.csv")
    elif stage == "pseudolabels":
        cells = read_cells("meta/train_cell.csv")[KEY]
        values = rng(1, "opinion").random((len(cells), len(classes))).round(4)
        write_table(pd.concat([cells, pd.DataFrame(values, columns=classes)], axis=1), "found/opinion.csv")
    elif stage == "download":
        rows = [(f"https://images.proteinatlas.org/1/1_A{n}_1", "Nucleoplasm", "U", "False", "0") for n in range(4)]
        columns = ["Image", "Label", "Cellline", "in_trainset", "Label_idx"]
        write_table(pd.DataFrame(rows, columns=columns), "kaggle_2021.tsv")
