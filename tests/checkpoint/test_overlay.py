"""Other values in the place of some tensors'."""

from pathlib import Path

import numpy as np
import pytest
import torch
from common import random_tokens, save_model, torch_logits
from safetensors.numpy import load_file, save_file

from qconvert.checkpoint import Checkpoint, fingerprint, open_checkpoint, read_rows
from qconvert.checkpoint.overlay import overlay
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

NAME = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("overlay")


@pytest.fixture(scope="module")
def model(folder: Path) -> object:
    return save_model("qwen3", folder / "m")


@pytest.fixture
def checkpoint(model: object, folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder / "m"))


def changed(folder: Path, name: str = NAME) -> tuple[np.ndarray, Checkpoint]:
    """A tensor's values times two, in float16."""
    own = load_file(folder / "m/model.safetensors")
    other = (own[NAME] * 2).astype(np.float16)
    save_file({name: other}, folder / "changed.safetensors")
    checkpoint = open_checkpoint(str(folder / "m"))
    return other, overlay(checkpoint, read_safetensors(folder / "changed.safetensors"))


def test_it_is_read_by_rows_like_any_other(folder: Path, checkpoint: Checkpoint):
    other, laid = changed(folder)
    found = read_rows(laid.tensors[NAME], 5, 9)
    np.testing.assert_array_equal(found, other[5:9].astype(np.float32))
    assert list(laid.tensors) == list(checkpoint.tensors)
    rest = {name: info for name, info in laid.tensors.items() if name != NAME}
    assert rest == {name: info for name, info in checkpoint.tensors.items() if name != NAME}
    assert fingerprint(laid) != fingerprint(checkpoint)
    assert laid.files == (*checkpoint.files[:1], folder / "changed.safetensors")


def test_the_model_runs_with_it(folder: Path, model: object):
    other, laid = changed(folder)
    tokens = np.array(random_tokens(32), np.int32)
    (folder / "states").mkdir()
    walk = Walk(open_model(laid), tokens[None], Place(folder / "states", "cpu", "f32"))
    for _ in walk:
        pass
    with torch.no_grad():
        found = model.lm_head(torch.cat(list(walk.last_hidden())))[0].numpy()
        own = torch_logits(model, tokens.tolist())
        model.get_parameter(NAME).copy_(torch.from_numpy(other))
    wanted = torch_logits(model, tokens.tolist())
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.abs(own - wanted).max() > 1e-2 * np.abs(wanted).max()


def test_what_does_not_fit_is_refused(folder: Path):
    with pytest.raises(ValueError, match="in the place of"):
        changed(folder, "model.embed_tokens.weight")
    with pytest.raises(ValueError, match="in the place of None"):
        changed(folder, "more")
