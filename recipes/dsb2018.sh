#!/usr/bin/env bash
# Nuclei of any stain and microscope (Data Science Bowl 2018, BBBC038): a U-Net of depths in nuclei, or with
# NETWORK=maskrcnn a Mask R-CNN, scored on images that were held out, with Otsu's threshold and a watershed beside it.
# Less than an hour of a CPU. With N_FOLDS=5 each image is held out once, by one of five networks.
#
#   DATA=path/to/dsb2018 bash recipes/dsb2018.sh    DATA holds train.csv (id,annotation,width,height,cell_type) and train/
#
# Settings: OUT (folder to write), TYPES (the cell types, for even shares in training), HOLDOUT (images to score on), or
# N_FOLDS and FOLDS (which of them to hold out in turn; default all), NETWORK, EPOCHS, PRETRAINED (see train.py),
# BASELINE (otsu or texture), TEST and TEST_IMAGES (a table and folder of further images to score on instead), GPU,
# WORKERS; of the U-Net: SAMPLE windows an epoch of SIZE pixels a side, DIAMETER (pixels of a cell in them), SIDE (pixels
# of an image that make a window of SIZE where the cells' size is not known yet).
# Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
DATA=${DATA:?is the folder of the images: train.csv and train/}
N_FOLDS=${N_FOLDS:-} OUT=${OUT:-results_dsb2018${N_FOLDS:+_folds$N_FOLDS}} TYPES=${TYPES:-fluo,he,bright} HOLDOUT=${HOLDOUT:-20} NETWORK=${NETWORK:-unet}
SIDE=${SIDE:-192} DIAMETER=${DIAMETER:-32} SIZE=${SIZE:-256} BASELINE=${BASELINE:-otsu} SAMPLE=${SAMPLE:-560}
GPU=${GPU:-0} WORKERS=${WORKERS:-0}
RESULTS=$OUT/results PRETRAINED=${PRETRAINED:-efficientnet-lite0}
TEST=${TEST:-} TEST_IMAGES=${TEST_IMAGES:-$DATA/train}
if [ "$N_FOLDS" ]; then
    SPLIT=folds$N_FOLDS FOLDS=${FOLDS:-$(seq -s ' ' 0 $((N_FOLDS - 1)))} split=(--n_folds "$N_FOLDS")
elif [ "${FOLDS:-}" ]; then
    echo "dsb2018.sh: error: FOLDS=$FOLDS is for N_FOLDS; without it one set of images is held out" >&2 && exit 2
else
    SPLIT=held FOLDS=0 split=(--holdout "$HOLDOUT")
fi
typed=(--competition neurons --classes "$TYPES") one=(--competition neurons --classes nucleus)
case $NETWORK in
unet)
    EPOCHS=${EPOCHS:-14} weights=swa.pth
    net=(--arch unet_light_tf_efficientnet_lite0 --depths 1 --diameter "$DIAMETER" --tile "$SIDE"
        --img_size "$SIZE" --stretch 1 --augment nuclei --sample "$SAMPLE" --balance 0.4 --loss CrossEntropy
        --swa_start "$((EPOCHS / 2 + 1))" --swa_lr 0.2 --swa_anneal "$((EPOCHS / 2))" --batch_size 4)
    find=(--tile "$SIDE" --augment default,fliplr,flipud,transpose)
    ;;
maskrcnn)
    EPOCHS=${EPOCHS:-18} weights=$(printf %03d "$EPOCHS").pth
    net=(--arch maskrcnn_light_tf_efficientnet_lite0 --img_size 512 --augment neurons --batch_size 2)
    find=(--augment default,fliplr,flipud --score_threshold 0.7)
    ;;
*) echo "dsb2018.sh: error: NETWORK=$NETWORK is not known; unet or maskrcnn is right" >&2 && exit 2 ;;
esac

echo "== split the images: ${split[*]}"
python makefolds.py "${typed[@]}" --metadata "$DATA/train.csv" --folds_dir "$OUT/cv_folds" --split_name "$SPLIT" \
    "${split[@]}" --tables

find_score() { # what to call it, then flags of the finder
    python segment.py "${one[@]}" --metadata "$test" --root_dir "$images" --dataset "$1" --edge_rule none \
        --meta_dir "$OUT/meta/$1" --crop_dir "$OUT/crops" --img_dir "$OUT/images" --cache_dir "$OUT/cache" \
        --img_size 256 --workers "$WORKERS" --gpu_id "$GPU" "${@:2}"
    python submit.py "${one[@]}" --metadata "$test" --cell_meta_csv_path "$OUT/meta/$1/${name}_cell.csv" \
        --out_path "$OUT/submission_$1_$name.csv"
    python evaluate.py "${one[@]}" --truth "$test" --root_dir "$images" --submission "$OUT/submission_$1_$name.csv"
}
score() { # a table of images, their folder, the networks that look at them, joined by commas
    test=$1 images=$2 name=$(basename "$1" .csv)
    echo "== $name: the baseline"
    find_score "$BASELINE" --finder "$BASELINE"
    echo "== $name: the network: its last weights, of a U-Net the mean over the later half, as the images held out chose none"
    find_score "$NETWORK" --weights "$3" "${find[@]}"
    python visualize.py overlays "${one[@]}" --metadata "$test" --root_dir "$images" --truth "$test" --limit 6 \
        --cell_meta_csv_path "$OUT/meta/$NETWORK/${name}_cell.csv" --out_path "$OUT/pictures_$NETWORK"
    python report.py "$OUT" "${one[@]}" --truth "$test" --root_dir "$images" --names "$BASELINE" "$NETWORK" \
        --cell_meta_csv_path "$OUT/meta/$NETWORK/${name}_cell.csv" --crop_dir "$OUT/crops/$NETWORK" \
        --submission "$OUT/submission_${BASELINE}_$name.csv" "$OUT/submission_${NETWORK}_$name.csv" \
        --out_path "$OUT/report_${NETWORK}_$name.html"
}

networks=() held=()
for fold in $FOLDS; do
    echo "== fold $fold: train on the other images"
    python train.py "${typed[@]}" --metadata "$DATA/train.csv" --root_dir "$DATA/train" --folds_dir "$OUT/cv_folds" \
        --split_name "$SPLIT" --fold "$fold" --result_dir "$RESULTS" --out_dir "$NETWORK" --gpu_id "$GPU" \
        --workers "$WORKERS" --pretrained "$PRETRAINED" --num_classes 1 --optimizer AdamW --weight_decay 1e-4 \
        --scheduler cosine --warmup_epochs 1 --final_lr 0.01 --lr 1e-3 --backbone_lr 0.5 --freeze_norms 1 --clipnorm 1 \
        --epochs "$EPOCHS" --ema 0.98 "${net[@]}"
    networks+=("$RESULTS/models/$NETWORK/fold$fold/$weights")
    held+=("fold$fold.csv")
    [ "$TEST" ] || score "$OUT/cv_folds/$SPLIT/fold$fold.csv" "$DATA/train" "${networks[-1]}"
done
if [ "$TEST" ]; then
    score "$TEST" "$TEST_IMAGES" "$(IFS=, && echo "${networks[*]}")"
elif [ ${#held[@]} -gt 1 ]; then
    echo "== all of them, each seen by the network that was not taught it"
    all() { awk 'FNR > 1 || NR == 1' "${@:2}" > "$1"; } # a table to write, tables to join
    all "$OUT/held.csv" "${held[@]/#/$OUT/cv_folds/$SPLIT/}"
    for who in "$BASELINE" "$NETWORK"; do
        all "$OUT/submission_${who}_held.csv" "${held[@]/#/$OUT/submission_${who}_}"
        python evaluate.py "${one[@]}" --truth "$OUT/held.csv" --root_dir "$DATA/train" \
            --submission "$OUT/submission_${who}_held.csv"
    done
fi
