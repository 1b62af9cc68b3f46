"""Weights quantized by block: against streaming, and against transformers' own model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens, save_model
from listening import Listening

from qconvert.algorithms import ALGORITHMS
from qconvert.checkpoint import open_checkpoint, read_bytes
from qconvert.containers.store import Store, open_store
from qconvert.formats import FORMATS
from qconvert.formats.quantize import nearest
from qconvert.formats.types import Coded
from qconvert.forward.states import States
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.plan.types import Plan
from qconvert.run import fitting
from qconvert.run.by_block import HELPED, UNSEEN, Job, open_walks, quantize_by_block
from qconvert.run.fitting import Task
from qconvert.run.outputs import write_outputs
from qconvert.run.stored import with_made

TOKENS = np.array(random_tokens(16 * 24), np.int32).reshape(16, 24)
BLOCKS = 3
FAMILIES = ("llama", "qwen3_moe", "gpt2", "phi3")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    folder = tmp_path_factory.mktemp("models")
    layers = {"gpt2": "n_layer"}
    return {
        family: (
            folder / family,
            save_model(
                family,
                folder / family,
                wide=True,
                **{layers.get(family, "num_hidden_layers"): BLOCKS},
            ),
        )
        for family in FAMILIES
    }


def plan_of(model: Path, path: Path) -> Plan:
    recipe = Recipe("q4_k_m", output=path, output_type="f32", embedding_type="f32")
    return make_plan(open_model(open_checkpoint(str(model))), recipe)


def tasks_of(plan: Plan, algorithm: str) -> dict[str, list[Task]]:
    return {
        tensor.name: [Task(tensor, FORMATS[tensor.format], algorithm)]
        for tensor in plan.tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    }


@contextmanager
def made_by_block(
    plan: Plan, path: Path, algorithm: str, watcher: Silent | None = None
) -> Iterator[tuple[Store, Walk]]:
    with open_store(path, algorithm) as store:
        place = Place(store.folder, "cpu", "f32", batch=3)
        walks = open_walks(open_model(plan.checkpoint), TOKENS, [place])
        quantize_by_block(walks, [Job(tasks_of(plan, algorithm), store)], watcher or Silent())
        yield store, walks.quantized[0]


def arrays_of(store: Store) -> dict[str, bytes]:
    """What was made, by name."""
    return {
        name: array.tobytes()
        for own in store.names
        for name, array in store.get(own).items()
        if not name.endswith(HELPED)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_nearest_is_what_streaming_writes(family: str, models: Any, tmp_path: Path):
    plan = plan_of(models[family][0], tmp_path / "streamed.gguf")
    write_outputs([plan], 2, Silent())
    streamed = open_checkpoint(str(tmp_path / "streamed.gguf")).tensors
    with made_by_block(plan, tmp_path / "out", "nearest") as (store, _):
        assert len(arrays_of(store)) >= 4 * BLOCKS
        for name, made in arrays_of(store).items():
            assert made == read_bytes(streamed[name], 0, streamed[name].rows).tobytes()
        moved = with_made(plan_of(models[family][0], tmp_path / "moved.gguf"), store)
        write_outputs([moved], 2, Silent())
        store.delete()
    assert (tmp_path / "moved.gguf").read_bytes() == (tmp_path / "streamed.gguf").read_bytes()


def quantized_model(family: str, models: Any, folder: Path) -> Any:
    """transformers' model of the streamed file."""
    folder.mkdir()
    plan = plan_of(models[family][0], folder / "q.gguf")
    exported = Recipe("auto", output=folder / "q")
    write_outputs([plan], 2, Silent())
    export = make_export_plan(open_checkpoint(str(folder / "q.gguf")), exported)
    write_outputs([export], 2, Silent())
    kind = type(models[family][1])
    return kind.from_pretrained(folder / "q", attn_implementation="eager").eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_the_last_block_is_that_of_the_quantized_model(
    family: str, models: Any, tmp_path: Path
):
    quantized = quantized_model(family, models, tmp_path / "q")
    plan = plan_of(models[family][0], tmp_path / "q.gguf")
    with (
        made_by_block(plan, tmp_path / "out", "nearest") as (_, walk),
        torch.no_grad(),
    ):
        logits = quantized.get_output_embeddings()(torch.cat(list(walk.last_hidden())))
        wanted = quantized(torch.from_numpy(walk.tokens).long()).logits
        other = models[family][1](torch.from_numpy(walk.tokens).long()).logits
    assert (logits - wanted).abs().max() < 2e-4 * wanted.abs().max()
    assert (other - wanted).abs().max() > 1e-2 * wanted.abs().max()


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[np.ndarray, Any]]]:
    """A new algorithm: one function and one line. It keeps what it was shown."""
    shown: list[tuple[np.ndarray, Any]] = []

    def spy(format_: Any, x: np.ndarray, seen: Any, peak: float | None) -> Coded:
        shown.append((x, seen))
        return nearest(format_, x, None, peak)

    monkeypatch.setitem(ALGORITHMS, "spy", spy)
    monkeypatch.setattr(fitting, "_step", lambda format_, rows: rows)
    return shown


def test_inputs_are_those_of_a_model_quantized_so_far(models: Any, tmp_path: Path, spied: Any):
    """Those of layers that add to the residual stream, of each token relative to what the original
    has there."""
    model = models["llama"][1]
    quantized = quantized_model("llama", models, tmp_path / "q")
    plan = plan_of(models["llama"][0], tmp_path / "q.gguf")
    with made_by_block(plan, tmp_path / "out", "spy") as (store, _):
        assert len(spied) == len(arrays_of(store))
    behind = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    behind = (*behind, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    layers = "model.layers.1."
    norms = {"self_attn.o_proj": stream_norms(model, layers + "post_attention_layernorm")}
    norms["mlp.down_proj"] = stream_norms(model, "model.layers.2.input_layernorm")
    for kind in reversed(behind):
        layer = layers + kind
        own = model.get_submodule(layer).weight
        quantized.get_submodule(layer).weight.data.copy_(own)  # this one and those behind it
        if kind in ("mlp.up_proj", "self_attn.k_proj", "self_attn.q_proj"):
            continue  # the same input as another one's
        seen = next(seen for x, seen in spied if np.array_equal(x, own.detach().numpy()))
        wanted, other = (second_moments(one, layer, norms.get(kind)) for one in (quantized, model))
        hessian = seen.hessian.numpy()
        assert np.abs(hessian - wanted).max() < 1e-4 * np.abs(wanted).max()
        assert np.abs(other - wanted).max() > 1e-2 * np.abs(wanted).max()
        np.testing.assert_array_equal(seen.square, hessian.diagonal())


SHOWN = np.arange(len(TOKENS)) % UNSEEN != UNSEEN - 1
"""The windows that are not kept for the guard."""


def inputs_of(model: Any, module: str) -> torch.Tensor:
    """[tokens, columns], of the windows that algorithms are shown."""
    rows: list[torch.Tensor] = []
    hook = model.get_submodule(module).register_forward_pre_hook(
        lambda _, args: rows.append(args[0].flatten(0, 1).double())
    )
    with torch.no_grad():
        model(torch.from_numpy(TOKENS[SHOWN]).long())
    hook.remove()
    return torch.cat(rows)


def stream_norms(model: Any, norm: str) -> torch.Tensor:
    return inputs_of(model, norm).square().mean(dim=1, keepdim=True).sqrt()


def second_moments(model: Any, layer: str, norms: torch.Tensor | None) -> np.ndarray:
    x = inputs_of(model, layer)
    x = x if norms is None else x / norms
    return (x.T @ x / len(x)).numpy()


Balanced = tuple[dict[str, bytes], list[torch.Tensor]]


@pytest.fixture(scope="module")
def balanced(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Balanced:
    """What is made in one go, and what leaves the last block."""
    folder = tmp_path_factory.mktemp("balanced")
    plan = plan_of(models["llama"][0], folder / "q.gguf")
    with made_by_block(plan, folder / "whole", "balance") as (store, walk):
        return arrays_of(store), list(walk.last_hidden())


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_walk_is_taken_up(
    stop: int, models: Any, balanced: Balanced, tmp_path: Path
):
    plan = plan_of(models["llama"][0], tmp_path / "q.gguf")
    whole, _ = balanced
    with (
        pytest.raises(KeyboardInterrupt),
        made_by_block(plan, tmp_path / "out", "balance", Listening(stop)),
    ):
        pass
    again = Listening()
    with made_by_block(plan, tmp_path / "out", "balance", again) as (store, _):
        assert arrays_of(store) == whole
    ((total, done),) = again.begun
    assert done * BLOCKS == total * (stop - 1)


def test_a_weight_that_is_made_is_not_made_again(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = plan_of(models["llama"][0], tmp_path / "q.gguf")
    made = []

    def fails_once(format_: Any, x: np.ndarray, seen: Any, peak: float | None) -> Coded:
        made.append(x)
        if len(made) == 11:
            raise KeyboardInterrupt
        return ALGORITHMS["balance"](format_, x, seen, peak)

    monkeypatch.setitem(ALGORITHMS, "failing", fails_once)
    monkeypatch.setattr(fitting, "_step", lambda format_, rows: rows)
    with pytest.raises(KeyboardInterrupt), made_by_block(plan, tmp_path / "out", "failing"):
        pass
    with open_store(tmp_path / "out", "failing") as store:
        assert len(arrays_of(store)) == 10
    with (
        made_by_block(plan, tmp_path / "out", "failing") as (store, _),
        made_by_block(plan, tmp_path / "whole", "balance") as (whole, _),
    ):
        assert len(made) == len(arrays_of(store)) + 1
        assert arrays_of(store) == arrays_of(whole)


@pytest.mark.parametrize("count", [8, 14, 20])
def test_a_crash_while_a_block_runs(
    count: int, models: Any, balanced: Balanced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Hidden states are written six batches a block; those into the block that runs stay."""
    plan = plan_of(models["llama"][0], tmp_path / "q.gguf")
    whole, last = balanced
    written = []
    write = States.write

    def failing(states: States, block: int, start: int, values: Any) -> None:
        written.append(block)
        if len(written) == count:
            raise KeyboardInterrupt
        write(states, block, start, values * 0 if len(written) == count - 1 else values)

    with monkeypatch.context() as patched:
        patched.setattr(States, "write", failing)
        with pytest.raises(KeyboardInterrupt), made_by_block(plan, tmp_path / "out", "balance"):
            pass
    with made_by_block(plan, tmp_path / "out", "balance") as (store, walk):
        assert arrays_of(store) == whole
        assert all(map(torch.equal, walk.last_hidden(), last))


def test_without_the_hidden_states_all_is_made_anew(models: Any, tmp_path: Path):
    plan = plan_of(models["llama"][0], tmp_path / "q.gguf")
    with made_by_block(plan, tmp_path / "out", "balance") as (store, _):
        whole = arrays_of(store)
        (store.folder / "states-1").unlink()
    again = Listening()
    with made_by_block(plan, tmp_path / "out", "balance", again) as (store, _):
        assert arrays_of(store) == whole
    assert [done for _, done in again.begun] == [0]


def test_what_does_not_help_is_left_out_and_said(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def worst(format_: Any, x: np.ndarray, seen: Any, peak: float | None) -> Coded:
        coded = nearest(format_, x, seen, peak)
        return coded._replace(codes=np.zeros_like(coded.codes))

    monkeypatch.setitem(ALGORITHMS, "worst", worst)
    plan = plan_of(models["llama"][0], tmp_path / "q.gguf")
    made: dict[str, Mapping[str, bytes]] = {}
    helped: dict[str, list[bool]] = {}
    for name in ("nearest", "balance", "worst"):
        with made_by_block(plan, tmp_path / name, name) as (store, _):
            made[name] = arrays_of(store)
            of = [store.get(own) for own in made[name]]
            said = [arrays for own in of for key, arrays in own.items() if key.endswith(HELPED)]
            helped[name] = [bool(each) for arrays in said for each in arrays]
    assert made["worst"] == made["nearest"]
    assert not helped["nearest"]
    assert helped["worst"] == [False] * len(made["worst"])
    differ = [array != made["nearest"][name] for name, array in made["balance"].items()]
    assert helped["balance"] == differ
    assert sum(differ) > 0.5 * len(differ)
