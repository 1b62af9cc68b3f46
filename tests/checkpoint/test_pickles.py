import collections
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.test_safetensors import DTYPES

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import CheckpointError, QconvertError, UnsupportedError

FORMATS = {"zip": True, "legacy": False}


def directory(tmp_path: Path, **files: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    return tmp_path


def write(value: Any, tmp_path: Path, new: bool = True, **options: Any) -> Path:
    directory(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(value, path, _use_new_zipfile_serialization=new, **options)
    return tmp_path


def check(path: Path, name: str = "pytorch_model.bin") -> dict[str, Any]:
    """Compare all rows with what torch loads, bit for bit."""
    want = torch.load(path / name, weights_only=True)
    tensors = dict(open_checkpoint(str(path)).tensors)
    assert list(tensors) == list(want)
    for key, tensor in tensors.items():
        expected = want[key].detach().to(torch.float32).contiguous()
        assert tensor.shape == tuple(expected.shape)
        assert read_rows(tensor, 0, tensor.rows).tobytes() == expected.numpy().tobytes(), key
    return tensors


@pytest.mark.parametrize("new", FORMATS.values(), ids=FORMATS)
def test_every_kind_of_view_is_what_torch_loads(tmp_path: Path, new: bool) -> None:
    base = torch.randn(6, 8, 10)
    tied = torch.randn(5, 7)
    state = collections.OrderedDict(
        plain=torch.randn(4, 6),
        transposed=torch.randn(4, 6).t(),
        permuted=base.permute(2, 0, 1),
        sliced=base[1:5, :, 2:7],
        row=base[3],
        stepped=torch.arange(20.0)[::3],
        embedding=tied,
        output=tied,
        parameter=torch.nn.Parameter(torch.randn(2, 3)),
        scalar=torch.tensor(3.5),
        empty=torch.empty(0, 4),
        ones=torch.randn(1, 5, 1),
    )
    tensors = check(write(state, tmp_path, new))
    assert tensors["embedding"].offset == tensors["output"].offset
    assert tensors["plain"].strides is None
    assert tensors["transposed"].strides == (1, 6)


@pytest.mark.parametrize("new", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "dtype", [d for d in DTYPES if not d.startswith(("F8", "U16", "U32", "U64"))]
)
def test_every_dtype_is_what_torch_loads(tmp_path: Path, dtype: str, new: bool) -> None:
    value = (torch.randn(3, 8) * 50).to(DTYPES[dtype])
    assert check(write({"w": value}, tmp_path, new))["w"].dtype == dtype


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "U16", "U32", "U64"])
def test_dtypes_that_only_new_files_have_are_what_torch_loads(tmp_path: Path, dtype: str) -> None:
    value = (torch.rand(3, 8) * 50).to(DTYPES[dtype])
    assert check(write({"w": value}, tmp_path))["w"].dtype == dtype


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_that_torch_can_write_is_read(tmp_path: Path, protocol: int) -> None:
    state = {f"layer.{i}.weight": torch.randn(3, 4) for i in range(300)}
    path = write(state, tmp_path, pickle_protocol=protocol)
    want = torch.load(path / "pytorch_model.bin", weights_only=False)
    tensors = open_checkpoint(str(path)).tensors
    assert list(tensors) == list(want)
    for key, tensor in tensors.items():
        assert read_rows(tensor, 0, 3).tobytes() == want[key].numpy().tobytes()


def test_a_models_own_state_is_read(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
    assert "0.weight" in check(write(model.state_dict(), tmp_path))


def test_shards_and_their_index_are_one_checkpoint(tmp_path: Path) -> None:
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for i, name in enumerate(names):
        torch.save({f"w{i}": torch.full((2, 3), float(i))}, tmp_path / name)
    index = {"weight_map": {"w0": names[0], "w1": names[1]}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    tensors = open_checkpoint(str(directory(tmp_path))).tensors
    assert read_rows(tensors["w1"], 0, 2).tolist() == [[1.0] * 3] * 2
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match="1 of 2 shards missing"):
        open_checkpoint(str(tmp_path))


def test_an_archive_beyond_four_gigabytes_is_indexed(tmp_path: Path) -> None:
    # The same entries as torch writes, with a hole of 5 GB in the place of a storage.
    path = write({"w": torch.arange(6.0).view(2, 3)}, tmp_path) / "pytorch_model.bin"
    entries = {}
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    large = 5 << 30
    with path.open("wb") as file:
        file.truncate(large)
        file.seek(large)
        with zipfile.ZipFile(file, "a", allowZip64=True) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
    tensor = open_checkpoint(str(tmp_path)).tensors["w"]
    assert tensor.offset > large
    assert read_rows(tensor, 0, 2).tolist() == [[0, 1, 2], [3, 4, 5]]


class Evil:
    """Runs a call when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("new", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("kind", ["system", "eval", "nested", "module"])
def test_a_pickle_that_wants_code_is_refused_and_runs_nothing(
    tmp_path: Path, kind: str, new: bool
) -> None:
    trace = tmp_path / "ran"
    command = f"touch {trace}"
    value, name = {
        "system": (Evil(os.system, command), f"{os.system.__module__}.system"),
        "eval": (Evil(eval, f"__import__('os').system({command!r})"), "builtins.eval"),
        "nested": ({"w": torch.ones(2), "x": [Evil(os.system, command)]}, "system"),
        "module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    }[kind]
    path = write(value, tmp_path, new)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path))
    assert not trace.exists()
    assert name in caught.value.message.replace("__builtin__", "builtins")
    assert "\n" not in caught.value.message
    assert "safetensors" in caught.value.hint
    if kind == "system":
        # The trap is a real one.
        with (tmp_path / "pytorch_model.bin").open("rb"):
            pickle.loads(pickle.dumps(value))
        assert trace.exists()


def rezip(path: Path, change: Callable[[dict[str, bytes]], None], method: int = 0) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    path = write({"w": torch.randn(8, 8)}, tmp_path) / "pytorch_model.bin"
    whole = path.read_bytes()

    def words(change: Callable[[dict[str, bytes]], Any], method: int = 0) -> str:
        path.write_bytes(whole)
        rezip(path, change, method)
        with pytest.raises(QconvertError) as caught:
            open_checkpoint(str(tmp_path))
        return caught.value.message

    data = next(n for n in zipfile.ZipFile(path).namelist() if n.endswith("data/0"))
    root = data.removesuffix("data/0")
    assert "compressed" in words(lambda e: None, zipfile.ZIP_DEFLATED)
    assert "beyond its storage" in words(lambda e: e.update({data: e[data][:-1]}))
    assert "is missing" in words(lambda e: e.pop(data))
    assert "not one of torch.save" in words(lambda e: e.pop(root + "data.pkl"))
    assert "big-endian" in words(lambda e: e.update({root + "byteorder": b"big"}))
    pickled = root + "data.pkl"
    assert "pickle is broken" in words(lambda e: e.update({pickled: b""}))
    assert "no dictionary" in words(lambda e: e.update({pickled: pickle.dumps([1])}))
    assert "not a tensor" in words(lambda e: e.update({pickled: pickle.dumps({"w": 3})}))
    assert "pickle is broken" in words(lambda e: e.update({pickled: pickle.dumps({"w": 3})[:-2]}))


def test_cut_files_are_refused(tmp_path: Path) -> None:
    for new in FORMATS.values():
        path = write({"w": torch.randn(8, 8), "v": torch.ones(3)}, tmp_path, new)
        path = path / "pytorch_model.bin"
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                open_checkpoint(str(tmp_path))


def test_a_compressed_archive_says_how_to_save_it(tmp_path: Path) -> None:
    path = write({"w": torch.randn(8, 8)}, tmp_path) / "pytorch_model.bin"
    rezip(path, lambda entries: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedError) as caught:
        open_checkpoint(str(tmp_path))
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo slot of two billion
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",  # bytes without end
        b"\x80\x02" + b"(" * 50_000 + b".",
        b"\x80\x02)" + b"\x85" * 200_000 + b".",  # tuples in tuples
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",  # as a key, to be hashed
        b"\x80\x02(})" + b"\x85" * 200_000 + b"K\x01u.",
        # A key that is small, and takes 2**100 steps to hash.
        b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100)) + b"K\x01s.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x0c__defaults__)s\x86b.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02]q\0h\0a.",  # a list that holds itself
        b"\x80\x02cposix\nsystem\nq\0.",
        b"\x80\x02(cos\nsystem\no.",
        b"(S'x'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",  # an extension
    ],
)
def test_pickles_made_to_hurt_are_refused_at_once(tmp_path: Path, code: bytes) -> None:
    path = write({"w": torch.ones(1)}, tmp_path) / "pytorch_model.bin"
    rezip(path, lambda e: e.update({next(n for n in e if n.endswith("data.pkl")): code}))
    with pytest.raises(CheckpointError):
        open_checkpoint(str(tmp_path))


def test_a_pickle_of_nothing_but_parts_is_given_up_soon(tmp_path: Path) -> None:
    directory(tmp_path)
    for code in (b"}", b"]", b"(", b"K\x01"):
        with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + code * (4_000_000 // len(code)) + b".")
        start = time.monotonic()
        with pytest.raises(CheckpointError, match="more parts than"):
            open_checkpoint(str(tmp_path))
        assert time.monotonic() - start < 10


def test_attributes_of_the_dictionary_are_ignored(tmp_path: Path) -> None:
    state = collections.OrderedDict(w=torch.ones(2))
    state._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    assert list(open_checkpoint(str(write(state, tmp_path))).tensors) == ["w"]
