"""The process in which one file answers; see `qconvert.evaluation.answers.answer`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.errors import CheckpointError, QconvertError
from qconvert.evaluation.answers.generators import Generator, load_generator
from qconvert.evaluation.runtimes.child import serve

Messages = list[dict[str, str]]
Tell = Callable[[dict[str, Any]], None]


def answer_all(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Answer each prompt greedily and by sampling.

    Args:
        request: "path", "threads", "prompts" (messages of each), "max_tokens", "temperature",
            "seed"; "rendered", what others' templates made of the prompts.
        tell: of the tokens written.
    """
    path = Path(request["path"])
    model = load_generator(path, request["threads"])
    template = model.chat_template()
    texts = plain_texts(request["prompts"])
    if template is not None:
        # Files of one model share a template, and a template takes a process.
        known = dict(request["rendered"])
        key = json.dumps(template)
        texts = known.get(key) or templated(path, template, request["prompts"])
    greedy, sampled = [], []
    for number, text in enumerate(texts):
        prompt = model.tokenize(text, around=template is None)
        most = _room(model, path, prompt, number, request["max_tokens"])
        greedy.append(write(model, prompt, most, pick_greedily))
        tell({"tokens": request["max_tokens"]})
        if request["temperature"]:
            pick = Sampler(request["temperature"], request["seed"], number)
            sampled.append(write(model, prompt, most, pick))
            tell({"tokens": request["max_tokens"]})
    rendered = None if template is None else [json.dumps(template), texts]
    return {"rendered": rendered, "greedy": greedy, "sampled": sampled}


def templated(
    path: Path, template: tuple[str, dict[str, str]], prompts: Sequence[Messages]
) -> list[str]:
    """Conversations as the model reads them, up to where its answer begins.

    Raises:
        CheckpointError: the template is broken or does not take them.
    """
    from qconvert.text.chat import render_template

    conversations = [json.dumps(messages) for messages in prompts]
    found = render_template(
        *template, conversations, answering=True, hint=f"{path} cannot be asked through it"
    )
    for number, (_, problem) in enumerate(found, 1):
        if problem:
            raise CheckpointError(
                f"the chat template of {path} does not take prompt {number}: {problem}",
                "ask in another way, or leave the file out",
            )
    return [text for text, _ in found]


def plain_texts(prompts: Sequence[Messages]) -> list[str]:
    """For a model without a template: the contents, a blank line between them."""
    return ["\n\n".join(message["content"] for message in messages) for messages in prompts]


def _room(model: Generator, path: Path, prompt: list[int], number: int, most: int) -> int:
    """Tokens that an answer may have."""
    left = model.context - len(prompt)
    if not prompt or left < 1:
        raise QconvertError(
            f"prompt {number + 1} has {len(prompt)} tokens in {path}, which takes 1 to "
            f"{model.context - 1}",
            "ask something shorter",
        )
    return min(most, left)


def write(
    model: Generator,
    prompt: Sequence[int],
    most: int,
    pick: Callable[[np.ndarray, int], int],
) -> dict[str, Any]:
    """One answer: "text", "tokens", "ended".

    Args:
        most: tokens.
        pick: a token, given float32 [vocabulary] logits and the position in the answer.
    """
    model.begin(len(prompt) + most)
    tokens: list[int] = []
    ended = False
    logits = model.feed(prompt)
    while True:
        token = pick(logits, len(tokens))
        if token in model.ends:
            ended = True
            break
        tokens.append(token)
        if len(tokens) == most:
            break
        logits = model.feed([token])
    return {"text": model.detokenize(prompt, tokens), "tokens": tokens, "ended": ended}


def pick_greedily(logits: np.ndarray, position: int) -> int:
    """The most probable token.

    Raises:
        QconvertError: the logits are NaN.
    """
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise QconvertError("the model computes NaN in place of probabilities")
    return best


class Sampler:
    """Draws from the softmax at a temperature, with noise that other models get as well.

    Args:
        temperature: above 0.
        seed: of the user.
        prompt: its number.
    """

    def __init__(self, temperature: float, seed: int, prompt: int) -> None:
        self._temperature = temperature
        self._seed = seed
        self._prompt = prompt

    def __call__(self, logits: np.ndarray, position: int) -> int:
        draw = np.random.default_rng([self._seed, self._prompt, position])
        noise = draw.gumbel(size=logits.size)
        return pick_greedily(logits.astype(np.float64) / self._temperature + noise, position)


if __name__ == "__main__":
    serve(answer_all)
