#!/usr/bin/env bash
# The RIVA road (Pap smears): CenterNet finds the nuclei, a classifier names them, detection x class is the confidence.
#
#   bash recipes/riva.sh --demo                  made-up smears, small networks: minutes on a laptop, no downloads
#   DATA=path/to/riva bash recipes/riva.sh       DATA holds annotations/{train,val}.csv and images/{train,val,test}/
#
# --mode test|full     5 short epochs at half size, to try the installation; or the published 100 and 50 (default)
# --stage detect|classify|both     what to train (default: both)
#
# Settings: OUT (folder to write), FOLDS (such as "0 1 2 3 4"; default "0"), DETECTORS and CLASSIFIERS (networks, all of
# them are fused and averaged; NAME:WEIGHTS begins with a file of weights, as published with ImageNet's), PART (test, or
# val: find, name and score the cells of images/val), FUSE (wbf, centre, nms), ROUNDS (2: the classifiers learn once
# more, from what they say of the test images), GPU, WORKERS. Run it again after an interruption: it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
MODE=full STAGE=both DEMO=
while [ $# -gt 0 ]; do
    case $1 in
    --demo) DEMO=1 ;;
    --mode) MODE=${2:?test or full} && shift ;;
    --stage) STAGE=${2:?detect, classify or both} && shift ;;
    *) echo "riva.sh: error: $1 is not known; --demo, --mode test|full, --stage detect|classify|both" >&2 && exit 2 ;;
    esac
    shift
done
case $MODE in test | full) ;; *) echo "riva.sh: error: --mode $MODE must be test or full" >&2 && exit 2 ;; esac
case $STAGE in detect | classify | both) ;; *) echo "riva.sh: error: --stage $STAGE must be detect, classify or both" >&2 && exit 2 ;; esac

FOLDS=${FOLDS:-0} GPU=${GPU:-0} WORKERS=${WORKERS:-$(nproc)} FUSE=${FUSE:-wbf} PART=${PART:-test} ROUNDS=${ROUNDS:-1} SPLIT=riva_folds5
END=$([ "$PART" = test ] || echo "_$PART") # of the names of what is written
if [ "$DEMO" ]; then
    OUT=${OUT:-demo_riva} DATA=${DATA:-${OUT}/data}
    echo "== make images"
    python synthesize.py --competition riva --out_dir "$DATA" --train 64 --val 0 --test 16 --size 512 --cells 6-12 --seed 1 --jobs $((WORKERS > 0 ? WORKERS : 1))
    DETECTORS=${DETECTORS:-centernet_fpn_tf_efficientnet_lite0} CLASSIFIERS=${CLASSIFIERS:-tf_efficientnet_lite0}
    small=(--pretrained efficientnet-lite0)
    detect=("${small[@]}" --img_size 384 --epochs 8 --batch_size 4 --lr 1e-3 --backbone_lr 0.5 --warmup_epochs 0.5 --ema 0.98)
    classify=("${small[@]}" --img_size 96 --crop_size 96 --epochs 6 --batch_size 32 --lr 1e-3 --warmup_epochs 0.5 --ema 0.9)
else
    OUT=${OUT:-results_riva$([ $MODE = full ] || echo _$MODE)} DATA=${DATA:?is the folder of the competition; or give --demo}
    DETECTORS=${DETECTORS:-centernet_resnet50} CLASSIFIERS=${CLASSIFIERS:-tf_efficientnet_b2}
    detect=() classify=()
    if [ $MODE = test ]; then detect=(--img_size 512 --epochs 5) classify=(--epochs 5); fi
fi
again=(--epochs 5 --lr 3e-5) # of a further round
META=$OUT/meta CROPS=$OUT/crops RESULTS=$OUT/results TABLES=$OUT/tables$END
export PODIUM_TIMES=$OUT/times.jsonl # where each command notes how long it took, for the report
own=(--competition riva)
folds=(--folds_dir "$OUT/cv_folds" --split_name $SPLIT)
train_csv=$DATA/annotations/train.csv
find_cells() { # table or folder, folder of the images, dataset, then flags
    python segment.py "${own[@]}" --metadata "$1" --root_dir "$2" --dataset "$3" --meta_dir "$META" --crop_dir "$CROPS" \
        --img_dir "$OUT/images" --cache_dir "$OUT/cache" --workers "$WORKERS" --gpu_id "$GPU" "${@:4}"
}

echo "== cut the marked cells, make the folds"
find_cells "$train_csv" "$DATA/images/train" train --finder truth
python makefolds.py "${own[@]}" --metadata "$train_csv" --cell_metadata "$META/train_cell.csv" "${folds[@]}"

echo "== train"
train() { # kind and network, perhaps with weights, fold, what its name ends in, then flags
    IFS=: read -r arch weights <<< "$2"
    python train.py "${own[@]}" --out_dir "$1_$arch$4" --arch "$arch" ${weights:+--pretrained "$weights"} --fold "$3" \
        --result_dir "$RESULTS" "${folds[@]}" --gpu_id "$GPU" --workers "$WORKERS" "${@:5}"
}
for fold in $FOLDS; do
    if [ $STAGE != classify ]; then
        for one in $DETECTORS; do
            train detect "$one" "$fold" "" --metadata "$train_csv" --root_dir "$DATA/images/train" "${detect[@]}"
        done
    fi
    if [ $STAGE != detect ]; then
        for one in $CLASSIFIERS; do
            train classify "$one" "$fold" "" --cell cell --img_path "$CROPS" "${classify[@]}"
        done
    fi
done
if [ $STAGE != both ]; then exit; fi

echo "== find the cells of the $PART images with all detectors, three views each"
finders=
for fold in $FOLDS; do
    for one in $DETECTORS; do finders+=",$RESULTS/models/detect_${one%%:*}/fold$fold/best.pth"; done
done
sample=$DATA/sample_submission.csv IMAGES=$DATA/images/$PART
if [ "$PART" != test ] || [ ! -e "$sample" ]; then sample=$IMAGES; fi # a folder names its images
find_cells "$sample" "$IMAGES" "$PART" --weights "${finders:1}" --augment default,fliplr,flipud --fuse "$FUSE" --max_cells 100
cells=$META/$(basename "$sample" .csv)_cell.csv

name_cells() { # what the classifiers' names end in: eight views of each cell, all opinions combined
    config=$OUT/ensemble$END.csv
    python -c 'from competitions.riva import CLASSES; print("Predictions,Type," + ",".join(CLASSES))' > "$config"
    for arch in $CLASSIFIERS; do
        arch=${arch%%:*}
        for fold in $FOLDS; do
            python test.py "${own[@]}" --base_dir "$RESULTS" --out_dir "classify_$arch$1" --fold "$fold" --dataset "$PART" \
                --cellorimage cell --img_dir "$CROPS" --augment all --gpu_id "$GPU" --workers "$WORKERS"
        done
        python convertpredictions.py "${own[@]}" --dataset "$PART" --augment all --model "classify_$arch$1" --epoch best \
            --folds "${FOLDS// /,}" --cellorimage cell --seeds 0 --predictions_path "$RESULTS/submissions" \
            --meta_csv_path "$sample" --cell_meta_csv_path "$cells" --out_path "$TABLES"
        echo "probabilities_classify_$arch$1_best.csv,cell,1,1,1,1,1,1,1,1" >> "$config"
    done
    python ensemble.py "$config" "${own[@]}" --submission 1 --meta_csv "$sample" --cell_meta_csv_path "$cells" \
        --tables_path "$TABLES" --out_path "$OUT"
}
echo "== classify them, eight views each"
name_cells ""
before=
for round in $(seq 2 "$ROUNDS"); do
    echo "== round $round: learn from what all classifiers say of the test images, classify again"
    python pseudolabels.py "${own[@]}" --tables "$OUT/ensemble_ensemble$END.csv" --metadata "$sample" --cell_metadata "$cells" \
        --least 0.5 --out "$OUT/pseudo_labels_$round.csv"
    for one in $CLASSIFIERS; do
        for fold in $FOLDS; do
            train classify "$one" "$fold" "_$round" --cell cell --img_path "$CROPS" "${classify[@]}" "${again[@]}" \
                --dataset "train,$PART" --pseudo_labels "$OUT/pseudo_labels_$round.csv" --preload self \
                --resume "$RESULTS/models/classify_${one%%:*}$before/fold$fold/best.pth"
        done
    done
    before=_$round
    name_cells "$before"
done
submission=$OUT/submission$END.csv
mv "$OUT/submission_ensemble$END.csv" "$submission"

truth=()
if [ -e "$DATA/annotations/$PART.csv" ]; then
    echo "== score"
    truth=(--truth "$DATA/annotations/$PART.csv")
    python evaluate.py "${own[@]}" "${truth[@]}" --submission "$submission"
    python evaluate.py "${own[@]}" "${truth[@]}" --cell_meta_csv_path "$cells" --probabilities "$OUT/ensemble_ensemble$END.csv" --out_path "$OUT"
fi
echo "== draw"
python visualize.py overlays "${own[@]}" --score_threshold 0.3 --metadata "$sample" --root_dir "$IMAGES" --cell_meta_csv_path "$cells" \
    --probabilities "$OUT/ensemble_ensemble$END.csv" "${truth[@]}" --limit 4 --out_path "$OUT/pictures"
python report.py "$OUT" "${own[@]}" "${truth[@]}" --root_dir "$IMAGES" --submission "$submission" --cell_meta_csv_path "$cells" \
    --probabilities "$OUT/ensemble_ensemble$END.csv"
echo
echo "submission: $submission"
echo "report:     $OUT/report.html; pictures: $OUT/pictures and $RESULTS/models/*/fold*/curves.png"
