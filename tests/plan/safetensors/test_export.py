"""A model that went to GGUF and came back computes bit for bit what it computed before."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from common import (
    FAMILIES,
    LLAMA3,
    convert_model,
    llama_logits,
    random_tokens,
    save_model,
    torch_hidden,
    torch_logits,
)
from packages import minilm_archive, smollm2_gguf
from safetensors.numpy import load_file
from tokenizer_oracles import TEXTS, auto_tokenizer, llama_tokenizer

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.metadata import Field, f32, f32s, flag, flags, i32s, text, texts, u32, u64
from qconvert.errors import OutputError, QconvertError, UsageError, WeightError
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs

YARN = {
    "rope_type": "yarn",
    "rope_theta": 20000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0 + 0.05 * i for i in range(15)],
    "long_factor": [1.5 + 0.4 * i for i in range(15)],
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, no biases": ("llama", {"attention_bias": False, "mlp_bias": False}),
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "llama, other factors": (
        "llama",
        {"rope_parameters": LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 10.0}},
    ),
    "qwen3, its own magnitude": ("qwen3", {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "granite, llama3": ("granite", {"rope_parameters": LLAMA3}),
    "phi3, long": (
        "phi3",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 32},
    ),
    "phi3, window": ("phi3", {"sliding_window": 16}),
    "gemma3, usual windows": ("gemma3", {"layer_types": None, "num_hidden_layers": 7}),
    "gemma3, no windows": ("gemma3", {"layer_types": ["full_attention"] * 4}),
}


def export(source: Path, path: Path, dtype: str = "auto", **settings: Any) -> Plan:
    threads, watcher = settings.pop("threads", 2), settings.pop("watcher", Silent())
    recipe = Recipe(dtype, output=path, **{"max_shard_size": 300_000, **settings})
    plan = make_export_plan(open_checkpoint(str(source)), recipe)
    write_outputs([plan], threads, watcher)
    return plan


def load(path: Path, family: str = "llama") -> Any:
    import transformers

    name = "AutoModel" if family == "bert" else "AutoModelForCausalLM"
    model, report = getattr(transformers, name).from_pretrained(
        path, attn_implementation="eager", output_loading_info=True
    )
    expected = {"pooler.dense.weight", "pooler.dense.bias"} if family == "bert" else set()
    assert {key: found for key, found in report.items() if found} == (
        {"missing_keys": expected} if expected else {}
    )
    return model.float().eval()


def assert_same_outputs(family: str, tmp_path: Path, **settings: Any) -> None:
    model = save_model(family, tmp_path / "model", **settings)
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    export(tmp_path / "f32.gguf", tmp_path / "back")
    run = torch_hidden if family == "bert" else torch_logits
    tokens = random_tokens()
    returned = run(load(tmp_path / "back", family), tokens)
    assert np.array_equal(run(model, tokens), returned)


CASES = [(name, tied) for name in FAMILIES for tied in (False, True) if (name, tied) != ("bert", 1)]


@pytest.mark.parametrize(("family", "tied"), CASES, ids=str)
def test_every_family_comes_back_bit_for_bit(family: str, tied: bool, tmp_path: Path) -> None:
    assert_same_outputs(family, tmp_path, tied=tied)


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_come_back(name: str, tmp_path: Path) -> None:
    family, settings = VARIANTS[name]
    assert_same_outputs(family, tmp_path, **settings)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a GGUF file."""
    folder = tmp_path_factory.mktemp("tiny")
    save_model("llama", folder / "model")
    convert_model(folder / "model", folder / "tiny.gguf", "f32")
    return folder / "tiny.gguf"


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def test_shards_hold_what_the_index_says(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path / "one", max_shard_size=10**9)
    export(tiny, tmp_path / "many", max_shard_size=10**6)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 2
    joined = {}
    for shard in shards:
        for name, value in load_file(shard).items():
            assert index["weight_map"][name] == shard.name
            joined[name] = value
    whole = load_file(tmp_path / "one/model.safetensors")
    assert set(joined) == set(whole) == set(index["weight_map"])
    assert all(np.array_equal(joined[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    assert not (tmp_path / "one/model.safetensors.index.json").exists()


def test_the_bytes_do_not_depend_on_the_number_of_threads(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path / "one", threads=1)
    export(tiny, tmp_path / "four", threads=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_auto_keeps_each_float_type_and_makes_quantized_weights_f32(
    kind: str, tiny: Path, tmp_path: Path
) -> None:
    convert_model(tiny.parent / "model", tmp_path / "model.gguf", kind)
    plan = export(tmp_path / "model.gguf", tmp_path / "same")
    assert {tensor.format for tensor in plan.tensors if len(tensor.map.shape) == 2} == {
        kind.upper()
    }
    assert {tensor.format for tensor in plan.tensors if len(tensor.map.shape) == 1} == {"F32"}
    dtype = json.loads((tmp_path / "same/config.json").read_text())["torch_dtype"]
    assert dtype == {"f16": "float16", "bf16": "bfloat16"}[kind]

    convert_model(tiny.parent / "model", tmp_path / "q8_0.gguf", "q8_0")
    exact = export(tmp_path / "q8_0.gguf", tmp_path / "exact")
    sources = [exact.checkpoint.tensors[t.map.parts[0].source].dtype for t in exact.tensors]
    written = {
        t.format for t, source in zip(exact.tensors, sources, strict=True) if source == "Q8_0"
    }
    assert written == {"F32"}
    assert set(export(tmp_path / "q8_0.gguf", tmp_path / "short", kind).formats) == {kind.upper()}


def test_another_dtype_is_wrong_usage(tiny: Path) -> None:
    with pytest.raises(UsageError):
        make_export_plan(open_checkpoint(str(tiny)), Recipe("q8_0"))


def changed(source: Path, path: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Path:
    """The file with other weights."""
    return rewritten(source, path, {}, change)


def rewritten(
    source: Path,
    path: Path,
    keys: dict[str, Any],
    change: Callable[[str, np.ndarray], np.ndarray | None] = lambda name, value: value,
) -> Path:
    """The file with other integers or texts for some keys, and other weights."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = keys.get(field.name, field.contents())
        if value is None:
            continue
        kind = gguf.GGUFValueType.get_type(value) if field.name in keys else field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub)
    for name in keys:
        if name not in reader.fields:
            writer.add_key_value(name, keys[name], gguf.GGUFValueType.get_type(keys[name]))
    for tensor in reader.tensors:
        value = change(tensor.name, np.array(tensor.data))
        if value is not None:
            writer.add_tensor(tensor.name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def spoiled(value: float) -> Callable[[str, np.ndarray], np.ndarray]:
    def change(name: str, weights: np.ndarray) -> np.ndarray:
        if name == "blk.1.ffn_up.weight":
            weights[5, 7] = value
        return weights

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_spoiled_weights_are_refused_by_name(value: float, tiny: Path, tmp_path: Path) -> None:
    source = changed(tiny, tmp_path / "bad.gguf", spoiled(value))
    with pytest.raises(WeightError, match=r"layers\.1\.mlp\.up_proj"):
        export(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [source]
    export(source, tmp_path / "out", allow_nan=True)
    written = load_file(tmp_path / "out/" / weight_file(tmp_path / "out"))
    assert not np.isfinite(written["model.layers.1.mlp.up_proj.weight"][5, 7])


def weight_file(path: Path) -> str:
    index = json.loads((path / "model.safetensors.index.json").read_text())
    return index["weight_map"]["model.layers.1.mlp.up_proj.weight"]


def test_what_f16_cannot_hold_is_refused(tiny: Path, tmp_path: Path) -> None:
    source = changed(tiny, tmp_path / "large.gguf", spoiled(70000.0))
    with pytest.raises(WeightError, match="F16"):
        export(source, tmp_path / "out", "f16")
    assert not (tmp_path / "out").exists()
    export(source, tmp_path / "out", "bf16")


@pytest.mark.parametrize("kind", ["file", "full directory", "below a file"])
def test_nothing_is_overwritten(kind: str, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "full directory":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out.write_text("mine")
        out = out / "out"
    before = contents(tmp_path)
    with pytest.raises(OutputError):
        export(tiny, out)
    assert contents(tmp_path) == before


def test_an_empty_directory_is_filled(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(tiny, tmp_path / "out")
    assert (tmp_path / "out/config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Interrupted(Silent):
    """Stops the run after some slabs, as Ctrl-C does."""

    def __init__(self, slabs: int) -> None:
        self.left = slabs
        self.resumed = 0

    def begin(self, total: int, done: int) -> None:
        self.resumed = done

    def advance(self, weights: int, tensor: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_where_it_stopped(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path / "out", watcher=Interrupted(20))
    assert not (tmp_path / "out").exists()
    second = Interrupted(-1)
    export(tiny, tmp_path / "out", watcher=second)
    assert second.resumed > 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_leftovers_of_other_options_do_not_get_into_the_directory(
    tiny: Path, tmp_path: Path
) -> None:
    export(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path / "out", max_shard_size=10**6, watcher=Interrupted(20))
    export(tiny, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


ABSURD: dict[str, dict[str, Any]] = {
    "more heads than rows": {"llama.attention.head_count": 2**31 - 1},
    "no heads": {"llama.attention.head_count": 0},
    "heads as text": {"llama.attention.head_count": "six"},
    "heads missing": {"llama.attention.head_count": None},
    "odd heads": {"llama.attention.key_length": 39, "llama.attention.value_length": 39},
    "long heads": {"llama.attention.key_length": 2**31 - 1},
    "unequal heads": {"llama.attention.value_length": 20},
    "many blocks": {"llama.block_count": 2**31 - 1},
    "one block too many": {"llama.block_count": 4},
    "one block too few": {"llama.block_count": 2},
    "width": {"llama.embedding_length": 2**31 - 1},
    "ffn": {"llama.feed_forward_length": 417},
    "epsilon": {"llama.attention.layer_norm_rms_epsilon": float("nan")},
    "rope kind": {"llama.rope.scaling.type": "spiral"},
    "rope length": {"llama.rope.dimension_count": 8},
    "experts": {"llama.expert_count": 2**31 - 1, "llama.expert_used_count": 2},
    "experts without tensors": {"llama.expert_count": 2, "llama.expert_used_count": 1},
    "tokens": {"tokenizer.ggml.model": 5, "tokenizer.ggml.tokens": ["a"]},
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_metadata_gets_one_clear_line(name: str, tiny: Path, tmp_path: Path) -> None:
    source = rewritten(tiny, tmp_path / "absurd.gguf", ABSURD[name])
    with pytest.raises(QconvertError) as caught:
        export(source, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert sorted(tmp_path.iterdir()) == [source]


GARBAGE = (
    *(u32(value) for value in (0, 1, 2, 7, 2**31 - 1, 2**32 - 1)),
    *(Field(gguf.GGUFValueType.FLOAT32, value) for value in (float("nan"), float("inf"))),
    *(f32(value) for value in (0.0, -1.0, 1e-30, 1e30)),
    *(text(value) for value in ("", "x" * 100, 'a\n"b', "yarn")),
    *(texts(value) for value in ([], ["a", "b"])),
    *(i32s(value) for value in ([6, 6, 6], [6, 6, 7], [2**31 - 1] * 3)),
    *(flag(True), f32s([float("nan")]), flags([True]), u64(2**64 - 1)),
)
MORE_KEYS = (
    *(f"llama.{key}" for key in ("expert_count", "rope.scaling.factor", "rope.scaling.type")),
    *(f"llama.attention.{key}" for key in ("key_length", "value_length", "sliding_window")),
    *(f"general.{key}" for key in ("name", "license", "languages", "sampling.temp")),
    *(f"tokenizer.ggml.{key}" for key in ("scores", "add_bos_token", "bos_token_id")),
)


def test_any_value_of_any_key_gives_a_plan_or_one_clear_line(tiny: Path) -> None:
    checkpoint = open_checkpoint(str(tiny))
    tokenizer = {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("smollm"),
        "tokenizer.ggml.tokens": texts(["<|end|>", "a", "b", "ab"]),
        "tokenizer.ggml.token_type": i32s([3, 1, 1, 1]),
        "tokenizer.ggml.merges": texts(["a b"]),
        "tokenizer.ggml.eos_token_id": u32(0),
        "tokenizer.chat_template": text("x"),
    }
    whole = {**checkpoint.metadata, **tokenizer}
    refused = planned = 0
    for key in dict.fromkeys((*whole, *MORE_KEYS)):
        for field in GARBAGE:
            spoiled = replace(checkpoint, metadata={**whole, key: field})
            try:
                plan = make_export_plan(spoiled, Recipe("auto"))
            except QconvertError as error:
                refused += "\n" not in error.message
                continue
            planned += 1
            for name, data in plan.target.files.items():
                if name.endswith(".json"):
                    assert json.loads(data, parse_constant=pytest.fail) is not None
    assert refused + planned == len(GARBAGE) * len({*whole, *MORE_KEYS})
    assert min(refused, planned) > 200


@pytest.mark.parametrize(
    "gone", ["blk.2.attn_q.weight", "blk.0.attn_q.bias", "output_norm.weight", "token_embd.weight"]
)
def test_a_missing_tensor_is_named(gone: str, tiny: Path, tmp_path: Path) -> None:
    source = rewritten(
        tiny, tmp_path / "less.gguf", {}, lambda name, value: None if name == gone else value
    )
    with pytest.raises(QconvertError, match=gone):
        export(source, tmp_path / "out")


def test_rotary_factors_without_a_rule_are_refused(tiny: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0).uniform(1, 9, 20).astype(np.float32)

    def change(name: str, value: np.ndarray) -> np.ndarray:
        return random if name == "rope_freqs.weight" else value

    source = changed(tiny, tmp_path / "odd.gguf", change)
    with pytest.raises(QconvertError, match="rope_freqs"):
        export(source, tmp_path / "out")


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return smollm2_gguf()


@pytest.fixture(scope="module")
def exported(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smollm2") / "model"
    export(smollm2, path, max_shard_size=200_000_000)
    return path


def test_smollm2_keeps_every_weight(smollm2: Path, exported: Path) -> None:
    """Against gguf's own dequantization, exactly; of some blocks."""
    written: dict[str, np.ndarray] = {}
    for shard in exported.glob("*.safetensors"):
        written |= load_file(shard)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}

    def values(name: str) -> np.ndarray:
        return gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)

    def halves(name: str, heads: int) -> np.ndarray:
        return values(name).reshape(heads, 32, 2, 576).swapaxes(1, 2).reshape(-1, 576)

    assert len(written) == len(stored)
    assert np.array_equal(written["model.embed_tokens.weight"], values("token_embd.weight"))
    assert np.array_equal(written["model.norm.weight"], values("output_norm.weight"))
    names = {"o_proj": "attn_output", "v_proj": "attn_v"}
    for block in range(0, 30, 7):
        layer, row = f"model.layers.{block}.", f"blk.{block}."
        for part in ("gate", "up", "down"):
            theirs = values(f"{row}ffn_{part}.weight")
            assert np.array_equal(written[f"{layer}mlp.{part}_proj.weight"], theirs)
        for part, heads in (("q", 9), ("k", 3)):
            theirs = halves(f"{row}attn_{part}.weight", heads)
            assert np.array_equal(written[f"{layer}self_attn.{part}_proj.weight"], theirs)
        for part, name in names.items():
            theirs = values(f"{row}{name}.weight")
            assert np.array_equal(written[f"{layer}self_attn.{part}.weight"], theirs)


def test_smollm2_gives_the_ids_of_llama_cpp(smollm2: Path, exported: Path, tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(exported)
    metadata = open_checkpoint(str(smollm2)).metadata
    keys = {key: field for key, field in metadata.items() if key.startswith("tokenizer.")}
    chat = "<|im_start|>user\nhi<|im_end|>\n"
    with llama_tokenizer(keys, tmp_path / "vocabulary.gguf") as llama_ids:
        for name, content in {**TEXTS, "chat": chat}.items():
            assert tokenizer(content)["input_ids"] == llama_ids(content), name
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat in shown
    assert tokenizer.eos_token == "<|im_end|>"


def test_smollm2_computes_in_transformers_what_it_computes_in_llama_cpp(
    exported: Path, tmp_path: Path
) -> None:
    """The exported weights, in float32 on both sides."""
    convert_model(exported, tmp_path / "f32.gguf", "f32")
    tokens = random_tokens(48, 49152)
    expected = torch_logits(load(exported), tokens)
    actual = llama_logits(tmp_path / "f32.gguf", tokens)
    assert np.abs(expected - actual).max() <= 1e-3 * (expected.max() - expected.min())


LOADER = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "What is the capital of France?"}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
ids = tokenizer(text, return_tensors="pt")
out = model.generate(**ids, max_new_tokens=8, do_sample=False)
print(tokenizer.decode(out[0][ids["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def test_a_fresh_process_without_a_network_loads_and_answers(exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(exported)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert "Paris" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_model_card_says_where_the_weights_come_from(smollm2: Path, exported: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert smollm2.name in card.text
    header = (exported / "model-00001-of-00003.safetensors").open("rb").read(4000)
    assert b"qconvert.source.fingerprint" in header


def test_minilm_comes_back_with_its_tokens_and_its_pooling(tmp_path: Path) -> None:
    minilm_archive().extractall(tmp_path / "model")
    from qconvert.model.open import open_model
    from qconvert.plan.make import make_plan

    recipe = Recipe("f32", output=tmp_path / "minilm.gguf")
    plan = make_plan(open_model(open_checkpoint(str(tmp_path / "model"))), recipe)
    write_outputs([plan], 2, Silent())
    export(tmp_path / "minilm.gguf", tmp_path / "back", max_shard_size=10**9)

    original, returned = (
        load_file(tmp_path / "model/model.safetensors"),
        load_file(tmp_path / "back/model.safetensors"),
    )
    assert {name for name in original if name not in returned} <= {
        "pooler.dense.weight",
        "pooler.dense.bias",
        "embeddings.position_ids",
    }
    assert all(np.array_equal(original[name], returned[name]) for name in returned)
    before, after = auto_tokenizer(tmp_path / "model"), auto_tokenizer(tmp_path / "back")
    for name, content in TEXTS.items():
        ids = before(content, truncation=False, padding=False)["input_ids"]
        assert after(content)["input_ids"] == ids, name
    pooling = json.loads((tmp_path / "back/1_Pooling/config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    assert pooling["word_embedding_dimension"] == 384
    again = open_model(open_checkpoint(str(tmp_path / "back")))
    assert again.metadata["bert.pooling_type"] == plan.target.metadata["bert.pooling_type"]
