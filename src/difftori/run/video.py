"""Frames to an mp4 file."""

from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float | int) -> None:
    """Write ``frames``, each ``[H, W, 3]`` uint8, at ``fps`` frames per second.

    H.264 with yuv420p and the index in front, which browsers and phones play. That format needs
    even sides: an odd side repeats its last row or column. ``path`` appears only when whole.

    Raises ValueError if there are no frames or one does not fit, OSError if ffmpeg cannot write.
    """
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for the video {path.name}")
    partial = path.with_name(f".{path.name}.partial")
    writer = None
    shape: tuple[int, ...] | None = None
    count = 0
    try:
        for count, frame in enumerate(frames, start=1):
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                raise ValueError(
                    f"frame {count} is {frame.dtype} {frame.shape}, expected uint8 [H, W, 3]"
                )
            if writer is None:
                shape = frame.shape
                writer = _open(partial, _even(frame).shape, fps)
            if frame.shape != shape:
                raise ValueError(f"frame {count} is {frame.shape}, the first one was {shape}")
            writer.send(np.ascontiguousarray(_even(frame)))
        if writer is None:
            raise ValueError(f"no frames to write to {path}")
        writer.close()
        writer = None
        _check(partial, count, path)
        partial.replace(path)
    finally:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)


def _check(partial: Path, count: int, path: Path) -> None:
    """Raise OSError unless ``partial`` plays to its end; a full disk is no error to the writer."""
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(partial))
    except RuntimeError:
        written = 0
    if written != count:
        raise OSError(f"ffmpeg wrote {written} of {count} frames of {path}; is the disk full?")


def _even(frame: np.ndarray) -> np.ndarray:
    """``frame`` with both sides even."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _open(path: Path, shape: tuple[int, ...], fps: float | int):  # type: ignore[no-untyped-def]
    """ffmpeg's frame writer, ready for ``send``."""
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (shape[1], shape[0]),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        quality=8,
        ffmpeg_log_level="error",
        output_params=["-f", "mp4", "-movflags", "+faststart"],
    )
    writer.send(None)
    return writer
