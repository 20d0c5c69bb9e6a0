"""Frames to an mp4 file that browsers and phones play."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np


@contextmanager
def video_writer(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives what adds a frame, ``[H, W, 3]`` uint8; all are of one size.

    The video is H.264 with yuv420p and the index in front. ``path`` appears at the end, and only
    if every frame is in it.

    Raises:
        OSError: the video could not be written, as on a full disk.
    """
    partial = path.with_name(f".partial-{path.name}")
    count = 0
    writer: Any
    try:
        with imageio.get_writer(
            partial,
            format="FFMPEG",
            fps=fps,
            macro_block_size=2,
            quality=8,
            ffmpeg_log_level="error",
            output_params=["-movflags", "+faststart"],
        ) as writer:

            def add(frame: np.ndarray) -> None:
                nonlocal count
                # a full disk ends ffmpeg, then its writer: the frames that lack tell of it below
                with suppress(OSError, StopIteration):
                    writer.append_data(frame)
                count += 1

            yield add
        # a full disk is no error to ffmpeg's writer
        if count == 0:
            raise OSError(f"{path} was not written: there was no picture")
        if _count_frames(partial) != count:
            raise OSError(f"{path} does not hold all {count} frames; is the disk full?")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _count_frames(path: Path) -> int:
    """Frames that can be read."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])
    except RuntimeError:
        return 0
