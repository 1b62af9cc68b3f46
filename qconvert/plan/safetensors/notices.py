"""What a directory loads in, and what its user should know.

Of transformers what 5.23 with compressed-tensors 0.20 does is told, and tests hold it against the
programs themselves; of serving engines, what the layout is made for.
"""

from collections.abc import Iterable, Iterator, Sequence

from qconvert.errors import shorten
from qconvert.formats.safetensors.types import WeightFormat
from qconvert.model.open import Model
from qconvert.model.roles import Role
from qconvert.model.types import Family
from qconvert.model.weights import EXPERTS
from qconvert.plan.recipe import CacheType
from qconvert.plan.safetensors.choices import Choice
from qconvert.plan.safetensors.config import is_plain, schemes
from qconvert.plan.safetensors.schemes import Scheme

TRANSFORMERS = "transformers 5.23"
DEQUANTIZE = "quantization_config=CompressedTensorsConfig(dequantize=True)"

NO_POOLER = "a GGUF file has no pooler: transformers will draw one at random"


def loads_in(
    model: Model, choices: Sequence[Choice], kv: CacheType | None = None
) -> tuple[str, ...]:
    """One line for transformers, and others where there is more to say."""
    cache = (KEPT_IN.format(kv=kv) + (INT8_CACHE if kv == "int8" else ""),) if kv else ()
    return (_transformers(model, choices), *_engines(choices), *cache, *_beside(model, choices))


KEPT_IN = "keys and values are kept in {kv}, with scales from the calibration"
INT8_CACHE = ": transformers does so, while vLLM and SGLang read scales of fp8 alone"


LOADING = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("DIR"{options}){needs}
tokenizer = AutoTokenizer.from_pretrained("DIR")"""


def uses(model: Model, choices: Sequence[Choice]) -> tuple[tuple[str, str], ...]:
    """How the directory is run, as the model card shows it: a language and the code."""
    encoder = model.family.encoder
    serve = () if encoder else (("console", "$ vllm serve DIR"),)
    fault = misfit(choices, model.family)
    if fault and DEQUANTIZE not in fault:
        return serve
    imported = "from transformers import CompressedTensorsConfig\n" if fault else ""
    auto = "AutoModel" if encoder else "AutoModelForCausalLM"
    package = "gptqmodel" if is_older(choices) else "compressed-tensors"
    needs = "" if is_plain(choices) else f"  # needs: pip install {package}"
    options = f", {DEQUANTIZE}" if fault else ', dtype="auto"'
    return (
        ("python", imported + LOADING.format(auto=auto, options=options, needs=needs)),
        *serve,
    )


def is_loadable(choices: Sequence[Choice]) -> bool:
    """Whether transformers runs the directory as it stands."""
    return not misfit(choices)


def misfit(choices: Sequence[Choice], family: Family | None = None) -> str:
    """Why transformers does not run the directory as it stands; empty where it does."""
    if is_older(choices) or is_plain(choices):
        return ""
    obstacles = (*_unpacked(choices, family), *_obstacles(choices))
    if obstacles:
        return f"{TRANSFORMERS} cannot run it: {'; '.join(obstacles)}"
    if _has_zero_points(choices):
        if len(schemes(choices)) > 1:
            return f"{TRANSFORMERS} cannot run it: it misreads packed zero points"
        return (
            f"{TRANSFORMERS} misreads packed zero points by default; it loads with "
            f"from_pretrained(..., {DEQUANTIZE})"
        )
    return ""


def is_older(choices: Sequence[Choice]) -> bool:
    """Whether the layout is GPTQ's or AWQ's."""
    return any(scheme.is_older for scheme in schemes(choices))


def _transformers(model: Model, choices: Sequence[Choice]) -> str:
    fault = misfit(choices, model.family)
    if fault:
        return fault
    if is_plain(choices):
        return "a plain checkpoint: whatever loads the source loads it, no faster and no smaller"
    if is_older(choices):
        return "vLLM and SGLang read this layout; transformers does with the gptqmodel package"
    if any("fp4" in form.layout for form in _forms(choices)):
        return (
            "transformers loads it with the compressed-tensors package, in bfloat16 alone (which "
            "config.json says)"
        )
    return "transformers loads it with the compressed-tensors package, as it stands"


def _unpacked(choices: Sequence[Choice], family: Family | None) -> Iterator[str]:
    """Of classes that it has to find whole weights of."""
    if family and family.unpacked and any("pack" in form.layout for form in _forms(choices)):
        yield f"{family.unpacked} (w8a8 and fp8 are not packed, and load)"


def _obstacles(choices: Sequence[Choice]) -> Iterator[str]:
    if any(choice.scheme and choice.weight.conv1d for choice in choices):
        yield "it has no quantized layers that are stored [in, out], as GPT-2's; vLLM has"
    of_experts = [choice for choice in choices if choice.weight.expert]
    experts = schemes(of_experts)
    is_fp8 = all(form.layout == "float-quantized" for form in _forms(choices))
    if any(choice.scheme is None for choice in of_experts) and not is_fp8:
        yield "it cannot leave experts as they are beside quantized layers; vLLM can"
    if len(experts) > 1:
        yield "it reads all experts by one scheme, and these have several; vLLM reads each layer's"
    for form in {scheme.weights for scheme in experts}:
        reason = _fault_with_experts(form)
        if reason:
            yield f"{reason}; the layout is that of vLLM"
            return


def _fault_with_experts(form: WeightFormat) -> str:
    """Why transformers cannot put experts of this format into its fused ones."""
    if form.layout == "int-quantized":
        return "it fuses experts that are packed or float8, not int8"
    if form.layout == "nvfp4-pack-quantized":
        return "it drops the global scales of experts, and its answers are wrong"
    if form.block is not None:
        return "it fuses experts with a scale for each row or tensor, not for each block"
    if not form.symmetric:
        return "it drops the zero points of experts"
    return ""


def _has_zero_points(choices: Sequence[Choice]) -> bool:
    return any(not form.symmetric for form in _forms(choices))


def _forms(choices: Sequence[Choice]) -> list[WeightFormat]:
    return [scheme.weights for scheme in schemes(choices)]


def _engines(choices: Sequence[Choice]) -> Iterator[str]:
    """What serving engines have no kernels for."""
    linear = schemes(choice for choice in choices if choice.weight.role is not Role.EMBEDDING)
    packed = [scheme.weights for scheme in linear if scheme.weights.layout == "pack-quantized"]
    bits = sorted({form.bits for form in packed} - {4, 8})
    if bits:
        yield f"vLLM runs packed integers of 4 and 8 bits, not of {_listed(bits)}"
    narrow = [s for s in linear if s.inputs and s.weights.bits == 4 and s.weights.type == "int"]
    for scheme in narrow:
        if scheme.weights.layout == "int-quantized":
            yield "vLLM runs int4 with int8 inputs on Arm processors alone, from whole bytes"
        elif scheme.weights.group_size != 128:
            yield "vLLM runs int4 with float8 inputs in groups of 128 alone (Hopper and newer)"
    sizes = sorted({form.group_size for form in packed if form.group_size} - {32, 64, 128})
    if sizes:
        yield f"vLLM runs groups of 32, 64, 128 and whole rows, not of {_listed(sizes)}"


def _beside(model: Model, choices: Sequence[Choice]) -> Iterator[str]:
    """What was left alone, and what serving engines may not expect."""
    ends = [] if is_plain(choices) else [c.weight.role for c in choices if c.scheme]
    if Role.EMBEDDING in ends:
        yield "the token embeddings are int8, which transformers runs and serving engines do not"
    if Role.OUTPUT in ends:
        yield "the output projection is quantized, which not all serving engines run"
    kept = [
        word
        for role, word in (
            (Role.EMBEDDING, "token embeddings"),
            (Role.OUTPUT, "the output projection"),
            (Role.ROUTER, "routers"),
        )
        if any(choice.weight.role is role and choice.scheme is None for choice in choices)
    ]
    if any(EXPERTS in choice.weight.gguf and not choice.weight.expert for choice in choices):
        kept.append("experts, which transformers has in one tensor")
    if model.tied and "token embeddings" in kept:
        kept[0] = "token embeddings (the output projection too)"
    if kept:
        yield f"not {'clustered' if is_plain(choices) else 'quantized'}: {', '.join(kept)}"
    if len(schemes(choices)) > 1 and is_loadable(choices) and not is_plain(choices):
        yield (
            "do not load it with dequantize=True: transformers would read all layers by one of "
            "the schemes"
        )


def fallback_lines(fallbacks: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """For each reason, how many weights are stored otherwise than was asked for, and which.

    Args:
        fallbacks: the name of a weight, why, and what it is stored as.
    """
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, reason, what in fallbacks:
        by_reason.setdefault((reason, what), []).append(name)
    return tuple(
        f"{shorten(names)}: {reason}: {what}" for (reason, what), names in by_reason.items()
    )


def described(scheme: Scheme | None) -> str:
    """A scheme in words: "w4a16 in groups of 64"."""
    if scheme is None:
        return "not quantized"
    form, words = scheme.weights, [scheme.name]
    if form.strategy == "rows":
        words.append("by row" if form.group_size == 1 else f"in groups of {form.group_size} rows")
    if form.type == "int" and form.strategy == "group":
        words.append(f"in groups of {form.group_size}")
    elif form.block is not None:
        words.append(f"in blocks of {form.block[0]}x{form.block[1]}")
    elif form.strategy == "tensor" and not scheme.is_plain:
        words.append("by tensor")
    elif form.strategy == "channel" and form.layout != "int-quantized":
        words.append("by row")
    if not form.symmetric:
        words.append("with zero points")
    if scheme.inputs is not None:
        words.append("static inputs" if scheme.is_static else "dynamic inputs")
        if not scheme.inputs.symmetric:
            words.append("with zero points")
    return " ".join(words)


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
