"""The loop and what surrounds it: evaluation, checkpoints, logging, video, seeding."""
