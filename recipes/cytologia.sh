#!/usr/bin/env bash
# The Cytologia road (white blood cells): near duplicates and noisy boxes out, images without cells in, a YOLOX a fold
# finds the cells, their boxes are fused, as many as test.csv wants are kept, several networks name them by the mean of
# their logits, and learn once more from what they say of the test images.
#
#   bash recipes/cytologia.sh --demo                     made-up smears, small networks, no downloads
#   DATA=path/to/cytologia bash recipes/cytologia.sh     DATA holds train.csv, train/, test.csv, test/
#
# Settings: OUT (folder to write), FOLDS (default "0 1 2 3", of the demo 0), DETECTORS and CLASSIFIERS (below), YOLOX (a
# file of COCO weights to start from, not of the demo), BACKGROUNDS (images without cells to make), WORST (images that the detectors contradict most,
# left out of what the classifiers see), ROUNDS (1, or 2 with pseudo-labels), GPU, WORKERS. Run it again: it goes on.
#
# DETECTORS: NAME:SIZE:EPOCHS joined by spaces; their finds are fused. Published: "yolox_s:640:110 yolox_s:512:150".
# CLASSIFIERS: timm names joined by spaces; each one's opinion is the mean of its views and folds, and the logits of these
# are averaged. NAME+background also knows crops without a cell as a class. NAME:SIZE:WEIGHTS:BLOCKS: pixels, a file of
# weights to start from, the last blocks that are trained; those of one SIZE are a group, and groups count alike
# (published, though which networks made its four is not known).
# Published: "tf_efficientnetv2_m:512 vit_large_patch16_224:224 vit_large_patch16_224+background:224 nextvit_large:384
# tiny_vit_21m_512:512 vit_base_patch14_dinov2:224:DinoBloom-B.pth:5".
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
GPU=${GPU:-0} WORKERS=${WORKERS:-$(nproc)}
case "$*" in "" | --demo) ;; *) echo "cytologia.sh: error: $* is not known; --demo is right" >&2 && exit 2 ;; esac
if [ "${1:-}" = --demo ]; then
    OUT=${OUT:-demo_cytologia} FOLDS=${FOLDS:-0}
    DATA=${DATA:-$OUT/data} BACKGROUNDS=${BACKGROUNDS:-24} WORST=${WORST:-0} ROUNDS=${ROUNDS:-1}
    echo "== make images"
    python synthesize.py --competition cytologia --out_dir "$DATA" --train 240 --test 40 --seed 1 --class_balance flat --jobs $((WORKERS > 0 ? WORKERS : 1))
    DETECTORS=${DETECTORS:-centernet_fpn_tf_efficientnet_lite0} CLASSIFIERS=${CLASSIFIERS:-tf_efficientnet_lite0}
    small=(--pretrained efficientnet-lite0 --optimizer AdamW --warmup_epochs 0.5 --lr 1e-3)
    detect=("${small[@]}" --img_size 192 --augment riva --mosaic_epochs 0 --epochs 5 --batch_size 8 --backbone_lr 0.5 --ema 0.98)
    classify=("${small[@]}" --img_size 96 --crop_size 96 --epochs 12 --batch_size 32 --ema 0.95)
    whole=("${small[@]}" --img_size 160 --crop_size 128 --epochs 8 --batch_size 16 --ema 0.95)
    again=(--epochs 4 --lr 3e-4)
else
    OUT=${OUT:-results_cytologia} FOLDS=${FOLDS:-0 1 2 3} DATA=${DATA:?is the folder of the challenge; or give --demo}
    BACKGROUNDS=${BACKGROUNDS:-400} WORST=${WORST:-28} ROUNDS=${ROUNDS:-2}
    DETECTORS=${DETECTORS:-yolox_s} CLASSIFIERS=${CLASSIFIERS:-tf_efficientnetv2_m}
    detect=(${YOLOX:+--pretrained "$YOLOX"}) classify=() whole=()
    again=(--epochs 8 --lr 1e-4)
fi
META=$OUT/meta CROPS=$OUT/crops IMGS=$OUT/images RESULTS=$OUT/results TABLES=$OUT/tables CLASSES=$OUT/classes.txt
export PODIUM_TIMES=$OUT/times.jsonl # where each command notes how long it took, for the report
mkdir -p "$OUT"
python -c 'from competitions.cytologia import BACKGROUND, CLASSES; print(*CLASSES, BACKGROUND, sep="\n")' > "$CLASSES"
own=(--competition cytologia) wider=(--competition cytologia --classes "$CLASSES") # wider: with Background
find_cells() { # table, folder of the images, dataset, then flags
    python segment.py --metadata "$1" --root_dir "$2" --dataset "$3" --meta_dir "$META" --crop_dir "$CROPS" --img_dir "$IMGS" \
        --cache_dir "$OUT/cache" --img_size 512 --workers "$WORKERS" --gpu_id "$GPU" "${@:4}"
}
clean() { # folder to write, then flags: a clean table, its marked cells cut, the folds with and without Background
    CLEAN=$1
    python clean.py "${wider[@]}" --metadata "$DATA/train.csv" --root_dir "$DATA/train" --out_dir "$CLEAN" \
        --groups "$OUT/duplicates.csv" --backgrounds "$BACKGROUNDS" "${@:2}"
    find_cells "$CLEAN/train.csv" "$CLEAN/images" train "${wider[@]}" --finder truth
    python makefolds.py "${wider[@]}" --metadata "$CLEAN/train.csv" --cell_metadata "$META/train_cell.csv" --n_folds 4 \
        --folds_dir "$CLEAN" --split_name wider --groups "$CLEAN/duplicates.csv" --drop_duplicates --tables
    mkdir -p "$CLEAN/own"
    awk -F, -v OFS=, '$2 == 23 { $2 = "" } 1' "$CLEAN/wider/images.csv" > "$CLEAN/own/images.csv"
    awk -F, '$4 != 23' "$CLEAN/wider/cells.csv" > "$CLEAN/own/cells.csv"
}
train() { # name, fold, then flags
    python train.py --out_dir "$1" --fold "$2" --result_dir "$RESULTS" --folds_dir "$CLEAN" --gpu_id "$GPU" \
        --workers "$WORKERS" "${@:3}"
}

echo "== near duplicates and noisy boxes out, images without cells in, cut the marked cells, make the folds"
python findduplicates.py "${own[@]}" --metadata "$DATA/train.csv" --root_dir "$DATA/train" --out "$OUT/duplicates.csv" --workers "$WORKERS"
clean "$OUT/clean"

echo "== train the detectors"
weights=()
for fold in $FOLDS; do
    weights[fold]=
    for detector in $DETECTORS; do
        IFS=: read -r name size epochs <<< "$detector"
        train "detect_$name$size" "$fold" "${wider[@]}" --num_classes 1 --arch "$name" --metadata "$CLEAN/train.csv" \
            --root_dir "$CLEAN/images" --split_name wider "${detect[@]}" ${size:+--img_size "$size"} \
            ${epochs:+--epochs "$epochs"}
        weights[fold]+=",$RESULTS/models/detect_$name$size/fold$fold/best.pth"
    done
done
fuse=(--score_threshold 0.001 --nms_iou 0.3 --fuse wbf --fuse_iou 0.25 --max_cells 20) # published
if [ "$WORST" -gt 0 ]; then
    echo "== leave out the images that detectors of other folds contradict"
    found=() looked=()
    for fold in $FOLDS; do
        find_cells "$CLEAN/wider/fold$fold.csv" "$CLEAN/images" "fold$fold" "${wider[@]}" \
            --weights "${weights[fold]:1}" "${fuse[@]}"
        found+=("$META/fold${fold}_cell.csv") looked+=("$CLEAN/wider/fold$fold.csv")
    done
    clean "$OUT/cleaner" --found "${found[@]}" --looked "${looked[@]}" --worst "$WORST"
fi

echo "== find the cells of the test images: published thresholds"
every=$(printf %s "${weights[@]}")
find_cells "$DATA/test.csv" "$DATA/test" test "${own[@]}" --weights "${every:1}" "${fuse[@]}"

views=default,fliplr,flipud,flipud_lr
learn() { # name, cell or image, folder, pseudo-labels, then flags: train in every fold, say what the test set shows
    for fold in $FOLDS; do
        more=("${@:5}")
        if [ "$round" -gt 1 ]; then
            more+=(--dataset train,test --pseudo_labels "$OUT/pseudo/$4_$split.csv" "${again[@]}" --preload self
                --resume "$RESULTS/models/$1_$((round - 1))/fold$fold/best.pth")
        fi
        train "$1_$round" "$fold" "${names[@]}" --split_name $split --cell "$2" --img_path "$3" "${more[@]}"
        python test.py "${names[@]}" --base_dir "$RESULTS" --out_dir "$1_$round" --fold "$fold" --dataset test \
            --cellorimage "$2" --img_dir "$3" --augment $views --gpu_id "$GPU" --workers "$WORKERS"
    done
    python convertpredictions.py "${names[@]}" --dataset test --augment $views --model "$1_$round" --epoch best \
        --folds "${FOLDS// /,}" --cellorimage "$2" --seeds 0 --predictions_path "$RESULTS/submissions" \
        --meta_csv_path "$DATA/test.csv" --cell_meta_csv_path "$META/test_cell.csv" --out_path "$TABLES"
    echo "probabilities_$1_${round}_best.csv,$2,${size:-$1}$(printf ',1%.0s' $(seq 23))" >> "$config"
}
pseudo() { # name, then flags: labels of the test set by what the networks say, for those with and without Background
    python pseudolabels.py "${own[@]}" --metadata "$DATA/test.csv" --least 0.5 --out "$OUT/pseudo/$1_own.csv" "${@:2}"
    awk -F, -v OFS=, '{ print $0, NR == 1 ? "Background" : 0 }' "$OUT/pseudo/$1_own.csv" > "$OUT/pseudo/$1_wider.csv"
}
for round in $(seq "$ROUNDS"); do
    echo "== round $round: train classifiers of cells, and of whole images for those with a single cell; name the cells"
    into=$OUT/round$round
    if [ "$round" = "$ROUNDS" ]; then into=$OUT; fi
    mkdir -p "$into" && config=$into/ensemble.csv
    python -c 'from competitions.cytologia import CLASSES; print("Predictions,Type,Group," + ",".join(CLASSES))' > "$config"
    for classifier in $CLASSIFIERS; do
        IFS=: read -r name size start blocks <<< "$classifier"
        names=("${own[@]}") split=own
        if [ "$name" != "${name%+background}" ]; then names=("${wider[@]}") split=wider; fi
        flags=(--arch "${name%+background}" ${size:+--img_size "$size" --crop_size "$size"}
            ${start:+--pretrained "$start"} ${blocks:+--train_blocks "$blocks"})
        learn "cells_$name" cell "$CROPS" cells "${classify[@]}" "${flags[@]}"
        learn "images_$name" image "$IMGS" "images_$name" --loss Focal --mixup 0 --cutmix 0 "${whole[@]}" "${flags[@]}"
        if [ "$round" -lt "$ROUNDS" ]; then
            pseudo "images_$name" --tables "$TABLES/probabilities_images_${name}_${round}_best.csv"
        fi
    done
    python ensemble.py "$config" "${own[@]}" --submission 1 --meta_csv "$DATA/test.csv" --cell_meta_csv_path "$META/test_cell.csv" \
        --tables_path "$TABLES" --out_path "$into"
    if [ "$round" -lt "$ROUNDS" ]; then
        pseudo cells --tables "$into/ensemble_ensemble.csv" --cell_metadata "$META/test_cell.csv"
    fi
done
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
