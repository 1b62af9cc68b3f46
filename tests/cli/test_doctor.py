"""`qconvert doctor`."""

import json
import os
import resource

import pytest

from qconvert.machine.gpus import may_have_gpu


def before(folder) -> str:
    """Where modules are looked for, this folder first."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="module")
def found(qconvert, model, tmp_path_factory) -> dict:
    """What is said of this machine and a model, where vllm lacks what it needs."""
    folder = tmp_path_factory.mktemp("shadow")
    (folder / "vllm.py").write_text("raise ImportError('libcudart.so.13: not found')")
    about = folder / "vllm-0.99.dist-info"
    about.mkdir()
    needs = "Requires-Dist: numpy<1\nRequires-Dist: nothing; extra == 'all'\n"
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: 0.99\n{needs}")
    result = qconvert("doctor", model, "--json", PYTHONPATH=before(folder))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_runtimes_of_this_environment_load(found):
    states = {one["name"]: one for one in found["runtimes"]}
    for name in ("numba", "matplotlib"):
        assert states[name]["state"] == "loads", states[name]
    for name in ("transformers", "compressed-tensors"):
        assert states[name]["state"] == "installed", states[name]
        assert states[name]["version"]
    assert found["broken"] == []


def test_it_answers_in_two_seconds(qconvert):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(qconvert("doctor", "--json").stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    states = {one["name"]: one["state"] for one in told["runtimes"]}
    if may_have_gpu():
        assert states["torch"] == "loads"
    else:
        assert states["torch"] == "installed"
        assert used < 3.0  # 1.3 s on a quiet machine; the rest is for a busy one


def test_a_broken_runtime_says_why_and_is_no_failure(found):
    states = {one["name"]: one for one in found["runtimes"]}
    assert states["vllm"]["state"] == "broken"
    assert states["vllm"]["detail"].startswith("it needs numpy<1, and ")


def test_the_machine_is_described(found):
    assert found["processor"]["architecture"]
    assert 1 <= found["cores"]["usable"] <= found["cores"]["logical"] == os.cpu_count()
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    assert {disk["purpose"] for disk in found["disks"]} >= {"this folder", "hub cache"}
    assert found["kernels"]["modules"] >= found["kernels"]["compiled"] >= 0
    assert found["suits"]


def test_every_type_of_a_model_is_weighed_as_it_is_planned(found, qconvert, model):
    planned = json.loads(qconvert("inspect", model, "--json").stdout)["file_types"]
    types = {one["type"]: one for one in found["model"]["types"]}
    assert {one["name"]: one["bytes"] for one in planned} == {
        name: one["bytes"] for name, one in types.items() if one["container"] == "gguf"
    }
    assert {"w8a8", "fp8", "w4a16"} <= types.keys()
    assert all(one["fits_memory"] for one in types.values())
    assert found["model"]["take"] in types
    assert found["model"]["reason"]


def test_what_qconvert_needs_and_does_not_get_is_named(qconvert, tmp_path):
    (tmp_path / "numba.py").write_text("raise OSError('libLLVM.so: wrong ELF class')")
    result = qconvert("doctor", PYTHONPATH=before(tmp_path))
    assert result.returncode == 1
    assert "qconvert needs numba, which does not load: OSError: libLLVM.so" in result.stderr
    assert "BROKEN" in result.stdout
    assert "memory" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_model_that_is_not_there_is_an_error(qconvert, tmp_path):
    result = qconvert("doctor", tmp_path / "no")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")


def test_a_device_gets_what_fits_it_and_nothing_here_is_loaded(qconvert, model):
    result = qconvert("doctor", model, "--for", "Phone", "--context", "64", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["processor"]["architecture"] == "arm64"
    assert told["runtimes"] == []
    assert "q4_0" in {one["type"] for one in told["suits"]}
    assert told["model"]["take"] == "q8_0"
    more = json.loads(qconvert("doctor", model, "--for", "phone", "--json").stdout)
    grown = zip(told["model"]["types"], more["model"]["types"], strict=True)
    assert all(few["needs_bytes"] <= many["needs_bytes"] for few, many in grown)


def test_a_device_that_is_not_known_is_answered_with_those_that_are(qconvert, model):
    result = qconvert("doctor", model, "--for", "toaster")
    assert result.returncode == 2
    assert "phone, pi, laptop-8gb" in result.stderr
