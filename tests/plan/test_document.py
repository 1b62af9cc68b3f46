"""Recipe files: what they can say, how mistakes in them are told, and that nothing gets lost."""

import tempfile
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qconvert.containers.sizes import parse_size, write_size
from qconvert.errors import UsageError
from qconvert.plan.document import Document, Settings, options_of, read_document
from qconvert.plan.gguf.file_types import FILE_TYPES, FORMAT_NAMES
from qconvert.plan.mlx.types import MLX
from qconvert.plan.recipe import (
    CONCERNS,
    DEFAULTS,
    Recipe,
    check_used,
    concerns,
    with_given,
)
from qconvert.plan.safetensors.schemes import DIRECTORIES, SCHEMES, is_mlx, is_scheme
from qconvert.plan.saving import document_of, write_document

EXAMPLE = """\
calibration: calib.safetensors
folder: out
outputs:
  - q4_k_m
  - type: W8A8
    activations: static
    smooth: auto
    activation_range: percentile
    percentile: 99.9
  - type: w4a16
    group_size: 64
    overrides:
      blk.*.ffn_down.weight: w8a16
    max_shard_size: 2G
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str) -> tuple[Recipe, ...]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return options_of(read_document(path))

    return read


@pytest.fixture
def refusal(read, tmp_path):
    """The message without the folder, and the hint."""

    def refusal(text: str) -> tuple[str, str]:
        with pytest.raises(UsageError) as caught:
            read(text)
        assert "\n" not in caught.value.message
        return caught.value.message.replace(f"{tmp_path}/", ""), caught.value.hint

    return refusal


def test_a_type_alone_is_a_recipe(read):
    assert read("type: Q4_K\n") == (Recipe("q4_k_m"),)


def test_outputs_take_what_stands_above_and_their_own(read, tmp_path):
    shared = {"calibration": tmp_path / "calib.safetensors", "folder": tmp_path / "out"}
    assert read(EXAMPLE) == (
        Recipe("q4_k_m", **shared),
        Recipe(
            "w8a8",
            **shared,
            activations="static",
            smooth="auto",
            activation_range="percentile",
            percentile=99.9,
        ),
        Recipe(
            "w4a16",
            **shared,
            group_size=64,
            overrides=(("blk.*.ffn_down.weight", "w8a16"),),
            max_shard_size=2_000_000_000,
        ),
    )


def test_what_an_output_says_replaces_what_stands_above(read):
    found = read("keep: ['a*']\noutputs:\n  - q8_0\n  - type: q6_k\n    keep: [b]\n")
    assert [one.keep for one in found] == [("a*",), ("b",)]


def test_what_does_not_concern_an_output_is_not_in_its_options(read):
    gguf, eight = read("group_size: 32\nfallback: false\noutputs: [q8_0, w8a16]\n")
    assert (gguf.group_size, gguf.fallback) == (None, False)
    assert (eight.group_size, eight.fallback) == (32, True)


def test_overrides_keep_their_order(read):
    (found,) = read("type: q4_k_m\noverrides: {'z*': q6_k, 'a*': Q8_0, 'm*': f16}\n")
    assert found.overrides == (("z*", "q6_k"), ("a*", "q8_0"), ("m*", "f16"))


def test_absolute_paths_stay(read):
    (found,) = read("type: q8_0\ncalibration: /data/calib.safetensors\n")
    assert found.calibration == Path("/data/calib.safetensors")


def test_types_choose_among_the_outputs_and_add_to_them(read, tmp_path):
    read(EXAMPLE)
    document = read_document(tmp_path / "recipe.yaml")
    found = options_of(document, ["w4a16", "Q8_0"])
    assert [one.type for one in found] == ["w4a16", "q8_0"]
    assert found[0].group_size == 64
    assert found[1] == Recipe(
        "q8_0", calibration=tmp_path / "calib.safetensors", folder=tmp_path / "out"
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("type: q4_k_n", "recipe.yaml:1: type: unknown type 'q4_k_n'", "did you mean q4_k_"),
        ("type: w8a9", "recipe.yaml:1: type: unknown type 'w8a9'", "w8a8"),
        ("\ntyp: q8_0", "recipe.yaml:2: typ: unknown key", "did you mean type"),
        ("type: q8_0\ngroup-size: 32", "recipe.yaml:2: group-size: unknown key", "group_size"),
        (
            "type: w4a16\ngroup_size: 65",
            "recipe.yaml:2: group_size: must be 32, 64, 128 or 'channel'",
            "",
        ),
        ("type: w4a16\nactivations: 3", "recipe.yaml:2: activations: must be 'dynamic' or 'st", ""),
        ("type: q8_0\npure: 1", "recipe.yaml:2: pure: must be true or false", ""),
        ("type: q8_0\nkeep: a", "recipe.yaml:2: keep: must be a list", ""),
        ("type: q8_0\nkeep: [*.x]", "recipe.yaml:2: ", "between quotes"),
        ("type: q8_0\nkeep: [*x]", "recipe.yaml:2: aliases and anchors", "between quotes"),
        ("type: q8_0\nkeep: ['/(/']", "recipe.yaml:2: keep.0: /(/ is not a valid regular", ""),
        ("type: w8a8\nsmooth: 2", "recipe.yaml:2: smooth: must be a number from 0 to 1, or", ""),
        ("type: w8a8\nsmooth: true", "recipe.yaml:2: smooth: must be a number from 0 to 1", ""),
        ("type: w8a8\npercentile: 0", "recipe.yaml:2: percentile: must be greater than 50", ""),
        ("type: w8a8\npercentile: .nan", "recipe.yaml:2: percentile: must be ", ""),
        ("type: q8_0\nsplit_max_size: 5X", "recipe.yaml:2: split_max_size: must be a size", ""),
        ("type: q8_0\noutput: [a]", "recipe.yaml:2: output: must be a path", ""),
        ("type: q8_0\ngroup_size: 32", "recipe.yaml:2: group_size: has no meaning for q8_0", "wNa"),
        ("smooth: auto\noutputs: [q8_0]", "recipe.yaml:1: smooth: concerns none of", "w8a8"),
        (
            "outputs:\n- q8_0\n- type: q8_0\n  smooth: auto",
            "recipe.yaml:4: outputs.1.smooth: has no meaning for q8_0",
            "w8a8",
        ),
        (
            "type: q8_0\noverrides:\n  a*: w8a8",
            "recipe.yaml:3: overrides.a*: unknown tensor type 'w8a8' for q8_0",
            "known are",
        ),
        (
            "overrides:\n  a*: q6_k\noutputs: [q8_0, w8a8]",
            "recipe.yaml:2: overrides.a*: unknown scheme 'q6_k' for w8a8",
            "known are",
        ),
        ("type: q8_0\noverrides:\n- a", "recipe.yaml:2: overrides: must be a list of 'pat", ""),
        ("outputs: [q8_0]\ntype: q6_k", "recipe.yaml:2: type: type and outputs exclude", "move"),
        ("outputs: []", "recipe.yaml:1: outputs: the list is empty", "q4_k_m"),
        ("outputs:\n- q8_0\n- pure: true", "recipe.yaml:3: outputs.1.type: is missing", ""),
        ("outputs:\n- q8_0\n- 3", "recipe.yaml:3: outputs.1: must be a type, or", ""),
        ("keep: [a]", "recipe.yaml:1: there is neither a type nor outputs", "type: q4_k_m"),
        ("", "recipe.yaml is empty", "type: q4_k_m"),
        ("- q8_0", "recipe.yaml is no list of keys and values", "type: q4_k_m"),
        ("type: q8_0\ntype: q6_k", "recipe.yaml:2: 'type' stands here a second time", ""),
        ("1: 2\ntype: q8_0", "recipe.yaml:1: 1: a key must be text", ""),
        ("type: 2020-02-31", "recipe.yaml: day", "plain YAML"),
        ("type: [q8_0", "recipe.yaml:1: expected", "plain YAML"),
        ("type: q8_0\n\tpure: true", "recipe.yaml:2: found character '\\t'", "plain YAML"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(refusal, text, message, hint):
    told, advice = refusal(text)
    assert told.startswith(message)
    assert hint in advice


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
        "type: !!python/object/apply:os.system ['true']",
        "<<: {type: q8_0}",
        "a: " + "[" * 100_000,
        "a: " + "- " * 50_000,
        "type: q8_0\nkeep: ['" + "x" * 5000 + "']",
        "percentile: " + "9" * 5000,
        "percentile: " + ":".join(["59"] * 4000),
        "percentile: " + "9" * 4500,
        "# " + "x" * 300_000,
        "type: q8_0\nsplit_max_size: " + "9" * 4000 + "G",
        "type: \x00",
        "type: q8_0\n---\ntype: q6_k",
    ],
    ids=lambda text: text[:20],
)
def test_hostile_yaml_is_refused_at_once(refusal, text):
    message, _ = refusal(text)
    assert len(message) < 600


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.yaml: no such file"):
        read_document(tmp_path / "missing.yaml")
    (tmp_path / "r.yaml").write_bytes(b"type: \xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_document(tmp_path / "r.yaml")


@given(st.text(max_size=60))
@settings(max_examples=150)
def test_no_text_makes_it_fail_otherwise(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(UsageError):
            options_of(read_document(path))


PATTERNS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda text: not text.startswith("/"))
VALUES = {
    "output": st.sampled_from(["x.gguf", "deep/er", "../up", "with space", "a: b"]),
    "folder": st.sampled_from(["out", "../out", "."]),
    "calibration": st.just("calib.safetensors"),
    "importance": st.just("imatrix.gguf"),
    "keep": st.lists(PATTERNS, max_size=3).map(tuple),
    "ignore": st.lists(PATTERNS, max_size=3).map(tuple),
    "output_type": st.sampled_from([name.lower() for name in FORMAT_NAMES]),
    "embedding_type": st.sampled_from([name.lower() for name in FORMAT_NAMES]),
    "split_max_size": st.integers(1, 10**9).map(lambda kilobytes: kilobytes * 1000),
    "max_shard_size": st.integers(1, 10**9).map(lambda kilobytes: kilobytes * 1000),
    "under": st.integers(1, 10**9).map(lambda kilobytes: kilobytes * 1000),
    "bits": st.floats(0.5, 32),
    "types": st.lists(st.sampled_from(["q3_k", "iq4_xs", "w4a16", "mlx3"]), max_size=3).map(tuple),
    "activations": st.sampled_from(["dynamic", "static"]),
    "strategy": st.sampled_from(["tensor", "channel", "block"]),
    "kv": st.sampled_from(["fp8", "int8"]),
    "group_size": st.sampled_from([32, 64, 128, "channel"]),
    "weight_range": st.sampled_from(["minmax", "percentile", "mse", "entropy"]),
    "activation_range": st.sampled_from(["minmax", "percentile", "mse", "entropy"]),
    "percentile": st.floats(50, 100, exclude_min=True),
    "smooth": st.one_of(st.just("auto"), st.floats(0, 1)),
}
PATHS = ("output", "folder", "calibration", "importance")


@st.composite
def output_options(draw, folder: Path) -> Recipe:
    file_types = dict.fromkeys(kind.name for kind in FILE_TYPES.values())
    type_ = draw(st.sampled_from([*DIRECTORIES, *file_types]))
    values = {}
    for name in DEFAULTS:
        if not concerns(name, type_) or not draw(st.booleans()):
            continue
        if name == "overrides":
            names = [name.lower() for name in FORMAT_NAMES]
            if is_scheme(type_):
                names = [*(MLX if is_mlx(type_) else SCHEMES), "keep"]
            pairs = st.dictionaries(PATTERNS, st.sampled_from(names), max_size=3)
            values[name] = tuple(draw(pairs).items())
        else:
            values[name] = draw(VALUES.get(name, st.booleans()))
            if name in PATHS:
                values[name] = folder / values[name]
    if "under" in values:
        values.pop("bits", None)
    return Recipe(type_, **values)


FOLDER = Path(tempfile.gettempdir()) / "recipes"


@given(st.lists(output_options(FOLDER), min_size=1, max_size=4))
@settings(max_examples=150)
def test_what_is_saved_says_the_same_when_it_is_read(outputs):
    text = write_document(document_of(outputs), FOLDER, ["from a model\nwith a strange name"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_text(text)
        found = options_of(read_document(path))
    there = [moved(one, Path(folder), FOLDER) for one in found]
    assert there == [moved(one, FOLDER, FOLDER) for one in outputs]


def moved(options: Recipe, old: Path, new: Path) -> Recipe:
    """The same as if its recipe were in another folder, `..` taken out."""
    paths = {}
    for name in PATHS:
        path = getattr(options, name)
        if path is not None:
            paths[name] = Path(str(path).replace(str(old), str(new), 1)).resolve()
    return Recipe(**(vars(options) | paths))


def test_only_what_differs_from_the_defaults_is_written(tmp_path):
    text = write_document(document_of([Recipe("q4_k_m")]), tmp_path)
    assert yaml.safe_load(text) == {"type": "q4_k_m"}
    assert text.startswith("# A recipe of qconvert")


def test_what_outputs_share_is_written_once(tmp_path):
    calibration = tmp_path / "calib.safetensors"
    outputs = [
        Recipe("q4_k_m", calibration=calibration, pure=True),
        Recipe("w8a8", calibration=calibration),
    ]
    text = write_document(document_of(outputs), tmp_path)
    assert yaml.safe_load(text) == {
        "calibration": "calib.safetensors",
        "outputs": [{"type": "q4_k_m", "pure": True}, "w8a8"],
    }


def test_of_equal_patterns_the_last_is_written():
    options = Recipe("q8_0", overrides=(("a", "q6_k"), ("b", "f16"), ("a", "q4_k")))
    (found,) = options_of(document_of([options]))
    assert found.overrides == (("b", "f16"), ("a", "q4_k"))


def test_comments_cannot_become_content(tmp_path):
    text = write_document(document_of([Recipe("q8_0")]), tmp_path, ["x\npure: true"])
    assert yaml.safe_load(text) == {"type": "q8_0"}


def test_recipes_and_options_have_the_same_words_and_defaults():
    names = {field.name for field in fields(Recipe)}
    assert set(Document.model_fields) == names | {"outputs"}
    assert set(CONCERNS) <= names
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        assert (tuple(default) if name == "overrides" else default) == DEFAULTS[name]


def test_the_command_line_replaces_what_the_recipe_says(read):
    outputs = read("group_size: 32\nfallback: false\noutputs: [q8_0, w4a16]\n")
    gguf, four = with_given(outputs, {"group_size": 64, "keep": ("a",)})
    assert (gguf.group_size, four.group_size) == (None, 64)
    assert gguf.keep == four.keep == ("a",)
    assert gguf.fallback is False


def test_an_option_that_concerns_no_output_is_refused():
    check_used(["pure", "smooth"], ["q8_0", "w8a8"])
    with pytest.raises(UsageError, match="group-size has no meaning for q8_0, w8a8"):
        check_used(["group_size"], ["q8_0", "w8a8"])


@given(st.integers(1, 10**9))
def test_sizes_are_read_as_they_are_written(kilobytes):
    assert parse_size(write_size(kilobytes * 1000)) == kilobytes * 1000


@pytest.mark.parametrize(
    ("text", "nbytes"), [("5G", 5e9), ("4GB", 4e9), ("3.5g", 3.5e9), ("500MB", 5e8)]
)
def test_sizes_are_read_as_people_write_them(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "5", "0G", "-1G", "G", "1e3G", "0.0001K", "inf", "5GiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)
