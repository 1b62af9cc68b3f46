"""`--importance`: every matrix is quantized with its own, and the file says which it was."""

import ctypes
import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest
from captures import run_capture
from checkpoints import TINY, write_llama
from common import convert_model, save_model, silence_llama
from formats.packed import packed_of, weights_of
from gguf import GGUFReader
from imatrix_files import write_imatrix

from qconvert.algorithms.balance import BUDGET
from qconvert.calibration.imatrix import read_importance
from qconvert.calibration.importance import importance_of
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError
from qconvert.formats.types import block_sizes
from qconvert.machine.watcher import Silent
from qconvert.model.assemble import assemble
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import Statistics
from qconvert.run.outputs import write_outputs


def matrices(model, random) -> dict[str, np.ndarray]:
    """Sums for every matrix of the blocks: [experts, columns]."""
    shapes = {t.name: t.shape for t in model.tensors if len(t.shape) > 1}
    return {
        name: random.gamma(0.3, 5, (shape[0] if len(shape) > 2 else 1, shape[-1])).astype("f4")
        for name, shape in shapes.items()
        if name.startswith("blk.") and "gate_inp" not in name
    }


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def converted(request, tmp_path_factory):
    """A model, its plan with an importance matrix, and the file that it gave."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        write_llama(folder / "model", TINY)
    else:
        save_model("mixtral", folder / "model", wide=True)
    model = open_model(open_checkpoint(str(folder / "model")))
    sums = matrices(model, np.random.default_rng(3))
    counts = {name: [2.0] * len(values) for name, values in sums.items()}
    importance = read_importance(write_imatrix(folder / "im.gguf", sums, counts))
    recipe = Recipe("q4_k_m", output=folder / "out.gguf")
    plan = make_plan(model, recipe, Statistics(importance))
    write_outputs([plan], 2, Silent())
    return plan, sums, GGUFReader(folder / "out.gguf"), folder


def test_every_matrix_is_quantized_with_its_own_importance(converted):
    plan, sums, reader, _ = converted
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    changed = 0
    for tensor in plan.tensors:
        if tensor.name not in sums:
            continue
        rows = assemble(tensor.map, plan.checkpoint.tensors, 0, tensor.map.rows)
        parts = np.split(rows, len(sums[tensor.name]))
        weights = sums[tensor.name] / np.float32(2)
        expected = np.concatenate(
            [packed_of(tensor.format, p, w) for p, w in zip(parts, weights, strict=True)]
        )
        stored = written[tensor.name].reshape(expected.shape)
        np.testing.assert_array_equal(stored, expected, err_msg=tensor.name)
        if tensor.format != "Q8_0":  # which takes no notice of it
            assert not np.array_equal(stored, packed_of(tensor.format, rows)), tensor.name
            changed += 1
    assert changed > len(sums) / 2


def test_the_file_says_what_it_was_made_with(converted):
    _, sums, reader, folder = converted
    said = {
        key: reader.get_field(key).contents()
        for key in reader.fields
        if key.startswith(("quantize.", "qconvert.importance"))
    }
    assert said == {
        "quantize.imatrix.file": "im.gguf",
        "quantize.imatrix.dataset": "a.txt, b.txt",
        "quantize.imatrix.entries_count": len(sums),
        "quantize.imatrix.chunks_count": 12,
        "qconvert.importance.sha256": hashlib.sha256((folder / "im.gguf").read_bytes()).hexdigest(),
    }


def test_the_importance_of_another_model_is_refused(converted, tmp_path):
    plan, _, _, _ = converted
    other = {"blk.0.attn_q.weight": np.ones((1, 64), "f4")}
    importance = read_importance(
        write_imatrix(tmp_path / "im.gguf", other, {"blk.0.attn_q.weight": [1.0]})
    )
    with pytest.raises(PlanError, match=r"blk\.0\.attn_q\.weight"):
        make_plan(open_model(plan.checkpoint), Recipe("q4_k_m"), Statistics(importance))


def quantize_with_llama(source: Path, out: Path, ftype: int, values: dict[str, np.ndarray]) -> None:
    """llama.cpp's own quantizer with an importance matrix."""
    import llama_cpp

    silence_llama()
    flat = {name: np.ascontiguousarray(array.reshape(-1)) for name, array in values.items()}
    pointer = ctypes.POINTER(ctypes.c_float)
    entries = [
        (name.encode(), array.ctypes.data_as(pointer), array.size) for name, array in flat.items()
    ]
    matrix = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries, (None, None, 0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.imatrix = ftype, 1, matrix
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), parameters) == 0


@pytest.mark.parametrize("kind", ["q2_k", "q3_k_m", "q4_k_m", "iq4_xs"])
def test_types_and_bytes_are_llama_cpps_and_no_weighted_error_is_larger(converted, tmp_path, kind):
    plan, sums, _, folder = converted
    importance = read_importance(folder / "im.gguf")
    recipe = Recipe(kind, output=tmp_path / "ours.gguf")
    ours = make_plan(open_model(plan.checkpoint), recipe, Statistics(importance))
    write_outputs([ours], 1, Silent())
    convert_model(folder / "model", tmp_path / "full.gguf", "f32")
    theirs = tmp_path / "theirs.gguf"
    ftype = recipe.file_type.ftype
    quantize_with_llama(tmp_path / "full.gguf", theirs, ftype, dict(importance.values))
    found, reference, original = (
        {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        for path in (tmp_path / "ours.gguf", theirs, tmp_path / "full.gguf")
    )
    for name in sums:
        assert found[name].tensor_type == reference[name].tensor_type, name
        assert found[name].n_bytes == reference[name].n_bytes, name
        x = original[name].data.reshape(len(sums[name]), -1, sums[name].shape[1])
        own, limit = (
            float((np.square(off.astype(np.float64)) * importance.values[name][:, None]).sum())
            for off in (
                gguf.quants.dequantize(t.data, t.tensor_type).reshape(x.shape) - x
                for t in (found[name], reference[name])
            )
        )
        assert own <= limit, name


def test_a_calibration_cancels_errors_on_the_mean_input_too(converted, tmp_path):
    plan, _, _, folder = converted
    calibration = run_capture(folder / "model", tmp_path / "calib.safetensors").calibration
    importance = importance_of(calibration)
    recipe = Recipe("q4_k_m", output=tmp_path / "out.gguf")
    made = make_plan(open_model(plan.checkpoint), recipe, Statistics(importance))
    write_outputs([made], 1, Silent())
    written = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    before = after = 0.0
    for tensor in made.tensors:
        if block_sizes(tensor.format)[0] == 1 or tensor.name not in importance.values:
            continue
        rows = assemble(tensor.map, made.checkpoint.tensors, 0, tensor.map.rows)
        raw = written[tensor.name].data.reshape(len(rows), -1)
        coding = tensor.coding
        means = np.repeat(coding.means, len(rows) // len(coding.means), axis=0)
        weights = np.repeat(coding.importance, len(rows) // len(coding.importance), axis=0)
        parts = zip(np.split(rows, len(coding.importance)), coding.importance, strict=True)
        plain = np.concatenate([packed_of(tensor.format, part, w) for part, w in parts])
        offs = [weights_of(tensor.format, packed) - rows for packed in (plain, raw)]
        old, new = (np.square((off * means).sum(axis=1)).sum() for off in offs)
        before, after = before + old, after + new
        old, new = ((np.square(off) * weights).sum() for off in offs)
        assert new <= (1 + BUDGET + 1e-4) * old, tensor.name
    assert after < 0.5 * before
