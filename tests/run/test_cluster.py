"""Jobs on a Ray cluster: workers are killed, and what comes of their jobs is the same."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from captures import make_sample
from checkpoints import TINY, write_llama
from killing import Killing

from qconvert.calibration.capture import capture
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import OutputError, UsageError, WeightError
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.run.outputs import write_outputs

ray = pytest.importorskip("ray")

from qconvert.run import cluster as clusters  # noqa: E402
from qconvert.run.cluster import Cluster  # noqa: E402
from qconvert.run.visiting import visits_over  # noqa: E402


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def cluster():
    """Two workers on this machine; of a cluster that runs already where RAY_ADDRESS names one."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    made = Cluster(2, 1, os.environ.get("RAY_ADDRESS"), Notes())
    try:
        made.__enter__()
    except UsageError as error:  # Ray waits for half a minute, which a busy machine may need
        pytest.skip(error.message)
    yield made
    made.__exit__()
    patch.undo()


def slower_first(item: int) -> int:
    time.sleep(0.002 * (10 - item % 10))
    return 2 * item


def failing(at: int, item: int) -> int:
    if item == at:
        raise WeightError(f"item {item}", "a hint")
    return item


def ending(item: int) -> None:
    os._exit(1)


def test_results_keep_the_order_of_the_items(cluster):
    assert list(cluster.map(slower_first, range(50))) == [2 * item for item in range(50)]
    unsized = (item for item in range(50))
    assert list(cluster.map(slower_first, unsized)) == [2 * item for item in range(50)]


def test_the_first_error_in_order_is_raised_as_it_is(cluster):
    results = cluster.map(partial(failing, 3), range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(WeightError, match="item 3") as error:
        next(results)
    assert error.value.hint == "a hint"


def test_no_more_items_are_taken_than_may_be_under_way(cluster):
    taken = []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    for given, _ in enumerate(cluster.map(slower_first, items(), 3)):
        assert len(taken) <= given + 1 + 3


def test_one_map_can_be_asked_for_in_the_middle_of_another(cluster):
    outer = cluster.map(slower_first, range(20))
    assert next(outer) == 0
    assert list(cluster.map(str, range(5))) == list("01234")
    assert list(outer) == [2 * item for item in range(1, 20)]


def test_what_a_killed_worker_had_is_done_again(cluster):
    cluster.watcher.notes.clear()
    results = cluster.map(slower_first, range(40), 8)
    found = [next(results) for _ in range(4)]
    os.kill(cluster.hands[0].process, signal.SIGKILL)
    assert found + list(results) == [2 * item for item in range(40)]
    assert any("done again" in note for note in cluster.watcher.notes)


def test_a_job_that_ends_every_worker_is_given_up(cluster, monkeypatch):
    monkeypatch.setattr(clusters, "ATTEMPTS", 2)
    with pytest.raises(OutputError, match="2 workers ended over the same job"):
        list(cluster.map(ending, [0]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("model") / "m", TINY)


def test_a_file_is_the_same_whoever_is_killed(cluster, model, tmp_path):
    def quantized(out: Path, workers, watcher) -> bytes:
        asked = Recipe("q4_k_m", output=out, vocabulary=False)
        plan = make_plan(open_model(open_checkpoint(str(model))), asked)
        write_outputs([plan], workers, watcher)
        return out.read_bytes()

    killing = Killing(cluster, 0, one_in=5)
    alone = quantized(tmp_path / "a.gguf", 1, Silent())
    assert quantized(tmp_path / "b.gguf", cluster, killing) == alone
    assert killing.killed


def test_a_calibration_is_the_same_though_a_worker_is_killed(cluster, model, tmp_path):
    def calibrated(out: Path, watcher, **how) -> bytes:
        out.parent.mkdir()
        sample = make_sample(12, 32)
        capture(
            open_checkpoint(str(model)), sample, out, device="cpu", batch=2, watcher=watcher, **how
        )
        return out.read_bytes()

    killing = Killing(cluster, 0, one_in=4, most=1)
    alone = calibrated(tmp_path / "a" / "c", Silent())
    assert calibrated(tmp_path / "b" / "c", killing, visits=visits_over(cluster, 1)) == alone
    assert killing.killed
