"""A GGUF file as lm-eval wants its models: likelihoods of continuations, and greedy answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qconvert.errors import QconvertError
from qconvert.evaluation.answers.llama import LlamaGenerator

if TYPE_CHECKING:
    Request = tuple[tuple[str, str], list[int], list[int]]

LONGEST = 4096
"""Tokens of a context, where the model takes more."""
STEP = 256
"""Contexts have a multiple of so many tokens, so that few are made anew."""
MAX_ANSWER = 256


def llama_model(path: Path, threads: int) -> Any:
    """An object of lm-eval's class `TemplateLM`, which is known only where lm-eval is installed."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM

    generator = LlamaGenerator(path, threads)

    class LlamaModel(TemplateLM):  # type: ignore[misc]
        @property
        def eot_token_id(self) -> int:
            return generator.prefix

        @property
        def tokenizer_name(self) -> str:
            return path.name

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **options: Any
        ) -> list[int]:
            return generator.tokenize(string, around=add_special_tokens is not False)

        def _loglikelihood_tokens(
            self, requests: "Sequence[Request]", **options: Any
        ) -> list[tuple[float, bool]]:
            return [likelihood(generator, before, after) for _, before, after in requests]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            found = []
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                    prefix_token=generator.prefix,
                    max_seq_len=longest(generator),
                    context_len=1,
                )
                pairs = map(utils.make_disjoint_window, windows)
                found.append(sum(likelihood(generator, *pair)[0] for pair in pairs))
            return found

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [answer(generator, *request.args) for request in requests]

    return LlamaModel()


def longest(generator: LlamaGenerator) -> int:
    return min(generator.context, LONGEST)


def likelihood(
    generator: LlamaGenerator, before: Sequence[int], after: Sequence[int]
) -> tuple[float, bool]:
    """The logarithm of the probability of tokens behind others, and whether each is the most
    probable one. Of what is too long, the beginning is left out."""
    tokens = [*before, *after][-longest(generator) - 1 :]
    _make_room(generator, len(tokens) - 1)
    logits = generator.feed_for_all(tokens[:-1], len(tokens) - 1 - len(after)).astype(np.float64)
    if not np.isfinite(logits).all():
        raise QconvertError("the model computes NaN in place of probabilities")
    targets = np.array(tokens[-len(after) :])
    best = logits.max(1)
    normal = best + np.log(np.exp(logits - best[:, None]).sum(1))
    chosen = logits[np.arange(len(targets)), targets]
    return float((chosen - normal).sum()), bool((logits.argmax(1) == targets).all())


def answer(generator: LlamaGenerator, context: str, settings: dict[str, Any]) -> str:
    """A greedy answer, up to the first of the texts that end it."""
    until = settings.get("until") or []
    until = [until] if isinstance(until, str) else until
    most = min(int(settings.get("max_gen_toks", MAX_ANSWER)), longest(generator) - 1)
    prompt = generator.tokenize(context, around=True)[most - longest(generator) :]
    _make_room(generator, len(prompt) + most)
    tokens: list[int] = []
    logits = generator.feed(prompt)
    while len(tokens) < most:
        token = int(logits.argmax())
        if token in generator.ends:
            break
        tokens.append(token)
        text = generator.detokenize(prompt, tokens)
        if any(stop and stop in text for stop in until):
            break
        logits = generator.feed([token])
    text = generator.detokenize(prompt, tokens)
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text


def _make_room(generator: LlamaGenerator, tokens: int) -> None:
    generator.begin(-(-tokens // STEP) * STEP)
