"""torch.compile and CUDA graphs for planner and updates, and the precision of float32 products."""
