"""DiffTORI: differentiable trajectory optimization for model-based reinforcement learning."""
