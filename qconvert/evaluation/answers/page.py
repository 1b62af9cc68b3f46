"""Answers side by side as HTML: one page that needs nothing else. jinja2 escapes all that files
say, and the page allows no script."""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from qconvert import __version__
from qconvert.evaluation.answers import shown
from qconvert.evaluation.answers.answer import AnswerSettings, Responses
from qconvert.text.prompts import Prompt

if TYPE_CHECKING:
    from jinja2 import Environment


def page(
    prompts: Sequence[Prompt], responses: Sequence[Responses], settings: AnswerSettings
) -> str:
    """A page of HTML, the same for the same answers."""
    kinds = shown.kinds(responses)
    return (
        _environment()
        .get_template("compare.html")
        .render(
            prompts=prompts,
            responses=responses,
            kinds=kinds,
            shown=[
                {kind: shown.show(responses, kind, number) for kind in kinds}
                for number in range(len(prompts))
            ],
            agreement=shown.agreement_text,
            style=files(__package__).joinpath("templates/compare.css").read_text("utf-8"),
            how=shown.how(settings, responses),
            version=__version__,
        )
    )


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qconvert.evaluation.answers"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def visible(text: str) -> str:
    """Without what HTML cannot hold and what reorders the text around it."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
