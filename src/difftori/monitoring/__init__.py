"""What a run tells while it goes on: console, records, W&B, TensorBoard, provenance, status."""
