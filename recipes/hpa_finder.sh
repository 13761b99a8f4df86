#!/usr/bin/env bash
# A cell finder for HPA without anybody's weights: a U-Net of depths in cells, or with NETWORK=maskrcnn a Mask
# R-CNN, taught on made-up images whose truth is known, run on real ones, beside the watershed. A quarter of an hour of
# a CPU.
#
#   DATA=path/to/hpa bash recipes/hpa_finder.sh   DATA holds train.csv and train/ (RGBY images);
#                                                 with segmentator_masks/ the finders are compared with them
#
# Settings: OUT (folder to write), NETWORK, EPOCHS, GPU, WORKERS. Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
DATA=${DATA:?is the folder of the images: train.csv and train/}
OUT=${OUT:-results_hpa_finder} NETWORK=${NETWORK:-unet} EPOCHS=${EPOCHS:-8} GPU=${GPU:-0} WORKERS=${WORKERS:-0}
MADE=$OUT/made RESULTS=$OUT/results
case $NETWORK in
unet)
    net=(--arch unet_light_tf_efficientnet_lite0 --depths 1 --tile 1024 --diameter 64 --img_size 256
        --stretch 1 --augment nuclei --sample 300 --loss CrossEntropy --batch_size 4)
    find=(--tile 1024 --augment default,fliplr,flipud,transpose)
    ;;
maskrcnn)
    net=(--arch maskrcnn_light_tf_efficientnet_lite0 --img_size 512 --augment neurons --batch_size 2)
    find=(--augment default,fliplr,flipud --score_threshold 0.5)
    ;;
*) echo "hpa_finder.sh: error: NETWORK=$NETWORK is not known; unet or maskrcnn is right" >&2 && exit 2 ;;
esac

echo "== make images, train on them"
python synthesize.py --competition hpa --out_dir "$MADE" --train 60 --test 1 --size 1024 --cells 6-20 --seed 1 --jobs 1
python makefolds.py --metadata "$MADE/train.csv" --folds_dir "$OUT/cv_folds" --split_name made --n_folds 6
python train.py --metadata "$MADE/train_truth.csv" --root_dir "$MADE/train" --folds_dir "$OUT/cv_folds" --split_name made \
    --fold 0 --result_dir "$RESULTS" --out_dir "$NETWORK" --pretrained efficientnet-lite0 --num_classes 1 \
    --scheduler cosine --warmup_epochs 1 --final_lr 0.01 --lr 1e-3 --backbone_lr 0.5 --freeze_norms 1 --clipnorm 1 \
    --epochs "$EPOCHS" --ema 0.98 --gpu_id "$GPU" --workers "$WORKERS" "${net[@]}"

echo "== find the cells of the real images"
find_cells() { # what to call it, then flags of the finder
    python segment.py --metadata "$DATA/train.csv" --root_dir "$DATA/train" --meta_dir "$OUT/meta/$1" --crop_dir "$OUT/crops/$1" \
        --img_dir "$OUT/images" --cache_dir "$OUT/cache/$1" --edge_rule none --workers "$WORKERS" --gpu_id "$GPU" "${@:2}"
    python visualize.py overlays --metadata "$DATA/train.csv" --root_dir "$DATA/train" --limit 3 \
        --cell_meta_csv_path "$OUT/meta/$1/train_cell.csv" --out_path "$OUT/pictures/$1"
}
find_cells watershed --finder watershed
find_cells "$NETWORK" --weights "$RESULTS/models/$NETWORK/fold0/best.pth" "${find[@]}"
if [ -d "$DATA/segmentator_masks" ]; then
    python benchmarks/watershed.py --data_dir "$DATA" --stress 0 --cells "$NETWORK=$OUT/meta/$NETWORK/train_cell.csv"
fi
