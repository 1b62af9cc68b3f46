"""Every transform between the two sides, against NumPy, slab by slab, and back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qconvert.checkpoint import TensorInfo
from qconvert.checkpoint.metadata import Field, u32
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.assemble import assemble
from qconvert.model.mapping import map_tensors, unknown_to
from qconvert.model.reverse import reverse_tensors
from qconvert.model.transforms import Columns, Function, Scale, inverse
from qconvert.model.types import Family, Rows, Rule, TensorMap

DRAW = np.random.default_rng(7)
CONFIG = {"architectures": ["X"]}
LAYER = "model.layers.{i}."


def write(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, TensorInfo]:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return read_safetensors(path)


def whole(map_: TensorMap, tensors: dict[str, TensorInfo]) -> np.ndarray:
    return assemble(map_, tensors, 0, map_.rows).reshape(map_.shape)


def family(*rules: Rule, shapes: dict[str, tuple[str, ...]], **sizes: int | list[int]) -> Family:
    keys = {"block_count": 2, "embedding_length": 6, "attention.head_count": 2, **sizes}

    def metadata(config: object) -> dict[str, Field]:
        from gguf import GGUFValueType as Type

        return {
            f"toy.{key}": Field(Type.ARRAY, value, Type.UINT32)
            if isinstance(value, list)
            else u32(value)
            for key, value in keys.items()
        }

    first = Rule("token_embd.weight", "model.embed.weight", optional=True)
    return Family("toy", ("X",), metadata, lambda config: (first, *rules), shapes=shapes)


STEPS = {
    "scale": (Scale(0.25), lambda x: x * np.float32(0.25)),
    "columns": (Columns((2, 0, 1)), lambda x: x[:, [2, 0, 1, 5, 3, 4]]),
    "-exp": (Function("-exp(x)"), lambda x: -np.exp(x)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_what_numpy_makes_of_it_and_its_inverse_undoes_it(name: str) -> None:
    step, expected = STEPS[name]
    rows = DRAW.normal(size=(5, 6)).astype(np.float32)
    made = step.apply(rows)
    assert np.array_equal(made, expected(rows))
    assert not np.array_equal(made, rows)
    assert step.inverse.apply(made) == pytest.approx(rows, rel=1e-5)


def test_steps_are_undone_from_the_last_to_the_first() -> None:
    steps = (Scale(2.0), Function("-exp(x)"), Scale(0.5))
    rows = made = DRAW.normal(size=(3, 4)).astype(np.float32)
    for step in (*steps, *inverse(steps)):
        made = step.apply(made)
    assert made == pytest.approx(rows, rel=1e-5)
    with pytest.raises(UnsupportedError):
        inverse((Scale(0.0),))


MAPS = {
    "each matrix transposed": (
        TensorMap("t", (3, 4, 6), (Rows("a", 0, 18),), transpose=True),
        (3, 6, 4),
        lambda a: a.swapaxes(1, 2),
    ),
    "squeezed": (
        TensorMap("t", (12, 4), (Rows("a", 0, 12),), reshaped=True),
        (12, 1, 4),
        lambda a: a[:, 0],
    ),
    "a vector as a column": (
        TensorMap("t", (8, 1), (Rows("a", 0, 1),), reshaped=True),
        (8,),
        lambda a: a[:, None],
    ),
    "each second row": (
        TensorMap("t", (5, 3), (Rows("a", 1, 10, 2),)),
        (10, 3),
        lambda a: a[1::2],
    ),
    "runs and strides": (
        TensorMap("t", (6, 3), (Rows("a", 0, 9, 4), Rows("a", 1, 4))),
        (10, 3),
        lambda a: np.concatenate([a[0:9:4], a[1:4]]),
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_slabs_put_together_are_what_numpy_makes(name: str, tmp_path: Path) -> None:
    map_, shape, expected = MAPS[name]
    array = DRAW.normal(size=shape).astype(np.float32)
    tensors = write(tmp_path / "x.safetensors", {"a": array})
    assert np.array_equal(whole(map_, tensors), expected(array))
    stepped = replace(map_, steps=(Scale(3.0),))
    for size in (1, 2, 3):
        slabs = [
            assemble(stepped, tensors, start, min(start + size, map_.rows))
            for start in range(0, map_.rows, size)
        ]
        made = np.concatenate(slabs).reshape(map_.shape)
        assert np.array_equal(made, expected(array) * np.float32(3))


def test_a_slab_reads_no_more_than_it_needs(tmp_path: Path, monkeypatch) -> None:
    from qconvert.model import assemble as module

    tensors = write(tmp_path / "x.safetensors", {"a": np.zeros((100, 8, 4), np.float32)})
    read: list[int] = []

    def watched(info: TensorInfo, start: int, stop: int) -> np.ndarray:
        read.append(stop - start)
        return original(info, start, stop)

    original = module.read_rows
    monkeypatch.setattr(module, "read_rows", watched)
    assemble(TensorMap("t", (100, 4, 8), (Rows("a", 0, 800),), transpose=True), tensors, 4, 8)
    assemble(TensorMap("t", (100, 32), (Rows("a", 0, 800),), reshaped=True), tensors, 7, 8)
    assert read == [8, 8]


SHAPES = {
    "ssm_a": ("head",),
    "ssm_conv1d.weight": ("hidden", "head"),
    "attn_q.weight": ("query", "hidden"),
    "attn_k.weight": ("query", "hidden"),
}


def toy(**sizes: int | list[int]) -> Family:
    """Block 0 is a state-space layer, block 1 has attention whose rows are interleaved."""
    return replace(
        family(
            Rule(
                "blk.{i}.ssm_a",
                LAYER + "a_log",
                stored=(3,),
                steps=(Function("-exp(x)"),),
                blocks=(0,),
            ),
            Rule("blk.{i}.ssm_conv1d.weight", LAYER + "conv", stored=(6, 1, 3), blocks=(0,)),
            Rule("blk.{i}.attn_q.weight", LAYER + "qk", rows=(0, 1), period=2, blocks=(1,)),
            Rule("blk.{i}.attn_k.weight", LAYER + "qk", rows=(1, 2), period=2, blocks=(1,)),
            shapes={**SHAPES, "ssm_a": ("head",)},
            **sizes,
        ),
    )


def stored() -> dict[str, np.ndarray]:
    return {
        "model.layers.0.a_log": DRAW.normal(size=3).astype(np.float32),
        "model.layers.0.conv": DRAW.normal(size=(6, 1, 3)).astype(np.float32),
        "model.layers.1.qk": DRAW.normal(size=(12, 6)).astype(np.float32),
    }


def test_rules_for_some_blocks_go_there_and_come_back(tmp_path: Path) -> None:
    arrays = stored()
    tensors = write(tmp_path / "x.safetensors", arrays)
    mapped, left_out = map_tensors(toy(), CONFIG, tensors)
    assert not left_out
    made = {map_.name: whole(map_, tensors) for map_ in mapped}
    assert np.array_equal(made["blk.0.ssm_a"], -np.exp(arrays["model.layers.0.a_log"]))
    assert np.array_equal(made["blk.0.ssm_conv1d.weight"], arrays["model.layers.0.conv"][:, 0])
    assert np.array_equal(made["blk.1.attn_q.weight"], arrays["model.layers.1.qk"][0::2])
    assert np.array_equal(made["blk.1.attn_k.weight"], arrays["model.layers.1.qk"][1::2])

    theirs = write(tmp_path / "y.safetensors", made)
    back = reverse_tensors(toy(), CONFIG, toy().metadata(CONFIG), theirs)
    assert {map_.name for map_ in back} == set(arrays)
    for map_ in back:
        assert whole(map_, theirs) == pytest.approx(arrays[map_.name], rel=1e-6), map_.name


@pytest.mark.parametrize("lost", ["model.layers.0.conv", "model.layers.1.qk"])
def test_where_a_rule_holds_its_tensor_must_be_there(lost: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in stored().items() if name != lost}
    tensors = write(tmp_path / "x.safetensors", arrays)
    with pytest.raises(PlanError, match="has no tensor"):
        map_tensors(toy(), CONFIG, tensors)


def test_where_no_rule_holds_a_tensor_has_no_place(tmp_path: Path) -> None:
    arrays = stored() | {"model.layers.1.conv": np.zeros((6, 1, 3), np.float32)}
    tensors = write(tmp_path / "x.safetensors", arrays)
    _, left_out = map_tensors(toy(), CONFIG, tensors)
    assert unknown_to(toy(), CONFIG, left_out) == ("model.layers.1.conv",)


def test_sizes_may_differ_by_block(tmp_path: Path) -> None:
    rule = Rule("blk.{i}.ffn_up.weight", LAYER + "up")
    own = family(rule, shapes={}, feed_forward_length=[4, 9])
    arrays = {
        "model.layers.0.up": np.zeros((4, 6), np.float32),
        "model.layers.1.up": np.zeros((9, 6), np.float32),
    }
    tensors = write(tmp_path / "x.safetensors", arrays)
    mapped, _ = map_tensors(own, CONFIG, tensors)
    assert [map_.shape for map_ in mapped] == [(4, 6), (9, 6)]
    swapped = write(
        tmp_path / "y.safetensors",
        {k: arrays[o] for k, o in zip(arrays, [*arrays][::-1], strict=True)},
    )
    with pytest.raises(PlanError, match="has shape"):
        map_tensors(own, CONFIG, swapped)


def test_constants_can_be_those_of_a_block(tmp_path: Path) -> None:
    rule = Rule("blk.{i}.ffn_up.weight", LAYER + "up")
    value = np.arange(3, dtype=np.float32)
    own = replace(
        family(rule, shapes={}, feed_forward_length=4),
        constants=lambda config: {"blk.1.attn_rot": value},
    )
    arrays = {f"model.layers.{i}.up": np.zeros((4, 6), np.float32) for i in range(2)}
    tensors = write(tmp_path / "x.safetensors", arrays)
    mapped, _ = map_tensors(own, CONFIG, tensors)
    made = {map_.name: map_ for map_ in mapped}
    assert np.array_equal(whole(made["blk.1.attn_rot"], tensors), value)


HEADS = {
    "attn_q.weight": ("query", "hidden"),
    "attn_k.weight": ("key", "hidden"),
    "attn_v.weight": ("key", "hidden"),
}


def regrouped() -> Family:
    """Two groups of heads, each two queries, a key and a value of four rows."""
    fused = LAYER + "qkv"
    q, k, v = (f"blk.{{i}}.attn_{part}.weight" for part in "qkv")
    return family(
        Rule(q, fused, rows=(0, 8), period=16, heads=4),
        Rule(k, fused, rows=(8, 12), period=16, heads=2),
        Rule(v, fused, rows=(12, 16), period=16, steps=(Scale(2.0), Columns((1, 0)))),
        shapes=HEADS,
        **{"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 4},
    )


def test_heads_that_lie_by_turns_are_regrouped_and_come_back(tmp_path: Path) -> None:
    own = regrouped()
    arrays = {
        f"model.layers.{i}.qkv": DRAW.normal(size=(32, 6)).astype(np.float32) for i in range(2)
    }
    tensors = write(tmp_path / "x.safetensors", arrays)
    mapped, _ = map_tensors(own, CONFIG, tensors)
    made = {map_.name: whole(map_, tensors) for map_ in mapped}
    grouped = arrays["model.layers.1.qkv"].reshape(2, 16, 6)
    halves = [0, 2, 1, 3]
    queries = grouped[:, :8].reshape(4, 4, 6)[:, halves].reshape(16, 6)
    keys = grouped[:, 8:12][:, halves].reshape(8, 6)
    values = 2 * grouped[:, 12:].reshape(8, 6)[:, [1, 0, 3, 2, 5, 4]]
    assert np.array_equal(made["blk.1.attn_q.weight"], queries)
    assert np.array_equal(made["blk.1.attn_k.weight"], keys)
    assert np.array_equal(made["blk.1.attn_v.weight"], values)

    theirs = write(tmp_path / "y.safetensors", made)
    for map_ in reverse_tensors(own, CONFIG, own.metadata(CONFIG), theirs):
        assert np.array_equal(whole(map_, theirs), arrays[map_.name]), map_.name
        slabs = [assemble(map_, theirs, row, row + 1) for row in range(map_.rows)]
        assert np.array_equal(np.concatenate(slabs), arrays[map_.name])


@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        (Rule("", "", transpose=True, steps=(Columns((2, 0, 1)),)), (6, 4)),
        (Rule("", "", stored=(4, 1, 6), steps=(Columns((2, 0, 1)),)), (4, 1, 6)),
        (Rule("", "", stored=(2, 12), add=1.0, steps=(Scale(0.5), Columns((1, 0)))), (2, 12)),
        (Rule("", "", add=1.0, steps=(Scale(4.0),)), (4, 6)),
    ],
)
def test_what_steps_do_after_a_move_is_undone_before_it(
    rule: Rule, shape: tuple[int, ...], tmp_path: Path
) -> None:
    rule = replace(rule, gguf="blk.{i}.ffn_up.weight", hf=LAYER + "up")
    own = family(rule, shapes={}, feed_forward_length=4)
    arrays = {f"model.layers.{i}.up": DRAW.normal(size=shape).astype(np.float32) for i in range(2)}
    tensors = write(tmp_path / "x.safetensors", arrays)
    mapped, _ = map_tensors(own, CONFIG, tensors)
    theirs = write(tmp_path / "y.safetensors", {m.name: whole(m, tensors) for m in mapped})
    for map_ in reverse_tensors(own, CONFIG, own.metadata(CONFIG), theirs):
        assert whole(map_, theirs) == pytest.approx(arrays[map_.name], abs=1e-6)


def test_steps_and_sums_of_stacked_experts_are_undone(tmp_path: Path) -> None:
    rule = Rule(
        "blk.{i}.ffn_up_exps.weight", LAYER + "experts.{e}.up", add=1.0, steps=(Scale(0.5),)
    )
    own = family(rule, shapes={}, feed_forward_length=4, expert_count=3)
    arrays = {
        f"model.layers.{i}.experts.{e}.up": DRAW.normal(size=(4, 6)).astype(np.float32)
        for i in range(2)
        for e in range(3)
    }
    tensors = write(tmp_path / "x.safetensors", arrays)
    mapped, _ = map_tensors(own, CONFIG, tensors)
    theirs = write(tmp_path / "y.safetensors", {m.name: whole(m, tensors) for m in mapped})
    back = reverse_tensors(own, CONFIG, own.metadata(CONFIG), theirs)
    assert {map_.name for map_ in back} == set(arrays)
    for map_ in back:
        assert whole(map_, theirs) == pytest.approx(arrays[map_.name], abs=1e-6)


def test_rows_between_the_turns_must_be_used(tmp_path: Path) -> None:
    rule = Rule("blk.{i}.ffn_up.weight", LAYER + "up", rows=(0, 1), period=2)
    own = family(rule, shapes={}, feed_forward_length=4)
    arrays = {f"model.layers.{i}.up": np.zeros((8, 6), np.float32) for i in range(2)}
    tensors = write(tmp_path / "x.safetensors", arrays)
    with pytest.raises(PlanError, match="of which"):
        map_tensors(own, CONFIG, tensors)
