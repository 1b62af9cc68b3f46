"""What a search for exponents has found stays until the output is written."""

from pathlib import Path

import pytest
from captures import run_capture
from checkpoints import Llama, write_llama
from interrupting import Interrupting

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run


class Listening(Silent):
    """Knows how much of the last work an earlier run has done."""

    resumed = 0.0

    def begin(self, total: int, done: int) -> None:
        self.resumed = done / total


def test_an_interrupted_writing_does_not_search_again(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model", Llama(64, 3, 128, 4, 2, 400))
    run_capture(model, tmp_path / "calib")
    (tmp_path / "out").mkdir()

    def plan(name: str, watcher: Silent) -> Plan:
        asked = Recipe(
            "w8a8",
            output=tmp_path / "out" / name,
            calibration=tmp_path / "calib",
            activations="static",
            smooth="auto",
        )
        checkpoint = open_checkpoint(str(model))
        return plan_outputs(checkpoint, [asked], Run(1, watcher, "cpu"))[0]

    stopping = Interrupting(5)
    with pytest.raises(KeyboardInterrupt):
        write_outputs([plan("one", Silent())], 1, stopping)
    assert stopping.count == 0
    second = Listening()
    again = plan("one", second)
    assert second.resumed == 1
    write_outputs([again], 1, second)
    assert second.resumed > 0
    write_outputs([plan("whole", Silent())], 1, Silent())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one", "whole"]
    for path in (tmp_path / "out" / "whole").iterdir():
        assert (tmp_path / "out" / "one" / path.name).read_bytes() == path.read_bytes()
