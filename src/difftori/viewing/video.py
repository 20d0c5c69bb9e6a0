"""Frames to an mp4 file."""

from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType

import imageio_ffmpeg
import numpy as np


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float | int) -> None:
    """Write ``frames`` to ``path``, as `Mp4Writer` does, and raises."""
    with Mp4Writer(path, fps) as writer:
        for frame in frames:
            writer.add(frame)


class Mp4Writer:
    """Writes frames, each ``[H, W, 3]`` uint8, as they come; at ``fps`` frames per second.

    H.264 with yuv420p and the index in front, which browsers and phones play. That format needs
    even sides: an odd side repeats its last row or column. ``path`` appears at the end of the
    ``with`` block, and only when it is whole.

    Raises ValueError if there are no frames or one does not fit, OSError if ffmpeg cannot write.
    """

    def __init__(self, path: Path, fps: float | int) -> None:
        if not fps > 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} for the video {path.name}")
        self._path, self._fps = path, fps
        self._partial = path.with_name(f".{path.name}.partial")
        self._ffmpeg: Generator[None, np.ndarray | None, None] | None = None
        self._shape: tuple[int, ...] | None = None
        self._count = 0

    def __enter__(self) -> "Mp4Writer":
        return self

    def add(self, frame: np.ndarray) -> None:
        number = self._count + 1
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"frame {number} is {frame.dtype} {frame.shape}, expected uint8 [H, W, 3]"
            )
        if self._ffmpeg is None:
            self._shape = frame.shape
            self._ffmpeg = _open(self._partial, _even(frame).shape, self._fps)
        if frame.shape != self._shape:
            raise ValueError(f"frame {number} is {frame.shape}, the first one was {self._shape}")
        self._ffmpeg.send(np.ascontiguousarray(_even(frame)))
        self._count = number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._ffmpeg is not None:
                self._ffmpeg.close()
            if error is not None:
                return
            if self._ffmpeg is None:
                raise ValueError(f"no frames to write to {self._path}")
            _check(self._partial, self._count, self._path)
            self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


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


def _open(
    path: Path, shape: tuple[int, ...], fps: float | int
) -> Generator[None, np.ndarray | None, None]:
    """ffmpeg's frame writer, ready for ``send``."""
    writer: Generator[None, np.ndarray | None, None] = imageio_ffmpeg.write_frames(
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
