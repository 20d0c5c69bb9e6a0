"""Keep what a study's pages need of its runs: a few kilobytes of each, to be committed.

python benchmarks/archive_runs.py logs --out results/does-the-gradient-help/runs

Of every finished run below the given folders it copies ``eval.csv`` and ``config.yaml``, so that
``src/plot.py`` reads the archive as it reads ``logs``. ``runs.csv`` has a line for each run: what
was asked for, at which commit, what it cost, and how often the plan's gradient was zero.
"""

import argparse
import filecmp
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

LABELS = ["task", "modality", "mode", "exp_name", "seed"]


def row(folder: Path) -> dict[str, Any]:
    """One line of ``runs.csv``."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    sessions = json.loads((folder / "provenance.json").read_text())["sessions"]
    records = pd.read_json(folder / "metrics.jsonl", lines=True)
    train, last = records[records.category == "train"], records[records.category == "eval"].iloc[-1]
    zero = train.get("share_zero_gradients")
    return {
        **{label: config[label] for label in LABELS},
        "env_step": int(last.env_step),
        "episode_reward": round(float(last.episode_reward), 1),
        "updates": int(train.updates.sum()),
        "hours": round(float(last.elapsed_seconds) / 3600, 3),
        "share_zero_gradients": None if zero is None else round(float(zero.mean()), 4),
        "threads": sessions[-1]["threads"],
        "device": sessions[-1]["device"],
        "git_commit": (sessions[-1]["git_commit"] or "")[:10]
        + "+" * bool(sessions[-1]["git_dirty"]),
        "command": "src/train.py " + " ".join(sessions[0]["overrides"] or []),
    }


def archive(places: list[Path], out: Path) -> pd.DataFrame:
    """Copy the finished runs below ``places``; returns the lines of all that ``out`` holds."""
    table = out / "runs.csv"
    known = (
        pd.read_csv(table, dtype=dict.fromkeys(LABELS[:-1], str))
        if table.exists()
        else pd.DataFrame(columns=LABELS)
    )
    rows = []
    for status in sorted(path for place in places for path in place.rglob("status.json")):
        folder = status.parent
        try:
            if json.loads(status.read_text())["state"] != "done":
                continue
            rows.append(row(folder))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            print(f"left out: {folder}: {error!r}", file=sys.stderr)
            continue
        kept = out.joinpath(*(str(rows[-1][label]) for label in LABELS))
        kept.mkdir(parents=True, exist_ok=True)
        if (kept / "eval.csv").exists() and not filecmp.cmp(folder / "eval.csv", kept / "eval.csv"):
            print(f"{folder} replaces another run: {kept}", file=sys.stderr)
        for name in ("eval.csv", "config.yaml"):
            shutil.copyfile(folder / name, kept / name)
    lines = pd.concat([known, pd.DataFrame(rows)]).drop_duplicates(LABELS, keep="last")
    lines = lines.sort_values(LABELS).convert_dtypes()
    lines.to_csv(table, index=False)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders with runs below them")
    parser.add_argument("--out", type=Path, required=True, help="the archive")
    arguments = parser.parse_args()
    for place in arguments.runs:
        if not place.is_dir():
            parser.error(f"{place} is not a folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = archive(arguments.runs, arguments.out)
    print(
        f"{len(lines)} runs in {arguments.out}, {lines.get('hours', pd.Series()).sum():.1f} hours"
    )


if __name__ == "__main__":
    main()
