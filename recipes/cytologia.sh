#!/usr/bin/env bash
# The Cytologia road (white blood cells): near duplicates out, a YOLOX a fold finds the cells, their boxes are fused, as
# many as test.csv wants are kept, and several networks name them by the mean of their logits.
#
#   bash recipes/cytologia.sh --demo                     made-up smears, small networks, no downloads
#   DATA=path/to/cytologia bash recipes/cytologia.sh     DATA holds train.csv, train/, test.csv, test/
#
# Settings: OUT (folder to write), FOLDS (default "0 1 2 3"), DETECTOR, YOLOX (a file of COCO weights to start from),
# CLASSIFIERS (timm names; all are averaged, in groups of one name), GPU, WORKERS. Run it again: it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
FOLDS=${FOLDS:-0 1 2 3} GPU=${GPU:-0} WORKERS=${WORKERS:-$(nproc)} SPLIT=cytologia_folds4
if [ "${1:-}" = --demo ]; then
    OUT=${OUT:-demo_cytologia} FOLDS=0
    DATA=${DATA:-$OUT/data}
    echo "== make images"
    python synthesize.py --competition cytologia --out_dir "$DATA" --train 240 --test 40 --seed 1 --class_balance flat --jobs "$WORKERS"
    DETECTOR=${DETECTOR:-centernet_fpn_tf_efficientnet_lite0} CLASSIFIERS=${CLASSIFIERS:-tf_efficientnet_lite0}
    small=(--pretrained efficientnet-lite0 --optimizer AdamW --warmup_epochs 0.5 --lr 1e-3)
    detect=("${small[@]}" --img_size 192 --crop_size 192 --augment riva --mosaic_epochs 0 --epochs 5 --batch_size 8 --backbone_lr 0.5 --ema 0.98)
    classify=("${small[@]}" --img_size 96 --crop_size 96 --epochs 12 --batch_size 32 --ema 0.95)
    whole=("${small[@]}" --img_size 160 --crop_size 128 --epochs 8 --batch_size 16 --ema 0.95)
else
    OUT=${OUT:-results_cytologia} DATA=${DATA:?is the folder of the challenge; or give --demo}
    DETECTOR=${DETECTOR:-yolox_s} CLASSIFIERS=${CLASSIFIERS:-tf_efficientnetv2_m}
    detect=(${YOLOX:+--pretrained "$YOLOX"}) classify=() whole=()
fi
META=$OUT/meta CROPS=$OUT/crops IMGS=$OUT/images RESULTS=$OUT/results TABLES=$OUT/tables
export PODIUM_TIMES=$OUT/times.jsonl # where each command notes how long it took, for the report
own=(--competition cytologia)
folds=(--folds_dir "$OUT/cv_folds" --split_name $SPLIT)
find_cells() { # table, folder of the images, dataset, then flags
    python segment.py "${own[@]}" --metadata "$1" --root_dir "$2" --dataset "$3" --meta_dir "$META" --crop_dir "$CROPS" \
        --img_dir "$IMGS" --cache_dir "$OUT/cache" --img_size 512 --workers "$WORKERS" --gpu_id "$GPU" "${@:4}"
}

echo "== near duplicates out, cut the marked cells, make the folds"
python findduplicates.py "${own[@]}" --metadata "$DATA/train.csv" --root_dir "$DATA/train" --out "$OUT/duplicates.csv" --workers "$WORKERS"
find_cells "$DATA/train.csv" "$DATA/train" train --finder truth
python makefolds.py "${own[@]}" --metadata "$DATA/train.csv" --cell_metadata "$META/train_cell.csv" "${folds[@]}" --n_folds 4 \
    --groups "$OUT/duplicates.csv" --drop_duplicates

echo "== train: a detector, classifiers of cells, and one of whole images for those with a single cell"
train() { # name, fold, then flags
    python train.py "${own[@]}" --out_dir "$1" --fold "$2" --result_dir "$RESULTS" "${folds[@]}" --gpu_id "$GPU" \
        --workers "$WORKERS" "${@:3}"
}
weights=
for fold in $FOLDS; do
    train Detector "$fold" --arch "$DETECTOR" --metadata "$DATA/train.csv" --root_dir "$DATA/train" "${detect[@]}"
    weights+=",$RESULTS/models/Detector/fold$fold/best.pth"
    for arch in $CLASSIFIERS; do
        train "cells_$arch" "$fold" --arch "$arch" --cell cell --img_path "$CROPS" "${classify[@]}"
        train "images_$arch" "$fold" --arch "$arch" --cell image --img_path "$IMGS" --loss Focal --mixup 0 --cutmix 0 "${whole[@]}"
    done
done

echo "== find the cells of the test images: published thresholds"
find_cells "$DATA/test.csv" "$DATA/test" test --weights "${weights:1}" --score_threshold 0.001 --nms_iou 0.3 --fuse wbf \
    --fuse_iou 0.25 --max_cells 20

echo "== classify them"
config=$OUT/ensemble.csv
python -c 'from competitions.cytologia import CLASSES; print("Predictions,Type,Group," + ",".join(CLASSES))' > "$config"
ones=$(printf ',1%.0s' $(seq 23))
opinion() { # name, cell or image, folder
    for fold in $FOLDS; do
        python test.py "${own[@]}" --base_dir "$RESULTS" --out_dir "$1" --fold "$fold" --dataset test --cellorimage "$2" \
            --img_dir "$3" --augment default,fliplr,flipud,flipud_lr --gpu_id "$GPU" --workers "$WORKERS"
    done
    python convertpredictions.py "${own[@]}" --dataset test --augment default,fliplr,flipud,flipud_lr --model "$1" --epoch best \
        --folds "${FOLDS// /,}" --cellorimage "$2" --seeds 0 --predictions_path "$RESULTS/submissions" \
        --meta_csv_path "$DATA/test.csv" --cell_meta_csv_path "$META/test_cell.csv" --out_path "$TABLES"
    echo "probabilities_$1_best.csv,$2,$1$ones" >> "$config"
}
for arch in $CLASSIFIERS; do
    opinion "cells_$arch" cell "$CROPS"
    opinion "images_$arch" image "$IMGS"
done
python ensemble.py "$config" "${own[@]}" --submission 1 --meta_csv "$DATA/test.csv" --cell_meta_csv_path "$META/test_cell.csv" \
    --tables_path "$TABLES" --out_path "$OUT"
mv "$OUT/submission_ensemble.csv" "$OUT/submission.csv"

truth=()
if [ -e "$DATA/test_truth.csv" ]; then
    echo "== score"
    truth=(--truth "$DATA/test_truth.csv")
    python evaluate.py "${own[@]}" "${truth[@]}" --submission "$OUT/submission.csv"
fi
echo "== draw"
python visualize.py overlays "${own[@]}" --score_threshold 0.3 --metadata "$DATA/test.csv" --root_dir "$DATA/test" --cell_meta_csv_path "$META/test_cell.csv" \
    --probabilities "$OUT/ensemble_ensemble.csv" "${truth[@]}" --limit 4 --out_path "$OUT/pictures"
python report.py "$OUT" "${own[@]}" "${truth[@]}" --root_dir "$DATA/test"
echo
echo "submission: $OUT/submission.csv"
echo "report:     $OUT/report.html; pictures: $OUT/pictures and $RESULTS/models/*/fold*/curves.png"
