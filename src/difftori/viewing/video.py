"""Frames to an mp4 file that browsers and phones play."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write ``frames`` to ``path``, as `VideoWriter` does. Raises OSError."""
    with closing(VideoWriter(path, fps)) as writer:
        for frame in frames:
            writer.add(frame)
        writer.finish()


class VideoWriter:
    """Writes frames as they come, as H.264 with yuv420p and the index in front.

    ``path`` appears with `finish`, and only if every frame is in it; `close` at the end removes
    what was not finished. A full disk does not stop whoever adds frames: `finish` reports it.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Raises OSError if the folder does not exist."""
        self._path = path
        self._partial = path.with_name(f".partial-{path.name}")
        self._count = 0
        self._error: OSError | None = None
        self._writer = imageio.get_writer(
            self._partial,
            format="FFMPEG",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            quality=8,
            ffmpeg_log_level="error",
            output_params=["-movflags", "+faststart"],
        )

    def add(self, frame: np.ndarray) -> None:
        """Add ``[H, W, 3]`` uint8, of the same size as the first. Raises ValueError if not."""
        if self._error is None:
            try:
                self._writer.append_data(frame)
            except OSError as error:
                self._error = error
        self._count += 1

    def finish(self) -> None:
        """Put the whole video at its place. Raises OSError if it could not be written."""
        if self._count == 0:
            raise OSError(f"there were no frames for {self._path.name}")
        self._writer.close()
        written = _count_frames(self._partial)
        if written != self._count:
            raise OSError(
                f"ffmpeg wrote {written} of {self._count} frames of {self._path}; is the disk full?"
            ) from self._error
        self._partial.replace(self._path)

    def close(self) -> None:
        """End ffmpeg, and remove what is not finished."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)


def _count_frames(path: Path) -> int:
    """Frames that can be read; a full disk is no error to ffmpeg's writer."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])
    except RuntimeError:
        return 0
