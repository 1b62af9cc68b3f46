"""What `inspect` prints of quantized safetensors, and of tensors that nothing is known of."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qconvert.cli import render
from qconvert.cli.inspect_checkpoint import (
    dtypes_data,
    dtypes_text,
    show_facts,
    show_tensors,
    tensors_data,
)
from qconvert.containers.sizes import human_bytes
from qconvert.errors import shorten

if TYPE_CHECKING:
    from qconvert.checkpoint.layers import Layer
    from qconvert.formats.safetensors.types import ActivationFormat, WeightFormat
    from qconvert.inspection.quantized import Quantized
    from qconvert.inspection.tensors import Tensors

LAYER, NUMBER = re.compile(r"^.*?\.\d+\."), re.compile(r"\d+")


def show(found: "Quantized", tensors: bool) -> None:
    """A directory whose config.json says that its weights are quantized."""
    show_facts(found.source, overview(found))
    if found.kinds or found.kept:
        show_kinds(found)
    if tensors:
        show_tensors(found.tensors.values())
    for line in (*found.loads_in, *found.problems):
        render.say(line)


def as_data(found: "Quantized") -> dict[str, Any]:
    """The JSON form."""
    bits = found.bits_per_weight
    return {
        "kind": "quantized",
        "source": found.source,
        "container": "safetensors",
        "method": found.method,
        "format": found.config.get("format"),
        "architecture": found.model.architecture,
        "parameters": found.model.parameters if bits else None,
        "size_bytes": found.nbytes,
        "bits_per_weight": round(bits, 4) if bits else None,
        "context_length": found.model.context_length,
        "tokenizer": found.model.tokenizer,
        "quantized": [
            {
                **weights_data(form),
                "inputs": inputs_data(inputs),
                **sizes_data(layers),
                "layers": [layer.name for layer in layers],
            }
            for (form, inputs), layers in found.kinds.items()
        ],
        "not_quantized": tensors_data(found.kept),
        "dtypes": dtypes_data(found.dtypes),
        "loads_in": list(found.loads_in),
        "made_by": dict(found.made_by),
        "quantization_config": found.config,
        "tensors": tensors_data(found.tensors.values()),
        "problems": list(found.problems),
    }


def weights_data(form: "WeightFormat") -> dict[str, Any]:
    return {
        "format": form.layout,
        "type": form.type,
        "bits": form.bits,
        "strategy": form.strategy,
        "group_size": form.group_size,
        "block": list(form.block) if form.block else None,
        "symmetric": form.symmetric,
    }


def inputs_data(inputs: "ActivationFormat | None") -> dict[str, Any] | None:
    if inputs is None:
        return None
    return {
        "type": inputs.type,
        "bits": inputs.bits,
        "strategy": inputs.strategy,
        "dynamic": inputs.dynamic,
        "symmetric": inputs.symmetric,
    }


def sizes_data(layers: "list[Layer]") -> dict[str, Any]:
    """Weights of several layers, and their bytes with scales and zero points."""
    weights = sum(layer.weights for layer in layers)
    nbytes = sum(layer.nbytes for layer in layers)
    return {
        "weights": weights,
        "bytes": nbytes,
        "bits_per_weight": round(8 * nbytes / weights, 4) if weights else None,
    }


def overview(found: "Quantized") -> dict[str, str]:
    model, bits = found.model, found.bits_per_weight
    files = dict.fromkeys(tensor.path for tensor in found.tensors.values())
    format_ = found.config.get("format") or found.config.get("mode")
    facts = {
        "quantized by": f"{found.method}, {format_ or 'no format named'}",
        "architecture": model.architecture,
        "parameters": f"{render.human_count(model.parameters)} ({model.parameters})",
        "context": str(model.context_length or "not said"),
        "tokenizer": model.tokenizer or "none",
        "tensors": f"{len(found.tensors)} in {len(files)} files, "
        f"{human_bytes(found.nbytes)} ({found.nbytes} bytes)",
        "dtypes": dtypes_text(found.dtypes),
    }
    if bits:
        facts["tensors"] += f", {bits:.2f} bits per weight"
    else:
        del facts["parameters"]
    if found.made_by:
        own = {key.removeprefix("qconvert."): value for key, value in found.made_by.items()}
        facts["made by"] = f"qconvert {own.get('version', '')} from {own.get('source', '?')}"
    return facts


def show_kinds(found: "Quantized") -> None:
    """A row for each way to store weights, and one for what is kept."""
    rows: list[tuple[object, ...]] = []
    for (form, inputs), layers in found.kinds.items():
        sizes = sizes_data(layers)
        bits = f"{sizes['bits_per_weight']:.2f}"
        which = parts(layer.name for layer in layers)
        kind = weights_text(form), inputs_text(inputs)
        rows.append((*kind, len(layers), bits, sizes["bytes"], which))
    for dtype in dict.fromkeys(tensor.dtype for tensor in found.kept):
        kept = [tensor for tensor in found.kept if tensor.dtype == dtype]
        nbytes, elements = sum(t.nbytes for t in kept), sum(t.elements for t in kept)
        bits = f"{8 * nbytes / max(elements, 1):.2f}"
        which = parts(tensor.name for tensor in kept)
        rows.append((f"{dtype}, not quantized", "", len(kept), bits, nbytes, which))
    columns = ("weights", "inputs", ">layers", ">bits per weight", ">bytes", "which")
    render.print_table(columns, rows)


def parts(names: "Iterable[str]") -> str:
    """What names have behind the number of their layer, each once."""
    found = (NUMBER.sub("*", LAYER.sub("", name)) for name in names)
    return shorten(list(dict.fromkeys(found)))


def weights_text(form: "WeightFormat") -> str:
    shared = {
        "tensor": "a scale per tensor",
        "channel": "a scale per row",
        "group": f"groups of {form.group_size}",
        "block": f"blocks of {'x'.join(map(str, form.block or ()))}",
    }
    points = "" if form.symmetric else ", zero points"
    return f"{form.type}{form.bits}, {shared.get(form.strategy, form.strategy)}{points}"


def inputs_text(inputs: "ActivationFormat | None") -> str:
    if inputs is None:
        return "as they are"
    kind = "dynamic" if inputs.dynamic else "static"
    kind += " within a stored range," if inputs.dynamic == "local" else ""
    points = "" if inputs.symmetric else ", zero points"
    return f"{inputs.type}{inputs.bits}, {kind} per {inputs.strategy}{points}"


def alone_as_data(found: "Tensors") -> dict[str, Any]:
    """The JSON form of tensors of which nothing says what they are."""
    return {
        "kind": "tensors",
        "source": found.source,
        "container": "safetensors",
        "elements": found.elements,
        "size_bytes": found.nbytes,
        "dtypes": dtypes_data(found.dtypes),
        "metadata": found.metadata,
        "tensors": tensors_data(found.tensors),
        "problems": list(found.known or ()),
    }


def show_alone(found: "Tensors", tensors: bool) -> None:
    """A safetensors file without a config.json beside it."""
    untold = "a safetensors file; without a config.json beside it nothing says of what"
    size = f"{human_bytes(found.nbytes)} ({found.nbytes} bytes)"
    facts = {
        "what": found.known[0] if found.known else untold,
        "tensors": f"{len(found.tensors)}, {found.elements} elements, {size}",
        "dtypes": dtypes_text(found.dtypes),
    }
    show_facts(found.source, facts | {key: value[:200] for key, value in found.metadata.items()})
    if tensors:
        show_tensors(found.tensors)
    if found.known:
        render.say(found.known[1])
