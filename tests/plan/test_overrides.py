import re

import pytest

from qconvert.errors import PlanError, UsageError
from qconvert.plan.overrides import match_last, matcher, split_override

NAMES = [f"blk.{i}.{part}.weight" for i in range(12) for part in ("attn_v", "ffn_down", "ffn_up")]


def matched(pattern):
    return [name for name in NAMES if matcher(pattern)(name)]


def test_a_pattern_without_wildcards_is_one_name():
    assert matched("blk.1.attn_v.weight") == ["blk.1.attn_v.weight"]
    assert matched("attn_v") == []


def test_a_glob_matches_the_whole_name():
    assert len(matched("blk.*.ffn_*.weight")) == 24
    assert len(matched("*attn_v*")) == 12
    assert matched("blk.?.attn_v.weight") == [f"blk.{i}.attn_v.weight" for i in range(10)]
    assert len(matched("blk.[0-3].attn_v.weight")) == 4


def test_a_dot_in_a_glob_is_a_dot():
    assert not matcher("blk.0.attn_v.weight")("blk_0_attn_v_weight")


def test_between_slashes_is_a_regular_expression_for_the_whole_name():
    assert len(matched(r"/blk\.(0|11)\.ffn_.*\.weight/")) == 4
    assert matched("/attn_v/") == []


@pytest.mark.parametrize("pattern", ["BLK.*", "/BLK.*/", "*ATTN_V*"])
def test_letters_keep_their_case(pattern):
    assert matched(pattern) == []


def test_an_override_is_read_from_its_last_equals_sign():
    assert split_override("blk.*=q6_k") == ("blk.*", "q6_k")
    assert split_override("/(?=blk).*/=Bf16") == ("/(?=blk).*/", "Bf16")


@pytest.mark.parametrize("text", ["blk.0", "=q4_k", "blk.*=", "", "="])
def test_an_override_that_is_not_well_formed_is_wrong_usage(text):
    with pytest.raises(UsageError) as caught:
        split_override(text)
    assert "PATTERN=TYPE" in caught.value.hint


def test_a_broken_regular_expression_is_wrong_usage():
    with pytest.raises(UsageError, match="regular expression"):
        split_override("/blk.(0/=q4_k")


def test_of_several_patterns_the_last_one_counts():
    found = match_last(["*", "blk.3.*", "*attn_v*"], NAMES)
    assert found["blk.0.ffn_up.weight"] == 0
    assert found["blk.3.ffn_up.weight"] == 1
    assert found["blk.3.attn_v.weight"] == 2


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("blk.0.attn_vv.weight", r"blk\.0\.attn_v\.weight"),
        ("attn_v", r"\*attn_v\*"),
        (r"blk\.(0|1)\..*", "between slashes"),
        ("/blk.99.*/", "named like"),
        ("nothing of the sort", "named like"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_shows_what_there_is(pattern, hint):
    with pytest.raises(PlanError) as caught:
        match_last([pattern], NAMES)
    assert pattern in caught.value.message.replace("\\\\", "\\")
    assert re.search(hint, caught.value.hint)


OTHERS = {
    "blk.0.ffn_down.weight": ["model.layers.0.mlp.down_proj.weight"],
    "blk.1.ffn_up.weight": [f"model.layers.1.mlp.experts.{e}.up_proj.weight" for e in range(2)],
}


def test_where_a_pattern_matches_none_the_other_containers_names_count():
    def found(pattern: str) -> set[str]:
        return set(match_last([pattern], NAMES, lambda: OTHERS))

    assert found("model.layers.*.mlp.down_proj.weight") == {"blk.0.ffn_down.weight"}
    assert found("*mlp*") == set(OTHERS)
    assert found("*ffn_down*") == {f"blk.{i}.ffn_down.weight" for i in range(12)}
    with pytest.raises(PlanError, match="matches no tensor"):
        found("*experts.0.*")  # one of a stack


@pytest.mark.parametrize("pattern", ["output.weight", "lm_head*", "/lm_head\\.weight/"])
def test_a_head_that_is_not_there_is_told_from_a_slip_of_the_pen(pattern):
    with pytest.raises(PlanError) as caught:
        match_last([pattern], NAMES, embedding="token_embd.weight")
    assert "no output projection of its own" in caught.value.message
    assert caught.value.hint.endswith("'token_embd.weight'")
    assert match_last([pattern], [*NAMES, "output.weight", "lm_head.weight"])
