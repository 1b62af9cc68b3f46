"""`quantization_config` of config.json, as the compressed-tensors package reads it; clustered
weights have none.

One group for each way in which weights are stored and run. A group that has all linear layers is
for "Linear"; of several, each names its layers by regular expressions, which leave out the
model's root, for that differs between the classes that load it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from qconvert.formats.safetensors.types import ActivationFormat, WeightFormat
from qconvert.model.names import bare_name
from qconvert.model.open import Model
from qconvert.model.roles import Role
from qconvert.plan.recipe import CacheType
from qconvert.plan.safetensors.caches import cache_args
from qconvert.plan.safetensors.choices import Choice
from qconvert.plan.safetensors.schemes import Scheme

MIXED = "mixed-precision"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' names, and torch's."""

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def config_json(
    model: Model, choices: Sequence[Choice], dtype: str, kv: CacheType | None = None
) -> dict[str, Any]:
    """`config.json` of the quantized model.

    Args:
        dtype: of the numbers that are not quantized: "F32", "F16" or "BF16".
        kv: of keys and values.
    """
    config = {key: retyped(key, value, dtype) for key, value in model.config.items()}
    if "output.weight" in {weight.gguf for weight in model.weights}:
        config = untied(config)
    if not {"dtype", "torch_dtype"} & set(config):
        config["torch_dtype"] = DTYPES[dtype]
    if is_plain(choices):
        return {key: value for key, value in config.items() if key != "quantization_config"}
    if any(choice.scheme and choice.scheme.is_older for choice in choices):
        from qconvert.plan.safetensors.older_config import older_config

        return {**config, "quantization_config": older_config(model, choices)}
    made = quantization_config(model, choices)
    if kv is not None:
        made["kv_cache_scheme"] = cache_args(kv)
    return {**config, "quantization_config": made}


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that say what is so: the output projection has weights of its own."""
    stated: dict[str, Any] = {}
    if config.get("tie_word_embeddings"):
        stated["tie_word_embeddings"] = False
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and inner.get("tie_word_embeddings"):
        stated["text_config"] = untied(inner)
    return {**config, **stated}


def retyped(key: str, value: Any, dtype: str) -> Any:
    """Settings with another dtype, those of inner models too."""
    if key in ("dtype", "torch_dtype") and isinstance(value, str):
        return DTYPES[dtype]
    if isinstance(value, Mapping):
        inner = {name: retyped(name, item, dtype) for name, item in value.items()}
        return {name: item for name, item in inner.items() if name != "quantization_config"}
    return value


def quantization_config(model: Model, choices: Sequence[Choice]) -> dict[str, Any]:
    """The section of config.json, in JSON's types.

    Raises:
        UnsupportedError: the compressed-tensors package is not there.
    """
    import compressed_tensors
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

    groups = [_group(scheme, targets) for scheme, targets in _targets(model, choices).items()]
    formats = list(dict.fromkeys(scheme.weights.layout for scheme in schemes(choices)))
    config = QuantizationConfig(
        config_groups={f"group_{number}": group for number, group in enumerate(groups)},
        format=formats[0] if len(formats) == 1 else MIXED,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=ignored(model, choices),
    )
    dumped = json.loads(config.model_dump_json())
    # Older versions of the package do not know it and refuse what they do not know.
    if dumped.get("moe_sparsity_config") is None:
        dumped.pop("moe_sparsity_config", None)
    return {
        **dumped,
        "version": compressed_tensors.__version__,
        "sparsity_config": {},
        "transform_config": {},
    }


def schemes(choices: Iterable[Choice]) -> list[Scheme]:
    """The distinct ways in which weights are stored and run; names do not matter."""
    found: dict[tuple[WeightFormat, ActivationFormat | None], Scheme] = {}
    for choice in choices:
        if choice.scheme is not None:
            found.setdefault((choice.scheme.weights, choice.scheme.inputs), choice.scheme)
    return list(found.values())


def is_plain(choices: Iterable[Choice]) -> bool:
    """Whether what is made is a plain checkpoint, of weights that have few distinct values."""
    return any(scheme.is_plain for scheme in schemes(choices))


def _targets(model: Model, choices: Sequence[Choice]) -> dict[Scheme, list[str]]:
    """What the group of each scheme is for."""
    made = schemes(choices)
    layers = [choice for choice in choices if choice.weight.role is not Role.EMBEDDING]
    linear = schemes(layers)
    targets = {}
    for scheme in made:
        mine = [
            _module(choice.weight.name)
            for choice in choices
            if choice.scheme is not None
            and (choice.scheme.weights, choice.scheme.inputs) == (scheme.weights, scheme.inputs)
        ]
        alone = linear == [scheme] and not _has_embedding(choices, scheme)
        targets[scheme] = ["Linear"] if alone else patterns(mine)
    return targets


def _has_embedding(choices: Iterable[Choice], scheme: Scheme) -> bool:
    return any(
        choice.weight.role is Role.EMBEDDING
        and choice.scheme is not None
        and (choice.scheme.weights, choice.scheme.inputs) == (scheme.weights, scheme.inputs)
        for choice in choices
    )


def ignored(model: Model, choices: Sequence[Choice]) -> list[str]:
    """Layers that a group would have, were they not named: all kept matrices but embeddings."""
    kept = [choice.weight for choice in choices if choice.scheme is None and _may_be_linear(choice)]
    used = {_top(choice.weight.name) for choice in choices if choice.scheme is not None}
    apart = [weight.name for weight in kept if not weight.gguf and _top(weight.name) not in used]
    names = [_module(weight.name) for weight in kept if weight.name not in apart]
    heads = [name for name in names if "." not in name]
    if model.tied or any(weight.role is Role.OUTPUT for weight in kept):
        heads.append("lm_head")  # whatever the checkpoint calls it
    towers = [*map(_top, apart), *model.family.unstored]
    return [
        *dict.fromkeys(heads),
        *patterns(name for name in names if "." in name),
        *(f"re:(.*\\.)?{re.escape(tower)}\\..*" for tower in dict.fromkeys(towers)),
    ]


def kept_linears(choices: Sequence[Choice]) -> list[str]:
    """The names of linear layers that are not quantized, routers and the output projection among
    them."""
    return [
        _module(choice.weight.name)
        for choice in choices
        if choice.scheme is None and _may_be_linear(choice)
    ]


def _top(name: str) -> str:
    """The first part of a name, "vision_tower": what is beside the language model."""
    return bare_name(name).partition(".")[0]


def _may_be_linear(choice: Choice) -> bool:
    weight = choice.weight
    is_matrix = len(weight.map.shape) == 2 and weight.name.endswith(".weight")
    is_embedding = weight.role is Role.EMBEDDING or weight.gguf in (
        "position_embd.weight",
        "token_types.weight",
    )
    return is_matrix and not is_embedding


def patterns(modules: Iterable[str]) -> list[str]:
    """Regular expressions that match these modules, under whatever root, and no others below it.

    Modules that differ in numbers alone are one expression.
    """
    kinds: dict[str, dict[str, list[str]]] = {}
    for module in modules:
        first, *rest = NUMBER.split(bare_name(module), maxsplit=1)
        number = NUMBER.search(bare_name(module))
        blocks = kinds.setdefault(first + "#" + NUMBER.sub("#", "".join(rest)), {})
        blocks.setdefault(number[0] if number else "", []).append("".join(rest))
    return [
        f"re:(.*\\.)?{expression}$"
        for kind, blocks in kinds.items()
        for expression in _expressions(kind.partition("#")[0], blocks)
    ]


def _expressions(head: str, blocks: Mapping[str, list[str]]) -> Iterator[str]:
    """One for all blocks of which the same is meant: `layers\\.(0|2)\\.mlp\\.up_proj`."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for block, rests in blocks.items():
        alike.setdefault(tuple(rests), []).append(block)
    for tails, numbers in alike.items():
        yield re.escape(head) + _either(numbers) + _tail(tails)


def _tail(rests: Sequence[str]) -> str:
    """What is behind the block's number; experts differ in one number more."""
    pieces = NUMBER.split(rests[0])
    if len(rests) == 1 or len(pieces) != 2:
        return _either([re.escape(rest) for rest in rests])
    numbers = [found[0] for rest in rests if (found := NUMBER.search(rest))]
    return re.escape(pieces[0]) + _either(numbers) + re.escape(pieces[1])


def _either(texts: Sequence[str]) -> str:
    return "(" + "|".join(texts) + ")" if len(texts) > 1 else texts[0]


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _group(scheme: Scheme, targets: list[str]) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(
        targets=targets,
        weights=QuantizationArgs(**weight_args(scheme.weights)),
        input_activations=(
            QuantizationArgs(**input_args(scheme)) if scheme.inputs is not None else None
        ),
        format=scheme.weights.layout,
    )


def weight_args(form: WeightFormat) -> dict[str, Any]:
    """The arguments of compressed-tensors' `QuantizationArgs`; float4 as its presets have it."""
    args: dict[str, Any] = {
        "num_bits": form.bits,
        "type": form.type,
        "strategy": form.strategy,
        "symmetric": form.symmetric,
        "dynamic": False,
    }
    if form.group_size is not None:
        args["group_size"] = form.group_size
    if form.block is not None:
        args["block_structure"] = list(form.block)
    if form.layout == "nvfp4-pack-quantized":
        args |= {"strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
    if form.layout == "mxfp4-pack-quantized":
        args |= {"scale_dtype": "torch.uint8"}
    return args


def input_args(scheme: Scheme) -> dict[str, Any]:
    """The same for the inputs of a scheme that rounds them."""
    form = scheme.inputs
    assert form is not None
    args: dict[str, Any] = {
        "num_bits": form.bits,
        "type": form.type,
        "strategy": form.strategy,
        "symmetric": form.symmetric,
        "dynamic": form.dynamic,
    }
    if form.strategy == "group" and scheme.weights.block is not None:
        args["group_size"] = scheme.weights.block[1]
    elif scheme.is_local:
        args |= {
            "strategy": "tensor_group",
            "group_size": scheme.weights.group_size,
            "scale_dtype": "torch.float8_e4m3fn",
            "observer": "static_minmax",
        }
    elif form.strategy == "group":
        args |= {"group_size": scheme.weights.group_size, "scale_dtype": "torch.uint8"}
    return args
