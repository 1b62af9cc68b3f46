"""What each part costs, against whole models of transformers with just that part replaced.

The file's weights are read by the gguf package, and put under Hugging Face's names by the few
lines below, so that the oracle shares nothing with the program.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import convert_model, random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError, UnsupportedError, UsageError
from qconvert.evaluation.sensitivity.measure import Cost, Sensitivity, measure_sensitivity
from qconvert.forward.walk import Place
from qconvert.text.types import Windows

WINDOWS, WINDOW = 3, 24
BLOCKS = 3
NOISE = 4e-6

BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_qkv.weight": "self_attn.qkv_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_exps.weight": "mlp.experts.gate_up_proj",
    "ffn_up_exps.weight": "mlp.experts.gate_up_proj",
    "ffn_down_exps.weight": "mlp.experts.down_proj",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Case:
    """A model, a file made of it, and the parameters that transformers makes of each tensor."""

    model: Any
    directory: Path
    file: Path
    windows: Windows
    stored: Any = None

    def measure(self, folder: Path, granularity: Any = "tensor", **settings: Any) -> Sensitivity:
        return measure_sensitivity(
            open_checkpoint(str(self.directory)),
            open_checkpoint(str(self.file)),
            self.windows,
            place(folder),
            granularity,
            **settings,
        )

    def logits(self) -> Any:
        """Of the scored tokens, float64 [windows, scored, vocabulary]."""
        import torch

        with torch.no_grad():
            tokens = torch.from_numpy(self.windows.tokens).long()
            return self.model(tokens).logits[:, self.windows.first : -1].double()

    def divergence_with(self, names: list[str]) -> tuple[float, float]:
        """Mean and standard error with these tensors of the file in the model."""
        import torch

        base = torch.log_softmax(self.logits(), -1)
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        for name in names:
            self._put(name)
        other = torch.log_softmax(self.logits(), -1)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(own[name])
        means = (base.exp() * (base - other)).sum(-1).mean(1).numpy()
        return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))

    def _put(self, name: str) -> None:
        import torch

        values = torch.from_numpy(self._read(name))
        block, _, rest = name.removeprefix("blk.").partition(".")
        inner = OUTSIDE.get(name) or f"model.layers.{block}.{BLOCK[rest]}"
        if self.model.config.model_type == "phi3":
            inner = inner.replace("up_proj", "gate_up_proj")
        with torch.no_grad():
            target = self.model.get_parameter(inner)
            if "_exps" in name and "down" not in name:
                half = target.shape[1] // 2
                first = 0 if "gate" in name else half
                target[:, first : first + half].copy_(values)
            else:
                target.copy_(values)

    def _read(self, name: str) -> np.ndarray:
        import gguf

        tensor = next(t for t in self.stored if t.name == name)
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        heads = {"attn_q.weight": "num_attention_heads", "attn_k.weight": "num_key_value_heads"}
        kind = name.split(".", 2)[-1]
        if kind not in heads:
            return np.array(values)
        count = getattr(self.model.config, heads[kind])  # halves, where llama.cpp has neighbours
        pairs = values.reshape(count, -1, 2, values.shape[-1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))


def place(folder: Path) -> Place:
    folder.mkdir(parents=True)
    return Place(folder, device="cpu", threads=1, batch=2)


def sample() -> Windows:
    tokens = np.array(random_tokens(WINDOWS * WINDOW), np.int32).reshape(WINDOWS, WINDOW)
    return Windows(tokens, "random", "0")


def make(folder: Path, family: str, file_type: str, *, tied: bool = False) -> Case:
    import gguf

    model = save_model(family, folder / "model", tied=tied, wide=True, num_hidden_layers=BLOCKS)
    file = folder / f"{file_type}.gguf"
    convert_model(folder / "model", file, file_type)
    return Case(model, folder / "model", file, sample(), gguf.GGUFReader(file).tensors)


def tensors_of(case: Case) -> list[str]:
    """All but the rotary factors, which no parameter of transformers' model holds."""
    names = open_checkpoint(str(case.file)).tensors
    return [name for name in names if name != "rope_freqs.weight"]


def rows(found: Sensitivity) -> dict[str, Cost]:
    return {row.name: row for row in found.rows}


FAMILIES = [("llama", False), ("llama", True), ("phi3", False), ("mixtral", False)]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda p: p[0] + ("-tied" if p[1] else ""))
def case(request: Any, tmp_path_factory: Any) -> Case:
    family, tied = request.param
    return make(tmp_path_factory.mktemp(family), family, "q2_k", tied=tied)


def agree(row: Cost, expected: tuple[float, float]) -> None:
    """Logits of size 10 in float32, summed in another order, differ by some 1e-6: NOISE allows a
    little more. A divergence D then differs by sqrt(2 D) of that."""
    near(row.divergence, expected[0], expected[0])
    near(row.standard_error, expected[1], expected[0])


def near(value: float, expected: float, divergence: float) -> None:
    assert abs(value - expected) <= NOISE * np.sqrt(2 * divergence)


def test_each_tensor_costs_what_a_model_with_only_that_tensor_replaced_diverges(
    case: Case, tmp_path: Path
):
    found = case.measure(tmp_path / "work")
    matrices = [name for name in tensors_of(case) if "norm" not in name]
    assert sorted(rows(found)) == sorted(matrices)
    assert len(matrices) >= 4 * BLOCKS + 1
    for row in found.rows:
        if row.type == "F32":
            assert row.divergence == 0
        else:
            agree(row, case.divergence_with([row.name]))
            assert row.divergence > 0
    whole = case.divergence_with(tensors_of(case))
    near(found.whole, whole[0], whole[0])
    near(found.whole_error, whole[1], whole[0])


def test_each_block_costs_what_a_model_with_only_that_block_replaced_diverges(
    case: Case, tmp_path: Path
):
    found = case.measure(tmp_path / "work", "block")
    outside = [name for name in tensors_of(case) if name in OUTSIDE and "norm" not in name]
    assert sorted(rows(found)) == sorted([f"blk.{i}" for i in range(BLOCKS)] + outside)
    for row in found.rows:
        names = [n for n in tensors_of(case) if n.startswith(row.name + ".")] or [row.name]
        agree(row, case.divergence_with(names))
    assert found.total == pytest.approx(sum(row.divergence for row in found.rows))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: Any) -> Case:
    return make(tmp_path_factory.mktemp("llama"), "llama", "q3_k_s")


def test_auto_shows_the_tensors_of_the_worst_blocks_beside_all_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: Case
):
    monkeypatch.setattr("qconvert.evaluation.sensitivity.measure.WORST", 1)
    steps: list[tuple[int, int]] = []
    found = llama.measure(
        tmp_path / "auto", "auto", progress=lambda done, total: steps.append((done, total))
    )
    blocks = llama.measure(tmp_path / "block", "block")
    tensors = rows(llama.measure(tmp_path / "tensor", "tensor"))
    worst = max((row for row in blocks.rows if row.is_block), key=lambda row: row.divergence)
    inside = [row for row in found.rows if row.block >= 0 and not row.is_block]
    assert {row.block for row in inside} == {worst.block}
    assert len(inside) == 7
    assert all(row == tensors[row.name] for row in inside)
    assert [row for row in found.rows if row not in inside] == list(blocks.rows)
    assert found.total == blocks.total
    assert found.worst[0].divergence == max(row.divergence for row in found.rows)
    assert steps == [(i + 1, 2 * BLOCKS) for i in range(2 * BLOCKS)]


def test_rows_say_how_the_parts_are_stored(tmp_path: Path, llama: Case):
    found = rows(llama.measure(tmp_path / "work", "block"))
    checkpoint = open_checkpoint(str(llama.file))
    assert found["token_embd.weight"].type == "Q3_K"
    assert found["output.weight"].type == "Q6_K"
    assert found["output.weight"].nbytes == checkpoint.tensors["output.weight"].nbytes
    inside = [t.nbytes for name, t in checkpoint.tensors.items() if name.startswith("blk.1.")]
    assert found["blk.1"].nbytes == sum(inside)
    assert found["blk.1"].type.startswith("Q3_K")
    names = [f"blk.{i}" for i in range(BLOCKS)]
    assert list(found) == ["token_embd.weight", *names, "output.weight"]


@pytest.mark.parametrize("granularity", ["auto", "block", "tensor"])
def test_a_file_that_is_the_original_costs_nothing(tmp_path: Path, granularity: Any):
    case = make(tmp_path, "llama", "f32")
    for file in (case.file, case.directory):
        same = Case(case.model, case.directory, file, case.windows)
        found = same.measure(tmp_path / "work" / file.name, granularity)
        assert found.rows
        assert {row.divergence for row in found.rows} == {0.0}
        assert found.whole == 0 == found.total


def test_the_batch_does_not_matter(tmp_path: Path, llama: Case):
    one = llama.measure(tmp_path / "one", "block")
    checkpoints = [open_checkpoint(str(path)) for path in (llama.directory, llama.file)]
    (tmp_path / "all").mkdir()
    whole = Place(tmp_path / "all", device="cpu", batch=WINDOWS)
    other = measure_sensitivity(*checkpoints, llama.windows, whole, "block")
    for row, twin in zip(one.rows, other.rows, strict=True):
        assert row.divergence == pytest.approx(twin.divergence, rel=1e-4)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("scheme", ["w4a16", "fp8"])
def test_directories_of_codes_are_measured_like_files(scheme: str, tmp_path: Path):
    """The oracle is the original with one weight as transformers unpacks it from the directory."""
    import torch
    import transformers
    from compressed_models import quantize_model

    model = save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=BLOCKS)
    quantize_model(tmp_path / "model", tmp_path / scheme, scheme)
    case = Case(model, tmp_path / "model", tmp_path / scheme, sample())
    found = rows(case.measure(tmp_path / "work"))
    settings = transformers.CompressedTensorsConfig(run_compressed=False)
    unpacked = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / scheme, dtype=torch.float32, quantization_config=settings
    )
    base = torch.log_softmax(case.logits(), -1)
    for name in ("blk.0.attn_v.weight", "blk.1.ffn_down.weight", "blk.2.ffn_gate.weight"):
        inner = f"model.layers.{name[4]}.{BLOCK[name[6:]]}"
        parameter = model.get_parameter(inner)
        own = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(unpacked.get_parameter(inner))
            assert not torch.equal(parameter, own)
            other = torch.log_softmax(case.logits(), -1)
            parameter.copy_(own)
        expected = float((base.exp() * (base - other)).sum(-1).mean())
        near(found[name].divergence, expected, expected)
    info = found["blk.1.ffn_down.weight"]
    assert info.type == {"w4a16": "int4 g128", "fp8": "float8"}[scheme]
    weights = 256 * 512
    assert weights * {"w4a16": 0.5, "fp8": 1}[scheme] < info.nbytes < weights * 1.2
    assert found["token_embd.weight"].divergence == found["output.weight"].divergence == 0


def test_norms_that_carry_scales_are_not_torn_from_their_tensors(tmp_path: Path):
    """As smoothing leaves them: the function is the same, and a tensor alone would be nonsense."""
    import torch

    model = save_model("llama", tmp_path / "one", wide=True, num_hidden_layers=BLOCKS)
    layer = model.model.layers[1]
    scale = torch.linspace(0.5, 2, 256)
    with torch.no_grad():
        layer.input_layernorm.weight.div_(scale)
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, name).weight.mul_(scale)
    model.save_pretrained(tmp_path / "two")
    case = Case(model, tmp_path / "one", tmp_path / "two", sample())
    found = case.measure(tmp_path / "work")
    inside = [row for row in found.rows if row.block == 1]
    assert [row.name for row in inside] == ["blk.1"]
    assert inside[0].divergence < 1e-9
    assert found.notices == (
        "blk.1: its norms carry scales of its tensors, which cannot be told apart: "
        "measured as a whole",
    )


def test_what_cannot_be_measured_is_refused(tmp_path: Path, llama: Case):
    with pytest.raises(UsageError, match="'row' is no granularity"):
        llama.measure(tmp_path / "a", "row")
    save_model("bert", tmp_path / "bert")
    bert = Case(None, tmp_path / "bert", tmp_path / "bert", sample())
    with pytest.raises(UnsupportedError, match="has no output projection"):
        bert.measure(tmp_path / "b")
    save_model("llama", tmp_path / "other", wide=True, num_hidden_layers=2, intermediate_size=256)
    other = Case(None, llama.directory, tmp_path / "other", sample())
    with pytest.raises(PlanError, match="shape"):
        other.measure(tmp_path / "c")
