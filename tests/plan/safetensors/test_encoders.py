"""Embedding models, and models whose matrices are stored [in, out]."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens, save_model, tiny_model
from compressed_models import (
    choices_of,
    config_of,
    load_all,
    load_model,
    outputs,
    plan_model,
    quantize_model,
    reference_model,
)
from packages import minilm_archive

from qconvert.plan.safetensors.notices import is_loadable

SENTENCES = (
    "The cat sat on the mat.",
    "A small animal rested on the carpet.",
    "Quarterly revenue rose by nine percent, to 4.2 million.",
    "How do I reset the password of my account?",
    "Die Sonne scheint heute über den Bergen.",
)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minilm")
    minilm_archive().extractall(folder)
    return next(path.parent for path in folder.rglob("config.json") if "Pooling" not in str(path))


def sentence_vectors(model: Any, path: Path) -> np.ndarray:
    """As sentence-transformers makes them: means over tokens, of length one."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    vectors = []
    for sentence in SENTENCES:
        tokens = tokenizer(sentence)["input_ids"]
        vector = outputs(model, tokens).mean(0)
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)


@pytest.mark.parametrize("embeddings", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_minilm(minilm: Path, embeddings: bool, tmp_path: Path) -> None:
    plan = quantize_model(minilm, tmp_path / "out", "w8a8", embeddings=embeddings)
    assert is_loadable(choices_of(plan))
    before = sentence_vectors(load_model(minilm), minilm)
    after = sentence_vectors(load_model(tmp_path / "out"), tmp_path / "out")
    assert np.min(np.sum(before * after, axis=1)) > 0.99
    reference = sentence_vectors(reference_model(plan, tmp_path / "out"), minilm)
    assert np.abs(after - reference).max() <= 1e-5
    sizes = [
        sum(
            tensor.nbytes
            for name, tensor in load_all(path).items()
            if embeddings or "embeddings" not in name
        )
        for path in (minilm, tmp_path / "out")
    ]
    assert 0.73 < 1 - sizes[1] / sizes[0] < 0.75
    assert (tmp_path / "out/1_Pooling/config.json").is_file()
    assert (tmp_path / "out/tokenizer.json").is_file()


@pytest.mark.parametrize("type_", ["w8a8", "fp8", "w8a16", "w4a16", "nvfp4a16"])
def test_gpt2_lies_as_vllm_reads_it(type_: str, tmp_path: Path) -> None:
    """It turns what is called ".weight" in Conv1D layers, and takes everything else as the tensors
    of a linear layer [out, in]; what it then has, compressed-tensors unpacks here."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    model = save_model("gpt2", tmp_path / "model", n_embd=192, n_inner=416)
    original = dict(model.state_dict())
    plan = quantize_model(tmp_path / "model", tmp_path / "out", type_)
    config = QuantizationConfig.model_validate(config_of(plan)["quantization_config"])
    weights = load_all(tmp_path / "out")
    groups = {group.weights.group_size: group for group in config.config_groups.values()}
    for choice in choices_of(plan):
        if choice.scheme is None:
            continue
        stem = choice.weight.name.removesuffix("weight")
        state = {
            name.removeprefix(stem): weights.pop(name)
            for name in list(weights)
            if name.startswith(stem) and not name.endswith("bias")
        }
        if "weight" in state:
            state["weight"] = state["weight"].t()
        if "weight_shape" in state:
            state["weight_shape"] = torch.Size(state["weight_shape"].tolist())
        group = groups[choice.scheme.weights.group_size]
        compressor = BaseCompressor.load_from_registry(choice.scheme.weights.layout)
        weights[choice.weight.name] = compressor.decompress(state, group)["weight"].t().float()
    read = tiny_model("gpt2", n_embd=192, n_inner=416)
    report = read.load_state_dict(weights, strict=False)
    assert report.missing_keys in ([], ["lm_head.weight"])
    assert not report.unexpected_keys
    bits = 4 if "4" in type_ else 8
    for choice in choices_of(plan):
        if choice.scheme:
            one, other = (state[choice.weight.name] for state in (original, read.state_dict()))
            error = ((one - other).norm() / one.norm()).item()
            assert 0 < error < (0.05 if bits == 8 else 0.15), choice.weight.name
    tokens = random_tokens()
    expected, computed = outputs(model, tokens), outputs(read, tokens)
    assert np.corrcoef(expected.ravel(), computed.ravel())[0, 1] > (0.998 if bits == 8 else 0.95)


def test_kept_conv1d_layers_stay_as_they_are(tmp_path: Path) -> None:
    save_model("gpt2", tmp_path / "model")
    quantize_model(tmp_path / "model", tmp_path / "out", "w8a8", keep=("*.0.*",))
    before, after = load_all(tmp_path / "model"), load_all(tmp_path / "out")
    name = "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(before[name], after[name])


def test_embeddings_are_int8_whatever_the_scheme(tmp_path: Path) -> None:
    save_model("bert", tmp_path)
    plan = plan_model(tmp_path, "fp8", overrides=(("*word_embeddings.weight", "w8a16"),))
    slot = next(
        slot for slot in plan.target.slots if slot.name == "embeddings.word_embeddings.weight"
    )
    assert slot.dtype == "I8"
    assert any(slot.name == "embeddings.position_embeddings.weight" for slot in plan.target.slots)
