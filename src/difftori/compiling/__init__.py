"""torch.compile for planner and updates, and faster float32 products."""
