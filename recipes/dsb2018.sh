#!/usr/bin/env bash
# Nuclei of any stain and microscope (Data Science Bowl 2018, BBBC038): a U-Net of nuclei and their rims, scored on
# images that were held out, with Otsu's threshold and a watershed beside it. Less than an hour of a CPU.
#
#   DATA=path/to/dsb2018 bash recipes/dsb2018.sh    DATA holds train.csv (id,annotation,width,height,cell_type) and train/
#
# Settings: OUT (folder to write), TYPES (the cell types, for even shares in training), HOLDOUT (images to score on),
# EPOCHS of SAMPLE windows of SIZE pixels a side, DIAMETER (pixels of a cell in them), SIDE (pixels of an image that make
# a window of SIZE where the cells' size is not known yet), BASELINE (otsu or texture), TEST and TEST_IMAGES (a table and
# folder of further images to score on instead), GPU, WORKERS.
# Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
DATA=${DATA:?is the folder of the images: train.csv and train/}
OUT=${OUT:-results_dsb2018} TYPES=${TYPES:-fluo,he,bright} HOLDOUT=${HOLDOUT:-20} EPOCHS=${EPOCHS:-14}
SIDE=${SIDE:-192} DIAMETER=${DIAMETER:-32} SIZE=${SIZE:-256} BASELINE=${BASELINE:-otsu} SAMPLE=${SAMPLE:-560}
GPU=${GPU:-0} WORKERS=${WORKERS:-0}
FOLDS=$OUT/cv_folds RESULTS=$OUT/results
TEST=${TEST:-$FOLDS/held/fold0.csv} TEST_IMAGES=${TEST_IMAGES:-$DATA/train}
typed=(--competition neurons --classes "$TYPES") one=(--competition neurons --classes nucleus)

echo "== hold $HOLDOUT images out, train on the others"
python makefolds.py "${typed[@]}" --metadata "$DATA/train.csv" --folds_dir "$FOLDS" --split_name held \
    --holdout "$HOLDOUT" --tables
python train.py "${typed[@]}" --metadata "$DATA/train.csv" --root_dir "$DATA/train" --folds_dir "$FOLDS" --split_name held \
    --fold 0 --result_dir "$RESULTS" --out_dir Nuclei --gpu_id "$GPU" --workers "$WORKERS" \
    --arch unet_light_tf_efficientnet_lite0 --pretrained efficientnet-lite0 --num_classes 1 --borders 2 --border_reach 3 --diameter "$DIAMETER" \
    --tile "$SIDE" --img_size "$SIZE" --stretch 1 --augment nuclei \
    --sample "$SAMPLE" --balance 0.4 --loss CrossEntropy --optimizer AdamW --weight_decay 1e-4 \
    --scheduler cosine --warmup_epochs 1 --final_lr 0.01 --lr 1e-3 \
    --backbone_lr 0.5 --freeze_norms 1 --clipnorm 1 --batch_size 4 --epochs "$EPOCHS" --ema 0.98 \
    --swa_start "$((EPOCHS / 2 + 1))" --swa_lr 0.2 --swa_anneal "$((EPOCHS / 2))"

name=$(basename "$TEST" .csv)
find_score() { # what to call it, then flags of the finder
    python segment.py "${one[@]}" --metadata "$TEST" --root_dir "$TEST_IMAGES" --dataset "$1" --edge_rule none \
        --meta_dir "$OUT/meta/$1" --crop_dir "$OUT/crops" --img_dir "$OUT/images" --cache_dir "$OUT/cache" \
        --img_size 256 --workers "$WORKERS" --gpu_id "$GPU" "${@:2}"
    python submit.py "${one[@]}" --metadata "$TEST" --cell_meta_csv_path "$OUT/meta/$1/${name}_cell.csv" \
        --out_path "$OUT/submission_$1_$name.csv"
    python evaluate.py "${one[@]}" --truth "$TEST" --submission "$OUT/submission_$1_$name.csv"
}
echo "== the baseline"
find_score "$BASELINE" --finder "$BASELINE"
echo "== the network: the mean of its weights over the later half, as the images that were held out chose none"
find_score network --weights "$RESULTS/models/Nuclei/fold0/swa.pth" --tile "$SIDE" \
    --augment default,fliplr,flipud,transpose
python visualize.py overlays "${one[@]}" --metadata "$TEST" --root_dir "$TEST_IMAGES" --truth "$TEST" --limit 6 \
    --cell_meta_csv_path "$OUT/meta/network/${name}_cell.csv" --out_path "$OUT/pictures"
python report.py "$OUT" "${one[@]}" --truth "$TEST" --root_dir "$TEST_IMAGES" --names "$BASELINE" network \
    --cell_meta_csv_path "$OUT/meta/network/${name}_cell.csv" \
    --submission "$OUT/submission_${BASELINE}_$name.csv" "$OUT/submission_network_$name.csv"
