"""Vision parts by their names and shapes: what is found under which names, and what is refused."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from vision_models import seeing

from qconvert.checkpoint import Checkpoint, open_checkpoint
from qconvert.errors import CheckpointError, PlanError, QconvertError, UnsupportedError
from qconvert.model.vision import PROJECTORS
from qconvert.model.vision.open import Vision, open_vision


def opened(name: str) -> Checkpoint:
    return open_checkpoint(str(seeing(name)[0]))


def with_vision(checkpoint: Checkpoint, **settings: Any) -> Checkpoint:
    config = checkpoint.config
    return replace(
        checkpoint, config={**config, "vision_config": {**config["vision_config"]} | settings}
    )


def renamed(checkpoint: Checkpoint, rename: Callable[[str], str]) -> Checkpoint:
    tensors = {
        rename(name): replace(info, name=rename(name)) for name, info in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def shapes(vision: Vision) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in vision.tensors}


def test_the_hubs_older_names_are_known() -> None:
    gemma = opened("Gemma3")
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    older = renamed(gemma, lambda name: name.replace(tower, inner))
    wrapped = renamed(gemma, lambda name: f"model.{name}" if name.startswith(tower) else name)
    for other in (older, wrapped):
        assert shapes(open_vision(other)) == shapes(open_vision(gemma))


def test_a_tower_without_standardization_and_clipping_has_no_tensors_of_them() -> None:
    gemma = opened("Gemma4")
    parts = ("_min", "_max", "std_bias", "std_scale")
    plain = {name: info for name, info in gemma.tensors.items() if not name.endswith(parts)}
    found = shapes(open_vision(replace(gemma, tensors=plain)))
    assert set(found) == {name for name in shapes(open_vision(gemma)) if not name.endswith(parts)}


def test_what_the_tower_does_not_compute_with_is_no_matter() -> None:
    vision = open_vision(opened("Gemma3"))
    assert any(name.startswith("vision_tower.head.") for name in vision.left_out)
    assert not vision.unknown


@contextmanager
def beside(name: str, **images: Any) -> Iterator[Checkpoint]:
    """A checkpoint with a processor_config.json."""
    checkpoint = opened(name)
    place = checkpoint.path / "processor_config.json"
    place.write_text(json.dumps({"image_processor": images}))
    try:
        yield checkpoint
    finally:
        place.unlink()


def test_colours_that_are_not_scaled_stay() -> None:
    with beside("Qwen3_5", do_normalize=False) as checkpoint:
        keys = open_vision(checkpoint).metadata
    assert keys["clip.vision.image_mean"].value == [0.0] * 3
    assert keys["clip.vision.image_std"].value == [1.0] * 3


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"rescale_factor": 1 / 127.5}, "divided by 255"),
        ({"do_rescale": False}, "divided by 255"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"image_std": ["a", "b", "c"]}, "image_std"),
    ],
)
def test_other_scales_of_colours_are_refused(images: dict[str, Any], words: str) -> None:
    with (
        beside("Qwen3_5", **images) as checkpoint,
        pytest.raises(QconvertError, match=words),
    ):
        open_vision(checkpoint)


def test_audio_is_left_out_and_said() -> None:
    gemma = opened("Gemma4")
    info = next(iter(gemma.tensors.values()))
    heard = replace(info, name="model.audio_tower.conv.weight")
    vision = open_vision(replace(gemma, tensors={**gemma.tensors, heard.name: heard}))
    assert any("audio_tower" in notice for notice in vision.notices)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows": ("Qwen2_5_VL", {"window_size": 64}, "window_size = 64"),
    "full attention": ("Qwen2_5_VL", {"fullatt_block_indexes": [0, 3]}, "fullatt_block_indexes"),
    "merging": ("Qwen3VL", {"spatial_merge_size": 4}, "spatial_merge_size = 4"),
    "frames": ("Qwen2VL", {"temporal_patch_size": 1}, "temporal_patch_size = 1"),
    "deep layers": ("Qwen3VL", {"deepstack_visual_indexes": [2, 9]}, "deepstack_visual_indexes"),
    "positions": ("Qwen3VL", {"num_position_embeddings": 35}, "no square"),
    "activation": ("Gemma3", {"hidden_act": "relu"}, "activation 'relu'"),
    "channels": ("Gemma3", {"num_channels": 1}, "channels"),
    "pooling": ("Gemma3", {"image_size": 72}, "do not make"),
    "heads": ("Gemma3", {"num_attention_heads": 5}, "do not share"),
    "rope": ("Mistral3", {"rope_parameters": {"rope_theta": 5e5}}, "rope_theta = 500000"),
    "wide heads": ("Gemma4", {"head_dim": 48}, "head_dim = 48"),
    "a patch of a universe": ("Gemma4", {"patch_size": 10**9}, "patch_size"),
    "many blocks": ("Idefics3", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
    "width": ("SmolVLM", {"hidden_size": 48}, "config.json asks for"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_said_or_does_not_fit_is_refused(case: str) -> None:
    name, settings, words = WRONG[case]
    with pytest.raises(QconvertError, match=words):
        open_vision(with_vision(opened(name), **settings))


def test_a_missing_tensor_is_named() -> None:
    qwen = opened("Qwen3VL")
    name = "model.visual.merger.linear_fc2.bias"
    rest = {key: info for key, info in qwen.tensors.items() if key != name}
    with pytest.raises(PlanError, match=r"no tensor visual\.merger\.linear_fc2\.bias"):
        open_vision(replace(qwen, tensors=rest))


def test_two_names_of_one_tensor_are_refused() -> None:
    qwen = opened("Qwen3VL")
    info = qwen.tensors["model.visual.pos_embed.weight"]
    twice = {
        **qwen.tensors,
        "visual.pos_embed.weight": replace(info, name="visual.pos_embed.weight"),
    }
    with pytest.raises(PlanError, match="two names"):
        open_vision(replace(qwen, tensors=twice))


def test_other_classes_are_refused_by_name() -> None:
    qwen = opened("Qwen3VL")
    for name, words in (
        ("Qwen2AudioForConditionalGeneration", "hears"),
        ("LlamaForCausalLM", "no vision tower of LlamaForCausalLM"),
        ("LlavaForConditionalGeneration", "in another way"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            open_vision(replace(qwen, config={**qwen.config, "architectures": [name]}))


def test_a_text_model_of_a_class_that_sees_has_no_tower() -> None:
    qwen = opened("Qwen3VL")
    config = {key: value for key, value in qwen.config.items() if key != "vision_config"}
    with pytest.raises(CheckpointError, match="no vision tower"):
        open_vision(replace(qwen, config=config))


def test_breaks_need_their_token() -> None:
    mistral = opened("Mistral3")
    place = mistral.path / "tokenizer.json"
    kept = place.read_text()
    place.unlink()
    try:
        with pytest.raises(CheckpointError, match="IMG_BREAK"):
            open_vision(mistral)
    finally:
        place.write_text(kept)


def test_each_projector_is_in_the_table_once() -> None:
    names = [name for projector in PROJECTORS for name in projector.classes]
    assert len(names) == len(set(names))
