"""Bayesian optimization of the keep ratios with Optuna's samplers."""
