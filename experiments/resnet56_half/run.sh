#!/usr/bin/env bash
# ResNet-56 on CIFAR-10 at half the MACs, no gradient step. Usage: run.sh SHARED [STRATEGY] [SEED]
# SHARED holds checkpoints/cifar_resnet56.th and data/cifar10_*.npz.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
shared=$1 strategy=${2:-bayes} seed=${3:-0}
autoprune search --model "$root/experiments/models/cifar_resnet.py:resnet56" \
    --weights "$shared/checkpoints/cifar_resnet56.th" --data "cifar10:$shared/data" \
    --budget flops=0.5 --strategy "$strategy" --trials 100 --seed "$seed" --verbose \
    --output "runs/resnet56-half-$strategy-$seed"
