#!/usr/bin/env bash
# ResNet-56 on CIFAR-10, at half the MACs by default: a search, then 120 s of recovery.
# Usage: run.sh SHARED [STRATEGY] [SEED] [TRIALS] [BUDGET] [NETWORK]; TRIALS may be "" for as many as usual.
# SHARED holds checkpoints/cifar_NETWORK.th and data/cifar10_*.npz; NETWORK is resnet56 or resnet20.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
shared=$1 strategy=${2:-auto} seed=${3:-0} trials=${4:-} budget=${5:-flops=0.5} net=${6:-resnet56}
autoprune search --model "$root/experiments/models/cifar_resnet.py:$net" \
    --weights "$shared/checkpoints/cifar_$net.th" --data "cifar10:$shared/data" \
    --budget "$budget" --strategy "$strategy" ${trials:+--trials "$trials"} --seed "$seed" --verbose \
    --output "runs/$net-$budget-$strategy-$seed"
