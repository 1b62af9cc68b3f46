import pytest

from qconvert.errors import UsageError
from qconvert.machine.watcher import Silent
from qconvert.run import crew
from qconvert.run.crew import Crew, crew_of
from qconvert.run.executor import default_threads


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("dask",), "--executor 'dask' is not known"),
        (("threads", None, 3), "--workers is for a cluster"),
        (("threads", 2, None, "auto"), "--address is for a cluster"),
    ],
)
def test_what_cannot_be_is_said(asked, message):
    with pytest.raises(UsageError, match=message):
        crew_of(*asked)


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setattr(crew, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs Ray") as error:
        crew_of("ray")
    assert "qconvert[ray]" in error.value.hint


def test_a_crew_of_threads_is_their_number():
    with Crew(threads=3).at_work(Silent()) as workers:
        assert workers == 3
    with crew_of("threads").at_work(Silent()) as workers:
        assert workers == default_threads()
    assert Crew("ray").cores == 1


def test_workers_compute_on_their_processors():
    assert Crew("ray").device("auto") == "cpu"
    assert Crew().device("auto") == "auto"
    with pytest.raises(UsageError, match="compute on CPUs, not on cuda"):
        Crew("ray").device("cuda")
