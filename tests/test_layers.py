"""Dependencies point one way."""

import ast
from pathlib import Path

import qconvert

ROOT = Path(qconvert.__file__).parent

FLOORS = (
    *("errors", "machine", "kernels", "formats", "checkpoint", "containers", "model", "text"),
    *("forward", "calibration", "algorithms", "plan", "run", "inspection", "evaluation", "report"),
    *("api", "cli"),
)
"""From the bottom: a room knows those below it alone."""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("qconvert.")}


def test_no_room_knows_a_room_above_it():
    level = {name: number for number, name in enumerate(FLOORS)}
    upward = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        upward += [
            f"{path.relative_to(ROOT)} -> {target}"
            for target in imports(path)
            if level[target.split(".")[1]] > level[own]
        ]
    assert not upward


def test_planning_never_runs_the_model():
    made_of = {name for path in (ROOT / "plan").rglob("*.py") for name in imports(path)}
    assert not {name for name in made_of if name.split(".")[1] in ("forward", "run")}


def test_no_module_outgrows_a_reader():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long
