"""Rules about the source itself."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = sorted(SRC.rglob("*.py"))
PURE = [
    "learning/losses.py",
    "planning/returns.py",
    "planning/noise.py",
    "model/augment.py",
    "model/networks.py",
    "types.py",
]
LINES = 300


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_only_the_solvers_import_theseus() -> None:
    users = {str(path.relative_to(SRC)) for path in FILES if "theseus" in imported(path)}
    solvers = ("plan_layer", "theseus_lm", "published_solver", "trust_region")
    assert users == {f"difftori/solvers/{name}.py" for name in solvers}


@pytest.mark.parametrize("name", PURE)
def test_pure_files_know_neither_config_nor_trackers(name: str) -> None:
    assert not imported(SRC / "difftori" / name) & {"hydra", "omegaconf", "wandb"}


def test_nothing_runs_text_as_code() -> None:
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle"}
    assert [path for path in FILES if imported(path) & unsafe] == []
    runs_text = {"eval", "exec", "compile", "__import__"}
    named = [
        f"{path}:{call.lineno}"
        for path in FILES
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id in runs_text
    ]
    assert named == []


def test_weights_are_loaded_as_data_only() -> None:
    safe = {
        "torch.load": ("weights_only", "True", "False"),
        "np.load": ("allow_pickle", "False", "False"),
        "numpy.load": ("allow_pickle", "False", "False"),
    }
    """the key, its safe value, and its value where it is not given"""
    for path in FILES:
        for call in calls(path):
            if ast.unparse(call.func) in safe:
                key, wanted, default = safe[ast.unparse(call.func)]
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get(key, default) == wanted, f"{path}:{call.lineno}"


def test_files_stay_short() -> None:
    assert [path for path in FILES if len(path.read_text().splitlines()) > LINES] == []


def test_devices_are_not_wired_in() -> None:
    """``.cuda()`` and ``device="cuda"`` are decided by the config, at the top."""
    wired_in = re.compile(r"\.cuda\(\)|device=[\"']cuda")
    assert [path for path in FILES if wired_in.search(path.read_text())] == []


def test_a_modes_name_is_compared_with_nowhere() -> None:
    """A mode is data in ``cfgs/mode``."""
    modes = {path.stem for path in (ROOT / "cfgs" / "mode").glob("*.yaml")} - {"default"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
                assert not constants & modes, f"{path}:{node.lineno}"
