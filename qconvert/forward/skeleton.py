"""transformers' model of a checkpoint without its weights: only what blocks have in common is
there, and small.

Parameters are made by `torch.empty`, which is sent to the meta device while the model is built;
what modules compute for themselves (rotary tables, positions, scales) is made for real.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from qconvert.errors import UnsupportedError, first_line
from qconvert.forward.attention import use_strips
from qconvert.forward.weights import Parameters
from qconvert.model.families.parts.common import plain_numbers
from qconvert.model.quiet import quiet_transformers
from qconvert.model.types import Family

OF_LAYERS = "embed_tokens_per_layer"
"""Gemma's embedding of tokens for each layer."""


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters are on the meta device.

    Attributes:
        model: transformers'.
        config: transformers' own, of the text model.
        blocks: the modules of the decoder's or encoder's blocks.
        blocks_name: of the list of blocks in the model, "model.layers".
        head: the output projection's place in the model, "lm_head"; empty where there is none.
    """

    model: Any
    config: Any
    blocks: tuple[Any, ...]
    blocks_name: str
    head: str

    @property
    def tables(self) -> tuple[tuple[str, ...], ...]:
        """The modules with a row for each token, by name; those with the same weights together, and
        those of the token embedding first."""
        first = self.model.get_input_embeddings().weight
        head = self.model.get_output_embeddings()
        modules = [(n, module) for n, module in self.model.named_modules() if module is not head]
        alike = tuple(n for n, module in modules if getattr(module, "weight", None) is first)
        return (alike, *((n,) for n, _ in modules if n.endswith(OF_LAYERS)))

    def parameters_beside_blocks(self) -> dict[str, Any]:
        """The parameters that are neither in a block nor in large tables."""
        head = self.model.get_output_embeddings()
        large = {id(self.model.get_submodule(names[0]).weight) for names in self.tables}
        large |= {id(p) for p in head.parameters()} if head is not None else set()
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if not name.startswith(self.blocks_name + ".") and id(parameter) not in large
        }


def build_skeleton(source: Parameters) -> Skeleton:
    """Build the model.

    Raises:
        UnsupportedError: transformers does not know the class or refuses its configuration.
    """
    import torch
    import transformers
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        """Sends `torch.empty` to the meta device."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            if func is torch.empty:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    auto = transformers.AutoModelForCausalLM if source.is_causal else transformers.AutoModel
    try:
        with quiet_transformers():
            config = _text_config(source.model.config)
            if hasattr(config, "num_decoder_layers"):  # of two halves one is meant
                auto = transformers.AutoModelForTextEncoding
            if source.model.family.stand_in:
                config = _stand_in(config, source.model.family)
        _without_padding(config)
        with quiet_transformers(), EmptyOnMeta():
            model = auto.from_config(config, dtype=torch.float32).eval()
    except Exception as error:
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot build {source.checkpoint.source}: "
            f"{first_line(error)}",
            "the same configuration has to load with AutoModel.from_pretrained",
        ) from error
    use_strips(model.config)
    if hasattr(model, "pooler"):
        model.pooler = None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    name, blocks = _find_blocks(model, config)
    head = model.get_output_embeddings()
    head_name = next((n for n, module in model.named_modules() if module is head), "")
    return Skeleton(model, config, blocks, name, head_name)


def _text_config(config: Mapping[str, Any]) -> Any:
    """transformers' configuration of the language model."""
    import transformers

    # By its type, where a class goes by another name than transformers'.
    cls = getattr(transformers, config["architectures"][0], None)
    kind = cls.config_class if cls else transformers.CONFIG_MAPPING[config["model_type"]]
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    # A copy to the bottom: transformers writes into inner dictionaries.
    return kind.from_dict(plain_numbers(deepcopy(plain))).get_text_config(decoder=True)


def _without_padding(config: Any) -> None:
    """Nothing is padded, and some settings name a token that is not there."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        config.pad_token_id = None
    except StrictDataclassError:  # of classes that want a number
        config.pad_token_id = 0


def _stand_in(config: Any, family: Family) -> Any:
    """The same settings for another class."""
    import transformers

    settings = {**config.to_dict(), **family.stand_in_settings}
    kind = getattr(transformers, family.stand_in).config_class
    del settings["model_type"]
    return kind.from_dict(settings)


def _find_blocks(model: Any, config: Any) -> tuple[str, tuple[Any, ...]]:
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers:
            return name, tuple(module)
    raise UnsupportedError(f"no list of blocks in {type(model).__name__}")


def set_module(model: Any, name: str, module: Any) -> None:
    """Put a module in the place of another."""
    outer, _, last = name.rpartition(".")
    setattr(model.get_submodule(outer), last, module)


def set_parameter(module: Any, name: str, values: Any) -> None:
    """Put a tensor in the place of a parameter."""
    import torch

    outer, _, last = name.rpartition(".")
    place = module.get_submodule(outer) if outer else module
    setattr(place, last, torch.nn.Parameter(values, requires_grad=False))


def put_tensor(module: Any, name: str, values: Any) -> None:
    """Put a tensor in the place of a module's own parameter.

    One that wants a gradient stays itself, no parameter, so that the gradient reaches it.
    """
    delattr(module, name)
    if values.requires_grad:
        setattr(module, name, values)
    else:
        set_parameter(module, name, values)
