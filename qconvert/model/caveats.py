"""What a GGUF file cannot say of a model, although it runs."""

from qconvert.model.families.parts.rope import rope_parameters
from qconvert.model.types import Config, Family

UNTRUNCATED = (
    "the model's YaRN is without truncation: llama.cpp rounds the bounds between frequencies that "
    "are stretched and those that are not, so that logits differ a little"
)


def caveats(family: Family, settings: Config) -> tuple[str, ...]:
    """One line for each."""
    rope = rope_parameters(settings)
    untruncated = rope["rope_type"] == "yarn" and rope.get("truncate") is False
    return (
        *((UNTRUNCATED,) if untruncated else ()),
        *family.caveats(settings),
        *_window(family, settings),
    )


def _window(family: Family, settings: Config) -> tuple[str, ...]:
    window, context = settings.get("sliding_window"), settings.get("max_position_embeddings")
    if not isinstance(window, int) or not isinstance(context, int) or window >= context:
        return ()
    chosen = settings.get("use_sliding_window", not family.window_by_choice)
    if not chosen or f"{family.name}.attention.sliding_window" in family.metadata(settings):
        return ()
    return (f"the model's window of {window} tokens is not kept: llama.cpp attends to all of them",)
