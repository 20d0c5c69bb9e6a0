"""Published curves: a CSV file with method, task, modality, env_step, mean; std if known."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

REQUIRED = ["method", "task", "modality", "env_step", "mean"]
COLUMNS = [*REQUIRED, "std", "n_seeds", "source"]


class PublishedError(ValueError):
    """A file of published curves that cannot be used; the message is one line for the user."""


def read_published(path: Path, methods: Sequence[str] = ()) -> pd.DataFrame:
    """``COLUMNS`` of the file, by method, task and env step; rows without a number are left out.

    Args:
        methods: names or patterns of those to keep, in this order; none keeps all.

    Raises:
        PublishedError: the file or its columns cannot be read, no row has numbers, or a method is
            not in it.
    """
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a CSV file"
        raise PublishedError(f"{path} cannot be read: {reason}") from error
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise PublishedError(f"{path} lacks {', '.join(missing)}")
    table = table.reindex(columns=COLUMNS)
    for name in ("env_step", "mean", "std"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table = table.replace([np.inf, -np.inf], np.nan).dropna(subset=REQUIRED)
    if table.empty:
        raise PublishedError(f"{path}: no row has numbers for env_step and mean (std may be empty)")
    table = table.astype({"env_step": int}).drop_duplicates(REQUIRED[:4], keep="last")
    chosen = _choose(sorted(table["method"].unique()), methods, path)
    table = table[table["method"].isin(chosen)]
    in_order = table.sort_values(
        REQUIRED[:4],
        key=lambda column: column.map(chosen.index) if column.name == "method" else column,
    )
    return in_order.reset_index(drop=True)


def _choose(known: Sequence[str], patterns: Sequence[str], path: Path) -> list[str]:
    chosen: list[str] = []
    for pattern in patterns or ("*",):
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            raise PublishedError(f"{path} has no method {pattern}; it has {', '.join(known)}")
        chosen += [name for name in found if name not in chosen]
    return chosen
