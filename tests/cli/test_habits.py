"""Command lines of other tools are answered with the one that does the same here."""

import json
import shlex
import subprocess
import sys

import pytest

import qconvert as package


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("{model} out.gguf Q4_K_M", "{model} -t q4_k_m -o out.gguf"),
        ("q4_k_m {model}", "{model} -t q4_k_m"),
        ("{model} x.gguf q8_0 8", "{model} -t q8_0 -o x.gguf --threads 8"),
        ("--imatrix i.gguf {model} x.gguf iq3_m", "{model} -t iq3_m -o x.gguf -c i.gguf"),
        ("{model} -t q4_0 --imatrix=i.dat", "{model} -t q4_0 -c i.dat"),
        ("{model} -t q4_0 --tensor-type attn_v=Q8_0", "{model} -t q4_0 --override '*attn_v*=q8_0'"),
        ("{model} -t q4_0 --output-tensor-type Q8_0", "{model} -t q4_0 --output-type q8_0"),
        ("{model} -t q4_0 --token-embedding-type F16", "{model} -t q4_0 --embedding-type f16"),
        ("{model} -t q4_0 --leave-output-tensor", "{model} -t q4_0 --keep output.weight"),
        ("--allow-requantize {model} x.gguf q4_0", "{model} -t q4_0 -o x.gguf"),
        ("{model} --outtype bf16 --outfile x.gguf", "{model} -t bf16 -o x.gguf"),
        ("--hf-path {model} --q-bits 4 --mlx-path x", "{model} -t mlx4 -o x"),
    ],
)
def test_it_says_what_to_write_and_that_is_understood(qconvert, model, tmp_path, said, meant):
    done = qconvert("quantize", *shlex.split(said.format(model=model)))
    assert done.returncode == 2
    assert f"hint: write: qconvert quantize {meant.format(model=model)}" in done.stderr
    words = shlex.split(meant.format(model=model))
    again = qconvert("quantize", *words, "--dry-run", "-q")
    excused = ("no such file", "has no output projection of its own")
    assert again.returncode == 0 or any(word in again.stderr for word in excused)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--override-kv", "a=int:1"], "gguf_set_metadata"),
        (["--typo"], "No such option"),
        (["--typo", "q8_0"], "No such option"),
        (["another"], "unexpected extra argument"),
    ],
)
def test_what_has_no_counterpart(qconvert, model, arguments, words):
    done = qconvert("quantize", model, "-t", "q4_0", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "write:" not in done.stderr


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        ("gptq", "try gptq4"),
        ("int4", "try w4a16, q4_k_m or mlx4"),
        ("q4", "try q4_k_m"),
        ("Q6", "try q6_k"),
        ("mxfp4", "mxfp4_moe for GGUF"),
        ("q4_k_n", "did you mean q4_k_s or q4_k_m"),
        ("zzz", "`qconvert inspect MODEL` lists all"),
    ],
)
def test_a_type_by_another_name(qconvert, model, type_, words):
    done = qconvert("quantize", model, "-t", type_, "--json")
    assert done.returncode == 2
    assert f"unknown type '{type_}'" in done.stderr
    assert words in done.stderr
    assert len(done.stderr) < 300
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == 2
    assert words in error["hint"]


def test_types_in_one_word(qconvert, model):
    done = qconvert("quantize", model, "-t", "q4_k_m, q8_0", "-t", "Q8_0", "--dry-run", "--json")
    outputs = json.loads(done.stdout)["outputs"]
    assert [one["file_type"] for one in outputs] == ["q4_k_m", "q8_0"]


def test_python_runs_it_as_a_module():
    command = [sys.executable, "-m", "qconvert", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"qconvert {package.__version__}\n"
