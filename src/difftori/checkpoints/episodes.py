"""Episodes on disk, appended once and never rewritten.

Episode ``n`` lives in ``chunk_%06d.bin`` number ``n // episodes_per_chunk``, which depends on the
configuration alone: the bytes on disk do not depend on when a run saved or was killed. A chunk is
its records one behind the other, little-endian:

    header   magic "EPI1", L u32, number u64, crc32 u32 of the header before it and the payload
    payload  obs frames [L+1, *record], action [L, A] float32, reward [L] float32

A checkpoint holds a ``position``: how far each chunk was filled, and the digest of those bytes.
What a chunk holds beyond belongs to a run that was killed later, and is cut off on resuming.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from difftori.checkpoints.tree_file import (
    CheckpointError,
    CheckpointWriteError,
    fsync_folder,
    write_at,
)
from difftori.types import Episode

_HEADER = struct.Struct("<4sIQ")
_CRC = struct.Struct("<I")
_MAGIC = b"EPI1"
_FLOAT = np.dtype("<f4")
_PIECE = 4 << 20  # bytes read at a time to verify a digest


@dataclass(frozen=True)
class _Chunk:
    """How far a chunk is filled with whole records."""

    index: int
    size: int
    """bytes"""
    digest: Any
    """sha256 of those bytes, as a hashlib object that is not updated any more"""

    def plain(self) -> dict[str, Any]:
        return {"index": self.index, "bytes": self.size, "sha256": self.digest.hexdigest()}


class ReplayLog:
    """The episodes of one run in order of their numbers, which count up from 0.

    For one process at a time; appends come from one thread, ``fsync`` from any. Begin with
    ``restore`` and ``truncate``, with a checkpoint's position or None: what an earlier process
    left is neither appended to nor overwritten without.
    """

    def __init__(
        self,
        folder: Path,
        *,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype | type | str,
        action_dim: int,
        episode_length: int,
        frame_stack: int = 1,
        chunk_bytes: int = 64 << 20,
    ) -> None:
        """``obs_shape`` is that of what is stored once per step: one frame ``[C, h, w]`` when
        observations are stacks ``[frame_stack·C, h, w]``, newest last, which begin an episode with
        the first frame repeated. ``episode_length`` L and ``chunk_bytes`` decide how many episodes
        a chunk holds; an episode may be shorter or longer.
        """
        self.folder = folder
        self.obs_shape = tuple(obs_shape)
        self.obs_dtype = np.dtype(obs_dtype).newbyteorder("<")
        self.action_dim = action_dim
        self.frame_stack = frame_stack
        self.episode_bytes = _HEADER.size + _CRC.size + self._payload_bytes(episode_length)
        """on disk, of an episode of the nominal length"""
        self.episodes_per_chunk = max(1, chunk_bytes // self.episode_bytes)
        self.count = 0
        """episodes appended, and the number of the next"""
        self._first = 0
        self._chunks: list[_Chunk] = []
        self._file: FileIO | None = None
        self._unsynced: list[FileIO] = []
        self._verified: tuple[Any, list[_Chunk]] | None = None

    def append(self, episode: Episode) -> int:
        """Add an episode; gives its number. Costs the writing of its bytes, no fsync.

        Raises ValueError for an episode of another shape, and CheckpointWriteError when the disk
        does not take it: then nothing has changed, and the same call may be tried again.
        """
        payload = self._payload(episode)
        head = _HEADER.pack(_MAGIC, len(episode), self.count)
        crc = zlib.crc32(head)
        for part in payload:
            crc = zlib.crc32(part, crc)
        parts = [memoryview(head + _CRC.pack(crc)), *payload]

        index = self.count // self.episodes_per_chunk
        path = self._path(index)
        try:
            if not self._chunks or self._chunks[-1].index != index:
                self._open_chunk(index)
            assert self._file is not None
            chunk = self._chunks[-1]
            digest, end = chunk.digest.copy(), chunk.size
            try:
                for part in parts:
                    end = write_at(self._file.fileno(), part, end)
                    digest.update(part)
            except OSError:
                # A convenience only: a retry writes at the same offset, a resumed run cuts it off.
                os.ftruncate(self._file.fileno(), chunk.size)
                raise
        except OSError as error:
            needed = sum(len(part) for part in parts)
            raise CheckpointWriteError(path, needed, error.strerror or str(error)) from error
        self._chunks[-1] = _Chunk(index, end, digest)
        self.count += 1
        return self.count - 1

    def position(self) -> dict[str, Any]:
        """Where the log ends, as plain data for a checkpoint; ``fsync`` must precede its writing.

        ``first`` is the oldest episode it needs (see ``drop_before``).
        """
        return {
            "layout": self._layout(),
            "first": self._first,
            "episodes": self.count,
            "chunks": [chunk.plain() for chunk in self._needed()],
        }

    def fsync(self) -> None:
        """Make all that was appended before the call durable. From any one thread.

        Raises CheckpointWriteError.
        """
        # The list first: a chunk begun after it is synced next time, and never taken for complete.
        files = list(self._unsynced)
        growing = self._file
        try:
            for file in files:
                os.fsync(file.fileno())
                if file is not growing:
                    self._unsynced.remove(file)
                    file.close()
            if files:
                fsync_folder(self.folder)
        except OSError as error:
            raise CheckpointWriteError(self.folder, 0, error.strerror or str(error)) from error

    def sync(self) -> dict[str, Any]:
        """``fsync``, then the ``position``."""
        self.fsync()
        return self.position()

    def restore(self, position: dict[str, Any] | None) -> None:
        """Verify that every byte the position refers to is there. Changes nothing on disk.

        None is the position of a run that has saved nothing yet. Raises CheckpointError, naming
        the file and what is wrong with it, or what differs from this log's configuration.
        """
        self._verified = None
        chunks = []
        if position is not None:
            for key, value in self._layout().items():
                stored = position["layout"].get(key)
                if stored != value:
                    raise CheckpointError(f"replay data has {key} {stored}, this run has {value}")
            chunks = [self._verify(**entry) for entry in position["chunks"]]
        self._verified = (position, chunks)

    def truncate(self, position: dict[str, Any] | None) -> None:
        """Cut off what lies beyond a position that ``restore`` found valid, and go on from there.

        Raises ValueError for any other position, CheckpointWriteError when the disk refuses.
        """
        if self._verified is None or self._verified[0] != position:
            raise ValueError("truncate takes the position that the last restore verified")
        self.close()
        self._chunks = self._verified[1]
        self.count = position["episodes"] if position else 0
        self._first = position["first"] if position else 0
        last = self.count // self.episodes_per_chunk
        growing = bool(self._chunks) and self._chunks[-1].index == last
        try:
            for index, path in self._on_disk():
                if index > last or (index == last and not growing):
                    path.unlink()
            for chunk in self._chunks:
                os.truncate(self._path(chunk.index), chunk.size)
            if growing:
                self._file = FileIO(self._path(last), "r+")
                self._unsynced.append(self._file)
        except OSError as error:
            raise CheckpointWriteError(self.folder, 0, error.strerror or str(error)) from error
        self._verified = None

    def episodes(self, first: int, last: int) -> Iterator[tuple[int, Episode]]:
        """Episodes ``first <= number < last`` with their numbers, each checked as it is read.

        Raises CheckpointError for one that is damaged, dropped or not there yet.
        """
        if not 0 <= first <= last <= self.count:
            raise CheckpointError(f"episodes {first} to {last} asked for, there are {self.count}")
        per_chunk = self.episodes_per_chunk
        while first < last:
            index = first // per_chunk
            path, stop = self._path(index), min(last, (index + 1) * per_chunk)
            try:
                with path.open("rb", buffering=0) as file:
                    for number in range(index * per_chunk, stop):
                        skip = number < first
                        episode = self._read(file, path, number, skip)
                        if episode is not None:
                            yield number, episode
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
            first = stop

    def drop_before(self, episode: int, *, referenced: int) -> None:
        """Positions from now on need no episode below ``episode``, the oldest in the buffer.

        ``referenced`` is the smallest ``position["first"]`` of all checkpoints on disk, those that
        a write in hand will replace included: it may fail. Chunks with only older episodes than
        both are deleted. Called before ``position``, which else needs what the last call left.
        Raises CheckpointWriteError.
        """
        if not self._first <= episode <= self.count:
            raise ValueError(f"drop_before({episode}): between {self._first} and {self.count}")
        self._first = episode
        keep = min(episode, referenced) // self.episodes_per_chunk
        self._chunks = [chunk for chunk in self._chunks if chunk.index >= keep]
        try:
            for index, path in self._on_disk():
                if index < keep:
                    path.unlink()
        except OSError as error:
            raise CheckpointWriteError(self.folder, 0, error.strerror or str(error)) from error

    def close(self) -> None:
        """Give up the open files; nothing is lost, and nothing made durable."""
        for file in self._unsynced:
            file.close()
        self._file, self._unsynced = None, []

    def _layout(self) -> dict[str, Any]:
        """What must agree for the bytes to mean the same."""
        return {
            "obs_shape": list(self.obs_shape),
            "obs_dtype": self.obs_dtype.str,
            "action_dim": self.action_dim,
            "frame_stack": self.frame_stack,
            "episodes_per_chunk": self.episodes_per_chunk,
        }

    def _needed(self) -> list[_Chunk]:
        return [c for c in self._chunks if c.index >= self._first // self.episodes_per_chunk]

    def _path(self, index: int) -> Path:
        return self.folder / f"chunk_{index:06d}.bin"

    def _on_disk(self) -> list[tuple[int, Path]]:
        found = self.folder.glob("chunk_*.bin")
        return sorted((int(path.stem[6:]), path) for path in found if path.stem[6:].isdecimal())

    def _payload_bytes(self, length: int) -> int:
        record = int(np.prod(self.obs_shape)) * self.obs_dtype.itemsize
        return (length + 1) * record + length * (self.action_dim + 1) * _FLOAT.itemsize

    def _open_chunk(self, index: int) -> None:
        path = self._path(index)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = FileIO(path, "x+")
        except FileExistsError as error:
            message = f"{path}: left by an earlier process; restore and truncate come first"
            raise CheckpointError(message) from error
        self._unsynced.append(self._file)
        self._chunks.append(_Chunk(index, 0, hashlib.sha256()))

    def _payload(self, episode: Episode) -> list[memoryview]:
        length, stack = len(episode), self.frame_stack
        channels = self.obs_shape[0]
        shape = (length + 1, stack * channels, *self.obs_shape[1:])
        expected = {"obs": shape, "action": (length, self.action_dim), "reward": (length,)}
        for name, wanted in expected.items():
            array = getattr(episode, name)
            dtype = self.obs_dtype if name == "obs" else _FLOAT
            if array.shape != wanted or array.dtype != dtype:
                found = f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} of an episode is {found}, not {dtype} {wanted}")
        frames = episode.obs[:, -channels:]
        if stack > 1 and not np.array_equal(self._stacked(frames), episode.obs):
            raise ValueError(f"obs of an episode is not a stack of {stack} frames, newest last")
        arrays = (frames, episode.action, episode.reward)
        return [np.ascontiguousarray(array).reshape(-1).view("u1").data for array in arrays]

    def _stacked(self, frames: np.ndarray) -> np.ndarray:
        """``[L+1, C, ...]`` frames to ``[L+1, stack·C, ...]`` observations."""
        if self.frame_stack == 1:
            return frames
        count, channels = frames.shape[:2]
        obs = np.empty((count, self.frame_stack * channels, *frames.shape[2:]), frames.dtype)
        for i in range(self.frame_stack):
            age = min(self.frame_stack - 1 - i, count)
            obs[:age, i * channels : (i + 1) * channels] = frames[0]
            obs[age:, i * channels : (i + 1) * channels] = frames[: count - age]
        return obs

    def _read(self, file: FileIO, path: Path, number: int, skip: bool) -> Episode | None:
        """The record at the file's position, or None and the file behind it."""
        offset = file.tell()
        head = file.read(_HEADER.size + _CRC.size)
        where = f"{path}: episode {number} at byte {offset:,}"
        if len(head) < _HEADER.size + _CRC.size:
            raise CheckpointError(f"{where} is cut off")
        magic, length, stored = _HEADER.unpack_from(head)
        if magic != _MAGIC or stored != number:
            raise CheckpointError(f"{where} has a damaged header")
        size = self._payload_bytes(length)
        if skip:
            file.seek(size, os.SEEK_CUR)
            return None
        if offset + len(head) + size > os.fstat(file.fileno()).st_size:
            raise CheckpointError(f"{where} is cut off")
        payload = bytearray(size)
        view = memoryview(payload)
        while count := file.readinto(view):
            view = view[count:]
        if zlib.crc32(payload, zlib.crc32(head[: _HEADER.size])) != _CRC.unpack_from(head, 16)[0]:
            raise CheckpointError(f"{where} is damaged: its checksum does not fit")
        tail = length * (self.action_dim + 1) * _FLOAT.itemsize
        frames = np.frombuffer(payload, self.obs_dtype, (size - tail) // self.obs_dtype.itemsize)
        rest = np.frombuffer(payload, _FLOAT, offset=size - tail)
        return Episode(
            obs=self._stacked(frames.reshape(length + 1, *self.obs_shape)),
            action=rest[: length * self.action_dim].reshape(length, self.action_dim),
            reward=rest[length * self.action_dim :],
        )

    def _verify(self, index: int, bytes: int, sha256: str) -> _Chunk:
        path = self._path(index)
        digest, left = hashlib.sha256(), bytes
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size < bytes:
                    raise CheckpointError(f"{path}: cut off: {size:,} of {bytes:,} bytes")
                buffer = memoryview(bytearray(_PIECE))
                while left and (count := file.readinto(buffer[: min(left, _PIECE)])):
                    digest.update(buffer[:count])
                    left -= count
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        if left or digest.hexdigest() != sha256:
            raise CheckpointError(f"{path}: damaged: checksum of {bytes:,} bytes does not fit")
        return _Chunk(index, bytes, digest)
