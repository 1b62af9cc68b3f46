"""Every plain decoder, each made once: what llama.cpp computes from its file, what comes back from
it, and what calibration sees, are what transformers computes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import (
    Family,
    convert_model,
    correlation,
    llama_logits,
    random_tokens,
    save_model,
    tiny_model,
    torch_logits,
    worst_difference,
)
from compressed_models import (
    choices_of,
    load_model,
    outputs,
    quantize_model,
    reference_model,
)
from plain_models import ALWAYS_TIED, ONE_WAY, PLAIN
from safetensors.numpy import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Silent
from qconvert.model.families import find_family
from qconvert.model.open import open_model
from qconvert.model.reverse import describe
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.plan.safetensors.notices import misfit
from qconvert.run.outputs import write_outputs

pytest.importorskip("llama_cpp")


@dataclass(frozen=True)
class Made:
    """A tiny model, its directory and what it gives."""

    name: str
    family: Family
    model: Any
    folder: Path
    logits: np.ndarray

    @property
    def source(self) -> Path:
        return self.folder / "model"


@pytest.fixture(scope="module", params=PLAIN)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    model = save_model(PLAIN[name], folder / "model", tied=name in ALWAYS_TIED)
    convert_model(folder / "model", folder / "f32.gguf", "f32")
    return Made(name, PLAIN[name], model, folder, torch_logits(model, random_tokens()))


def test_llama_cpp_computes_the_logits_of_transformers(made: Made) -> None:
    convert_model(made.source, made.folder / "q8_0.gguf", "q8_0")
    actual, rounded = (
        llama_logits(made.folder / f"{name}.gguf", random_tokens()) for name in ("f32", "q8_0")
    )
    assert worst_difference(made.logits, actual) <= 1e-3
    assert correlation(made.logits, rounded) > 0.999


def test_a_file_comes_back_bit_for_bit(made: Made) -> None:
    if made.name in ONE_WAY:
        with pytest.raises(UnsupportedError, match="cannot be written"):
            describe(open_checkpoint(str(made.folder / "f32.gguf")))
        return
    plan = make_export_plan(
        open_checkpoint(str(made.folder / "f32.gguf")),
        Recipe("auto", output=made.folder / "back"),
    )
    write_outputs([plan], 2, Silent())
    again = load_model(made.folder / "back")
    assert not [notice for notice in plan.notices if "no place" in notice]
    assert np.array_equal(torch_logits(again, random_tokens()), made.logits)


def test_every_linear_layer_is_seen_with_its_inputs(made: Made) -> None:
    seen: dict[str, int] = {}

    def observe(names: tuple[str, ...], x: Any, matrix: int) -> None:
        for name in names:
            seen[name] = seen.get(name, 0) + len(x)

    tokens = np.array([random_tokens()], np.int32)
    model = open_model(open_checkpoint(str(made.source)))
    walk = Walk(model, tokens, Place(made.folder / "work", device="cpu", dtype="f32"))
    (made.folder / "work").mkdir(exist_ok=True)
    for block in walk:
        block.run(observe)
    walk.finish(observe)
    hidden = np.concatenate([part.numpy() for part in walk.last_hidden()])
    wanted = {weight.gguf for weight in model.weights if weight.quantizable and weight.block >= 0}
    assert wanted <= set(seen)
    expected = last_hidden(made.model, tokens)
    assert np.abs(hidden - expected).max() <= 1e-5 * np.abs(expected).max()


def last_hidden(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.base_model(torch.from_numpy(tokens).long()).last_hidden_state.numpy()


def test_transformers_computes_with_its_quantized_directory(made: Made) -> None:
    plan = quantize_model(made.source, made.folder / "w8a16", "w8a16")
    if made.model.config.model_type == "falcon":
        family = open_model(open_checkpoint(str(made.source))).family
        assert "packed" in misfit(choices_of(plan), family)
        return
    tokens = random_tokens(24)
    expected = outputs(reference_model(plan, made.folder / "w8a16", "float32"), tokens)
    computed = outputs(load_model(made.folder / "w8a16"), tokens)
    assert np.abs(computed - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("text", ["mistral", "ministral3"])
def test_the_language_model_of_mistral_3_is_taken(text: str, tmp_path: Path) -> None:
    import transformers

    inner = tiny_model(PLAIN.get(text, text))
    config = transformers.Mistral3Config(
        text_config=inner.config.to_dict(),
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        image_token_index=5,
        tie_word_embeddings=False,
    )
    whole = transformers.Mistral3ForConditionalGeneration(config).float().eval()
    whole.model.language_model.load_state_dict(inner.model.state_dict())
    whole.lm_head.load_state_dict(inner.lm_head.state_dict())
    whole.save_pretrained(tmp_path / "model")
    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert any("left out" in notice for notice in plan.notices)
    tokens = random_tokens()
    actual = llama_logits(tmp_path / "f32.gguf", tokens)
    assert worst_difference(torch_logits(inner, tokens), actual) <= 1e-3
    again = find_family(open_checkpoint(str(tmp_path / "model")).config)
    assert again.mark == ("attention.temperature_scale" if text == "ministral3" else "")


@pytest.mark.parametrize("name", ["gpt_neox", "apertus"])
def test_a_tied_output_is_written_out_where_llama_cpp_wants_it(name: str, tmp_path: Path) -> None:
    model = save_model(PLAIN[name], tmp_path / "model", tied=True)
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    tokens = random_tokens(16)
    actual = llama_logits(tmp_path / "f32.gguf", tokens)
    assert worst_difference(torch_logits(model, tokens), actual) <= 1e-3


def test_an_output_that_llama_cpp_would_pass_over_is_refused(tmp_path: Path) -> None:
    save_model(PLAIN["cohere2"], tmp_path, tied=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedError, match="an output projection of its own"):
        convert_model(tmp_path, tmp_path / "f32.gguf", "f32")
