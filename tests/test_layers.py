"""Dependencies point one way."""

import ast
from pathlib import Path

import qconvert

ROOT = Path(qconvert.__file__).parent

LAYERS = (
    {"errors"},
    {"metadata", "machine"},
    {"kernels"},
    {"formats"},
    {"checkpoint"},
    {"recipes", "calibration", "architectures", "containers", "quantizers", "forward"},
    {"work"},
    {"plan", "compressed"},
    {"pipeline", "inspection"},
    {"outputs"},
    {"export", "conversion"},
    {"evaluation"},
    {"report"},
    {"cli"},
)
"""From the bottom; rooms of one layer may know each other's types."""


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "errors"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("qconvert.")}


def test_no_room_knows_a_room_above_it():
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    upward = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        upward += [
            f"{path.relative_to(ROOT)} -> {target}"
            for target in imports(path)
            if level[room(target)] > level[own]
        ]
    assert not upward


def test_no_module_outgrows_a_reader():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long
