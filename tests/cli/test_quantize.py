"""`qconvert quantize` on the command line: its options, what it prints and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import Llama, write_llama


@pytest.fixture(scope="module")
def narrow(tmp_path_factory) -> Path:
    """Rows that no super-block divides."""
    return write_llama(
        tmp_path_factory.mktemp("models") / "narrow", Llama(192, 2, 512, 4, 2, 300), tokenizer=True
    )


def test_json_is_all_that_standard_output_holds(qconvert, model, tmp_path):
    out = tmp_path / "x.gguf"
    done = qconvert("quantize", model, "-t", "Q4_K_M", "-o", out, "--json")
    (data,) = json.loads(done.stdout)["outputs"]
    assert data["path"] == str(out)
    assert data["bytes"] == out.stat().st_size
    assert data["file_type"] == "q4_k_m"
    assert data["bits_per_weight"] > 4.5
    assert data["seconds"] > 0
    assert sum(data["tensors"].values()) == 29
    assert data["fallbacks"] == []


def test_without_an_output_the_name_is_the_models_and_the_types(qconvert, model, tmp_path):
    program = str(Path(sys.executable).with_name("qconvert"))
    done = subprocess.run(
        [program, "quantize", str(model), "-t", "q8_0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama-Q8_0.gguf"]
    assert done.stdout.splitlines()[0] == "tiny-llama-Q8_0.gguf"


def test_a_dry_run_writes_nothing_and_tells_the_same(qconvert, model, tmp_path):
    out = tmp_path / "x.gguf"
    arguments = ["quantize", model, "-t", "q5_k_m", "-o", out, "--json"]
    (planned,) = json.loads(qconvert(*arguments, "--dry-run").stdout)["outputs"]
    assert not list(tmp_path.iterdir())
    (done,) = json.loads(qconvert(*arguments).stdout)["outputs"]
    for key in ("path", "bytes", "bits_per_weight", "tensors", "fallbacks"):
        assert planned[key] == done[key]
    assert len(planned["plan"]) == sum(done["tensors"].values())


def test_quiet_says_nothing(qconvert, model, tmp_path):
    done = qconvert("quantize", model, "-t", "q8_0", "-o", tmp_path / "x.gguf", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_fallbacks_are_counted_named_and_priced_before_the_work(qconvert, narrow, tmp_path):
    out = tmp_path / "x.gguf"
    done = qconvert("quantize", narrow, "-t", "q4_k_m", "-o", out, "--json")
    fallbacks = json.loads(done.stdout)["outputs"][0]["fallbacks"]
    assert {entry["type"] for entry in fallbacks} == {"Q5_0", "Q8_0"}
    assert all(entry["extra_bytes"] > 0 and "192" in entry["reason"] for entry in fallbacks)
    assert f"{len(fallbacks)} of " in done.stderr
    assert "row of 192 is not a multiple of 256" in done.stderr


def test_fallbacks_can_be_refused(qconvert, narrow, tmp_path):
    done = qconvert("quantize", narrow, "-t", "q4_k_m", "-o", tmp_path / "x.gguf", "--no-fallback")
    assert done.returncode == 1
    assert "hint:" in done.stderr
    assert not list(tmp_path.iterdir())


def test_overrides_and_keeps_reach_the_file(qconvert, model, tmp_path):
    out = tmp_path / "x.gguf"
    done = qconvert(
        *["quantize", model, "-t", "q4_k_m", "-o", out, "--pure"],
        *["--override", "blk.*.ffn_down.weight=q6_k"],
        *["--override", "/blk\\.0\\..*_q\\.weight/=q8_0"],
        *["--keep", "blk.1.attn_k.weight", "--embedding-type", "q5_k", "--json"],
    )
    assert done.returncode == 0, done.stderr
    tensors = json.loads(qconvert("inspect", out, "--json").stdout)["tensors"]
    types = {tensor["name"]: tensor["dtype"] for tensor in tensors}
    assert {types[f"blk.{i}.ffn_down.weight"] for i in range(3)} == {"Q6_K"}
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == "Q4_K"
    assert types["blk.1.attn_k.weight"] == "BF16"
    assert types["token_embd.weight"] == "Q5_K"


def test_a_pattern_that_matches_nothing_is_an_error(qconvert, model, tmp_path):
    done = qconvert(
        *["quantize", model, "-t", "q8_0", "-o", tmp_path / "x.gguf"],
        *["--override", "blk.*.ffn_dwn.weight=q6_k"],
    )
    assert done.returncode == 1
    assert "ffn_dwn" in done.stderr
    assert "ffn_down" in done.stderr


def test_the_source_is_not_written_over(qconvert, model, tmp_path):
    out = tmp_path / "x.gguf"
    qconvert("quantize", model, "-t", "q8_0", "-o", out)
    before = out.read_bytes()
    done = qconvert("quantize", out, "-t", "q4_0", "-o", tmp_path / "." / "x.gguf")
    assert done.returncode == 2
    assert "source itself" in done.stderr
    assert out.read_bytes() == before


def test_shards_are_named_and_all_listed(qconvert, model, tmp_path):
    done = qconvert(
        *["quantize", model, "-t", "q8_0", "-o", tmp_path / "x.gguf"],
        *["--split-max-size", "500K", "--json"],
    )
    paths = json.loads(done.stdout)["outputs"][0]["paths"]
    assert sorted(paths) == sorted(str(path) for path in tmp_path.iterdir())
    assert paths[0].endswith(f"x-00001-of-{len(paths):05d}.gguf")


def test_a_ci_log_gets_lines_and_no_control_characters(qconvert, model, tmp_path):
    done = qconvert("quantize", model, "-t", "q8_0", "-o", tmp_path / "x.gguf", CI="true")
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_a_bar(model, tmp_path, settings):
    program = str(Path(sys.executable).with_name("qconvert"))
    master, slave = os.openpty()
    process = subprocess.Popen(
        [program, "quantize", str(model), "-t", "q8_0", "-o", str(tmp_path / "x.gguf")],
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", **settings},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(master)
    assert process.wait() == 0
    assert "━".encode() in shown
    assert (b"\x1b[3" in shown or b"\x1b[9" in shown) == (not settings)
