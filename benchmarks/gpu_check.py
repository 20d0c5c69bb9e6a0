"""Is all well, and how fast is it, on this machine's GPU? At most ten minutes; installs nothing.

    make gpu-check
    python benchmarks/gpu_check.py --device cuda:1 --minutes 5 --parts speed launches

Each part is processes of its own, which are ended when the part's time is over. Writes NAME.json
and NAME.md into ``results/gpu``, by the GPU's name. Without a GPU everything is small, on the CPU:
that tells only whether the check itself works.
"""

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import gpu_parts
from gpu_parts import Check

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "theseus", "numpy", "hydra", "pydantic", "jaxtyping", "rich", "safetensors")
NEEDED_TO_TRAIN = ("dm_control", "mujoco", "gymnasium")

PARTS: dict[str, tuple[Callable[[Check], dict[str, Any]], float]] = {
    "parity": (gpu_parts.parity, 0.10),
    "resume": (gpu_parts.resume, 0.17),
    "launches": (gpu_parts.launches, 0.10),
    "speed": (gpu_parts.speed, 0.33),
    "quick-run": (gpu_parts.quick_run, 0.13),
    "full-size-run": (gpu_parts.full_size_run, 0.17),
}
"""what is checked, and its share of the time; what a part leaves over, the later ones have"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="cuda, cuda:N or cpu; the GPU if there is one")
    parser.add_argument("--minutes", type=float, help="at most: 10 on a GPU, 5 on a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{sys.executable} lacks {', '.join(missing)}: make setup installs everything")
        return 1
    machine = gpu_parts.machine(arguments.device)
    device, name = machine["device"], machine["name"]
    minutes = arguments.minutes or (10 if device != "cpu" else 5)
    print(f"{name}, torch {machine['torch']}: at most {minutes:g} minutes", flush=True)
    lacking = [name for name in NEEDED_TO_TRAIN if importlib.util.find_spec(name) is None]
    if lacking:
        print(f"no run can be trained: {', '.join(lacking)} is missing")
    results: dict[str, Any] = {"machine": machine}
    end = time.monotonic() + 60 * minutes
    waiting = list(arguments.parts)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        while waiting:
            part = waiting.pop(0)
            function, share = PARTS[part]
            rest = share + sum(PARTS[other][1] for other in waiting)
            seconds = (end - time.monotonic()) * share / rest
            print(f"{part}: at most {seconds:.0f} s", flush=True)
            begin = time.monotonic()
            try:
                found = function(Check(device, Path(folder) / part, seconds))
            except Exception as error:  # the other parts are worth having
                found = {"not run": f"{type(error).__name__}: {error}"}
            results[part] = found | {"seconds": round(time.monotonic() - begin)}
            print(json.dumps(results[part], indent=2), flush=True)
            write(arguments.out, name, results)
    return 0


def write(out: Path, name: str, results: dict[str, Any]) -> None:
    """After each part: what is known stays if the machine is taken away."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    file.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    file.with_suffix(".md").write_text(page(name, results))
    print(f"written: {file}.json, .md", flush=True)


def page(name: str, results: dict[str, Any]) -> str:
    lines = [f"# {name}", "", *(f"- {key}: {value}" for key, value in results["machine"].items())]
    for part, found in results.items():
        if part == "machine":
            continue
        lines += ["", f"## {part}, {found['seconds']} s", ""]
        tables = {key: value for key, value in found.items() if isinstance(value, dict)}
        plain = {key: value for key, value in found.items() if key not in tables}
        lines += [f"- {key}: {value}" for key, value in plain.items() if key != "seconds"]
        for title, rows in tables.items():
            lines += ["", *table(title, rows)]
    return "\n".join(lines) + "\n"


def table(title: str, rows: dict[str, Any]) -> list[str]:
    """A line for each key; where its values are mappings, a column for each of theirs."""
    mappings = [row for row in rows.values() if isinstance(row, dict)]
    columns = list(dict.fromkeys(key for row in mappings for key in row))
    lines = [f"| {title} | " + " | ".join(columns or ["result"]) + " |"]
    lines.append("| --- |" + " ---: |" * max(1, len(columns)))
    for name, row in rows.items():
        values = [row.get(c, "") for c in columns] if isinstance(row, dict) else [row]
        values += [""] * (len(columns) - len(values))
        lines.append(f"| {name} | " + " | ".join(map(str, values)) + " |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
