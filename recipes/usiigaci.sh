#!/usr/bin/env bash
# Whole cells with long processes in phase contrast (Usiigaci): a U-Net of depths in cells, and a threshold
# on the texture with a watershed beside it. Half an hour of a CPU.
#
#   DATA=path/to/usiigaci bash recipes/usiigaci.sh   DATA holds train.csv (id,annotation,width,height,cell_type), train/
#
# Settings: those of recipes/dsb2018.sh, which this is with others.
set -euo pipefail
export OUT=${OUT:-results_usiigaci} TYPES=${TYPES:-usiigaci} HOLDOUT=${HOLDOUT:-5} EPOCHS=${EPOCHS:-6}
export SIDE=${SIDE:-384} DIAMETER=${DIAMETER:-48} SIZE=${SIZE:-256} BASELINE=${BASELINE:-texture}
bash "$(dirname "$0")/dsb2018.sh"
