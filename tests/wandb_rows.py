"""What W&B's own client has written to its ``.wandb`` files, for the tests."""

import json
from pathlib import Path
from typing import Any


def wandb_records(path: Path) -> list[Any]:
    """The protobuf records of a ``.wandb`` file: a LevelDB log of 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    data, offset, parts, records = path.read_bytes(), 7, b"", []
    while offset + 7 <= len(data):
        left_in_block = 32768 - offset % 32768
        if left_in_block < 7:
            offset += left_in_block
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def client_files(folder: Path) -> list[Path]:
    """The offline files of a run folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_ctime)


def sent_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a sync of all offline files of a run folder would send."""
    rows = []
    for path in client_files(folder):
        for record in wandb_records(path):
            if record.HasField("history"):
                items = record.history.item
                values = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                rows.append(values)
    return rows
