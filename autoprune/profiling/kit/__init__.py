"""Kits: folders that measure on a device without PyTorch.

A kit holds ONNX models whose weights ONNX Runtime expands itself, and a runner that needs Python
and ONNX Runtime alone. For a latency table the models are layers and some whole networks. Nobody
can refine curves while the kit runs, so that every curve is measured at all steps. For the winner
of a search they are the dense network and the pruned one.
"""
