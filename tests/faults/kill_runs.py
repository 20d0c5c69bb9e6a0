"""Kill whole runs again and again, and see that they end like a run that was never killed.

python tests/faults/kill_runs.py --kills 100 --seed 1 --mode back_plan --task cartpole-swingup
"""

import argparse
import hashlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from processes import context, start, train

from runs import fingerprint, run_folder

KINDS = ("checkpoint", "episode", "evaluation", "plan", "update", "elsewhere")
"""where a kill can land: inside a checkpoint's write, an episode's, ...; a plan of an evaluation
counts as an evaluation"""
KILLS_OF_ONE_RUN = 12


@dataclass
class Watch:
    """Memory that a child shares with its parent, by position in ``KINDS``."""

    inside: Any
    """whether the child is in there now"""
    entries: Any
    seconds: Any
    """spent inside, of all entries"""

    @classmethod
    def new(cls) -> "Watch":
        make = context().RawArray
        return cls(make("i", len(KINDS)), make("i", len(KINDS)), make("d", len(KINDS)))

    def place(self) -> str:
        return next((kind for kind, n in zip(KINDS, self.inside, strict=False) if n), "elsewhere")


@dataclass(frozen=True)
class Aim:
    """Kill ``delay`` seconds after ``kind`` was entered for the ``entry``-th time."""

    kind: str
    entry: int
    delay: float


@dataclass
class Report:
    landed: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    """runs that were compared with the one that was never killed"""
    different: list[str] = field(default_factory=list)
    """what differed, and in which run"""
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        return sum(self.landed.values())

    def table(self) -> str:
        lines = [f"{'killed inside':<16}kills"]
        lines += [f"{kind:<16}{self.landed[kind]:>5}" for kind in KINDS]
        lines.append(f"{'in all':<16}{self.kills:>5}   in {self.seconds:.0f} s")
        lines.append(f"{self.finished} finished runs, {len(self.different)} differences")
        return "\n".join([*lines, *self.different])


def watched(
    watch: Watch, tell: Connection, aim: Aim | None, log_dir: Path, overrides: Sequence[str]
) -> int:
    """A child's whole run; it notes where it is, and tells when it is where the parent aims."""
    from difftori.checkpoints.episodes import EpisodeFiles
    from difftori.checkpoints.store import CheckpointStore
    from difftori.learning.learner import Learner
    from difftori.planning.actor import Actor
    from difftori.training import scheduled_evaluation

    def wrap(owner: Any, name: str, kind: str) -> None:
        original, k = getattr(owner, name), KINDS.index(kind)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            watch.entries[k] += 1
            watch.inside[k] += 1
            if aim is not None and (kind, watch.entries[k]) == (aim.kind, aim.entry):
                tell.send_bytes(b"here")
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                watch.seconds[k] += time.perf_counter() - began
                watch.inside[k] -= 1

        setattr(owner, name, wrapper)

    wrap(CheckpointStore, "save", "checkpoint")
    wrap(EpisodeFiles, "save", "episode")
    wrap(scheduled_evaluation, "evaluate", "evaluation")
    wrap(Actor, "act", "plan")
    wrap(Learner, "update", "update")
    return train(log_dir, *overrides)


class Killer:
    """Kills the runs of one command; all that it leaves is below ``folder``."""

    def __init__(self, folder: Path, overrides: Sequence[str], seed: int) -> None:
        self.folder = folder
        self.overrides = list(overrides)
        self.random = random.Random(seed)
        self.report = Report()
        self.watch = Watch.new()
        began = time.monotonic()
        self._run_once(folder / "whole", None)
        self.whole_seconds = time.monotonic() - began
        self.entries = dict(zip(KINDS, self.watch.entries, strict=True))
        totals = dict(zip(KINDS, self.watch.seconds, strict=True))
        self.seconds = {kind: totals[kind] / max(1, self.entries[kind]) for kind in KINDS}
        self.expected = finished_state(run_folder(folder / "whole"))

    def run(self, kills: int, say: Callable[[str], None] = lambda line: None) -> Report:
        """At least ``kills`` kills, more if one kind was not hit; every run goes on to its end."""
        began = time.monotonic()
        wanted: list[str] = []
        while self._goes_on(kills):
            log_dir = self.folder / f"run{self.report.finished}"
            for _ in range(KILLS_OF_ONE_RUN):
                if not self._goes_on(kills):
                    break
                if not wanted:
                    wanted = [k for k in KINDS if not self.report.landed[k]] or list(KINDS)
                    self.random.shuffle(wanted)
                landed = self._run_once(log_dir, self._aim(wanted.pop()))
                if landed is None:
                    break
                self.report.landed[landed] += 1
                say(f"kill {self.report.kills} in run {self.report.finished}: {landed}")
            self._run_once(log_dir, None)
            self._compare(log_dir)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _goes_on(self, kills: int) -> bool:
        missing = any(not self.report.landed[kind] for kind in KINDS)
        return self.report.kills < kills or (missing and self.report.kills < 5 * kills)

    def _aim(self, kind: str) -> Aim:
        if kind == "elsewhere":
            return Aim(kind, 0, self.random.uniform(0, self.whole_seconds))
        # early enough that a run which goes on from the middle still comes there
        entry = self.random.randint(1, max(1, self.entries[kind] // 3))
        return Aim(kind, entry, self.random.uniform(0, self.seconds[kind]))

    def _run_once(self, log_dir: Path, aim: Aim | None) -> str | None:
        """Run until the end (None) or the kill (where it landed)."""
        for array in (self.watch.inside, self.watch.entries, self.watch.seconds):
            array[:] = [0] * len(KINDS)
        hear, tell = context().Pipe(duplex=False)
        child = start(watched, self.watch, tell, aim, log_dir, self.overrides, log=log_dir / "log")
        tell.close()
        if aim is not None:
            if aim.kind == "elsewhere":
                child.process.join(aim.delay)
            elif _hears(hear):
                time.sleep(aim.delay)
            if child.process.is_alive():
                child.signal(signal.SIGKILL)
        hear.close()
        code = child.wait(120)
        if code == -signal.SIGKILL:
            return self.watch.place()
        assert code == 0, f"the run ended with {code}:\n{child.out}{child.err}"
        return None

    def _compare(self, log_dir: Path) -> None:
        found = finished_state(run_folder(log_dir))
        for name in sorted(self.expected.keys() | found.keys()):
            if self.expected.get(name) != found.get(name):
                self.report.different.append(f"run {self.report.finished}: {name} differs")
        self.report.finished += 1


def finished_state(folder: Path) -> dict[str, str]:
    """All that a finished run leaves, wall-clock values aside."""
    best = (folder / "checkpoints" / "best.safetensors").read_bytes()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {
        **fingerprint(folder),
        "best.safetensors": hashlib.sha256(best).hexdigest(),
        "names of files": "\n".join(names),
    }


def _hears(hear: Connection) -> bool:
    """Wait for the child's word; False if it ends without."""
    try:
        hear.recv_bytes()
    except EOFError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill debug runs and compare how they end.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", default="back_plan")
    parser.add_argument("--task", default="cartpole-swingup")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"mode={options.mode}", f"task={options.task}"]
        killer = Killer(Path(folder), overrides, options.seed)
        report = killer.run(options.kills, lambda line: print(line, flush=True))
    print(report.table())
    return 1 if report.different else 0


if __name__ == "__main__":
    sys.exit(main())
