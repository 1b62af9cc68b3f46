"""Files of the IQ1, IQ2 and IQ3 types through llama.cpp: it loads them, reads the same weights out
of them, and computes with these."""

import gguf
import numpy as np
import pytest
from common import llama_logits, random_tokens, save_model, silence_llama
from imatrix_files import write_imatrix

from qconvert.calibration.imatrix import read_importance
from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import Statistics
from qconvert.run.outputs import write_outputs

llama_cpp = pytest.importorskip("llama_cpp")

KINDS = ("iq3_m", "iq3_s", "iq3_xs", "iq3_xxs")
KINDS += ("iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model, and importances for it."""
    folder = tmp_path_factory.mktemp("wide")
    save_model("llama", folder / "model", wide=True, num_hidden_layers=2)
    model = open_model(open_checkpoint(str(folder / "model")))
    random = np.random.default_rng(3)
    names = {t.name: t.shape[-1] for t in model.tensors if t.name.startswith("blk.")}
    sums = {
        name: random.gamma(0.5, 2.0, (1, columns)).astype(np.float32)
        for name, columns in names.items()
        if "norm" not in name
    }
    path = write_imatrix(folder / "im.gguf", sums, {name: [1.0] for name in sums})
    return model, read_importance(path)


def as_llama_cpp_reads_it(path, out):
    """The file's weights as float32, by llama.cpp's own reader."""
    silence_llama()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    settings.allow_requantize = True
    settings.nthread = 1
    assert llama_cpp.llama_model_quantize(str(path).encode(), str(out).encode(), settings) == 0
    return weights(out)


def weights(path):
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_and_runs_what_was_meant(kind, source, tmp_path):
    model, importance = source
    coded, plain = tmp_path / "coded.gguf", tmp_path / "plain.gguf"
    plan = make_plan(model, Recipe(kind, output=coded), Statistics(importance))
    write_outputs([plan], 1, Silent())
    assert plan.recipe.file_type.base in plan.formats

    back = make_plan(open_model(open_checkpoint(str(coded))), Recipe("f32", output=plain))
    write_outputs([back], 1, Silent())

    theirs = as_llama_cpp_reads_it(coded, tmp_path / "theirs.gguf")
    ours = weights(plain)
    assert theirs.keys() == ours.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)

    # llama.cpp rounds the inputs of these formats to eight bits.
    tokens = random_tokens()
    expected, actual = llama_logits(plain, tokens), llama_logits(coded, tokens)
    assert np.corrcoef(expected.ravel(), actual.ravel())[0, 1] > 0.999
