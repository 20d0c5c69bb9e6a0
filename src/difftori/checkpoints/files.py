"""How a file of a run's folder is written whole or not at all, and how JSON is read."""

import json
import os
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"
"""what ``write_durably`` leaves in a folder if it is killed; the next write there replaces it"""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step. Raises OSError, and leaves the old file, if that fails."""
    temporary = path.with_name(f".{path.name}.tmp")  # what a kill leaves is replaced by the next
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes | bytearray) -> None:
    """The same, and the content outlasts a loss of power. One writer per folder at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(UNFINISHED)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # gives its space back
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
