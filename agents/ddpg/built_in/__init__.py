"""The agent that comes with autoprune: 200 episodes on ResNet-20, CIFAR-10, half the MACs.

It was learnt with `autoprune search --model experiments/models/cifar_resnet.py:resnet20 --strategy
ddpg --trials 200 --budget flops=0.5 --seed 0` on trained weights, and is the run's `agent` folder.
"""
