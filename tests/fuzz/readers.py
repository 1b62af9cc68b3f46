"""Every reader of what strangers write, each with sound files to begin with."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from captures import run_capture
from checkpoint.quantized.test_bitsandbytes import four_bit_layer
from common import FAMILIES, convert_model, save_model
from fuzz.mutations import Mutate, of_bytes, of_json, of_text
from imatrix_files import dat_bytes, dat_entry, write_imatrix
from quantized_sources import awq_layer, gptq_layer, nvfp4_layer, save_quantized
from speaking_models import BYTE_LEVEL, convert_speaking_model, save_speaking_model
from tokenizer_oracles import byte_level_directory, save, train_sentencepiece

MANY = 10_000


@dataclass(frozen=True)
class Reader:
    """One file that is damaged, and what reads it.

    Attributes:
        path: of the file.
        mutate: damages it.
        read: has to end well, or in a `QconvertError`.
        share: of all mutations, in proportion to the others'.
    """

    name: str
    path: Path
    mutate: Mutate
    read: Callable[[], object]
    share: float = 1.0


def readers(folder: Path) -> Iterator[Reader]:
    """All of them; their files are made in a folder."""
    yield from _configurations(folder / "families")
    yield from _tokenizers(folder / "tokenizers")
    yield from _containers(folder / "containers")
    yield from _quantized(folder / "quantized")
    yield from _statistics(folder / "statistics")
    yield from _texts(folder / "texts")
    yield from _own(folder / "own")


def _plan(path: Path, *types: str) -> None:
    from qconvert.checkpoint import open_checkpoint
    from qconvert.inspection.checkpoint import look_at

    found = look_at(open_checkpoint(str(path)), types)
    for plan in found.plans:
        for file in plan.target.weight_files:
            file.header()
        assert all(isinstance(data, bytes) for data in plan.target.small_files.values())


def _configurations(folder: Path) -> Iterator[Reader]:
    folder.mkdir()
    for family in FAMILIES:
        path = folder / family
        save_model(family, path)
        read = lambda path=path: _plan(path, "q8_0", "w8a16")  # noqa: E731
        yield Reader(f"config of {family}", path / "config.json", of_json, read, 0.5)
    path = save_speaking_model(folder / "speaking")
    for name, value in SMALL.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(value)
        mutate = of_json if name.endswith(".json") else of_text
        yield Reader(name, path / name, mutate, lambda: _plan(path, "q8_0"), 0.3)


SMALL = {
    "generation_config.json": '{"eos_token_id": [2, 3], "temperature": 0.5, "top_k": 20}',
    "special_tokens_map.json": '{"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>"}',
    "added_tokens.json": '{"<a>": 1500, "<b>": 1501}',
    "chat_template.jinja": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "README.md": "---\nlicense: mit\nbase_model: org/base-1B\ntags: [a, b]\n---\n# A model\n",
}


def _tokenizers(folder: Path) -> Iterator[Reader]:
    from qconvert.checkpoint.types import Checkpoint
    from qconvert.model.tokenizers.tokenizer import read_tokenizer
    from qconvert.text.tokenizer import encode, load_tokenizer

    def convert(path: Path, **config: Any) -> Callable[[], object]:
        return lambda: read_tokenizer(path, config, "llama")

    def load(path: Path) -> Callable[[], object]:
        checkpoint = Checkpoint("huggingface", "m", path)
        return lambda: encode(load_tokenizer(checkpoint), ["one text", "\u00e4  ?"])

    level = byte_level_directory(folder / "level", BYTE_LEVEL, size=300, before="<|begin|>")
    kinds = {"level": level, "piece": save(folder / "piece", PIECE, {"unk_token": "<unk>"})}
    kinds["unigram"] = save(folder / "unigram", UNIGRAM, {"eos_token": "</s>"})
    kinds["words"] = save(folder / "words", WORDS, {"unk_token": "[UNK]"})
    for kind, path in kinds.items():
        yield Reader(f"tokenizer {kind}", path / "tokenizer.json", of_json, convert(path), 2)
        yield Reader(f"loaded {kind}", path / "tokenizer.json", of_json, load(path), 0.3)
        name = "tokenizer_config.json"
        yield Reader(f"settings of {kind}", path / name, of_json, convert(path), 0.5)
    for kind in ("bpe", "unigram"):
        path = folder / f"model-{kind}"
        rules: dict[str, Any] = {}
        if kind == "bpe":
            rules = {"byte_fallback": True, "normalization_rule_name": "identity"}
        train_sentencepiece(path, kind, vocab_size=600, **rules)
        yield Reader(f"tokenizer.model {kind}", path / "tokenizer.model", of_bytes, convert(path))


ADDED = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
ADDED["special"] = True
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
PIECE: dict[str, Any] = {
    "added_tokens": [{"id": 0, "content": "<unk>", **ADDED}],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    },
    "pre_tokenizer": None,
    "model": {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "vocab": {t: n for n, t in enumerate(["<unk>", *BYTES, "a", "b", "ab", "\u2581"])},
        "merges": [["a", "b"]],
    },
}
UNIGRAM: dict[str, Any] = {
    "added_tokens": [{"id": 1, "content": "</s>", **ADDED}],
    "normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE],
    },
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    },
    "model": {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [["<unk>", 0.0], ["</s>", 0.0], ["a", -1.5], ["\u2581", -2.0], ["ab", -3.0]],
    },
}
WORDS: dict[str, Any] = {
    "added_tokens": [{"id": 0, "content": "[UNK]", **ADDED}],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "lowercase": True,
        "strip_accents": None,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "one": 3, "##s": 4, "a": 5},
    },
}


def _containers(folder: Path) -> Iterator[Reader]:
    import torch

    from qconvert.checkpoint import fingerprint, open_checkpoint
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.export import make_export_plan

    def back(path: Path) -> None:
        _plan(path, "q8_0")
        recipe = Recipe("auto", output=path.with_name("back"))
        make_export_plan(open_checkpoint(str(path)), recipe)

    folder.mkdir()
    for family in ("llama", "gemma3", "phi3", "bert"):
        save_model(family, folder / family)
        path = folder / f"{family}.gguf"
        convert_model(folder / family, path, "f16")
        read = lambda path=path: back(path)  # noqa: E731
        yield Reader(f"GGUF of {family}", path, _header(16_000), read, 1.5)
    path = convert_speaking_model(save_speaking_model(folder / "s"))
    yield Reader("GGUF with a tokenizer", path, _header(60_000), lambda: back(path), 1.5)

    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "config.json").write_text('{"architectures": ["X"]}')
    torch.save({"a": torch.ones(4, 6), "b": torch.ones(3).bfloat16()}, bin_ / "pytorch_model.bin")
    open_ = lambda: fingerprint(open_checkpoint(str(bin_)))  # noqa: E731
    yield Reader("pickle", bin_ / "pytorch_model.bin", of_bytes, open_, 2)
    shards = folder / "shards"
    save_model("llama", shards, max_shard_size="600KB")
    index = shards / "model.safetensors.index.json"
    yield Reader("index", index, of_json, lambda: open_checkpoint(str(shards)))


def _quantized(folder: Path) -> Iterator[Reader]:
    """Layers as other libraries store them, with all that says how."""
    from qconvert.checkpoint import open_checkpoint, read_rows

    def read(path: Path) -> None:
        for tensor in open_checkpoint(str(path)).tensors.values():
            read_rows(tensor, 0, min(tensor.rows, 40))

    layers: dict[str, tuple[dict[str, Any], Any]] = {
        "gptq": ({"bits": 4, "group_size": 32}, lambda w: gptq_layer(w, act_order=True)),
        "awq": ({"bits": 4, "group_size": 32, "version": "gemm"}, awq_layer),
        "bitsandbytes": ({"load_in_4bit": True}, lambda w: four_bit_layer(w, nested=True)),
        "modelopt": ({"quant_algo": "NVFP4"}, nvfp4_layer),
    }
    for method, (settings, layer) in layers.items():
        path = folder / method
        quantization = {"quant_method": method, **settings}
        save_quantized(path, quantization, layer, num_hidden_layers=1, head_dim=48)
        opened = lambda path=path: read(path)  # noqa: E731
        yield Reader(f"settings of {method}", path / "config.json", of_json, opened, 0.3)
        yield Reader(f"layers of {method}", path / "model.safetensors", _header(4000), opened, 0.5)


def _header(most: int) -> Mutate:
    """Only the beginning is damaged: behind it there are only weights."""
    return lambda r, data: of_bytes(r, data[:most]) + data[most:]


def _statistics(folder: Path) -> Iterator[Reader]:
    from qconvert.calibration.file import read_calibration
    from qconvert.calibration.imatrix import read_importance
    from qconvert.calibration.overview import overview

    folder.mkdir()
    save_model("llama", folder / "m")
    path = folder / "c.safetensors"
    run_capture(folder / "m", path)
    yield Reader("calibration", path, _header(9000), lambda: overview(read_calibration(path)), 1)
    rows = np.ones((1, 32), np.float32)
    matrix = write_imatrix(folder / "i.gguf", {"a": rows, "b": rows}, {"a": [3], "b": [4]})
    yield Reader("imatrix", matrix, of_bytes, lambda: read_importance(matrix))
    old = folder / "i.dat"
    old.write_bytes(dat_bytes([dat_entry("a", rows, 3), dat_entry("b", rows, 4)]))
    yield Reader("imatrix, older", old, of_bytes, lambda: read_importance(old))


def _texts(folder: Path) -> Iterator[Reader]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from qconvert.text.parquet import read_parquet
    from qconvert.text.prompts import read_prompts
    from qconvert.text.records import read_csv, read_jsonl

    folder.mkdir()
    lines, table, rows, asked = (folder / f"x.{end}" for end in ("jsonl", "csv", "parquet", "md"))
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    records = [{"text": "one"}, {"messages": chat}, {"text": "two", "n": 1}]
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    table.write_text('id,text\n1,"a ""b"", c"\n2,"two\nlines"\n')
    pq.write_table(pa.table({"text": ["a", "b", None], "chat": [chat, chat, []]}), rows)
    asked.write_text("# One\n\nWhy?\n\n```\ncode\n```\n\n# Two\n\nSay it.\n")
    prompts = folder / "p.jsonl"
    prompts.write_text('{"prompt": "Why?"}\n' + json.dumps({"messages": chat[:1]}) + "\n")
    yield Reader("JSONL", lines, of_text, lambda: read_jsonl(lines, "x.jsonl", "", MANY, 0))
    yield Reader("CSV", table, of_text, lambda: read_csv(table, "x.csv", "", MANY, 0))
    read = lambda: read_parquet(rows, "x.parquet", "text", MANY, 0)  # noqa: E731
    yield Reader("Parquet", rows, of_bytes, read, 0.06)
    yield Reader("prompts", asked, of_text, lambda: read_prompts(asked), 0.5)
    yield Reader("prompts, JSONL", prompts, of_text, lambda: read_prompts(prompts), 0.5)


def _own(folder: Path) -> Iterator[Reader]:
    """What only qconvert writes, and others may have touched."""
    from qconvert.evaluation.divergence.reference_file import open_archive, write_archive
    from qconvert.plan.document import options_of, read_document
    from qconvert.report.records import Keep

    folder.mkdir()
    recipe, kept = folder / "r.yaml", folder / "k.zip"
    recipe.write_text(RECIPE)
    yield Reader("recipe", recipe, of_text, lambda: options_of(read_document(recipe)), 2)
    write_archive(kept, {"key": "k", "vocabulary": 7}, iter(_windows()))

    def read() -> None:
        try:
            found = open_archive(kept, "k")
        except ValueError:
            return  # is made anew
        assert found is not None
        found.close()

    yield Reader("kept reference", kept, of_bytes, read, 2)
    keep = Keep(folder / "records")
    keep.put("scores", (1,), {"a": [1.5]}, {"loss": np.ones(3)})
    (data,), (arrays,) = ([*keep.folder.glob(f"*.{end}")] for end in ("json", "npz"))
    yield Reader("record", data, of_json, lambda: keep.find("scores", (1,)))
    yield Reader("record's arrays", arrays, of_bytes, lambda: keep.find_arrays("scores", (1,)))


def _windows() -> list[Mapping[str, np.ndarray]]:
    return [{"loss": np.arange(4.0), "ids": np.arange(9, dtype=np.uint16)} for _ in range(3)]


RECIPE = """calibration: c.safetensors
keep: [token_embd.weight]
outputs:
  - type: q4_k_m
    overrides:
      blk.*.ffn_down.weight: q6_k
  - q8_0
  - type: w8a8
    smooth: 0.5
    max_shard_size: 5G
"""
