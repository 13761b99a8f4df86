#!/usr/bin/env bash
# Your own classes on the cytologia road: red cells, white cells and platelets of the BCCD blood smears. On a CPU in
# less than an hour: a detector of cells, a classifier of what it finds, scored on images that were held out.
#
#   DATA=path/to/bccd bash recipes/bccd.sh      DATA holds train.csv (NAME,x1,y1,x2,y2,class) and images/
#
# Settings: OUT (folder to write), CLASSES, HOLDOUT (images to score on), TEST and TEST_IMAGES (a table and folder of
# further images to score on instead), GPU, WORKERS. Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
DATA=${DATA:?is the folder of the images: train.csv and images/}
OUT=${OUT:-results_bccd} CLASSES=${CLASSES:-RBC,WBC,Platelets} HOLDOUT=${HOLDOUT:-50} GPU=${GPU:-0} WORKERS=${WORKERS:-0}
IMAGES=$DATA/images META=$OUT/meta CROPS=$OUT/crops RESULTS=$OUT/results FOLDS=$OUT/cv_folds TABLES=$OUT/tables
TEST=${TEST:-$FOLDS/held/fold0.csv} TEST_IMAGES=${TEST_IMAGES:-$IMAGES}
own=(--competition cytologia --classes "$CLASSES")
fold=("${own[@]}" --folds_dir "$FOLDS" --split_name held --fold 0 --result_dir "$RESULTS" --gpu_id "$GPU" --workers "$WORKERS")
find_cells() { # table, folder of its images, dataset, then flags
    python segment.py "${own[@]}" --metadata "$1" --root_dir "$2" --dataset "$3" --meta_dir "$META" --crop_dir "$CROPS" \
        --img_dir "$OUT/images" --cache_dir "$OUT/cache" --img_size 416 --workers "$WORKERS" --gpu_id "$GPU" "${@:4}"
}

echo "== cut the marked cells, hold $HOLDOUT images out"
find_cells "$DATA/train.csv" "$IMAGES" train --finder truth
python makefolds.py "${own[@]}" --metadata "$DATA/train.csv" --cell_metadata "$META/train_cell.csv" \
    --folds_dir "$FOLDS" --split_name held --holdout "$HOLDOUT" --tables

echo "== train the detector, then the classifier"
net=(--optimizer AdamW --weight_decay 1e-4 --warmup_epochs 1 --scheduler cosine --final_lr 0.01 --pretrained efficientnet-lite0)
python train.py "${fold[@]}" --out_dir Detector --arch centernet_fpn_tf_efficientnet_lite0 "${net[@]}" \
    --metadata "$DATA/train.csv" --root_dir "$IMAGES" --img_size 416 --augment riva --mosaic_epochs 0 \
    --epochs 12 --batch_size 4 --lr 1e-3 --backbone_lr 0.5 --clipnorm 35 --ema 0.99
python train.py "${fold[@]}" --out_dir Classes --arch tf_efficientnet_lite0 "${net[@]}" --cell cell --img_path "$CROPS" \
    --img_size 96 --crop_size 96 --augment stained_crop --loss CrossEntropy --sample 800 --mixup 0 --cutmix 0 \
    --epochs 6 --batch_size 32 --lr 5e-4 --ema 0.9

echo "== find and classify the cells of the images that were held out"
find_cells "$TEST" "$TEST_IMAGES" held --weights "$RESULTS/models/Detector/fold0/best.pth" \
    --augment default,fliplr,flipud --score_threshold 0.02 --max_cells 60
name=$(basename "$TEST" .csv)
python test.py "${own[@]}" --base_dir "$RESULTS" --out_dir Classes --predict_epoch best --fold 0 --dataset held \
    --cellorimage cell --img_dir "$CROPS" --augment default,fliplr --gpu_id "$GPU" --workers "$WORKERS"
python convertpredictions.py "${own[@]}" --dataset held --augment default,fliplr --model Classes --epoch best --cellorimage cell \
    --seeds 0 --rank 0 --predictions_path "$RESULTS/submissions" --meta_csv_path "$TEST" \
    --cell_meta_csv_path "$META/${name}_cell.csv" --out_path "$TABLES" --add_datetime 0

echo "== score, draw"
python evaluate.py "${own[@]}" --truth "$TEST" --cell_meta_csv_path "$META/${name}_cell.csv" --out_path "$OUT" \
    --probabilities "$TABLES/probabilities_Classes_best.csv" --name held
python visualize.py overlays "${own[@]}" --score_threshold 0.3 --metadata "$TEST" --root_dir "$TEST_IMAGES" --truth "$TEST" --limit 6 \
    --cell_meta_csv_path "$META/${name}_cell.csv" --probabilities "$TABLES/probabilities_Classes_best.csv" --out_path "$OUT/pictures"
