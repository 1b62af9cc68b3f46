"""Where outputs go: a path that ends in .gguf is a file, everything else a folder."""

import json

import pytest


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("types", "output", "expected"),
    [
        (["q8_0"], "new/sub/x.gguf", ["new/sub/x.gguf"]),
        (["q8_0"], "out", ["out/tiny-llama-Q8_0.gguf"]),
        (["q8_0", "q4_0"], "a/b", ["a/b/tiny-llama-Q4_0.gguf", "a/b/tiny-llama-Q8_0.gguf"]),
        (["q8_0"], "x.gguf/", ["x.gguf/tiny-llama-Q8_0.gguf"]),
        (["w8a16"], "new/dir", ["new/dir/config.json", "new/dir/model.safetensors"]),
        (["w8a16", "q8_0"], "d", ["d/tiny-llama-Q8_0.gguf", "d/tiny-llama-w8a16/config.json"]),
    ],
)
def test_parents_are_made(qconvert, model, tmp_path, types, output, expected):
    # A trailing slash would be lost in a path.
    given = [f"-t{name}" for name in types]
    done = qconvert("quantize", model, *given, "-o", f"{tmp_path}/{output}", "-q")
    assert done.returncode == 0, done.stderr
    assert set(expected) <= set(names(tmp_path))


def test_what_is_there_and_differs_is_replaced_by_force_alone(qconvert, model, tmp_path):
    command = ("quantize", model, "-t", "q8_0", "-t", "q4_0", "-o", tmp_path / "out")
    assert qconvert("quantize", model, "-t", "q8_0", "-o", tmp_path / "out").returncode == 0
    file = tmp_path / "out" / "tiny-llama-Q8_0.gguf"
    good = file.read_bytes()
    file.write_bytes(b"mine")
    done = qconvert(*command, "--json")
    assert done.returncode == 1
    assert "tiny-llama-Q8_0.gguf exists" in json.loads(done.stdout)["error"]["message"]
    assert "--force" in done.stderr
    assert file.read_bytes() == b"mine"
    assert (tmp_path / "out" / "tiny-llama-Q4_0.gguf").is_file(), "the other one is made"
    assert qconvert(*command, "--force").returncode == 0
    assert file.read_bytes() == good


def test_a_directory_of_others_is_never_replaced(qconvert, model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for more in ((), ("--force",)):
        done = qconvert("quantize", model, "-t", "w8a16", "-o", tmp_path, *more)
        assert done.returncode == 1
        assert names(tmp_path) == ["notes.txt"]


def test_a_file_is_no_folder(qconvert, model, tmp_path):
    (tmp_path / "x").write_text("mine")
    for output, code in (("x", 2), ("x/y.gguf", 1), ("x/y", 1)):
        done = qconvert("quantize", model, "-t", "q8_0", "-o", tmp_path / output)
        assert done.returncode == code
        assert "hint:" in done.stderr
    assert names(tmp_path) == ["x"]
