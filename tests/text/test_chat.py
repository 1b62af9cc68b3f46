import json
from types import SimpleNamespace

import pytest

from qconvert.errors import CheckpointError
from qconvert.text import chat
from qconvert.text.chat import render
from qconvert.text.tokenizer import Tokenizer

CHATS = [json.dumps([{"role": "user", "content": "Grüße", "name": None}]) for _ in range(3)]


def tokenizer(template: str) -> Tokenizer:
    inner = SimpleNamespace(
        get_chat_template=lambda: template, special_tokens_map={"bos_token": "<s>"}
    )
    return Tokenizer(inner, (), (), ())


def test_templates_see_messages_and_special_tokens():
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ m.keys()|list }}{% endfor %}"
    )
    assert render(tokenizer(template), CHATS) == [("<s>Grüße['role', 'content']", "")] * 3


def test_what_changes_from_run_to_run_is_pinned():
    template = "{{ strftime_now('%d %b %Y') }} {{ range(1000)|random }}"
    first = render(tokenizer(template), CHATS)
    assert first[0][0].startswith("01 Jan 2026 ")
    assert first == render(tokenizer(template), CHATS)


def test_a_refusal_is_told_for_each_conversation():
    said = render(tokenizer("{{ raise_exception('not you') }}"), CHATS)
    assert said == [("", "not you")] * 3


def test_a_broken_template_is_an_error():
    with pytest.raises(CheckpointError, match=r"chat template is broken: .*endfor"):
        render(tokenizer("{% for m in messages %}"), CHATS)


def test_templates_reach_nothing_outside_the_sandbox():
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    for text, error in render(tokenizer(template), CHATS):
        assert text == ""
        assert "unsafe" in error


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(40000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * (10 ** 10) }}",
    ],
    ids=["time", "output", "memory"],
)
def test_a_template_without_bounds_is_stopped(monkeypatch, template):
    monkeypatch.setattr(chat, "SECONDS", 2)
    with pytest.raises(CheckpointError, match="chat template takes more than 2 seconds or 4 GiB"):
        render(tokenizer(template), CHATS)
