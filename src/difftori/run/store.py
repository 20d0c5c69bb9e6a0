"""Checkpoint files: nested plain data and tensors, one file each, complete or refused.

A file is an ordinary safetensors file, so any safetensors reader opens it by hand::

    with safetensors.safe_open(path, framework="pt") as file:
        json.loads(file.metadata()["tree"])     # the plain data; {"__tensor__": name} is a tensor
        file.get_tensor("/model/encoder/0/weight")

Its header begins with ``sha256``, the digest of the whole file with the digest's own 64 characters
read as ``0``; it is verified before anything else is looked at. The header is written here and
not by the safetensors library: equal content gives equal bytes (the library's order of metadata
keys is undefined), and the digest is made while the bytes pass by, with no second copy of them.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_TENSOR = "__tensor__"
_FORMAT = "difftori-checkpoint-1"
_PREFIX = f'{{"__metadata__":{{"format":"{_FORMAT}","sha256":"'.encode()
_DIGEST = slice(8 + len(_PREFIX), 8 + len(_PREFIX) + 64)
_PIECE = 4 << 20  # bytes hashed and written at a time, so that they are still in the cache
_HEADER_LIMIT = 100_000_000  # bytes; safetensors readers refuse more
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_MALFORMED: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError),
    safetensors.SafetensorError,
)
_LEFTOVER = re.compile(r"\..+\.safetensors\.tmp")
_STEP = re.compile(r"step_(\d{12})\.safetensors")
_DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"},
    torch.bool: "BOOL",
}


class CheckpointError(Exception):
    """A checkpoint, or the data it refers to, cannot be written or cannot be used."""


class CheckpointWriteError(CheckpointError):
    """The disk did not take the bytes; what was there before is intact, and retrying is safe."""

    def __init__(self, path: Path, bytes_needed: int, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason} (needs {bytes_needed:,} bytes)")
        self.path = path
        self.bytes_needed = bytes_needed
        self.reason = reason


@dataclass(frozen=True)
class _Image:
    """A tree on its way to the disk."""

    header: bytes
    """length, JSON and padding, with zeros for the digest"""
    tensors: list[Tensor]
    """in the order of the file"""

    @property
    def bytes_needed(self) -> int:
        return len(self.header) + sum(_nbytes(tensor) for tensor in self.tensors)

    def pieces(self) -> Iterator[memoryview]:
        for part in (memoryview(self.header), *map(_raw, self.tensors)):
            for start in range(0, len(part), _PIECE):
                yield part[start : start + _PIECE]


def save_tree(path: Path, tree: Any) -> None:
    """Write ``tree`` to ``path``, durably and all or nothing.

    ``tree``: nested dicts with string keys and lists, of tensors (any device, any strides), int,
    float, str, bool and None. What shares storage is written twice and loads apart. One writer per
    folder at a time: leftovers of writers that were killed are removed after a success.

    Raises CheckpointError, naming the place, for content that cannot be stored, and
    CheckpointWriteError when the disk does not take it.
    """
    _write(path, _image(tree, copy=False))


def load_tree(path: Path) -> Any:
    """Read a tree back, tensors on the CPU and each with its own memory.

    Raises CheckpointError, naming the file and what is wrong, unless every byte is as written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if data[8 : _DIGEST.start] != _PREFIX:
        reason = "empty" if not data else f"damaged at its beginning, or not a {_FORMAT} file"
        raise CheckpointError(f"{path}: {reason} ({len(data):,} bytes)")
    view = memoryview(data)
    digest = hashlib.sha256(view[: _DIGEST.start])
    digest.update(b"0" * 64)
    digest.update(view[_DIGEST.stop :])
    if digest.hexdigest().encode() != data[_DIGEST]:
        raise CheckpointError(f"{path}: {_damage(data)}")
    try:
        tensors = safetensors.torch.load(data)
        text = _header(data)["__metadata__"]["tree"]
        return _join(json.loads(text, parse_constant=_refuse_constant), tensors)
    except _MALFORMED as error:
        raise CheckpointError(f"{path}: checksum good, content malformed: {error!r}") from error


def tree_bytes(tree: Any) -> int:
    """Size in bytes of the file that ``save_tree`` would write."""
    return _image(tree, copy=False).bytes_needed


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write all of ``data`` at ``offset``; gives the offset behind it. Raises OSError."""
    while len(data):
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
    return offset


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _image(tree: Any, *, copy: bool) -> _Image:
    """Lay out ``tree`` for the disk; ``copy`` makes it independent of later changes."""
    found: dict[str, Tensor] = {}
    try:
        plain = _split(tree, "", found)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
        # Wide elements first keeps every tensor aligned in the file.
        names = sorted(found, key=lambda name: (-found[name].element_size(), name.encode()))
    except (ValueError, RecursionError) as error:  # lone surrogates, huge integers, cycles
        raise CheckpointError(f"the tree cannot be stored: {error}") from error
    metadata = {"format": _FORMAT, "sha256": "0" * 64, "tree": text}
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        begin, end = end, end + _nbytes(found[name])
        dtype, shape = _DTYPES[found[name].dtype], list(found[name].shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _HEADER_LIMIT:
        raise CheckpointError(
            f"{len(header):,} bytes of plain data and names, at most {_HEADER_LIMIT:,} fit: "
            "store long lists of numbers as tensors"
        )
    tensors = [_copy(found[name]) if copy else found[name] for name in names]
    return _Image(len(header).to_bytes(8, "little") + header, tensors)


def _split(node: Any, path: str, found: dict[str, Tensor]) -> Any:
    """Plain data of ``node`` with a mark for each tensor, which goes to ``found`` by its path."""
    where = path or "/"
    match node:
        case Tensor():
            if node.dtype not in _DTYPES or node.layout != torch.strided or node.is_meta:
                kind = f"{node.layout} {node.dtype} tensor on {node.device}"
                raise CheckpointError(f"{where}: a {kind} cannot be stored")
            found[path] = node
            return {_TENSOR: path}
        case None | bool() | str():
            return node
        case int():
            return int(node)
        case float():
            if not math.isfinite(node):
                raise CheckpointError(f"{where} is {node}: only finite numbers can be stored")
            return float(node)
        case list():
            return [_split(child, f"{path}/{i}", found) for i, child in enumerate(node)]
        case dict():
            for key in node:
                if not isinstance(key, str) or key == _TENSOR:
                    raise CheckpointError(f"{where}: {key!r} cannot be a key, a string can")
            # JSON pointers (RFC 6901): a name of its own for every place, whatever the keys.
            steps = {key: key.replace("~", "~0").replace("/", "~1") for key in node}
            return {key: _split(node[key], f"{path}/{steps[key]}", found) for key in node}
    choices = "dict, list, Tensor, int, float, str, bool or None"
    raise CheckpointError(f"{where}: a {type(node).__name__} cannot be stored; use {choices}")


def _join(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_join(child, tensors) for child in node]
    if isinstance(node, dict):
        if node.keys() == {_TENSOR}:
            return tensors[node[_TENSOR]]
        return {key: _join(child, tensors) for key, child in node.items()}
    return node


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().resolve_neg().reshape(-1)
    if flat.stride(0) != 1:
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def _header(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _damage(data: bytes) -> str:
    """Say what is wrong with a file whose checksum does not fit."""
    try:
        header = _header(data)
        header.pop("__metadata__")
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        missing = 8 + int.from_bytes(data[:8], "little") + end - len(data)
    except _MALFORMED:
        return f"damaged or cut off in its header ({len(data):,} bytes)"
    if missing > 0:
        return f"cut off: {len(data):,} bytes, {missing:,} are missing"
    if missing < 0:
        return f"{-missing:,} bytes too long ({len(data):,} bytes)"
    return f"damaged: the checksum of its {len(data):,} bytes does not fit"


def _write(path: Path, image: _Image) -> None:
    def fill(temporary: Path) -> None:
        with temporary.open("wb", buffering=0) as file:
            digest, offset = hashlib.sha256(), 0
            for piece in image.pieces():
                digest.update(piece)
                offset = write_at(file.fileno(), piece, offset)
            write_at(file.fileno(), memoryview(digest.hexdigest().encode()), _DIGEST.start)
            os.fsync(file.fileno())

    _put(path, fill, image.bytes_needed)


def _link(source: Path, path: Path) -> None:
    """Give the file ``source`` a second name, or copy it where the file system has no links."""

    def fill(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())

    _put(path, fill, source.stat().st_size)


def _put(path: Path, fill: Callable[[Path], None], bytes_needed: int) -> None:
    """Make ``path`` the file that ``fill`` writes, or leave everything as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)
        for entry in path.parent.iterdir():
            if _LEFTOVER.fullmatch(entry.name):
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointWriteError(path, bytes_needed, error.strerror or str(error)) from error


class CheckpointStore:
    """The checkpoints of one run: ``step_000000012000.safetensors``, ..., and the best one.

    For one process at a time (see RunLock) and one thread of it. The background write is that of
    one thread, which holds no lock and is waited for when the interpreter ends.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.best_path = folder / "best.safetensors"
        self.skipped: list[str] = []
        """what was wrong with each checkpoint that the last ``latest`` passed over"""
        self._refused: set[int] = set()
        self._thread: threading.Thread | None = None
        self._errors: list[CheckpointWriteError] = []

    def path(self, number: int) -> Path:
        return self.folder / f"step_{number:012d}.safetensors"

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints on disk, rising, valid or not. Raises OSError."""
        names = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(found[1]) for name in names if (found := _STEP.fullmatch(name)))

    def save(self, number: int, tree: Any, *, best: bool = False) -> None:
        """Write now. ``number`` never falls; the same number again replaces that checkpoint.

        ``best`` makes it ``best.safetensors`` too. Raises CheckpointError as ``save_tree`` does,
        ValueError for a number below that of a checkpoint which ``latest`` did not refuse.
        """
        self._begin(number)
        self._store(number, _image(tree, copy=False), best)

    def save_async(
        self,
        number: int,
        tree: Any,
        *,
        best: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Copy ``tree`` and return; a thread writes the copy. Errors of the disk: see ``poll``.

        While an earlier write runs this waits for its end, so that which files appear does not
        depend on the speed of the disk and no more than one copy is in memory. ``before`` runs in
        the thread ahead of the write: what the checkpoint refers to is made durable there.
        Raises CheckpointError (content that cannot be stored) and ValueError like ``save``.
        """
        self._begin(number)
        image = _image(tree, copy=True)

        def run() -> None:
            try:
                if before is not None:
                    before()
                self._store(number, image, best)
            except CheckpointWriteError as error:
                self._errors.append(error)
            except Exception as error:  # it would end in the thread, told to nobody
                path, needed = self.path(number), image.bytes_needed
                self._errors.append(CheckpointWriteError(path, needed, repr(error)))

        thread = threading.Thread(target=run, name="checkpoint")
        try:
            thread.start()
        except RuntimeError:  # the system gives no thread: rather late than not at all
            run()
        else:
            self._thread = thread

    def wait(self) -> None:
        """Return when no write is running."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def poll(self) -> list[CheckpointWriteError]:
        """Errors of background writes since the last call; does not wait."""
        return [self._errors.pop(0) for _ in range(len(self._errors))]

    def latest(self, validate: Callable[[Any], None] | None = None) -> tuple[int, Any] | None:
        """The newest usable checkpoint as (number, tree), None where there are no checkpoints.

        ``validate(tree)`` raises CheckpointError to refuse a tree. What was passed over is told in
        ``skipped`` and removed when a later save has replaced it. Raises CheckpointError, which
        lists them, when none is usable; nothing is deleted then.
        """
        self.wait()
        self.skipped, self._refused = [], set()
        for number in reversed(self.numbers()):
            try:
                tree = load_tree(self.path(number))
            except CheckpointError as error:
                self.skipped.append(str(error))
            else:
                try:
                    if validate is not None:
                        validate(tree)
                    return number, tree
                except CheckpointError as error:
                    self.skipped.append(f"{self.path(number)}: refused: {error}")
            self._refused.add(number)
        self._refused = set()
        if not self.skipped:
            return None
        problems = "\n  ".join(self.skipped)
        raise CheckpointError(
            f"no checkpoint in {self.folder} is usable, nothing was deleted:\n  {problems}"
        )

    def _begin(self, number: int) -> None:
        self.wait()
        try:
            newest = max(set(self.numbers()) - self._refused, default=0)
        except OSError:  # the write that follows meets it too, and tells it as its own
            return
        if not newest <= number < 10**12:
            raise ValueError(f"checkpoint number {number} is below {newest}, the newest on disk")

    def _store(self, number: int, image: _Image, best: bool) -> None:
        if best:
            # The best goes first: killed in between, the run resumes from before it and finds it
            # again; the other way round a checkpoint would promise a best file that is not there.
            _write(self.best_path, image)
            _link(self.best_path, self.path(number))
        else:
            _write(self.path(number), image)
        # Files that latest() refused are of an abandoned future: the run went on from before them.
        self._refused.discard(number)
        try:
            numbers = self.numbers()
            kept = [n for n in numbers if n not in self._refused][-self.keep :]
            for old in set(numbers) - set(kept):
                self.path(old).unlink(missing_ok=True)
        except OSError as error:
            reason = f"written, but older ones cannot be removed: {error.strerror}"
            raise CheckpointWriteError(self.path(number), 0, reason) from error
        self._refused.clear()
