"""Names of tensors without what wraps them: a base model may lack the first part ("model.",
"transformer."), a multimodal one has "language_model." besides."""

import re

WRAPPER = re.compile(r"^(model\.)?(language|text)_model\.(model\.)?")
WRAPPERS = tuple(f"{root}{kind}_model." for root in ("", "model.") for kind in ("language", "text"))
ROOTS = (
    "model.backbone.",
    "backbone.",
    "model.",
    "distilbert.transformer.",
    "distilbert.",
    "transformer.",
    "bert.",
    "roberta.",
    "gpt_neox.",
)


def bare_name(name: str) -> str:
    """The name without wrapper and root."""
    if name.startswith(WRAPPERS):  # most do not, and an expression takes longer
        name = WRAPPER.sub("", name)
    for root in ROOTS:
        if name.startswith(root):
            return name[len(root) :]
    return name
