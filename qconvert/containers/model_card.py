"""The model card of a directory: `README.md`, as the hub wants it.

Everything in it that the source says of itself is text from strangers: it is checked or escaped.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qconvert import __version__
from qconvert.checkpoint.metadata import Field

LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m
bigscience-bloom-rail-1.0 openrail++ afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl
gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl
apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 ofl-1.1 osl-3.0 postgresql ncsa unlicense zlib pddl
lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 grok2-community gemma unknown other
"""
"""Identifiers that the hub knows (huggingface.co/docs/hub/repositories-licenses)."""

LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?|multilingual|code")
REPOSITORY = re.compile(r"https://huggingface\.co/([\w.-]{1,96}/[\w.-]{1,96})/?")
REPOSITORY_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
MARKS = re.compile(r"([\\`*{}\[\]<>#|])")
LONGEST = 200
LONGEST_NOTICE = 800


WRITTEN = "Written from a GGUF file by qconvert {version}, for transformers and what reads its "
WRITTEN += "checkpoints."


def model_card(
    metadata: Mapping[str, Field],
    facts: Mapping[str, str],
    notices: Sequence[str],
    task: str,
    *,
    written: str = WRITTEN,
    base: str = "",
    relation: str = "quantized",
    library: str = "transformers",
    use: Sequence[tuple[str, str]] = (),
) -> str:
    """The text of `README.md`.

    Args:
        metadata: GGUF's keys of the model.
        facts: what the table lists, in order: source, fingerprint and so on.
        notices: what a user should know.
        task: the hub's name of what the model does.
        written: the sentence that says how it came to be.
        base: the repository whose weights these are, in another form; by default what the
            metadata names.
        relation: the hub's word for what these weights are to those.
        library: what loads it.
        use: how to run it: a language, and the code. DIR stands for the directory.
    """
    name = escaped(_text(metadata, "general.name") or facts.get("Source") or "Model")
    matter = front_matter(metadata, task, library)
    if REPOSITORY_ID.fullmatch(base):
        matter |= {"base_model": base, "base_model_relation": relation}
    front = [f"{key}: {json.dumps(value)}" for key, value in matter.items()]
    rows = [f"| {escaped(key)} | {escaped(value)} |" for key, value in facts.items()]
    lines = [
        "---",
        *front,
        "---",
        "",
        f"# {name}",
        "",
        written.format(version=__version__),
        "",
        "| | |",
        "|---|---|",
        *rows,
    ]
    if use:
        lines += ["", "## Use", "", "DIR is this directory, or its name on the hub."]
        for language, code in use:
            lines += ["", f"```{language}", code, "```"]
    if notices:
        lines += [
            "",
            "## Notes",
            "",
            *(f"- {escaped(notice, LONGEST_NOTICE)}" for notice in notices),
        ]
    return "\n".join(lines) + "\n"


def front_matter(
    metadata: Mapping[str, Field], task: str, library: str = "transformers"
) -> dict[str, Any]:
    """The fields that the hub reads; JSON's way to write values is also YAML's."""
    found: dict[str, Any] = {"library_name": library, "pipeline_tag": task}
    license_ = _text(metadata, "general.license").lower()
    if license_ in LICENSES.split():
        found["license"] = license_
    elif license_:
        found["license"] = "other"
        found["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", license_)[:LONGEST]
    languages = [
        value for value in _texts(metadata, "general.languages") if LANGUAGE.fullmatch(value)
    ]
    if languages:
        found["language"] = languages
    base = REPOSITORY.fullmatch(_text(metadata, "general.base_model.0.repo_url"))
    if base:
        found["base_model"] = base[1]
    found["tags"] = ["qconvert"] if library == "transformers" else [library, "qconvert"]
    return found


def escaped(value: str, longest: int = LONGEST) -> str:
    """One line of plain text in Markdown."""
    plain = "".join(character if character.isprintable() else " " for character in value)
    return MARKS.sub(r"\\\1", " ".join(plain.split())[:longest])


def _text(metadata: Mapping[str, Field], key: str) -> str:
    field = metadata.get(key)
    return field.value if field is not None and isinstance(field.value, str) else ""


def _texts(metadata: Mapping[str, Field], key: str) -> list[str]:
    field = metadata.get(key)
    if field is None or not isinstance(field.value, list):
        return []
    return [value for value in field.value if isinstance(value, str)]
