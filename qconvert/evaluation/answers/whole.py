"""Text from a directory by transformers, loaded on its default route."""

import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.huggingface import read_config
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import QconvertError, UnsupportedError
from qconvert.evaluation.answers.generators import Name
from qconvert.evaluation.runtimes.loading import load_model
from qconvert.model.mapping import predicts
from qconvert.model.tokenizers.library import guarded
from qconvert.text.tokenizer import call, load_tokenizer


class TransformersGenerator:
    """A `Generator`, in the type that the weights are stored in."""

    runtime: Name = "transformers"

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._path = path
        _check_decoder(path)
        self._model = load_model(path, str(path))
        config = self._model.config.get_text_config(decoder=True)
        self.vocabulary = int(config.vocab_size)
        self.context = int(getattr(config, "max_position_embeddings", None) or 1 << 20)
        self._cache: Any = None
        self._fed = 0
        accepted = inspect.signature(self._model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @cached_property
    def ends(self) -> frozenset[int]:
        """What `generate` stops at, and the tokenizer's own end, which chat models write."""
        model = self._model
        stated = [model.generation_config.eos_token_id, model.config.eos_token_id]
        stated.append(self._inner.eos_token_id)
        lists = [value if isinstance(value, list) else [value] for value in stated]
        return frozenset(int(number) for one in lists for number in one if number is not None)

    @cached_property
    def _inner(self) -> Any:
        return load_tokenizer(Checkpoint("huggingface", self._path.name, self._path)).inner

    def chat_template(self) -> tuple[str, dict[str, str]] | None:
        inner = self._inner
        try:
            return inner.get_chat_template(), dict(inner.special_tokens_map)
        except ValueError:
            return None

    def tokenize(self, text: str, *, around: bool) -> list[int]:
        with guarded(self._path.name):
            return call(
                self._inner, [text.encode("utf-8", "replace").decode()], add_special_tokens=around
            )[0]

    def detokenize(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        # Behind other tokens, for some tokenizers drop the space before a text's first word.
        start = self._decode(before)
        whole = self._decode([*before, *tokens])
        text = whole[len(start) :] if whole.startswith(start) else self._decode(tokens)
        # A character that the last token leaves unfinished is left out.
        return text.rstrip("\ufffd")

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._inner.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def begin(self, tokens: int) -> None:
        self._cache = None
        self._fed = 0

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        import torch

        self._fed += len(tokens)
        try:
            with torch.inference_mode():
                made = self._model(
                    torch.tensor([list(tokens)]),
                    attention_mask=torch.ones(1, self._fed, dtype=torch.long),
                    past_key_values=self._cache,
                    use_cache=True,
                    **self._options,
                )
                self._cache = made.past_key_values
                logits: np.ndarray = made.logits[0, -1].float().numpy()
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise QconvertError(
                f"transformers cannot run {self._path}: {type(error).__name__}: {line:.300}"
            ) from error
        return logits

    def close(self) -> None:
        self._model = self._cache = None


def _check_decoder(path: Path) -> None:
    config = read_config(path)
    if not predicts(config):
        classes = config.get("architectures") or [""]
        raise UnsupportedError(
            f"{path} holds {classes[0] or 'a model'!s:.80}, which writes no text"
        )
