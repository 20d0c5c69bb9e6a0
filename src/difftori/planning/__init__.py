"""The planners: sampling (MPPI) and differentiable trajectory optimization."""
