"""The mixtures as tables: which role gets which format in which file type.

Each line is read from left to right; the first condition that holds gives the format, and where
none holds the base format stays. They are those of llama.cpp (src/llama-quant.cpp), from whose
measurements they come: values and down projections suffer most from few bits, and the first and
last blocks more than those between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qconvert.model.roles import Role
from qconvert.plan.gguf.facts import ModelFacts
from qconvert.plan.gguf.file_types import FileType


@dataclass(frozen=True)
class Place:
    """Where a tensor stands among those of its role.

    Attributes:
        index: its number; in a feed-forward part of a model with experts, its block's.
        count: how many there are; in a feed-forward part, the number of blocks.
        rank: its number, with experts or not.
        facts: of the model.
        importance: whether there is an importance matrix.
        stacked: whether it is a stack of matrices (experts).
    """

    index: int
    count: int
    facts: ModelFacts
    importance: bool
    stacked: bool = False
    rank: int = 0


Condition = Callable[[Place], bool]
Line = tuple[tuple[Condition, str], ...]


def always(place: Place) -> bool:
    return True


def grouped(place: Place) -> bool:
    """Values are few: four or more heads share them, so that more bits cost little."""
    return place.facts.group >= 4


def first_eighth(place: Place) -> bool:
    return place.index < place.count // 8


def first_sixteenth(place: Place) -> bool:
    return place.index < place.count // 16


def more_bits(place: Place) -> bool:
    """The first and last eighth, and every third between."""
    eighth = place.count // 8
    last = place.index >= 7 * place.count // 8
    return place.index < eighth or last or (place.index - eighth) % 3 == 2


def first(number: int) -> Condition:
    return lambda place: place.index < number


def unguided_first_eighth(place: Place) -> bool:
    return first_eighth(place) and not place.importance


def unguided(place: Place) -> bool:
    return not place.importance


def ranks_in_first_eighth(place: Place) -> bool:
    return place.rank < place.count // 8


def middle(place: Place) -> bool:
    """Between the first and the last eighth."""
    return place.count // 8 <= place.index < 7 * place.count // 8


def of_8_experts(place: Place) -> bool:
    return place.facts.experts == 8


def more_bits_of_8_experts(place: Place) -> bool:
    return of_8_experts(place) and more_bits(place)


def grouped_or_mixed(place: Place) -> bool:
    """Values are few beside the rest: heads share them, or there are experts."""
    return grouped(place) or place.facts.experts >= 4


def guided_first_eighth(place: Place) -> bool:
    return first_eighth(place) and place.importance


_ATTENTION_V: Mapping[str, Line] = {
    "q2_k": ((grouped, "Q4_K"), (always, "Q3_K")),
    "q2_k_s": ((grouped, "Q4_K"),),
    "q3_k_m": ((first(2), "Q5_K"), (always, "Q4_K")),
    "q3_k_l": ((always, "Q5_K"),),
    "q4_k_s": ((first(4), "Q5_K"),),
    "q4_k_m": ((more_bits, "Q6_K"),),
    "q5_k_m": ((more_bits, "Q6_K"),),
    "iq3_xxs": ((grouped, "Q4_K"), (unguided, "IQ3_S")),
    "iq3_xs": ((grouped, "Q4_K"),),
    "iq3_s": ((grouped, "Q4_K"),),
    "iq3_m": ((always, "Q4_K"),),
    "iq4_nl": ((grouped, "Q5_K"),),
    "iq4_xs": ((grouped, "Q5_K"),),
}

_ATTENTION_QK: Mapping[str, Line] = {
    "iq3_xxs": ((always, "IQ2_S"),),
    "iq3_xs": ((always, "IQ3_XXS"),),
}

_FFN_UP_GATE: Mapping[str, Line] = {"iq3_xs": ((middle, "IQ3_XXS"),)}

_FFN_DOWN: Mapping[str, Line] = {
    "q2_k": ((always, "Q3_K"),),
    "q2_k_s": ((first_eighth, "Q4_K"),),
    "q3_k_m": ((first_sixteenth, "Q5_K"), (always, "Q4_K")),
    "q3_k_l": ((always, "Q5_K"),),
    "q4_k_s": ((first_eighth, "Q5_K"),),
    "q4_k_m": ((more_bits, "Q6_K"),),
    "q5_k_m": ((more_bits, "Q6_K"),),
    "iq3_xxs": ((unguided_first_eighth, "Q4_K"), (unguided, "Q3_K")),
    "iq3_m": ((first_eighth, "Q4_K"), (more_bits_of_8_experts, "Q4_K")),
    "iq4_nl": ((unguided_first_eighth, "Q5_K"),),
    "iq4_xs": ((unguided_first_eighth, "Q5_K"),),
    "q4_0": ((guided_first_eighth, "Q4_1"),),
    "q5_0": ((guided_first_eighth, "Q5_1"),),
}

_ATTENTION_OUTPUT: Mapping[str, Line] = {
    "q2_k": ((always, "Q3_K"),),
    "q3_k_m": ((always, "Q4_K"),),
    "q3_k_l": ((always, "Q5_K"),),
    "iq3_xxs": ((always, "IQ3_S"),),
    "iq3_m": ((always, "Q4_K"),),
}

# Models with exactly eight experts: attention is a small share of them, and is spared.
_ATTENTION_OUTPUT_OF_8_EXPERTS: Mapping[str, Line] = dict.fromkeys(
    (
        *("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m"),
        *("iq3_xxs", "iq3_xs", "iq3_s", "iq3_m", "iq4_nl", "iq4_xs"),
    ),
    ((always, "Q5_K"),),
)

_EMBEDDING: Mapping[str, Line] = {
    "tq1_0": ((always, "Q4_K"),),
    "tq2_0": ((always, "Q4_K"),),
    "iq3_xxs": ((always, "IQ3_S"),),
}

_MIXTURE: Mapping[Role, Mapping[str, Line]] = {
    Role.EMBEDDING: _EMBEDDING,
    Role.ATTENTION_V: _ATTENTION_V,
    Role.ATTENTION_K: _ATTENTION_QK,
    Role.ATTENTION_Q: _ATTENTION_QK,
    Role.ATTENTION_OUTPUT: _ATTENTION_OUTPUT,
    Role.FFN_UP: _FFN_UP_GATE,
    Role.FFN_GATE: _FFN_UP_GATE,
    Role.FFN_DOWN: _FFN_DOWN,
}


# The types of least bits, which spare some parts by types of little more. All models are alike
# here, Falcon and those of eight experts too.
def _lowest(spared: str, output: Line) -> Mapping[Role, Line]:
    return {
        Role.EMBEDDING: ((always, spared),),
        Role.ATTENTION_V: ((grouped_or_mixed, "Q4_K"), (always, spared)),
        Role.ATTENTION_K: ((of_8_experts, "Q4_K"),),
        Role.ATTENTION_OUTPUT: ((of_8_experts, "Q5_K"), *output),
        Role.FFN_DOWN: ((ranks_in_first_eighth, spared),),
    }


_LOWEST: Mapping[str, Mapping[Role, Line]] = {
    "iq1_s": _lowest("Q2_K", ((always, "IQ2_XXS"),)),
    "iq1_m": _lowest("Q2_K", ((always, "IQ2_XXS"),)),
    "iq2_xxs": _lowest("Q2_K", ()),
    "iq2_xs": _lowest("Q2_K", ()),
    "iq2_s": _lowest("IQ3_S", ((always, "IQ3_S"),)),
    "iq2_m": _lowest("IQ3_S", ((always, "IQ3_S"),)),
}

# Falcon was measured apart.
_FALCON: Mapping[Role, Mapping[str, Line]] = {
    **_MIXTURE,
    Role.ATTENTION_OUTPUT: {"q3_k_l": ((always, "Q4_K"),)},
    Role.FFN_DOWN: {
        **_FFN_DOWN,
        "q3_k_m": ((first_sixteenth, "Q5_K"), (more_bits, "Q4_K")),
        "q3_k_l": ((always, "Q4_K"),),
        "q4_k_m": ((first_sixteenth, "Q6_K"), (more_bits, "Q5_K")),
        "q4_k_s": (),
    },
}

# Blocks of the models that llama.cpp takes for the 70B class.
_LARGE_BLOCKS: Mapping[str, int] = {
    "llama": 80,
    "llama-embed": 80,
    "qwen2": 80,
    "deci": 80,
    "olmo": 80,
    "jais2": 68,
}

_NEVER_BELOW_Q8_0: Mapping[str, tuple[str, ...]] = {
    "glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj"),
}


def mixture_format(kind: FileType, role: Role, name: str, place: Place, tied: bool) -> str:
    """The format that a file type's mixture has for a tensor, whatever the length of its rows.

    Args:
        kind: a file type with a quantized base.
        tied: whether the model has no `output.weight`, so that the embeddings serve as it.
    """
    facts = place.facts
    if any(part in name for part in _NEVER_BELOW_Q8_0.get(facts.architecture, ())):
        return "Q8_0"
    if role is Role.OUTPUT or (tied and role is Role.EMBEDDING):
        return _output_format(kind, facts)
    if kind.name == "nvfp4" and role is Role.EMBEDDING:
        return "Q8_0"
    if kind.name == "mxfp4_moe":
        return "MXFP4" if _holds_experts(role, place) else "Q8_0"
    if kind.name in _LOWEST:
        return _first(_LOWEST[kind.name].get(role, ()), kind, place)
    if facts.experts == 8:
        if role in (Role.ATTENTION_V, Role.ATTENTION_K):
            return "Q8_0"
        if role is Role.ATTENTION_OUTPUT and facts.architecture != "falcon":
            return _read(_ATTENTION_OUTPUT_OF_8_EXPERTS, kind, place)
    mixture = _FALCON if facts.architecture == "falcon" else _MIXTURE
    chosen = _read(mixture.get(role, {}), kind, place)
    if role is Role.ATTENTION_V and chosen in ("Q3_K", "Q4_K") and _is_large(facts):
        return "Q5_K"
    return chosen


def _read(lines: Mapping[str, Line], kind: FileType, place: Place) -> str:
    return _first(lines.get(kind.name, ()), kind, place)


def _first(line: Line, kind: FileType, place: Place) -> str:
    return next((chosen for condition, chosen in line if condition(place)), kind.base)


def _output_format(kind: FileType, facts: ModelFacts) -> str:
    if kind.name in ("q8_0", "mxfp4_moe", "nvfp4") or facts.architecture == "falcon":
        return "Q8_0"
    return "Q5_K" if has_coarse_output(kind) else "Q6_K"


def has_coarse_output(kind: FileType) -> bool:
    """Whether the output gets Q5_K, and Q8_0 where its rows do not fit that."""
    return kind.name in _LOWEST or kind.name == "iq3_xxs"


def _holds_experts(role: Role, place: Place) -> bool:
    """Bailing's third model stacks other matrices too."""
    experts = role in (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN)
    return place.stacked and (experts or place.facts.architecture != "bailingmoe3")


def _is_large(facts: ModelFacts) -> bool:
    if facts.architecture.startswith("llama") and facts.heads == facts.kv_heads:
        return False
    return facts.blocks == _LARGE_BLOCKS.get(facts.architecture)
