"""Reading back what W&B's client has written to its ``.wandb`` files."""

from collections.abc import Iterator
from pathlib import Path

_FILE_HEADER_BYTES = 7
_BLOCK_BYTES = 32768
_CHUNK_HEADER_BYTES = 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def next_step(path: Path) -> int | None:
    """The step behind the last history row in the file, 0 if it has no row.

    None if the file cannot be read, or not by this version of wandb. What a killed client wrote
    by half is passed over, as ``wandb sync`` does.
    """
    try:
        from wandb.proto import wandb_internal_pb2

        found = 0
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(data)
            if record.HasField("history"):
                found = max(found, _step_of(record.history) + 1)
        return found
    except Exception:  # the format is wandb's own, and any change of it shows itself in its way
        return None


def _step_of(row: object) -> int:
    """The row's own index; -1 if it carries none."""
    for item in row.item:  # type: ignore[attr-defined]
        if item.key == "_step" or list(item.nested_key) == ["_step"]:
            return int(item.value_json)
    return int(row.step.num) if row.HasField("step") else -1  # type: ignore[attr-defined]


def _records(data: bytes) -> Iterator[bytes]:
    """The whole records of a LevelDB log: blocks of chunks, a record in one chunk or several."""
    offset, parts = _FILE_HEADER_BYTES, b""
    while offset + _CHUNK_HEADER_BYTES <= len(data):
        left_in_block = _BLOCK_BYTES - offset % _BLOCK_BYTES
        if left_in_block < _CHUNK_HEADER_BYTES:
            offset += left_in_block
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        begin, offset = offset + _CHUNK_HEADER_BYTES, offset + _CHUNK_HEADER_BYTES + length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or offset > len(data):
            return  # the end was never written
        parts = (b"" if kind in (_WHOLE, _FIRST) else parts) + data[begin:offset]
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
