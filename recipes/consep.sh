#!/usr/bin/env bash
# CoNSeP's nuclei on the pannuke road: its two folds, each the other's test. On a CPU in half an hour each. With 54 images
# a fold it matters what the network knows already: best the nuclei of recipes/dsb2018.sh, as
# PRETRAINED=results_dsb2018/results/models/unet/fold0/swa.pth.
#
#   DATA=path/to/consep bash recipes/consep.sh     DATA holds fold1/ and fold2/ with images.npy, masks.npy, types.npy
#
# Settings: those of recipes/pannuke.sh (TILE: 128), EPOCHS, and PRETRAINED (see train.py; without it ImageNet weights).
set -euo pipefail
export CLASSES=${CLASSES:-Other,Inflammatory,Epithelial,Spindle} OUT=${OUT:-results_consep} FOLDS=${FOLDS:-0 1}
export ARCH=${ARCH:-unet_light_tf_efficientnet_lite0} EPOCHS=${EPOCHS:-10}
export MORE="--pretrained ${PRETRAINED:-efficientnet-lite0} --raw 1 --depths 1 --loss CrossEntropy --augment nuclei
    --tile 128 --img_size 256 --progressive 0 --epochs $EPOCHS --sample 560 --batch_size 4
    --lr 2e-3 --backbone_lr 0.3 --freeze_norms 1 --clipnorm 1 --ema 0.98 --mixup 0
    --swa_start $((EPOCHS / 2 + 1)) --swa_lr 0.2 --swa_anneal $((EPOCHS / 2)) ${MORE:-}"
WEIGHTS=${WEIGHTS:-swa.pth} TILE=${TILE:-128} FIND=${FIND:---score_threshold 0.75} bash "$(dirname "$0")/pannuke.sh"
