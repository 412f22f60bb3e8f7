"""Synthetic traces with known truth: a tiny machine model runs a training step and writes down what it does."""
