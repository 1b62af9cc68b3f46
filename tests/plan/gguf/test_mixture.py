import gguf
import pytest
from packages import smollm2_gguf

from qconvert.checkpoint.gguf import read_gguf
from qconvert.errors import PlanError
from qconvert.plan.gguf.file_types import FILE_TYPES
from qconvert.plan.gguf.mixture import Choice, choose_formats, facts_from_metadata, fit_to_rows
from qconvert.plan.recipe import Recipe

KINDS = tuple(kind for kind in dict.fromkeys(FILE_TYPES.values()) if kind.name != "nvfp4")
"""But for one, of which llama-quantize makes no files."""
QUANTIZED = tuple(kind for kind in KINDS if kind.quantized)


NEEDY = {"q2_k_s", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs"}


def choices(recipe, shape, importance=None, **options):
    with pytest.MonkeyPatch.context() as patch:
        if importance is None and recipe.file_type.name in NEEDY:
            # Refused without importance; llama-quantize's dry run goes on.
            patch.setattr("qconvert.plan.gguf.mixture._check_importance", lambda *_: None)
        return choose_formats(recipe, shape.facts, shape.as_checkpoint, importance, **options)


def formats(recipe, shape, importance=None, **options):
    return {choice.name: choice.format for choice in choices(recipe, shape, importance, **options)}


def test_every_file_type_gives_every_tensor_the_type_of_llama_quantize(
    shape, shape_name, headers, llama_types
):
    path = headers(shape_name)
    for kind in KINDS:
        theirs = llama_types(path, kind.ftype)
        assert len(theirs) == len(shape.tensors)
        assert formats(Recipe(kind.name), shape) == theirs, kind.name


def test_with_importances_too(shape, shape_name, headers, llama_types):
    path = headers(shape_name)
    importance = [name for name, _, _ in shape.tensors]
    for kind in QUANTIZED:
        theirs = llama_types(path, kind.ftype, importance=importance)
        assert formats(Recipe(kind.name), shape, importance) == theirs, kind.name


SOME = ["llama", "llama tied", "mixtral", "gpt2", "rows of 40"]


@pytest.mark.parametrize("name", SOME)
def test_pure_is_llama_quantizes_pure(name, shapes, headers, llama_types):
    for kind in QUANTIZED:
        theirs = llama_types(headers(name), kind.ftype, pure=True)
        assert formats(Recipe(kind.name, pure=True), shapes[name]) == theirs, kind.name


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("role", ["output", "embedding", "both"])
def test_types_for_the_output_and_the_embeddings_are_llama_quantizes(
    name, role, shapes, headers, llama_types
):
    options, asked = {}, {}
    if role != "embedding":
        options["output_type"] = "F16"
        asked["output_tensor_type"] = int(gguf.GGMLQuantizationType.F16)
    if role != "output":
        options["embedding_type"] = "BF16"
        asked["token_embedding_type"] = int(gguf.GGMLQuantizationType.BF16)
    for kind in QUANTIZED:
        theirs = llama_types(headers(name), kind.ftype, **asked)
        assert formats(Recipe(kind.name, **options), shapes[name]) == theirs, kind.name


def test_tensors_of_a_gguf_file_that_are_not_quantized_stay_as_they_are(shapes):
    shape = shapes["gpt2"]
    tensors = [
        (name, dims, "F16" if name == "position_embd.weight" else kind)
        for name, dims, kind in shape.tensors
    ]
    for kind in KINDS:
        recipe, facts = Recipe(kind.name, pure=True), shape.facts
        names = [name for name, _, _ in tensors]
        converted = choose_formats(recipe, facts, tensors, names)
        stayed = choose_formats(recipe, facts, tensors, names, from_gguf=True)
        assert Choice("position_embd.weight", "F32", "F32") in converted
        assert Choice("position_embd.weight", "F16", "F16") in stayed


@pytest.fixture(scope="module")
def smollm2():
    return smollm2_gguf()


def smollm2_formats(path, recipe):
    metadata, tensors = read_gguf(path)
    listed = [(info.name, info.shape, info.dtype) for info in tensors.values()]
    found = choose_formats(recipe, facts_from_metadata(metadata), listed, tensors, from_gguf=True)
    return {choice.name: choice.format for choice in found}


@pytest.mark.parametrize("pure", [False, True])
def test_smollm2_gets_the_types_of_llama_quantize(smollm2, llama_types, pure):
    names = list(read_gguf(smollm2)[1])
    for kind in KINDS:
        theirs = llama_types(smollm2, kind.ftype, pure=pure, importance=names)
        assert len(theirs) == 272
        assert smollm2_formats(smollm2, Recipe(kind.name, pure=pure)) == theirs, kind.name


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        # A real run of some wants real importances.
        ("llama of one block", [kind for kind in KINDS if kind.name not in NEEDY]),
        ("odd experts", [FILE_TYPES["q4_k_m"], FILE_TYPES["q3_k_l"], FILE_TYPES["mxfp4_moe"]]),
    ],
)
def test_the_files_that_llama_quantize_writes_have_the_types_of_its_dry_run(
    name, kinds, shapes, headers, llama_types, tmp_path
):
    path = tmp_path / "out.gguf"
    for kind in kinds:
        llama_types(headers(name), kind.ftype, output=path)
        written = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
        assert formats(Recipe(kind.name), shapes[name]) == written, kind.name


# What llama.cpp has no answer for, or another one.


def test_a_fallback_says_what_was_wanted_and_why(shapes):
    found = {choice.name: choice for choice in choices(Recipe("q4_k_s"), shapes["odd rows"])}
    assert found["blk.5.ffn_up.weight"] == Choice(
        "blk.5.ffn_up.weight", "Q5_0", "Q4_K", "row of 576 is not a multiple of 256"
    )
    assert found["blk.5.ffn_down.weight"].format == "F16"
    assert found["output.weight"].wanted == "Q6_K"
    assert found["output.weight"].format == "Q8_0"
    assert not found["blk.5.attn_norm.weight"].fell_back


@pytest.mark.parametrize(
    ("wanted", "columns", "written"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 288, "Q5_0"),
        ("IQ4_XS", 288, "IQ4_NL"),
        ("TQ1_0", 288, "Q4_0"),
        ("Q6_K", 40, "F16"),
        ("Q8_0", 40, "F16"),
        ("MXFP4", 40, "F16"),
        ("F32", 41, "F32"),
    ],
)
def test_rows_that_a_block_does_not_divide_take_another_format(wanted, columns, written):
    choice = fit_to_rows("blk.0.attn_q.weight", (7, columns), wanted)
    assert (choice.wanted, choice.format) == (wanted, written)
    assert bool(choice.reason) == choice.fell_back == (wanted != written)


def test_without_fallback_the_first_tensors_and_their_number_are_named(shapes):
    recipe = Recipe("q4_k_m", fallback=False)
    with pytest.raises(
        PlanError, match=rf"^{2 + 12 * 7} tensors.*output\.weight \(Q6_K -> Q8_0"
    ) as caught:
        choices(recipe, shapes["odd rows"])
    assert "q8_0" in caught.value.hint
    assert not any(choice.fell_back for choice in choices(recipe, shapes["llama"]))


def test_an_override_changes_the_tensors_that_it_names_and_no_others(shapes):
    shape = shapes["llama"]
    plain = formats(Recipe("q4_k_m"), shape)
    recipe = Recipe(
        "q4_k_m", overrides=[("blk.0.attn_v.weight", "q8_0"), ("blk.1.ffn_*.weight", "f16")]
    )
    changed = formats(recipe, shape)
    named = {"blk.0.attn_v.weight": "Q8_0"}
    named |= {f"blk.1.ffn_{part}.weight": "F16" for part in ("up", "gate", "down")}
    assert changed == plain | named


def test_the_last_override_counts(shapes):
    overrides = [("*attn_v*", "q4_0"), ("blk.2.*", "q5_0"), ("blk.2.attn_v.weight", "q8_0")]
    found = formats(Recipe("q4_k_m", overrides=overrides), shapes["llama"])
    assert found["blk.1.attn_v.weight"] == "Q4_0"
    assert found["blk.2.ffn_up.weight"] == "Q5_0"
    assert found["blk.2.attn_v.weight"] == "Q8_0"


def test_an_override_for_everything_leaves_norms_alone(shapes):
    found = formats(Recipe("q4_k_m", overrides=[("*", "q8_0")]), shapes["mixtral"])
    assert found["blk.0.attn_norm.weight"] == found["blk.0.ffn_gate_inp.weight"] == "F32"
    assert {v for k, v in found.items() if "norm" not in k and "inp" not in k} == {"Q8_0"}


def test_overrides_work_with_float_file_types_and_with_pure(shapes):
    for name in ("bf16", "q4_k_m"):
        recipe = Recipe(name, pure=True, overrides=[("*attn_v*", "q8_0")])
        found = formats(recipe, shapes["llama"])
        assert found["blk.0.attn_v.weight"] == "Q8_0"
        assert found["blk.0.attn_q.weight"] == recipe.file_type.base


def test_an_override_to_a_type_that_does_not_fit_falls_back_and_says_so(shapes):
    recipe = Recipe("q8_0", overrides=[("blk.0.attn_q.weight", "q4_k")], output_type="q6_k")
    found = {choice.name: choice for choice in choices(recipe, shapes["odd rows"])}
    assert found["blk.0.attn_q.weight"].fell_back
    assert found["blk.0.attn_q.weight"].format == "Q5_0"
    assert found["output.weight"].format == "Q8_0"


def test_a_pattern_that_matches_only_what_is_never_quantized_is_an_error(shapes):
    for options in ({"overrides": [("*_norm.weight", "q8_0")]}, {"keep": ["*_norm.weight"]}):
        with pytest.raises(PlanError, match="norm"):
            choices(Recipe("q4_k_m", **options), shapes["llama"])


def test_the_type_of_the_output_is_that_of_tied_embeddings_pure_or_not(shapes):
    for pure in (False, True):
        recipe = Recipe("q4_0", pure=pure, output_type="q8_0")
        assert formats(recipe, shapes["qwen3"])["token_embd.weight"] == "Q8_0"
        assert formats(recipe, shapes["llama"])["token_embd.weight"] == "Q4_0"


def test_what_is_kept_stays_in_the_float_type_of_the_source_before_all_else(shapes):
    shape = shapes["llama"]
    recipe = Recipe("q4_k_m", overrides=[("*", "q8_0")], output_type="q8_0", keep=["output.weight"])
    for source, written in {"BF16": "BF16", "F16": "F16", "F32": "F32", "F64": "F32"}.items():
        tensors = [(name, dims, source) for name, dims, _ in shape.tensors]
        found = {c.name: c for c in choose_formats(recipe, shape.facts, tensors)}
        assert found["output.weight"] == Choice("output.weight", written, written)
        assert found["blk.0.attn_v.weight"].format == "Q8_0"
    tensors = [(name, dims, "F8_E4M3") for name, dims, _ in shape.tensors]
    found = {c.name: c for c in choose_formats(recipe, shape.facts, tensors)}
    assert found["output.weight"].format == "BF16"


def test_keeping_tensors_does_not_move_the_mixture_of_the_others(shapes):
    plain = formats(Recipe("q4_k_m"), shapes["llama"])
    kept = formats(Recipe("q4_k_m", keep=["blk.0.*"]), shapes["llama"])
    assert {name for name in plain if plain[name] != kept[name]} == {
        name for name in plain if name.startswith("blk.0.") and "norm" not in name
    }


@pytest.mark.parametrize("kind", sorted(NEEDY))
def test_some_file_types_are_refused_without_the_importances_that_they_need(shapes, kind):
    shape = shapes["llama"]
    recipe = Recipe(kind)
    with pytest.raises(PlanError, match=f"{kind} needs") as caught:
        choose_formats(recipe, shape.facts, shape.as_checkpoint)
    assert "qconvert calibrate" in caught.value.hint
    assert "--importance" in caught.value.hint
    names = {name for name, _, _ in shape.tensors}
    one = "blk.5.ffn_up.weight"
    with pytest.raises(PlanError, match=rf"1 tensors, such as {one}"):
        choices(recipe, shape, names - {one})
    exempt = {"output.weight", "token_embd.weight"}
    assert formats(recipe, shape, names - exempt) == formats(recipe, shape, names)


def test_types_that_need_no_importance_go_without(shapes):
    for kind in QUANTIZED:
        if kind.name not in NEEDY:
            choose_formats(Recipe(kind.name), shapes["llama"].facts, shapes["llama"].as_checkpoint)
    overridden = Recipe("q4_0", overrides=[("blk.0.attn_q.weight", "iq2_xs")])
    with pytest.raises(PlanError, match=r"1 tensors, such as blk\.0\.attn_q"):
        choices(overridden, shapes["llama"])


def test_the_order_of_the_tensors_does_not_matter(shapes):
    shape = shapes["mixtral"]
    for kind in QUANTIZED:
        names = [name for name, _, _ in shape.tensors]
        forward = choose_formats(Recipe(kind.name), shape.facts, shape.as_checkpoint, names)
        backward = choose_formats(Recipe(kind.name), shape.facts, shape.as_checkpoint[::-1], names)
        assert forward == backward[::-1]
