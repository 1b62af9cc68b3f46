"""`--importance`: every matrix is quantized with its own, and the file says which it was."""

import hashlib

import numpy as np
import pytest
from checkpoints import TINY, write_llama
from common import Silent, save_model
from gguf import GGUFReader
from imatrix_files import write_imatrix

from qconvert.architectures.assemble import assemble
from qconvert.calibration.imatrix import read_importance
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError
from qconvert.formats import FORMATS
from qconvert.pipeline import convert
from qconvert.plan import make_plan, read_model
from qconvert.recipes.types import make_recipe


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
    model = read_model(open_checkpoint(str(folder / "model")))
    sums = matrices(model, np.random.default_rng(3))
    counts = {name: [2.0] * len(values) for name, values in sums.items()}
    importance = read_importance(write_imatrix(folder / "im.gguf", sums, counts))
    plan = make_plan(model, make_recipe("q4_k_m"), importance)
    convert(plan, plan.shards(folder / "out.gguf"), 2, Silent())
    return plan, sums, GGUFReader(folder / "out.gguf"), folder


def test_every_matrix_is_quantized_with_its_own_importance(converted):
    plan, sums, reader, _ = converted
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    changed = 0
    for tensor in plan.tensors:
        if tensor.name not in sums:
            continue
        rows = assemble(tensor.map, plan.model.checkpoint.tensors, 0, tensor.map.rows)
        quantize = FORMATS[tensor.format].quantize
        parts = np.split(rows, len(sums[tensor.name]))
        weights = sums[tensor.name] / np.float32(2)
        expected = np.concatenate([quantize(p, w) for p, w in zip(parts, weights, strict=True)])
        stored = written[tensor.name].reshape(expected.shape)
        np.testing.assert_array_equal(stored, expected, err_msg=tensor.name)
        if tensor.format != "Q8_0":  # which takes no notice of it
            assert not np.array_equal(stored, quantize(rows, None)), tensor.name
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
        make_plan(plan.model, make_recipe("q4_k_m"), importance)
