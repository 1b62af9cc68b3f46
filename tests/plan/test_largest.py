"""The largest models are planned from their headers, at once and in little memory."""

import json
import os
import subprocess
import sys

import pytest
from latent_models import LATENT_671B, write_latent

MOST_SECONDS, MOST_BYTES = 5.0, 300e6
"""Of a processor, more than twice what it takes where nothing else runs; and of memory."""


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="nothing tells what a process used")
def test_671_billion_weights_are_planned_at_once(tmp_path):
    model = write_latent(tmp_path / "m", LATENT_671B)
    words = ["quantize", str(model), "-t", "q4_k_m", "-o", f"{tmp_path}/x.gguf", "--dry-run"]
    program = [sys.executable, "-m", "qconvert", *words, "--no-vocabulary", "--json", "-q"]
    # A shell starts it: what a process had in memory before it became another one counts too.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        (told,) = json.loads(process.stdout.read())["outputs"]
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert 370e9 < told["bytes"] < 420e9  # llama.cpp's own Q4_K_M of it has 404 GB
    assert sum(tensor["shape"][0] == 256 for tensor in told["plan"]) >= 3 * 58
    assert used.ru_utime + used.ru_stime < MOST_SECONDS
    assert used.ru_maxrss * 1024 < MOST_BYTES
