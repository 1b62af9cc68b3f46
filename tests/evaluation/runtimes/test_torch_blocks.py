"""Logits block by block, against transformers' whole model."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from common import FAMILIES, convert_model, random_tokens, save_model, torch_logits

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError, WeightError
from qconvert.evaluation.runtimes import torch_blocks as torch_runtime
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.text.perplexity_windows import make_windows
from qconvert.text.types import Windows

COUNT, WINDOW = 3, 40
QUICK = ("llama", "mixtral", "gemma3", "phi3", "gpt2", "granite")
"""Those that differ the most; all together take longer."""
DECODERS = [
    pytest.param(family, marks=() if family in QUICK else pytest.mark.slow)
    for family in FAMILIES
    if family != "bert"
]


def windows() -> Windows:
    tokens = np.array(random_tokens(COUNT * WINDOW), np.int32).reshape(COUNT, WINDOW)
    return make_windows(tokens, "random")


def computed(path: Path, settings: Settings | None = None) -> np.ndarray:
    runtime = TorchRuntime(open_checkpoint(str(path)), settings or Settings(device="cpu"))
    return np.stack([logits.copy() for logits in runtime.logits(windows())])


def expected(model) -> np.ndarray:
    """What predicts the tokens behind the middle."""
    return np.stack(
        [torch_logits(model, tokens)[WINDOW // 2 : -1] for tokens in windows().tokens.tolist()]
    )


def assert_close(one: np.ndarray, other: np.ndarray) -> None:
    """Equal but for float32's rounding, relative to the largest value."""
    assert one.dtype == np.float32
    assert one.shape == other.shape == (COUNT, WINDOW // 2 - 1, 323)
    assert other.std() > 0.1
    assert np.abs(one - other).max() / np.abs(other).max() < 1e-5


@pytest.mark.parametrize("family", DECODERS)
def test_every_family_in_either_container(family: str, tmp_path: Path):
    model = save_model(family, tmp_path / "model")
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f32")
    assert_close(computed(tmp_path / "model"), expected(model))
    assert_close(computed(tmp_path / "model.gguf"), expected(model))


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_tied_outputs(family: str, tmp_path: Path):
    model = save_model(family, tmp_path / "model", tied=True)
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f32")
    assert_close(computed(tmp_path / "model"), expected(model))
    assert_close(computed(tmp_path / "model.gguf"), expected(model))


@pytest.mark.parametrize(("family", "file_type"), [("qwen3", "q4_k_m"), ("gpt2", "q5_0")])
def test_quantized_files_compute_with_what_their_blocks_say(
    family, file_type, tmp_path: Path, monkeypatch
):
    """But for the rounding of inputs, which depends on the blocks."""
    monkeypatch.setattr(torch_runtime, "llama_inputs", lambda checkpoint: None)
    layers = {"n_layer": 2} if family == "gpt2" else {"num_hidden_layers": 2}
    save_model(family, tmp_path / "model", wide=True, **layers)
    convert_model(tmp_path / "model", tmp_path / "small.gguf", file_type)
    dequantize_file(tmp_path / "small.gguf", tmp_path / "wide.gguf")
    assert np.array_equal(computed(tmp_path / "small.gguf"), computed(tmp_path / "wide.gguf"))
    assert_close(computed(tmp_path / "small.gguf"), computed(tmp_path / "wide.gguf"))


def dequantize_file(path: Path, out: Path) -> None:
    """The same file with every tensor in float32, by gguf-py."""
    reader = gguf.GGUFReader(path)
    field = reader.fields["general.architecture"]
    writer = gguf.GGUFWriter(out, bytes(field.parts[field.data[0]]).decode())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_hidden_states_and_projection_make_the_logits(tmp_path: Path):
    save_model("granite", tmp_path / "model")
    runtime = TorchRuntime(open_checkpoint(str(tmp_path / "model")), Settings(device="cpu"))
    hidden = [states.copy() for states in runtime.hidden(windows())]
    assert [states.shape for states in hidden] == [(WINDOW // 2 - 1, 320)] * COUNT
    made = np.stack([runtime.project(states) for states in hidden])
    assert np.array_equal(made, computed(tmp_path / "model"))
    runtime.release()
    assert np.array_equal(runtime.project(hidden[0]), made[0])


def test_progress_counts_blocks_and_nothing_is_left_on_the_disk(tmp_path: Path):
    save_model("llama", tmp_path / "model")
    (tmp_path / "work").mkdir()
    seen = []
    settings = Settings(
        device="cpu",
        threads=1,
        folder=tmp_path / "work",
        progress=lambda done, total: seen.append(
            (done, total, list((tmp_path / "work").iterdir()))
        ),
    )
    computed(tmp_path / "model", settings)
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(len(folders) == 1 for _, _, folders in seen)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.layers.1.mlp.up_proj.weight", "model: block 1 gives values that are NaN"),
        ("lm_head.weight", "model gives logits that are NaN or infinite in window 1"),
        ("model.norm.weight", "model gives logits that are NaN or infinite in window 1"),
    ],
)
def test_nan_is_refused_and_the_file_named(name: str, words: str, tmp_path: Path):
    import torch
    from safetensors.torch import load_file, save_file

    save_model("llama", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors[name].view(-1)[5] = torch.nan
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(WeightError, match=words):
        computed(tmp_path / "model")


def test_windows_longer_than_the_model_are_refused(tmp_path: Path):
    save_model("gpt2", tmp_path / "model")
    long = make_windows(np.ones((1, 128), np.int32), "long")
    runtime = TorchRuntime(open_checkpoint(str(tmp_path / "model")))
    with pytest.raises(PlanError, match="longer than the model's 96"):
        next(runtime.logits(long))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_holds_a_block_and_not_the_model(tmp_path: Path):
    """24 blocks of 32 MB, against one of them: what torch itself takes is the same in both."""
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 4}
    sizes |= {"head_dim": 64, "intermediate_size": 2816}
    peaks = []
    for blocks in (1, 24):
        path = tmp_path / str(blocks)
        save_model("mistral", path, num_hidden_layers=blocks, **sizes)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) * 1024)
    model = (tmp_path / "24" / "model.safetensors").stat().st_size
    assert model > 700e6
    assert peaks[1] - peaks[0] < model / 8


PEAK = """
import sys
import numpy as np
from qconvert.checkpoint import open_checkpoint
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.text.perplexity_windows import make_windows

windows = make_windows(np.ones((2, 64), np.int32), "ones")
for _ in TorchRuntime(open_checkpoint(sys.argv[1]), Settings("cpu")).logits(windows):
    pass
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
"""
