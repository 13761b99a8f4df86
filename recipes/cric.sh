#!/usr/bin/env bash
# The RIVA road on a real Pap smear: three folds by image, each finds and names the cells of images that it never saw.
#
#   DATA=path/to/cric bash recipes/cric.sh      DATA holds train.csv (in RIVA's form) and images/
#
# Many cells there are not marked, so precision says little: look at the recall of the marked centres, and at how often
# a marked cell's class is right. Settings: OUT, GPU, WORKERS. Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
DATA=${DATA:?is the folder of the images: train.csv and images/}
OUT=${OUT:-results_cric} GPU=${GPU:-0} WORKERS=${WORKERS:-0}
IMAGES=$DATA/images META=$OUT/meta CROPS=$OUT/crops RESULTS=$OUT/results TABLES=$OUT/tables
own=(--competition riva)
folds=(--folds_dir "$OUT/cv_folds" --split_name folds3)
find_cells() { # table, dataset, then flags
    python segment.py "${own[@]}" --metadata "$1" --root_dir "$IMAGES" --dataset "$2" --meta_dir "$META" --crop_dir "$CROPS" \
        --img_dir "$OUT/images" --cache_dir "$OUT/cache" --workers "$WORKERS" --gpu_id "$GPU" "${@:3}"
}
join() { awk 'FNR > 1 || NR == 1' "${@:2}" > "$1"; } # tables of one form, one below the other

echo "== cut the marked cells, make the folds"
find_cells "$DATA/train.csv" train --finder truth
python makefolds.py "${own[@]}" --metadata "$DATA/train.csv" --cell_metadata "$META/train_cell.csv" "${folds[@]}" --tables

net=(--optimizer AdamW --weight_decay 1e-4 --warmup_epochs 1 --scheduler cosine --final_lr 0.01 --pretrained efficientnet-lite0)
for fold in 0 1 2; do
    echo "== fold $fold"
    run=("${own[@]}" --fold $fold --result_dir "$RESULTS" "${folds[@]}" --gpu_id "$GPU" --workers "$WORKERS" "${net[@]}")
    python train.py "${run[@]}" --out_dir Detector --arch centernet_fpn_tf_efficientnet_lite0 --metadata "$DATA/train.csv" \
        --root_dir "$IMAGES" --img_size 640 --epochs 20 --batch_size 2 --lr 1e-3 --backbone_lr 0.5 --ema 0.98
    python train.py "${run[@]}" --out_dir Classes --arch tf_efficientnet_lite0 --cell cell --img_path "$CROPS" \
        --img_size 112 --crop_size 112 --epochs 12 --batch_size 32 --lr 5e-4 --ema 0.95
    find_cells "$OUT/cv_folds/folds3/fold$fold.csv" fold$fold --weights "$RESULTS/models/Detector/fold$fold/best.pth" \
        --augment default,fliplr,flipud --score_threshold 0.005 --max_cells 300
    for set in fold$fold valid; do
        python test.py "${own[@]}" --base_dir "$RESULTS" --out_dir Classes --fold $fold --dataset $set --cellorimage cell \
            --img_dir "$CROPS" --augment default,fliplr --folds_dir "$OUT/cv_folds" --gpu_id "$GPU" --workers "$WORKERS"
    done
    python convertpredictions.py "${own[@]}" --dataset fold$fold --augment default,fliplr --model Classes --epoch best \
        --folds $fold --cellorimage cell --seeds 0 --predictions_path "$RESULTS/submissions" --out_path "$TABLES/fold$fold" \
        --meta_csv_path "$OUT/cv_folds/folds3/fold$fold.csv" --cell_meta_csv_path "$META/fold${fold}_cell.csv"
done
python convertpredictions.py "${own[@]}" --dataset valid --augment default,fliplr --model Classes --epoch best --cellorimage cell \
    --seeds 0 --predictions_path "$RESULTS/submissions" --out_path "$TABLES" --meta_csv_path "$DATA/train.csv" \
    --cell_meta_csv_path "$META/train_cell.csv"

echo "== the marked cells, named out of fold"
python evaluate.py "${own[@]}" --truth "$DATA/train.csv" --cell_meta_csv_path "$META/train_cell.csv" --name marked \
    --probabilities "$TABLES/probabilities_Classes_best.csv" --out_path "$OUT"
echo "== found and named out of fold"
join "$META/found_cell.csv" "$META"/fold[012]_cell.csv
join "$TABLES/probabilities_found.csv" "$TABLES"/fold[012]/probabilities_Classes_best.csv
python evaluate.py "${own[@]}" --truth "$DATA/train.csv" --cell_meta_csv_path "$META/found_cell.csv" --name found \
    --probabilities "$TABLES/probabilities_found.csv" --out_path "$OUT"
python visualize.py overlays "${own[@]}" --score_threshold 0.3 --metadata "$DATA/train.csv" --root_dir "$IMAGES" --truth "$DATA/train.csv" --limit 6 \
    --cell_meta_csv_path "$META/found_cell.csv" --probabilities "$TABLES/probabilities_found.csv" --out_path "$OUT/pictures"
