"""What a GGUF file cannot say of a model, although it runs."""

from qconvert.model.types import Config, Family


def caveats(family: Family, settings: Config) -> tuple[str, ...]:
    """One line for each."""
    window, context = settings.get("sliding_window"), settings.get("max_position_embeddings")
    if not isinstance(window, int) or not isinstance(context, int) or window >= context:
        return ()
    chosen = settings.get("use_sliding_window", not family.window_by_choice)
    if not chosen or f"{family.name}.attention.sliding_window" in family.metadata(settings):
        return ()
    return (f"the model's window of {window} tokens is not kept: llama.cpp attends to all of them",)
