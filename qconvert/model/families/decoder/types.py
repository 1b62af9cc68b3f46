"""What a plain decoder is, as data: where it has norms, how it attends, what its feed-forward is
made of, and which settings become which keys. All that a family needs is derived from it.

A name of a tensor is Hugging Face's within a block or within its part ("q_proj"), beside it GGUF's
within a block ("attn_q"), both without ".weight" and ".bias".
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qconvert.model.families.parts.common import SILU
from qconvert.model.families.parts.lines import IGNORED
from qconvert.model.families.parts.rope import ROPE_TYPES
from qconvert.model.types import Config

Names = tuple[tuple[str, str], ...]
"""GGUF's name and Hugging Face's, in the order of a file."""

Stated = bool | str
"""Whether something is there: always, never, or where the setting of that name says so."""


@dataclass(frozen=True)
class Norms:
    """The norms of a block, in the order of a file.

    Attributes:
        before: ahead of the block's matrices.
        behind_attention, behind_feed_forward: behind the matrices of that part.
        of_attention, of_feed_forward: GGUF's name of the norm whose output the part multiplies;
            empty where it takes the residual stream itself.
        kind: "rms", or "layer" for norms that also take the mean away.
        bias: whether they have one.
        shift: what GGUF's weights are more than Hugging Face's (Gemma stores weight - 1).
        epsilon: its setting.
    """

    before: Names = ()
    behind_attention: Names = ()
    behind_feed_forward: Names = ()
    of_attention: str = "attn_norm"
    of_feed_forward: str = "ffn_norm"
    kind: Literal["rms", "layer"] = "rms"
    bias: Stated = False
    shift: float = 0.0
    epsilon: str = "rms_norm_eps"


PRE = Norms((("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")))
"""Before attention and before the feed-forward."""

POST = Norms(
    behind_attention=(("post_attention_norm", "post_attention_layernorm"),),
    behind_feed_forward=(("post_ffw_norm", "post_feedforward_layernorm"),),
    of_attention="",
    of_feed_forward="",
)
"""Behind both."""

SANDWICH = replace(
    POST,
    before=(("attn_norm", "input_layernorm"),),
    behind_attention=(*POST.behind_attention, ("ffn_norm", "pre_feedforward_layernorm")),
    of_attention="attn_norm",
    of_feed_forward="ffn_norm",
)
"""Before and behind both, as Gemma has them."""

RENAMED = Norms(
    before=(
        ("attn_norm", "input_layernorm"),
        ("post_attention_norm", "post_attention_layernorm"),
    ),
    of_feed_forward="post_attention_norm",
)
"""As `PRE`, where GGUF calls the second one by another name."""

PARALLEL = Norms((("attn_norm", "input_layernorm"),), of_feed_forward="attn_norm")
"""One before both, which work side by side."""


@dataclass(frozen=True)
class Attention:
    """The projections of attention.

    Attributes:
        regrouped: rotary pairs are neighbours in llama.cpp and lie in halves at Hugging Face.
        fused: queries, keys and values are one matrix.
        bias: of queries, keys and values.
        output_bias: of the output projection. One that a setting promises may be missing, where a
            model of another family was saved under this one's name; transformers takes zeros then.
        qk_norms: norms of queries and keys: one for heads, one for "each" head, or one over "all"
            of them together.
        qk_normed: whether they are there.
        qk_names: what Hugging Face calls the two.
        square: llama.cpp takes heads to be as wide as the model, all together.
        sized: `config.json` states the size of a head even where it follows from others.
    """

    regrouped: bool = False
    fused: bool = False
    bias: Stated = "attention_bias"
    output_bias: Stated = "attention_bias"
    qk_norms: Literal["", "heads", "each", "all"] = ""
    qk_normed: Stated = True
    qk_names: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    square: bool = False
    sized: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary embeddings.

    Attributes:
        kinds: of stretching, those that can be said.
        theta: the base where the settings have none.
        partly: whether llama.cpp can turn a part.
        counted: the number of elements that turn is written.
    """

    kinds: Collection[str] = ROPE_TYPES
    theta: float = 10000.0
    partly: bool = False
    counted: bool = False


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward of blocks without experts.

    Attributes:
        names: gate, up and down, or up and down.
        gated: "up" is multiplied by the activation of "gate".
        fused: the first matrix holds gate and up.
        bias: of all of them.
    """

    names: Names = (
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    )
    gated: bool = True
    fused: bool = False
    bias: Stated = False


UNGATED = FeedForward((("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")), gated=False)

FUSED = FeedForward((("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj")), fused=True)


def no_blocks(config: Config) -> tuple[int, ...]:
    return ()


@dataclass(frozen=True)
class Shared:
    """An expert that every token goes through.

    Attributes:
        size: the setting of its size, or of the number of experts that it is as large as.
        key: GGUF's for the same.
        names: of gate, up and down, or of both in one and down.
        gate: of the matrix that weighs what it gives, if there is one.
    """

    size: str
    key: str = "expert_shared_feed_forward_length"
    names: tuple[str, ...] = (
        "mlp.shared_expert.gate_proj.weight",
        "mlp.shared_expert.up_proj.weight",
        "mlp.shared_expert.down_proj.weight",
    )
    gate: str = ""


@dataclass(frozen=True)
class Experts:
    """A feed-forward of experts.

    Attributes:
        count, used, size: settings.
        sized: whether GGUF is told the size; it is that of a dense feed-forward otherwise.
        single: of gate, up and down of one expert, as checkpoints have them; none where they have
            all in one.
        fused: of gate and up of all experts and of down, by the names that there are for them.
        inward: those are stored [experts, in, out], and turned by transformers when it loads them.
        routers: by the names that there are for them.
        correction: of what is added to scores for the choice, by the names that there are.
        gating: llama.cpp's number of the function of scores, where it has to be told.
        scale, normalised: settings of what is done with the scores of those that are chosen, that
            become keys.
        shared: an expert besides.
        leading: the setting of how many blocks come before the first with experts.
        dense: the blocks without experts.
    """

    count: str = "num_experts"
    used: str = "num_experts_per_tok"
    size: str = "moe_intermediate_size"
    sized: bool = True
    single: tuple[str, ...] = (
        "mlp.experts.{e}.gate_proj.weight",
        "mlp.experts.{e}.up_proj.weight",
        "mlp.experts.{e}.down_proj.weight",
    )
    fused: tuple[tuple[str, str], ...] = (("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),)
    inward: bool = False
    routers: tuple[str, ...] = ("mlp.gate.weight",)
    correction: tuple[str, ...] = ()
    gating: int = 0
    scale: str = ""
    normalised: str = ""
    shared: Shared | None = None
    leading: str = ""
    dense: Callable[[Config], tuple[int, ...]] = no_blocks


@dataclass(frozen=True)
class Scalar:
    """A number that a setting and a key both have.

    Attributes:
        key: GGUF's.
        default: for a file without it.
        optional: null stands for none.
    """

    setting: str
    key: str
    default: float = 1.0
    optional: bool = False


@dataclass(frozen=True)
class Only:
    """A setting that llama.cpp knows with some values alone; the first one is written back."""

    setting: str
    allowed: Collection[Any]
    why: str = ""


@dataclass(frozen=True)
class Windows:
    """Blocks that see a window only.

    Attributes:
        built_in: llama.cpp's own pattern: full attention in every block of that number.
        interval: the same where the settings do not say it otherwise.
        always: llama.cpp takes some blocks to have a window, whatever the file says of it.
        older: settings of it that came before `layer_types`, the first that is there counts.
        theta: the base of blocks with a window, where nothing says it; 0 if it is that of others.
    """

    built_in: int
    interval: int
    always: bool = False
    older: tuple[str, ...] = ()
    theta: float = 0.0


SILU_ONLY = Only("hidden_act", SILU)


@dataclass(frozen=True)
class Decoder:
    """A plain decoder.

    Attributes:
        name: `general.architecture` in GGUF.
        model_type: that of `config.json`.
        classes: in `architectures`; the first is written back.
        defaults: what transformers takes for settings that are left out.
        layer: what the names of a block begin with.
        scalars: numbers in the order of a file.
        only: what llama.cpp knows with some values alone.
        windows: of some blocks; None where all see everything.
        written: what `config.json` says besides, on the way back.
        tied_output: llama.cpp wants a tied output written out.
        output_is_embedding: it takes the embedding for the output, whatever there is.
        mark: the key that tells its files from those of another family of that name.
        ignored: patterns of tensors without a place.
    """

    name: str
    model_type: str
    classes: tuple[str, ...]
    defaults: Mapping[str, Any]
    norms: Norms = PRE
    attention: Attention = Attention()
    rope: Rope = Rope()
    feed_forward: FeedForward | None = FeedForward()
    experts: Experts | None = None
    scalars: tuple[Scalar, ...] = ()
    windows: Windows | None = None
    only: tuple[Only, ...] = (SILU_ONLY,)
    written: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    tied_output: bool = False
    output_is_embedding: bool = False
    mark: str = ""
    pooled: bool = False
    window_by_choice: bool = False
    ignored: tuple[str, ...] = IGNORED
