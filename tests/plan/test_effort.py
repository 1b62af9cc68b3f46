import re
from dataclasses import replace

import pytest
from checkpoints import LLAMA_8B, write_llama

from qconvert.checkpoint import open_checkpoint
from qconvert.model.open import open_model
from qconvert.plan.effort import DISK, WEIGHTS, effort, effort_line
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = write_llama(tmp_path_factory.mktemp("8b") / "m", LLAMA_8B, sparse=True)
    model = open_model(open_checkpoint(str(folder)), is_sketch=True)
    return [make_plan(model, Recipe(kind, vocabulary=False)) for kind in ("q4_k_m", "q8_0")]


def test_several_outputs_read_their_source_once(planned):
    one, both = effort(planned[:1], 1, 2), effort(planned, 1, 2)
    assert both.read == one.read == planned[0].checkpoint.nbytes
    assert one.written == planned[0].nbytes
    assert both.written == sum(plan.nbytes for plan in planned)
    assert one.passes == 1


def test_what_limits_is_the_cores_or_the_disk(planned):
    few, many = effort(planned[:1], 1, 1), effort(planned[:1], 64, 32)
    assert few.seconds == pytest.approx(planned[0].parameters / WEIGHTS, rel=0.01)
    assert many.seconds == (many.read + many.written) / DISK
    assert effort(planned[:1], 4, 1).seconds == pytest.approx(few.seconds / 4)


def test_memory_does_not_grow_with_the_model(planned, tmp_path):
    small = write_llama(tmp_path / "m", replace(LLAMA_8B, layers=1), sparse=True)
    plan = make_plan(open_model(open_checkpoint(str(small))), Recipe("q4_k_m", vocabulary=False))
    assert effort([plan], 1, 4).peak == effort(planned[:1], 1, 4).peak < 1e9


def test_it_is_said_in_a_line(planned):
    line = effort_line(planned[:1], 16, 32)
    said = r"once: 1[56]\.\d+ GB; writes 4\.\d+ GB; .* with 16 processes of 32 cores at 46 million"
    assert re.search(said, line), line
