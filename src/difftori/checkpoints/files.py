"""Files of a run's folder: where one is, and small ones written whole or not at all."""

import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step. Raises OSError, and leaves the old file, if that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def eval_video_path(run_folder: Path, env_step: int) -> Path:
    """Where a training run keeps the film of its evaluation at ``env_step``."""
    return run_folder / "videos" / f"eval_{env_step:09d}.mp4"
