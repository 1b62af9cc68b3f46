"""`qconvert inspect`: what it tells, as text and as JSON, and that it reads headers only."""

import json
import resource
from math import prod

import pytest
from checkpoints import TINY, Llama, write_llama

from qconvert.plan.gguf.file_types import FILE_TYPES


@pytest.fixture(scope="module")
def data(qconvert, model) -> dict:
    done = qconvert("inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_has_the_promised_keys(data):
    assert data["architecture"] == "llama"
    weights = sum(prod(shape) for shape in TINY.shapes.values())
    assert data["parameters"] == weights
    assert data["size_bytes"] == 2 * weights
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in data["tensors"]} == TINY.shapes
    assert all(tensor["dtype"] == "BF16" for tensor in data["tensors"])
    assert sum(tensor["bytes"] for tensor in data["tensors"]) == 2 * weights
    for kind in data["file_types"]:
        assert set(kind) == {"name", "bytes", "bits_per_weight", "fallbacks"}


def test_every_file_type_is_listed_or_its_absence_explained(data):
    listed = {kind["name"] for kind in data["file_types"]}
    missing = {kind.name for kind in FILE_TYPES.values()} - listed
    for name in missing:
        assert any(problem.startswith(f"{name}:") for problem in data["problems"])


@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0", "bf16", "tq1_0"])
def test_the_bytes_told_are_the_bytes_written(qconvert, model, data, tmp_path, kind):
    out = tmp_path / "x.gguf"
    assert qconvert("quantize", model, "-t", kind, "-o", out).returncode == 0
    told = next(entry for entry in data["file_types"] if entry["name"] == kind)
    assert out.stat().st_size == told["bytes"]


def test_one_type_shows_its_fallbacks(qconvert, tmp_path):
    narrow = write_llama(tmp_path / "narrow", Llama(192, 2, 512, 4, 2, 300))
    done = qconvert("inspect", narrow, "--type", "Q4_K_M")
    assert "q4_k_m" in done.stdout
    assert "q5_k_m" not in done.stdout
    assert "row of 192 is not a multiple of 256" in done.stdout


def test_a_gguf_file_shows_its_metadata_and_sums(qconvert, model, tmp_path):
    out = tmp_path / "x.gguf"
    qconvert("quantize", model, "-t", "q4_k_m", "-o", out)
    done = qconvert("inspect", out, "--tensors")
    assert "general.architecture = llama" in done.stdout
    assert "blk.0.attn_q.weight" in done.stdout
    data = json.loads(qconvert("inspect", out, "--json").stdout)
    assert data["dtypes"]["Q4_K"]["tensors"] > 0
    assert sum(entry["bytes"] for entry in data["dtypes"].values()) == data["size_bytes"]
    assert data["metadata"]["qconvert.file_type"] == "q4_k_m"
    assert data["metadata"]["qconvert.source"] == "tiny-llama"


def test_an_unknown_family_is_still_shown(qconvert, model, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["FooModel"]}))
    done = qconvert("inspect", tmp_path)
    assert done.returncode == 0
    assert "FooModel" in done.stdout
    assert "LlamaForCausalLM" in done.stderr


def test_700_tensors_in_shards_take_well_under_a_second(qconvert, tmp_path):
    shape = Llama(256, 77, 512, 4, 2, 500)
    assert len(shape.shapes) > 690
    large = write_llama(tmp_path / "large", shape, sparse=True, shard=10_000_000)
    assert len(list(large.glob("*.safetensors"))) > 5
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert qconvert("inspect", large, "--json").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 2.0  # 0.6 s on a quiet machine; the rest is for a busy one
