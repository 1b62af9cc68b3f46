"""Where a generation ends.

transformers ends at every id of a list. llama.cpp ends at `eos`, `eot` and `eom`, and at texts that
it knows by heart. Of a file without `eos` it takes a token that it believes to be one: 11, or 2
where the tokenizer is SentencePiece's.
"""

from collections.abc import Mapping, Sequence

from qconvert.model.tokenizers.files import TokenizerFiles
from qconvert.model.tokenizers.vocabulary import UNUSED, Vocabulary

# Tokens that end a turn, the likelier first.
_END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
)
_END_OF_MESSAGE = "<|eom_id|>"
# Further texts at which llama.cpp ends a generation without being told.
KNOWN_ENDS = (
    *_END_OF_TURN,
    _END_OF_MESSAGE,
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|return|>",
    "<|call|>",
    "<turn|>",
    "_<EOT>",
    "[EOS]",
)

_DEFAULT_EOS = {"gpt2": 11, "llama": 2}
"""What llama.cpp takes for the end where it is told none, by kind of tokenizer."""


def stopping_ids(files: TokenizerFiles) -> list[int]:
    """The ids at which transformers ends a generation."""
    return as_ids(files.generation.get("eos_token_id")) or as_ids(
        files.model_config.get("eos_token_id")
    )


def as_ids(value: object) -> list[int]:
    """The ids of a configuration's key that holds one, a list of them, or nothing of use."""
    numbers = value if isinstance(value, list) else [value]
    return [number for number in numbers if type(number) is int and number >= 0]


def ends_of_generation(
    vocabulary: Vocabulary, named: Mapping[str, int], stops: Sequence[int], ids: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """`eos`, `eot` and `eom`, and what they cannot say.

    Args:
        named: special tokens by "bos", "eos" and so on.
        stops: ids at which the checkpoint ends a generation; some may be beyond the vocabulary.
        ids: texts of the vocabulary -> ids.
    """
    tokens = vocabulary.tokens
    within = list(dict.fromkeys(stop for stop in stops if stop < len(tokens)))
    turns = [ids[text] for text in _END_OF_TURN if text in ids]
    found, notices = {}, []
    known = [ids[text] for text in KNOWN_ENDS if text in ids]
    eos = named.get("eos")
    if eos is None and (within or known):
        eos = found["eos"] = (within or known)[0]
    # First the ends that llama.cpp would not find by itself.
    unknown = [stop for stop in within if stop != eos and tokens[stop] not in KNOWN_ENDS]
    messages = [ids[_END_OF_MESSAGE]] if _END_OF_MESSAGE in ids else []
    if unknown or turns:
        found["eot"] = (unknown or turns)[0]
    if unknown[1:] or messages:
        found["eom"] = (unknown[1:] or messages)[0]
    if lost := [tokens[stop] for stop in unknown[2:]]:
        notices.append(f"llama.cpp does not end a generation at {shown(lost)}, as the model does")
    if beyond := [str(stop) for stop in dict.fromkeys(stops) if stop >= len(tokens)]:
        notices.append(
            f"the model ends a generation at {', '.join(beyond[:3])}, beyond its {len(tokens)} "
            "tokens: left out"
        )
    if eos is None and vocabulary.model in _DEFAULT_EOS:
        stand_in = _stand_in(vocabulary, named)
        if stand_in is not None:
            found["eos"] = stand_in
        told = found.get("eos", _DEFAULT_EOS[vocabulary.model])
        notices.append(
            f"no token of the model ends a generation; llama.cpp wants one and ends at {told} "
            + "".join(f"({text!r:.40})" for text in tokens[told : told + 1])
        )
    return found, notices


def shown(texts: Sequence[str]) -> str:
    """The first few of a list of tokens."""
    return ", ".join(f"{text!r:.40}" for text in texts[:3]) + (", ..." if len(texts) > 3 else "")


def _stand_in(vocabulary: Vocabulary, named: Mapping[str, int]) -> int | None:
    """A token that a model does not generate: padding of the embedding, or one that steers."""
    unused = (number for number, kind in enumerate(vocabulary.types) if kind == UNUSED)
    steering = (named[name] for name in ("pad", "bos", "unk") if name in named)
    return next((number for numbers in (unused, steering) for number in numbers), None)
