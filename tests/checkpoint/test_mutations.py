"""Damaged and hostile headers: a clear error or a checkpoint, at once and in little memory."""

import json
import random
import signal
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save

from qconvert.checkpoint import fingerprint, open_checkpoint, read_bytes
from qconvert.errors import QconvertError

Mutate = Callable[[random.Random, bytes], bytes]
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]})
SECONDS = 5
# The largest object that a byte of a header can become is some hundred bytes; and what any
# opened file costs.
FACTOR, BASE = 64, 1 << 20


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fail when the block takes seconds, or much more memory than the file has bytes."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    peak = tracemalloc.get_traced_memory()[1] - start
    assert peak < FACTOR * size + BASE, f"{peak} bytes for a file of {size}"


def survives(path: Path, size: int) -> bool:
    """Open, read and digest; whether that went well."""
    message = ""
    with bounded(size):
        try:
            opened = open_checkpoint(str(path))
            fingerprint(opened)
            for tensor in opened.tensors.values():
                assert tensor.name.isprintable()
                assert tensor.nbytes <= size
                assert tensor.offset + (tensor.nbytes if tensor.strides is None else 0) <= size
                read_bytes(tensor, 0, min(tensor.rows, 4))
        except QconvertError as error:
            message = error.message
    assert message.isprintable()
    assert len(message) < 1000
    return not message


def flip(r: random.Random, data: bytes) -> bytes:
    """Change a few bits, mostly in the header."""
    changed = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 8))):
        changed[r.randrange(min(len(data), r.choice((32, 256, len(data)))))] ^= 1 << r.randrange(8)
    return bytes(changed)


def cut(r: random.Random, data: bytes) -> bytes:
    """Lose the end, a piece, or gain one."""
    a, b = sorted(r.randrange(len(data)) for _ in range(2))
    return r.choice((data[:a], data[:a] + data[b:], data[:b] + data[a:], data + data[a:b]))


def overwrite(r: random.Random, data: bytes) -> bytes:
    """Put an extreme number somewhere: a length, a count, an offset, a type."""
    value = r.choice((0, 1, 127, 255, 65535, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63))
    value = r.choice((value, (1 << 64) - 1, r.getrandbits(64), len(data) + r.randrange(-9, 9)))
    width = r.choice((1, 4, 8))
    raw = (value % (1 << 8 * width)).to_bytes(width, "little")
    at = r.randrange(min(len(data), r.choice((24, 200, len(data)))))
    return data[:at] + raw + data[at + width :]


def json_words(r: random.Random, text: bytes) -> bytes:
    """Replace a token of JSON by another."""
    others = [b"-1", b"0", b"1e999", b"NaN", b"18446744073709551616", b"9" * 5000, b"null", b"true"]
    others += [
        b'"F32"',
        b'"\\ud800"',
        b"[]",
        b"{}",
        b"[[[[[[[[",
        b"[" * 3000,
        b'"x":' * 3,
        b'"../x"',
    ]
    others += [b'"' + b"a" * 3000 + b'"', b'"dtype"', b'"__metadata__"', b",", b":", b"\xff", b"\0"]
    at = r.randrange(len(text))
    end = next((i for i in range(at, len(text)) if text[i : i + 1] in b",:]}"), at)
    return text[:at] + r.choice(others) + text[end:]


def safetensors_json(r: random.Random, data: bytes) -> bytes:
    """Edit the JSON of a header, and mend its length."""
    length = struct.unpack("<Q", data[:8])[0]
    text = data[8 : 8 + length]
    for _ in range(r.choice((1, 1, 3))):
        text = json_words(r, text)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def safetensors_fields(r: random.Random, data: bytes) -> bytes:
    """Give one tensor another shape, dtype or place, in well-formed JSON."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    entry = header[r.choice([name for name in header if name != "__metadata__"])]
    number = r.choice((0, 1, -1, 3, 2**31, 2**53, 2**63, 2**64, 2**100, 1.5, True, None, "8", []))
    kind = r.randrange(5)
    if kind == 0:
        entry["shape"] = r.choice(([number], [number, 0], [number] * 4, number, [1] * 5000))
    elif kind == 1:
        entry["data_offsets"] = r.choice(([number, 64], [0, number], [number, number], number))
    elif kind == 2:
        entry["dtype"] = r.choice(("F64", "I8", "BF16", "F8_E4M3", "f32", "F4", number))
    elif kind == 3:
        first, last = entry["data_offsets"]
        move = r.choice((-4, 4, 64))
        entry["data_offsets"] = [first + move, last + move]
    else:
        header[r.choice(("a", "", "\n", "🦙" * 99))] = r.choice((entry, number))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.fixture(scope="module")
def safetensors_file() -> bytes:
    tensors = {f"model.layers.{i}.weight": torch.randn(4, 4 + i) for i in range(6)}
    tensors["half"] = torch.ones(3, 3).half()
    tensors["q.weight"] = torch.ones(4, 4).to(torch.float8_e4m3fn)
    tensors["q.weight_scale_inv"] = torch.ones(1, 1)
    return save(tensors, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_custom_alignment(32)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("flag", True)
    writer.add_token_list([f"t{i}" for i in range(20)])
    writer.add_token_scores([0.5] * 20)
    writer.add_token_types([1] * 20)
    writer.add_tensor("a", np.ones((3, 32), np.float32))
    writer.add_tensor("b", np.ones(8, np.float16))
    writer.add_tensor("c", np.zeros((2, 18), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def tally(path: Path, whole: bytes, mutations: tuple[Mutate, ...], count: int) -> tuple[int, int]:
    """(accepted, refused) of so many mutants, spread over the kinds."""
    path.write_bytes(whole)
    assert survives(path if path.suffix == ".gguf" else path.parent, len(whole))
    accepted = 0
    for seed in range(count):
        r = random.Random(seed)
        data = mutations[seed % len(mutations)](r, whole)
        if r.random() < 0.2:
            data = r.choice(mutations[:3])(r, data or whole)
        path.write_bytes(data)
        target = path if path.suffix == ".gguf" else path.parent
        try:
            accepted += survives(target, len(data) + len(CONFIG))
        except BaseException as error:
            error.args = (f"mutant {seed}: {error}",)
            raise
    return accepted, count - accepted


def test_2000_mutated_safetensors_headers_give_an_error_or_a_checkpoint(
    tmp_path: Path, safetensors_file: bytes
) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    mutations = (flip, cut, overwrite, safetensors_json, safetensors_fields)
    accepted, refused = tally(tmp_path / "model.safetensors", safetensors_file, mutations, 2000)
    assert min(accepted, refused) > 20


def test_2000_mutated_gguf_headers_give_an_error_or_a_checkpoint(
    tmp_path: Path, gguf_file: bytes
) -> None:
    accepted, refused = tally(tmp_path / "m.gguf", gguf_file, (flip, cut, overwrite), 2000)
    assert min(accepted, refused) > 20


def test_400_mutated_indices_give_an_error_or_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    weight_map = {}
    for i in range(2):
        name = f"model-0000{i}-of-00002.safetensors"
        (tmp_path / name).write_bytes(save({f"w{i}": torch.ones(2, 2)}))
        weight_map[f"w{i}"] = name
    whole = json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}).encode()
    path = tmp_path / "model.safetensors.index.json"
    accepted, refused = tally(path, whole, (flip, cut, overwrite, json_words), 400)
    assert min(accepted, refused) > 5


def test_400_mutated_configs_give_an_error_or_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save({"w": torch.ones(2, 2)}))
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    whole = json.dumps({"architectures": ["X"], "quantization_config": quantization}).encode()
    accepted, refused = tally(
        tmp_path / "config.json", whole, (flip, cut, overwrite, json_words), 400
    )
    assert min(accepted, refused) > 5


@pytest.mark.parametrize("legacy", [False, True])
def test_600_mutated_pickles_give_an_error_or_a_checkpoint(tmp_path: Path, legacy: bool) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    path = tmp_path / "pytorch_model.bin"
    state = {"a": torch.randn(4, 6), "b": torch.randn(6, 4).t(), "c": torch.ones(3).bfloat16()}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    mutations: tuple[Mutate, ...] = (flip, cut, overwrite)
    if not legacy:

        def inner(r: random.Random, data: bytes) -> bytes:
            """Change the pickle inside a sound archive."""
            change = r.choice((flip, cut, overwrite))
            path.write_bytes(data)
            with zipfile.ZipFile(path) as archive:
                entries = {name: archive.read(name) for name in archive.namelist()}
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in entries.items():
                    pickled = name.endswith("data.pkl")
                    archive.writestr(name, change(r, content) if pickled else content)
            return path.read_bytes()

        mutations = (*mutations, inner, inner, inner)
    accepted, refused = tally(path, whole, mutations, 300)
    assert min(accepted, refused) > 3


def test_headers_of_nothing_but_small_items_stay_small(tmp_path: Path) -> None:
    count = 20_000
    key = b"".join(struct.pack("<Q3sIB", 3, b"%03x" % i, 0, 1) for i in range(4096))
    empty = struct.pack("<Q1sIIQ", 1, b"a", 9, 8, count) + bytes(8 * count)
    small = struct.pack("<Q1sIIQ", 1, b"a", 9, 1, count) + bytes(range(200)) * (count // 200)
    pairs = struct.pack("<Q2sIB", 2, b"aa", 4, 1)
    for body, keys in [(key, 4096), (empty, 1), (small, 1), (pairs * 1000, 1000)]:
        data = b"GGUF" + struct.pack("<IQQ", 3, 0, keys) + body
        (tmp_path / "m.gguf").write_bytes(data)
        survives(tmp_path / "m.gguf", len(data))
