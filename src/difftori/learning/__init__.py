"""Losses and the optimizers that take their steps."""
