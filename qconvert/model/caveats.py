"""What a GGUF file cannot say of a model, although it runs."""

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families.common import text_config
from qconvert.model.types import Config, Family


def caveats(family: Family, config: Config, metadata: Metadata) -> tuple[str, ...]:
    """One line for each.

    Args:
        config: `config.json`.
        metadata: the GGUF keys that the family makes of it.
    """
    settings = text_config(config)
    window, context = settings.get("sliding_window"), settings.get("max_position_embeddings")
    if not isinstance(window, int) or not isinstance(context, int) or window >= context:
        return ()
    chosen = settings.get("use_sliding_window", not family.window_by_choice)
    if not chosen or any(key.endswith("attention.sliding_window") for key in metadata):
        return ()
    return (f"the model's window of {window} tokens is not kept: llama.cpp attends to all of them",)
