"""Videos that play anywhere, whole or not at all."""

import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from difftori.viewing.video import video_writer


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)


def moving_square(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    for index in range(count):
        frame = np.full((height, width, 3), 40, dtype=np.uint8)
        frame[10:30, index : index + 20, 0] = 220
        yield frame


@pytest.mark.parametrize(("height", "width"), [(84, 84), (85, 61)])
def test_it_reads_back(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "eval.mp4"
    write_mp4(path, moving_square(12, height, width), fps=15)
    with imageio.get_reader(path) as reader:
        meta = reader.get_meta_data()
        frames = [np.asarray(frame) for frame in reader.iter_data()]
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == pytest.approx(15)
    assert len(frames) == 12
    # the format needs even sides
    assert frames[0].shape == (height + height % 2, width + width % 2, 3)
    assert frames[5][20, 15, 0] > 150
    assert frames[5][40, 50, 0] < 90
    # the index before the data: a browser can begin before it has everything
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_video_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"old")
    frames = [np.zeros((16, width, 3), np.uint8) for width in (16, 18)]
    with pytest.raises(ValueError, match="same size"):
        write_mp4(path, frames, fps=10)
    with pytest.raises(OSError, match=r"x\.mp4 was not written: there was no picture"):
        write_mp4(path, [], fps=10)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        write_mp4(tmp_path / "gone" / "x.mp4", moving_square(3, 16, 64), fps=10)


@pytest.mark.parametrize("count", [40, 200])
def test_a_full_disk_is_reported_at_the_end(tmp_path: Path, count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=rf"not hold all {count} frames; is the disk full"):
            write_mp4(tmp_path / "x.mp4", noise, fps=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
