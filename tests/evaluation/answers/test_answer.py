"""Answers: that they are what each runtime's own way to generate gives, and where they depart."""

import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writing_models import TEMPLATE, write_gguf, write_model

from qconvert.errors import CheckpointError, QconvertError, UnsupportedError, UsageError
from qconvert.evaluation.answers.answer import (
    Answer,
    AnswerSettings,
    Departure,
    Responses,
    answers,
    departure,
    in_order,
    work_of,
)
from qconvert.evaluation.answers.worker import Sampler, answer_all, pick_greedily
from qconvert.text.prompts import Message, Prompt

SETTINGS = AnswerSettings(threads=1, max_tokens=20, seed=5)
PROMPTS = (
    Prompt((Message("user", "Which way does the wind blow?"),)),
    Prompt((Message("system", "Be brief."), Message("user", "Name a colour: naïve \N{CAT FACE}"))),
)
FEW = PROMPTS[:1]
# llama.cpp uses flash attention wherever it can; llama-cpp-python leaves it out unless asked.
LLAMA: dict[str, Any] = {"flash_attn": True, "verbose": False}


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("answers")
    model = write_model(folder / "model", wide=True)
    types = ("f32", "q8_0", "q2_k")
    return {"model": model} | {t: write_gguf(model, folder / f"{t}.gguf", t) for t in types}


@pytest.fixture(scope="module")
def found(paths) -> dict[str, Responses]:
    """One run over all files, named in another order than they come back in."""
    told: list[int] = []
    files = [paths["q2_k"], paths["q8_0"], paths["f32"]]
    made = answers(
        files, PROMPTS, SETTINGS, original=paths["model"], told=lambda n, _: told.append(n)
    )
    assert sum(told) == work_of(4, len(PROMPTS), SETTINGS) == 4 * 2 * 2 * 20
    return {Path(one.path).stem: one for one in made}


def as_text(prompt: Prompt) -> str:
    turns = "".join(f"{message.role}: {message.content}\n" for message in prompt.messages)
    return f"<|begin|>{turns}assistant: "


def sound(text: str) -> str:
    """Random models write bytes that are no text, which llama-cpp-python leaves out."""
    return text.replace("\ufffd", "")


def test_the_original_comes_first_and_then_fewer_and_fewer_bits(found):
    assert list(found) == ["model", "f32", "q8_0", "q2_k"]
    bits = [one.bits_per_weight for one in found.values()]
    assert bits == sorted(bits, reverse=True)
    assert [one.runtime for one in found.values()] == ["transformers"] + ["llama.cpp"] * 3
    assert all(one.templated and not one.problem for one in found.values())


def test_greedy_answers_are_those_of_llama_cpp_pythons_own_interface(found, paths):
    from llama_cpp import Llama

    for name in ("f32", "q8_0", "q2_k"):
        llama = Llama(str(paths[name]), n_ctx=256, n_threads=1, n_batch=512, **LLAMA)
        for prompt, answer in zip(PROMPTS, found[name].greedy, strict=True):
            tokens = llama.tokenize(as_text(prompt).encode(), add_bos=False, special=True)
            llama.reset()  # else it goes on from what an earlier prompt begins with
            expected: Any = llama.create_completion(tokens, max_tokens=20, temperature=0.0)
            # It goes on where the last bytes are no whole character.
            text = sound(expected["choices"][0]["text"])
            assert text.startswith(sound(answer.text))
            assert len(text) < 2 * len(answer.text)
            llama.reset()
            generated = llama.generate(tokens, temp=0.0)
            assert list(answer.tokens) == list(islice(generated, 20))
        llama.close()


def test_greedy_answers_are_those_of_transformers_generate(found, paths):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(paths["model"])
    tokenizer = AutoTokenizer.from_pretrained(paths["model"])
    for prompt, answer in zip(PROMPTS, found["model"].greedy, strict=True):
        ids = tokenizer.apply_chat_template(
            [message.as_data() for message in prompt.messages],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        assert tokenizer.decode(ids[0]) == as_text(prompt)
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            pad_token_id=0,
        )
        tokens = made[0, ids.shape[1] :].tolist()
        assert list(answer.tokens) == tokens
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        assert answer.text == text.rstrip("\ufffd")


def answer_here(path: Path, prompts: tuple[Prompt, ...], **changes: Any) -> dict[str, Any]:
    """What the process does, in this one."""
    request = {
        "path": str(path),
        "threads": 1,
        "prompts": [[message.as_data() for message in prompt.messages] for prompt in prompts],
        "max_tokens": 20,
        "temperature": 0.7,
        "seed": 5,
        "rendered": [],
    }
    return answer_all(request | changes, lambda event: None)


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(found, paths):
    again, other = (answer_here(paths["q8_0"], PROMPTS, seed=seed) for seed in (5, 6))
    for kind in ("greedy", "sampled"):
        texts = [answer.text for answer in getattr(found["q8_0"], kind)]
        assert [answer["text"] for answer in again[kind]] == texts
        assert ([answer["text"] for answer in other[kind]] == texts) == (kind == "greedy")


def test_files_that_think_alike_sample_alike(found):
    assert found["f32"].sampled == found["model"].sampled
    assert found["q2_k"].sampled != found["model"].sampled


def test_an_answer_ends_where_the_model_ends_it(tmp_path):
    model = write_model(tmp_path / "model")
    (free,) = answer_here(model, FEW)["greedy"]
    end = free["tokens"][6]
    before = free["tokens"][: free["tokens"].index(end)]
    assert (len(free["tokens"]), free["ended"]) == (20, False)
    ending = write_model(tmp_path / "ending", end=end)
    for path in (ending, write_gguf(ending, tmp_path / "ending.gguf")):
        (answer,) = answer_here(path, FEW)["greedy"]
        assert (answer["tokens"], answer["ended"]) == (before, True)


def test_a_base_model_gets_the_prompt_as_plain_text(tmp_path):
    from llama_cpp import Llama

    model = write_model(tmp_path / "model", template="")
    path = write_gguf(model, tmp_path / "base.gguf")
    found = answer_here(path, FEW, temperature=0)
    assert found["rendered"] is None
    assert found["sampled"] == []
    llama = Llama(str(path), n_ctx=256, n_threads=1, n_batch=512, **LLAMA)
    expected: Any = llama.create_completion(FEW[0].text, max_tokens=20, temperature=0.0)
    llama.close()
    assert sound(expected["choices"][0]["text"]).startswith(sound(found["greedy"][0]["text"]))


def test_a_file_that_fails_leaves_the_others_their_answers(tmp_path, paths):
    refuses = write_model(
        tmp_path / "refuses",
        template="{{ raise_exception('no system role') }}" + TEMPLATE,
    )
    files = [paths["q8_0"], paths["f32"], write_gguf(refuses, tmp_path / "x.gguf", "q8_0")]
    found = answers(files, FEW, AnswerSettings(1, 4, temperature=0))
    failed = [one for one in found if one.problem]
    assert [Path(one.path).name for one in failed] == ["x.gguf"]
    assert failed[0].greedy == ()
    assert "does not take prompt 1: no system role" in failed[0].problem
    assert sum(len(one.greedy) for one in found) == 2
    with pytest.raises(CheckpointError, match="no system role"):
        answers(files[2:], FEW, SETTINGS)


def test_a_prompt_that_does_not_fit_is_refused_and_one_that_hardly_fits_is_answered(paths):
    long = Prompt((Message("user", "word " * 600),))
    with pytest.raises(QconvertError, match=r"prompt 1 has \d+ tokens .* takes 1 to 511"):
        answer_here(paths["q8_0"], (long,))
    tight = Prompt((Message("user", "zq" * 240),))
    (answer,) = answer_here(paths["q8_0"], (tight,))["greedy"]
    assert 0 < len(answer["tokens"]) < 20
    assert not answer["ended"]


def test_nothing_to_do_and_what_cannot_write_are_refused_at_once(tmp_path, paths):
    from common import save_model

    with pytest.raises(UsageError, match="no files"):
        answers([], FEW, SETTINGS)
    with pytest.raises(UsageError, match="no prompts"):
        answers([paths["q8_0"]], [], SETTINGS)
    with pytest.raises(CheckpointError, match="no such file"):
        answers([tmp_path / "none.gguf"], FEW, SETTINGS)
    save_model("bert", tmp_path / "bert")
    with pytest.raises(UnsupportedError, match="encoder"):
        answers([paths["q8_0"], tmp_path / "bert"], FEW, SETTINGS)


def test_a_file_named_twice_answers_once_and_the_original_is_no_file(paths):
    q8, q2 = paths["q8_0"], paths["q2_k"]
    assert [one.path for one, _ in in_order([q2, q8, q2])] == [str(q8), str(q2)]
    assert [one.path for one, _ in in_order([q8, q2], q2)] == [str(q2), str(q8)]


def answer(text: str, *tokens: int, ended: bool = True) -> Answer:
    return Answer(text, tokens, ended)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (answer("a cat", 1, 2, 3), None),
        (answer("a cow", 1, 2, 4), Departure(3, 2)),
        (answer("dog", 9), Departure(0, 0)),
        (answer("a c", 1, 2), Departure(3, 2)),
        (answer("a cat sat", 1, 2, 3, 5), Departure(5, 3)),
        (answer("a cat", 1, 2, 3, ended=False), Departure(5, 3)),
        (answer("a cat", 1, 7), None),
    ],
)
def test_where_an_answer_departs(other, expected):
    assert departure(answer("a cat", 1, 2, 3), other) == expected


def test_samples_follow_the_softmax():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    draws = [
        Sampler(1.0, 0, prompt)(logits, position) for prompt in range(40) for position in range(500)
    ]
    counts = np.bincount(draws, minlength=4)
    expected = np.array([0.5, 0.3, 0.15, 0.05]) * len(draws)
    # Chi-square with three degrees of freedom: above 16.3 in one of a thousand runs of luck.
    assert ((counts - expected) ** 2 / expected).sum() < 16.3
    cold = [Sampler(0.05, 0, 0)(logits, position) for position in range(200)]
    assert np.mean(np.array(cold) == 0) > 0.99


def test_noise_is_the_same_for_a_larger_vocabulary():
    draw = np.random.default_rng(2)
    for position in range(50):
        logits = draw.normal(size=100).astype(np.float32)
        padded = np.concatenate([logits, np.full(28, -1e9, np.float32)])
        assert Sampler(1.0, 3, 1)(logits, position) == Sampler(1.0, 3, 1)(padded, position)


def test_nan_is_an_error_and_no_answer():
    with pytest.raises(QconvertError, match="NaN"):
        pick_greedily(np.array([0.1, np.nan, 0.3], np.float32), 0)


def test_what_changes_while_it_answers_is_refused(paths, tmp_path):
    file = shutil.copy(paths["q8_0"], tmp_path / "x.gguf")
    (found,) = answers([file], FEW, SETTINGS)
    assert not found.problem
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        answers([file], FEW, SETTINGS, told=lambda tokens, path: os.utime(file, ns=(1, 1)))
