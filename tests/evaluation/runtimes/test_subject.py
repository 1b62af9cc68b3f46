"""What a path is opened as."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from common import convert_model, random_tokens, save_model
from compressed_models import quantize_model

from qconvert.errors import CheckpointError, UnsupportedError, UsageError
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.subject import open_reference, open_subject
from qconvert.inspection.quantized import look_at_quantized
from qconvert.text.perplexity_windows import make_windows


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("subjects")
    save_model("qwen3", folder / "model", wide=True, num_hidden_layers=2)
    for file_type in ("f32", "q4_k_m"):
        convert_model(folder / "model", folder / f"{file_type}.gguf", file_type)
    for scheme in ("w8a8", "fp8", "w4a16", "nvfp4a16"):
        quantize_model(folder / "model", folder / scheme, scheme)
    quantize_model(
        folder / "model", folder / "mixed", "w4a16", overrides=(("*.down_proj.weight", "fp8"),)
    )
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "backend"),
    [
        ("model", "F32", "torch"),
        ("f32.gguf", "F32", "llama.cpp"),
        ("q4_k_m.gguf", "Q4_K_M", "llama.cpp"),
        ("w8a8", "w8a8", "transformers"),
        ("fp8", "fp8", "transformers"),
        ("w4a16", "w4a16", "torch"),
        ("nvfp4a16", "nvfp4a16", "torch"),
        ("mixed", "w4a16 + fp8", "transformers"),
    ],
)
def test_what_it_is_and_what_runs_it(name, kind, backend, files):
    subject = open_subject(str(files / name))
    assert (subject.kind, subject.runtime.backend) == (kind, backend)
    assert subject.path == files / name
    path = files / name
    quantized = path.is_dir() and "quantization_config" in (path / "config.json").read_text()
    # Of a directory with quantized weights all counts, as it does in a GGUF file.
    stored = [path] if path.is_file() else list(path.glob("*" if quantized else "*.safetensors"))
    assert subject.nbytes == sum(file.stat().st_size for file in stored)
    assert subject.checkpoint is not None
    assert subject.notices == ()


def test_bits_per_weight_count_scales(files):
    bits = {name: open_subject(str(files / name)).bits_per_weight for name in ("model", "w4a16")}
    assert bits["model"] == 32
    found = look_at_quantized("w4a16", files / "w4a16")
    assert bits["w4a16"] == found.bits_per_weight
    q4 = open_subject(str(files / "q4_k_m.gguf"))
    assert q4.bits_per_weight == pytest.approx(8 * q4.nbytes / q4.checkpoint.parameters, rel=0.02)


@pytest.mark.parametrize(
    ("name", "backend", "words", "hint"),
    [
        ("model", "llama.cpp", "no GGUF file", "torch"),
        ("w4a16", "llama.cpp", "no GGUF file", "torch"),
        ("f32.gguf", "transformers", "is a GGUF file", "llama.cpp"),
        ("model", "tpu", "is not a backend", "llama.cpp"),
    ],
)
def test_a_backend_that_cannot_run_it_is_refused(name, backend, words, hint, files):
    with pytest.raises(UsageError) as caught:
        open_subject(str(files / name), backend)
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_torch_says_that_it_does_not_round_inputs(files):
    subject = open_subject(str(files / "w8a8"), "torch")
    assert subject.runtime.backend == "torch"
    assert "does not round the inputs" in subject.notices[0]


@pytest.mark.parametrize(
    ("scheme", "words"), [("nvfp4a16", "global scales of experts"), ("w8a8", "not int8")]
)
def test_what_transformers_gets_wrong_runs_in_torch(scheme, words, tmp_path):
    save_model("mixtral", tmp_path / "model", wide=True, num_hidden_layers=1, num_local_experts=2)
    quantize_model(tmp_path / "model", tmp_path / "out", scheme)
    with pytest.raises(UsageError, match=words) as caught:
        open_subject(str(tmp_path / "out"), "transformers")
    assert "--backend torch" in caught.value.hint
    subject = open_subject(str(tmp_path / "out"))
    assert subject.runtime.backend == "torch"
    assert (words in "".join(subject.notices)) == (scheme == "w8a8")


def test_float4_runs_in_transformers_as_it_is_unpacked_there(files):
    tokens = np.array(random_tokens(40), np.int32).reshape(1, 40)
    subjects = [open_subject(str(files / "nvfp4a16"), name) for name in ("transformers", "torch")]
    assert "bfloat16" in subjects[0].notices[0]
    rounded, exact = (
        next(one.runtime.logits(make_windows(tokens, "random"))).copy() for one in subjects
    )
    assert np.corrcoef(rounded.ravel(), exact.ravel())[0, 1] > 0.999


def test_without_llama_cpp_gguf_files_run_in_torch(files, monkeypatch):
    for module in ("llama_cpp", "xllamacpp"):
        monkeypatch.setitem(sys.modules, module, None)
    subject = open_subject(str(files / "q4_k_m.gguf"))
    assert subject.runtime.backend == "torch"
    assert "pip install" in subject.notices[0]
    with pytest.raises(UsageError, match="not installed"):
        open_subject(str(files / "q4_k_m.gguf"), "llama.cpp")


@pytest.mark.parametrize("form", ["model", "model.gguf"])
def test_encoders_are_refused(form, tmp_path):
    save_model("bert", tmp_path / "model")
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f32")
    with pytest.raises(UnsupportedError, match="is an encoder"):
        open_subject(str(tmp_path / form))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such"):
        open_subject(str(tmp_path / "absent.gguf"))
    (tmp_path / "notes.bin").write_bytes(b"text")
    with pytest.raises(CheckpointError):
        open_subject(str(tmp_path / "notes.bin"))


def test_layouts_that_only_transformers_reads_go_there(tmp_path):
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=1)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "bits": 4}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    subject = open_subject(str(tmp_path / "model"))
    assert (subject.kind, subject.runtime.backend) == ("hqq", "transformers")
    with pytest.raises(UnsupportedError, match="hqq"):
        open_subject(str(tmp_path / "model"), "torch")


def test_references_are_told_apart_by_what_they_are_and_not_where(files, tmp_path):
    reference = open_reference(str(files / "model"), settings=Settings(device="cpu"))
    assert reference.runtime.backend == "torch"
    (tmp_path / "moved").symlink_to(files / "model")
    assert open_reference(str(tmp_path / "moved")).fingerprint == reference.fingerprint
    others = {open_reference(str(files / name)).fingerprint for name in ("w4a16", "f32.gguf")}
    assert len(others | {reference.fingerprint}) == 3


def test_one_model_gives_nearly_the_same_in_all_runtimes(files):
    tokens = np.array(random_tokens(40), np.int32).reshape(1, 40)
    windows = make_windows(tokens, "random")
    found = {}
    for name, backend in (
        ("model", "torch"),
        ("model", "transformers"),
        ("f32.gguf", "torch"),
        ("f32.gguf", "llama.cpp"),
    ):
        runtime = open_subject(str(files / name), backend, Settings(device="cpu")).runtime
        found[name, backend] = next(runtime.logits(windows)).copy()
    first = found["model", "torch"]
    for key, logits in found.items():
        # llama.cpp keeps keys and values in float16, whose numbers have 11 bits.
        bound = 2**-8 if key[1] == "llama.cpp" else 1e-5
        assert np.abs(logits - first).max() < bound * np.abs(first).max(), key
