"""Downstream tasks by lm-eval, with data that are at hand."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from common import tiny_model, torch_logits
from writing_models import write_gguf, write_model

from qconvert.errors import QconvertError, UsageError
from qconvert.evaluation.tasks.run import check_tasks, run_tasks
from qconvert.evaluation.tasks.worker import metrics

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")

QUESTIONS = [
    {"question": f"What follows {n}?", "choices": [str(n + 1), "a stone", "yes"], "answer": n % 3}
    for n in range(12)
]
TASK = """
task: what_follows
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    lines = "\n".join(map(json.dumps, QUESTIONS))
    (folder / "questions.jsonl").write_text(lines)
    (folder / "what_follows.yaml").write_text(TASK.format(data=folder / "questions.jsonl"))
    return folder / "what_follows.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("tasks") / "model")


def likelihoods(model: Path, question: str, choices: list[str]) -> list[float]:
    """Of each choice, by the whole model and without lm-eval."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    start = len(tokenizer(question)["input_ids"])
    found = []
    for choice in choices:
        ids = tokenizer(f"{question} {choice}")["input_ids"]
        logits = torch_logits(tiny_model("llama"), ids).astype(np.float64)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        found.append(sum(logits[place - 1, ids[place]] for place in range(start, len(ids))))
    return found


@pytest.mark.slow
@needs_lm_eval
@pytest.mark.parametrize("container", ["directory", "gguf"])
def test_a_task_of_the_users_own_scores_as_the_models_likelihoods_say(
    task, model, tmp_path, container, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    path = model if container == "directory" else write_gguf(model, tmp_path / "f32.gguf")
    found = run_tasks(path, [str(task)], 9, threads=1)
    right, right_by_length = 0, 0
    for one in QUESTIONS[:9]:
        scores = likelihoods(model, one["question"], one["choices"])
        lengths = [len(choice) for choice in one["choices"]]
        right += int(np.argmax(scores)) == one["answer"]
        right_by_length += int(np.argmax(np.array(scores) / lengths)) == one["answer"]
    values = found["tasks"]["what_follows"]
    assert values["acc"]["value"] == pytest.approx(right / 9)
    assert values["acc_norm"]["value"] == pytest.approx(right_by_length / 9)
    assert values["acc"]["standard_error"] > 0
    assert found["limit"] == 9
    assert found["lm_eval"]


@needs_lm_eval
def test_rolling_likelihoods_and_greedy_answers_are_the_models(model, tmp_path):
    from lm_eval.api.instance import Instance

    from qconvert.evaluation.answers.generators import load_generator
    from qconvert.evaluation.answers.worker import pick_greedily, write
    from qconvert.evaluation.tasks.llama import llama_model

    path = write_gguf(model, tmp_path / "f32.gguf")
    lm = llama_model(path, 1)
    text = "One two three, four five. " * 60  # longer than the context
    (found,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    generator = load_generator(path, 1)
    tokens = [0, *generator.tokenize(text, around=False)]
    assert len(tokens) > 600
    logits = torch_logits(tiny_model("llama"), tokens[:-1][:512]).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    first = sum(logits[place, tokens[place + 1]] for place in range(512))
    assert found < first
    request = ("Count: one", {"until": [], "max_gen_toks": 10})
    (answer,) = lm.generate_until([Instance("generate_until", {}, request, 0)])
    prompt = generator.tokenize("Count: one", around=True)
    expected = write(generator, prompt, 10, pick_greedily)["text"]
    assert answer == expected
    stop = expected[3:5]
    request = ("Count: one", {"until": [stop], "max_gen_toks": 10})
    (answer,) = lm.generate_until([Instance("generate_until", {}, request, 0)])
    assert answer == expected.split(stop)[0]


@pytest.mark.slow
@needs_lm_eval
def test_a_task_that_lm_eval_does_not_know_is_an_error(model):
    with pytest.raises(UsageError, match="no task 'no_such_task'"):
        run_tasks(model, ["no_such_task"], 1, threads=1)


@pytest.mark.slow
@needs_lm_eval
def test_a_task_that_fails_is_one_line(model, tmp_path):
    (tmp_path / "bad.yaml").write_text(TASK.format(data=tmp_path / "none.jsonl"))
    with pytest.raises(QconvertError, match=r"lm-eval fails on .*none\.jsonl"):
        run_tasks(model, [str(tmp_path / "bad.yaml")], 1, threads=1)


def test_what_cannot_work_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        check_tasks(["hellaswag"])
    assert "pip install lm-eval" in caught.value.hint


@needs_lm_eval
def test_files_and_names_are_checked(tmp_path):
    with pytest.raises(UsageError, match=r"no file .*none\.yaml"):
        check_tasks([str(tmp_path / "none.yaml")])
    with pytest.raises(UsageError, match="no tasks"):
        check_tasks([])


def test_metrics_are_read_out_of_what_lm_eval_says():
    values = {
        "alias": "x",
        "acc,none": 0.5,
        "acc_stderr,none": 0.1,
        "exact_match,strict": 0.25,
        "exact_match_stderr,strict": "N/A",
        "bleu,none": float("nan"),
    }
    assert metrics(values) == {
        "acc": {"value": 0.5, "standard_error": 0.1},
        "exact_match (strict)": {"value": 0.25, "standard_error": None},
        "bleu": {"value": None, "standard_error": None},
    }
