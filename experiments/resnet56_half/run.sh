#!/usr/bin/env bash
# ResNet-56 on CIFAR-10, at half the MACs by default: a search, then 120 s of recovery.
# Usage: run.sh SHARED [STRATEGY] [SEED] [TRIALS] [BUDGET]
# SHARED holds checkpoints/cifar_resnet56.th and data/cifar10_*.npz.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
shared=$1 strategy=${2:-auto} seed=${3:-0} trials=${4:-100} budget=${5:-flops=0.5}
autoprune search --model "$root/experiments/models/cifar_resnet.py:resnet56" \
    --weights "$shared/checkpoints/cifar_resnet56.th" --data "cifar10:$shared/data" \
    --budget "$budget" --strategy "$strategy" --trials "$trials" --seed "$seed" --verbose \
    --output "runs/resnet56-$budget-$strategy-$seed"
