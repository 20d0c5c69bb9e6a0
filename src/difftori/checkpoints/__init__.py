"""What a run keeps on disk so that it can go on: checkpoints, replay data, folder, lock."""
