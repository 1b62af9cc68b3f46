"""Encoders beside BERT, and heads that classify: llama.cpp gives what transformers gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from common import (
    convert_model,
    correlation,
    llama_embeddings,
    random_tokens,
    torch_hidden,
    worst_difference,
)
from compressed_models import (
    load_model,
    outputs,
    plan_model,
    quantize_model,
    reference_model,
)
from encoder_models import llama_encoded, llama_ranks, save_encoder
from safetensors.numpy import save_file

from qconvert.checkpoint import fingerprint, open_checkpoint
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.run.outputs import write_outputs

LABELS = {0: "false", 1: "true", 2: "neither"}


EMBEDDING = (
    "XLMRobertaModel",
    "RobertaModel",
    "DistilBertModel",
    "ModernBertModel",
    "NomicBertModel",
    "Gemma3TextModel",
    "JinaEmbeddingsV3Model",
)


@pytest.mark.parametrize("name", EMBEDDING)
def test_texts_are_embedded_alike(name: str, tmp_path: Path) -> None:
    model = save_encoder(name, tmp_path / "m")
    tokens = random_tokens(60)
    for type_ in ("f32", "q8_0"):
        convert_model(tmp_path / "m", tmp_path / f"{type_}.gguf", type_)
    expected = torch_hidden(model, tokens)
    found = llama_embeddings(tmp_path / "f32.gguf", tokens)
    assert worst_difference(expected, found) <= 1e-3
    assert correlation(expected, llama_embeddings(tmp_path / "q8_0.gguf", tokens)) > 0.999
    one, other = expected.mean(axis=0), found.mean(axis=0)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.9999

    assert_walked(tmp_path, tokens, expected)


@pytest.mark.parametrize("name", ["T5EncoderModel", "UMT5EncoderModel"])
def test_prompts_are_encoded_alike(name: str, tmp_path: Path) -> None:
    model = save_encoder(name, tmp_path / "m")
    tokens = random_tokens(60)
    for type_ in ("f32", "q8_0"):
        convert_model(tmp_path / "m", tmp_path / f"{type_}.gguf", type_)
    expected = torch_hidden(model, tokens)
    assert worst_difference(expected, llama_encoded(tmp_path / "f32.gguf", tokens)) <= 1e-3
    assert correlation(expected, llama_encoded(tmp_path / "q8_0.gguf", tokens)) > 0.999
    assert_walked(tmp_path, tokens, expected)


def assert_walked(folder: Path, tokens: list[int], expected: np.ndarray) -> None:
    """Block by block the same comes out."""
    opened = open_model(open_checkpoint(str(folder / "m")))
    place = Place(folder / "work", device="cpu", dtype="f32")
    walk = Walk(opened, np.array([tokens], np.int32), place)
    (folder / "work").mkdir()
    for block in walk:
        block.run()
    (hidden,) = walk.last_hidden()
    assert np.abs(hidden[0].numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_layers_behind_the_mean_are_multiplied_with(tmp_path: Path) -> None:
    model = save_encoder("Gemma3TextModel", tmp_path)
    draw = np.random.default_rng(5)
    kinds = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]
    modules = [{"type": f"models.{k}", "path": p} for k, p in zip(kinds, paths, strict=True)]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling/config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    layers = [draw.standard_normal(shape).astype(np.float32) for shape in ((96, 160), (160, 96))]
    for folder, weight in zip(paths[2:4], layers, strict=True):
        (tmp_path / folder).mkdir()
        rows, columns = weight.shape
        said = {"in_features": columns, "out_features": rows, "bias": False}
        (tmp_path / folder / "config.json").write_text(json.dumps(said))
        save_file({"linear.weight": weight}, tmp_path / folder / "model.safetensors")
    plan = convert_model(tmp_path, tmp_path / "f32.gguf", "f32")
    tokens = random_tokens(40)
    expected = torch_hidden(model, tokens).mean(0) @ layers[0].T @ layers[1].T
    (found,) = llama_embeddings(tmp_path / "f32.gguf", tokens, pooled=True)
    assert np.abs(found - expected).max() <= 1e-3 * np.ptp(expected)
    assert not any("behind the pooling" in notice for notice in plan.notices)

    before = fingerprint(open_checkpoint(str(tmp_path)))
    save_file({"linear.weight": -layers[1]}, tmp_path / "3_Dense/model.safetensors")
    assert fingerprint(open_checkpoint(str(tmp_path))) != before

    gelu = said | {"activation_function": "torch.nn.modules.activation.GELU"}
    (tmp_path / "3_Dense/config.json").write_text(json.dumps(gelu))
    told = open_model(open_checkpoint(str(tmp_path))).notices
    assert any("behind the pooling" in notice and "3_Dense" in notice for notice in told)


BACK = ("ModernBertModel", "ModernBertForSequenceClassification", "NomicBertModel")


@pytest.mark.parametrize("name", [*BACK, "Gemma3TextModel"])
def test_files_come_back(name: str, tmp_path: Path) -> None:
    model = save_encoder(name, tmp_path / "m")
    convert_model(tmp_path / "m", tmp_path / "f32.gguf", "f32")
    source = open_checkpoint(str(tmp_path / "f32.gguf"))
    plan = make_export_plan(source, Recipe("auto", output=tmp_path / "back"))
    write_outputs([plan], 2, Silent())
    tokens = random_tokens(40)
    assert np.array_equal(outputs(load_model(tmp_path / "back"), tokens), outputs(model, tokens))


@pytest.mark.parametrize(
    "name", [*EMBEDDING[3:], "T5EncoderModel", "ModernBertForSequenceClassification"]
)
def test_transformers_computes_with_quantized_directories(name: str, tmp_path: Path) -> None:
    model = save_encoder(name, tmp_path / "m")
    packed = plan_model(tmp_path / "m", "w8a16")
    can_pack = not any("cannot run it" in notice for notice in packed.notices)
    assert can_pack is name.startswith("Gemma3")
    type_ = "w8a16" if can_pack else "w8a8"
    plan = quantize_model(tmp_path / "m", tmp_path / "out", type_)
    assert any("as it stands" in notice for notice in plan.notices)
    tokens = random_tokens(24)
    computed = outputs(load_model(tmp_path / "out"), tokens)
    assert correlation(outputs(model, tokens), computed) > 0.999
    if name.startswith(("Nomic", "Jina")):  # the reference rounds by names that modules have not
        return
    expected = outputs(reference_model(plan, tmp_path / "out"), tokens)
    assert np.abs(computed - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("labels", [{0: "LABEL_0"}, LABELS], ids=["one label", "three labels"])
@pytest.mark.parametrize("base", ["XLMRoberta", "Roberta", "Bert", "ModernBert"])
def test_a_text_is_ranked_alike(base: str, labels: dict[int, str], tmp_path: Path) -> None:
    model = save_encoder(f"{base}ForSequenceClassification", tmp_path / "m", id2label=labels)
    tokens = random_tokens(60)
    convert_model(tmp_path / "m", tmp_path / "f32.gguf", "f32")
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    names, found = llama_ranks(tmp_path / "f32.gguf", tokens)
    assert names == list(labels.values())
    assert found == pytest.approx(expected, abs=1e-3)
    assert np.abs(expected).max() > 0.05
