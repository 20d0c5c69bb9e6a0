"""The parts of ``gpu_check.py``: each gives what it found, as plain data."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODES = ("default", "theseus_forward", "back_plan", "back_plan_per_step", "back_plan_replay")
WAYS = {
    "both": ("compile=true", "cuda_graphs=true"),
    "captured": ("compile=false", "cuda_graphs=true"),
    "eager": ("compile=false", "cuda_graphs=false"),
    "compiled": ("compile=true", "cuda_graphs=false"),
}
GPU_ROWS = ("plan_forward", "update_fp32", "mppi", "plan_back", "plan_batch10")
GPU_ROWS += ("update_bf16", "update_tf32", "plan_small", "update_small")
CPU_ROWS = ("plan_small", "update_small")


class Check:
    """What a part has: a device, a folder of its own and so many seconds."""

    def __init__(self, device: str, folder: Path, seconds: float) -> None:
        self.device, self.folder = device, folder
        self._end = time.monotonic() + seconds
        folder.mkdir(parents=True)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def left(self) -> float:
        """Seconds, not under 0."""
        return max(0.0, self._end - time.monotonic())

    def start(self, *words: str) -> "Process":
        return Process([sys.executable, *words], self.folder)

    def run(self, *words: str, seconds: float | None = None) -> "Process":
        """To its end, or to that of the time."""
        process = self.start(*words)
        process.wait(self.left if seconds is None else min(seconds, self.left))
        return process


class Process:
    def __init__(self, command: list[str], folder: Path) -> None:
        self._log = folder / f"{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HYDRA_FULL_ERROR": "1"},
            )
        self.code: int | None = None

    def wait(self, seconds: float) -> None:
        """Until it ends or the time is over: then it is told to, and at last made to."""
        for patience, number in ((seconds, signal.SIGTERM), (20.0, signal.SIGKILL), (None, 0)):
            try:
                self.code = self._popen.wait(patience)
                return
            except subprocess.TimeoutExpired:
                self._popen.send_signal(number)
            except KeyboardInterrupt:  # the process has it too, and may have to save
                self._popen.wait()
                raise

    def kill(self) -> None:
        self._popen.kill()
        self.code = self._popen.wait()

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def last_words(self) -> str:
        if self.code in (-signal.SIGTERM, -signal.SIGKILL):
            return "not finished when its time was over"
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def machine(device: str | None) -> dict[str, Any]:
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {"device": device, "name": "no GPU", "torch": torch.__version__}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        found["name"] = properties.name
        found["memory"] = f"{properties.total_memory / 1e9:.0f} GB"
        found["compute capability"] = f"{properties.major}.{properties.minor}"
        found["CUDA"] = torch.version.cuda
    found["cores"] = len(os.sched_getaffinity(0))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    found["commit"] = commit.stdout.strip() or "unknown"
    return found


def parity(check: Check) -> dict[str, Any]:
    """The published code's numbers, in each way; all at once, as most of it is compiling."""

    def deviations(keys: tuple[str, ...]) -> str:
        if check.left < 5:
            return "not run: no time left"
        words = ("tests/parity.py", "tests/reference", *keys, "--device", check.device)
        process = check.run(*words)
        bad = [line.split()[1] for line in process.output.splitlines() if "FAIL" in line]
        return process.last_words + (f": {', '.join(bad)}" if bad else "")

    ways = WAYS if check.on_gpu else {"eager": WAYS["eager"]}
    with ThreadPoolExecutor(len(ways)) as pool:
        found = dict(zip(ways, pool.map(deviations, ways.values()), strict=True))
    return {"deviations": found}


def resume(check: Check) -> dict[str, Any]:
    """A debug run of each mode, killed once it has a checkpoint, and run again to its end."""
    with ThreadPoolExecutor(5 if check.on_gpu else 2) as pool:
        said = pool.map(lambda mode: _killed_and_resumed(check, mode), MODES)
        return {"modes": dict(zip(MODES, said, strict=True))}


def _killed_and_resumed(check: Check, mode: str) -> str:
    words = _training("preset=debug", f"mode={mode}", f"device={check.device}")
    words += (f"log_dir={check.folder / mode}",)
    process = check.start(*words)
    while not process.has_ended and check.left:
        if any((check.folder / mode).glob("*/*/*/*/*/checkpoints/step_*")):
            break
        time.sleep(0.01)
    killed = not process.has_ended
    if killed:
        process.kill()
    process = check.run(*words)
    before = "killed and resumed" if killed else "ended before it could be killed, run again"
    return f"{before}: done" if process.code == 0 else f"{before}: {process.last_words}"


def launches(check: Check) -> dict[str, Any]:
    """What a plan and an update ask of the GPU."""
    process = check.run("benchmarks/gpu_launches.py", "--device", check.device)
    if process.code:
        return {"not run": process.last_words}
    return json.loads(process.output.splitlines()[-1])


def speed(check: Check) -> dict[str, Any]:
    """``speed.py`` in each way; the published way beside it, on the same GPU."""
    ways = list(WAYS) if check.on_gpu else ["eager"]
    rows = GPU_ROWS if check.on_gpu else CPU_ROWS
    found: dict[str, dict[str, float]] = {row: {} for row in rows}
    unfinished: dict[str, str] = {}
    for number, way in enumerate(ways):
        seconds, file = check.left / (len(ways) - number), check.folder / f"{way}.json"
        words = ("benchmarks/speed.py", "--device", check.device, "--way", way, "--rows", *rows)
        limits = ("--seconds", f"{0.8 * seconds:.0f}", "--json", str(file))
        process = check.run(*words, *limits, seconds=seconds)
        measured = json.loads(file.read_text()) if file.exists() else {}
        for row, numbers in measured.items():
            found[row].setdefault("published, ms", round(numbers["reference_ms"], 2))
            found[row].setdefault("floor, ms", round(numbers["floor_ms"], 2))
            found[row][f"{way}, ms"] = round(numbers["ours_ms"], 2)
        if len(measured) < len(rows):
            late = [row for row in rows if row not in measured]
            unfinished[way] = f"no time for {', '.join(late)}; {process.last_words}"
    return {"rows": {row: times for row, times in found.items() if times}, **unfinished}


def quick_run(check: Check) -> dict[str, Any]:
    """cartpole-swingup as far as it comes."""
    small = ("train_steps=4000", "seed_steps=125", "theseus_start_step=125", "eval_freq=2000")
    steps = () if check.on_gpu else small
    return _trained(check, "task=cartpole-swingup", "mode=back_plan", "preset=quick", *steps)


def full_size_run(check: Check) -> dict[str, Any]:
    """10,000 agent steps of cheetah-run, nine of ten planned by the optimizer; TF32 off."""
    full = ("action_repeat=4", "train_steps=40000", "seed_steps=1000", "theseus_start_step=1000")
    sizes = full if check.on_gpu else ("preset=debug",)
    return _trained(check, "task=cheetah-run", "mode=back_plan", *sizes)


def _trained(check: Check, *words: str) -> dict[str, Any]:
    log_dir = check.folder / "logs"
    command = (*_training(*words, f"device={check.device}"), f"log_dir={log_dir}")
    process = check.run(*command, seconds=check.left - 20)
    ended = "to its end" if process.code == 0 else f"ended early, exit code {process.code}"
    said = process.last_words.partition(", everything in")[0]
    found: dict[str, Any] = {"command": " ".join(words), "ran": f"{ended}: {said}"}
    episodes, evaluations = (_records(log_dir, kind) for kind in ("train", "eval"))
    if len(episodes) > 2:
        last, first = episodes[-1], episodes[-min(4, len(episodes))]
        seconds = last["elapsed_seconds"] - first["elapsed_seconds"]
        steps = last["agent_step"] - first["agent_step"]
        found["agent steps"] = last["agent_step"]
        found["agent steps per second, with an update each, at last"] = round(steps / seconds, 1)
    if evaluations:
        found["last evaluation"] = {k: v for k, v in evaluations[-1].items() if "reward" in k}
    return found


def _records(log_dir: Path, category: str) -> list[dict[str, Any]]:
    lines = [
        json.loads(line)
        for file in log_dir.glob("*/*/*/*/*/metrics.jsonl")
        for line in file.read_text().splitlines()
    ]
    return [record for record in lines if record["category"] == category]


def _training(*words: str) -> tuple[str, ...]:
    return ("src/train.py", *words, "save_video=false")
