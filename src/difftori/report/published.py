"""Published curves: a CSV file with method, task, modality, env_step and mean."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["method", "task", "modality", "env_step", "mean"]


class PublishedError(ValueError):
    """A file of published curves that cannot be used; the message is one line for the user."""


def read_published(path: Path, patterns: Sequence[str] = ()) -> pd.DataFrame:
    """``COLUMNS`` of the file; rows without a mean are left out.

    Args:
        patterns: names of the methods to keep, in this order, also like ``TD-MPC*``; none keeps
            all.

    Raises:
        PublishedError: the file cannot be read, lacks a column, or has no method of a pattern.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:3], str))[COLUMNS]
        table = table.astype(dict.fromkeys(COLUMNS[3:], float))
        table = table.replace([np.inf, -np.inf], np.nan).dropna()
    except (OSError, ValueError, KeyError) as error:
        raise PublishedError(f"{path} holds no published curves: {error}") from error
    parts = []
    for pattern in patterns or ["*"]:
        parts.append(table[[fnmatchcase(name, pattern) for name in table["method"]]])
        if parts[-1].empty:
            known = ", ".join(sorted(table["method"].unique()))
            raise PublishedError(f"{path} has no method {pattern}; it has {known}")
    chosen = pd.concat(parts).astype({"env_step": int})
    return chosen.drop_duplicates(COLUMNS[:4], keep="last")
