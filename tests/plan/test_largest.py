"""The largest models are planned from their headers, at once and in little memory."""

import json
import subprocess
import sys

import pytest
from latent_models import LATENT_671B, write_latent

MOST_SECONDS, MOST_BYTES = 5.0, 300e6
"""Of a processor, more than twice what it takes where nothing else runs; and of memory."""


MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss, done.stdout.decode()]))
"""
"""A small process starts it: what the tests' own has in memory would count."""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has another unit")
def test_671_billion_weights_are_planned_at_once(tmp_path):
    model = write_latent(tmp_path / "m", LATENT_671B)
    words = ["quantize", str(model), "-t", "q4_k_m", "-o", f"{tmp_path}/x.gguf", "--dry-run"]
    program = [sys.executable, "-m", "qconvert", *words, "--no-vocabulary", "--json", "-q"]
    command = [sys.executable, "-c", MEASURE, *program]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds, memory, answer = json.loads(done.stdout)
    (told,) = json.loads(answer)["outputs"]
    assert 370e9 < told["bytes"] < 420e9  # llama.cpp's own Q4_K_M of it has 404 GB
    assert sum(tensor["shape"][0] == 256 for tensor in told["plan"]) >= 3 * 58
    assert seconds < MOST_SECONDS
    assert memory < MOST_BYTES
