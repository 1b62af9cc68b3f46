"""Files against their original, through the real runtimes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from common import llama_logits, torch_logits
from safetensors.numpy import load_file, save_file
from speaking_models import PROSE, VOCABULARY, convert_speaking_model, save_speaking_model
from transformers import AutoModelForCausalLM

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, UsageError, WeightError
from qconvert.evaluation.divergence.evaluate import Choices, Meter, evaluate
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.model.open import open_model
from qconvert.run.training.fresh import fresh_student
from qconvert.text.perplexity_windows import read_windows

SMALL = Choices(window=32, settings=Settings(device="cpu", threads=1))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, what was made of it, and a text."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_speaking_model(folder / "model", wide=True, num_hidden_layers=2)
    for kind in ("f32", "q8_0", "q4_k_m", "q2_k"):
        convert_speaking_model(folder / "model", kind)
    (folder / "text.txt").write_text(PROSE * 6)
    return folder


@pytest.fixture(autouse=True)
def cache(place, monkeypatch):
    monkeypatch.setenv("QCONVERT_CACHE", str(place / "cache"))


def run(place: Path, *files: str, **changes) -> "object":
    choices = Choices(**{**vars(SMALL), **changes})
    names = [place / name for name in files]
    return evaluate(str(place / "model"), str(place / "text.txt"), names, choices)


def test_checkpoints_of_fewer_layers_and_of_another_width(place, tmp_path):
    """What prune and distill leave, held against the original, as transformers' own models are."""
    own = open_model(open_checkpoint(str(place / "model")))
    config = json.loads((place / "model" / "config.json").read_text())
    files = []
    for number, sizes in enumerate(({"num_hidden_layers": 1}, {"hidden_size": 128})):
        settings = tmp_path / f"{number}.json"
        settings.write_text(json.dumps(config | sizes))
        files.append(fresh_student(settings, own, tmp_path / str(number), 0).path)
    windows = read_windows(own.checkpoint, str(place / "text.txt"), None, 32)
    made = evaluate(str(place / "model"), windows, files, SMALL)
    ids, first = torch.from_numpy(windows.tokens.astype(np.int64)), windows.first
    with torch.no_grad():
        p, *others = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids)
            .logits[:, first:-1]
            .double()
            .log_softmax(-1)
            for path in (place / "model", *files)
        )
    expected = [float((p.exp() * (p - q)).sum(-1).mean()) for q in others]
    found = [file.divergence.mean for file in made.files]
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert min(expected) > 0.01


class Watching:
    def __init__(self) -> None:
        self.total, self.done, self.names, self.notes = 0, 0, [], []

    def begin(self, total, done):
        self.total = total

    def advance(self, weights, tensor):
        self.done += weights
        self.names.append(tensor)

    def note(self, message):
        self.notes.append(message)


def test_fewer_bits_are_smaller_and_further_away(place):
    files = [f"model-{kind}.gguf" for kind in ("f32", "q8_0", "q4_k_m", "q2_k")]
    made = run(place, *files)
    sizes = [file.nbytes for file in made.files]
    means = [file.divergence.mean for file in made.files]
    assert sizes == sorted(sizes, reverse=True)
    assert means == sorted(means)
    assert means[1] < 0.005 < means[3]
    assert [file.kind for file in made.files] == ["F32", "Q8_0", "Q4_K_M", "Q2_K"]
    assert {file.backend for file in made.files} == {"llama.cpp"}
    assert made.better[1, 3] == 1.0
    assert made.scored == made.files[0].tokens.loss.size
    assert made.bound == max(file.divergence.bound for file in made.files)


@pytest.mark.parametrize("exact", [True, False])
def test_a_file_against_itself_gives_zero(place, exact):
    made = run(place, "model", exact=exact)
    (file,) = made.files
    assert abs(file.divergence.mean) < 1e-6
    assert np.abs(file.tokens.divergence).max() < 1e-6
    assert file.perplexity == pytest.approx(made.reference_perplexity, rel=1e-9)
    assert (file.same_top, file.rms_delta_p) == (1.0, 0.0)
    assert file.perplexity_ratio == 1.0
    gguf = str(place / "model-q4_k_m.gguf")
    (file,) = evaluate(gguf, str(place / "text.txt"), [gguf], SMALL).files
    assert file.backend == "llama.cpp"
    assert abs(file.divergence.mean) < 1e-6


def test_scores_are_those_of_transformers_and_llama_cpp(place):
    """Their logits, scored by torch in float64."""
    from transformers import AutoModelForCausalLM

    made = run(place, "model-q4_k_m.gguf", exact=True, tokens=64)
    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    windows = [np.array(row) for row in tokens_of(place)]
    losses, divergences = [], []
    for tokens in windows:
        p = torch.from_numpy(torch_logits(model, tokens.tolist())[16:-1]).double().log_softmax(1)
        own = llama_logits(place / "model-q4_k_m.gguf", tokens.tolist())[16:-1]
        q = torch.from_numpy(own).double().log_softmax(1)
        true = torch.from_numpy(tokens[17:].astype(np.int64))
        losses.append(torch.nn.functional.nll_loss(q, true, reduction="none"))
        divergences.append(
            torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
        )
    (file,) = made.files
    assert file.perplexity == pytest.approx(float(torch.stack(losses).mean().exp()), rel=0.01)
    assert file.divergence.mean == pytest.approx(float(torch.stack(divergences).mean()), rel=0.01)


def tokens_of(place):
    from qconvert.checkpoint import open_checkpoint
    from qconvert.text.perplexity_windows import read_windows

    model = open_checkpoint(str(place / "model"))
    return read_windows(model, str(place / "text.txt"), 64, 32).tokens


def test_progress_counts_every_token_once(place, tmp_path, monkeypatch):
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path))
    files = [place / "model", place / "model-q8_0.gguf"]
    for runs, notes in ((3, 1), (2, 0)):
        watching = Watching()
        evaluate(str(place / "model"), str(place / "text.txt"), files, SMALL, watching)
        tokens = watching.total / runs
        assert tokens == int(tokens) > 0
        assert watching.done == watching.total
        assert len(watching.notes) == notes
        assert list(dict.fromkeys(watching.names))[-2:] == ["model", "model-q8_0.gguf"]


def test_blocks_are_most_of_a_models_work():
    watching = Watching()
    meter = Meter(watching, 4, 1000)
    meter.start("x")
    meter.block(1, 2)
    assert watching.done == 400
    meter.block(2, 2)
    meter.window(2)
    assert watching.done == 900
    meter.window(4)
    assert watching.done == 1000
    meter.start("y")
    meter.window(1)
    assert watching.done == 1250


def test_a_text_shorter_than_a_window_is_refused(place, tmp_path):
    (tmp_path / "short.txt").write_text("Rain.")
    with pytest.raises(CheckpointError, match=r"short\.txt is too short"):
        evaluate(str(place / "model"), str(tmp_path / "short.txt"), [place / "model"], SMALL)


def test_another_tokenizer_is_refused_by_name(place, tmp_path):
    other = save_speaking_model(tmp_path / "other", before=None, wide=True, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"other: its tokenizer is not the reference's"):
        run(place, str(other))
    smaller = tmp_path / "smaller"
    shutil.copytree(place / "model", smaller)
    config = json.loads((smaller / "config.json").read_text())
    (smaller / "config.json").write_text(json.dumps(config | {"vocab_size": VOCABULARY - 1}))
    with pytest.raises(CheckpointError, match="smaller"):
        run(place, str(smaller))


def test_files_that_do_not_load_are_named(place, tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes((place / "model-q8_0.gguf").read_bytes()[:300_000])
    with pytest.raises(CheckpointError, match=r"torn\.gguf"):
        run(place, str(torn))
    with pytest.raises(CheckpointError, match=r"nowhere\.gguf"):
        run(place, "nowhere.gguf")
    with pytest.raises(UsageError, match="no file"):
        run(place)


def test_logits_that_are_no_numbers_are_named_and_nothing_is_kept(place, tmp_path, monkeypatch):
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "broken"
    shutil.copytree(place / "model", broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], np.nan)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match="broken"):
        evaluate(str(broken), str(place / "text.txt"), [place / "model"], SMALL)
    assert list((tmp_path / "cache" / "references").iterdir()) == []
    with pytest.raises(WeightError, match="broken"):
        run(place, "model", str(broken))


class Touching(Watching):
    """Somebody writes to a file while it is evaluated."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path / "model.safetensors" if path.is_dir() else path

    def advance(self, weights, tensor):
        is_model = self.file.parent.name == "model" and tensor == "the reference"
        if is_model or tensor in (self.file.name, self.file.parent.name):
            stat = self.file.stat()
            os.utime(self.file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("name", "backend"),
    [("model", "torch"), ("other", "transformers"), ("x.gguf", "llama.cpp"), ("x.gguf", "torch")],
)
def test_what_changes_while_it_is_evaluated_is_refused(place, tmp_path, name, backend, monkeypatch):
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copytree(place / "model", tmp_path / "other")
    shutil.copy(place / "model-q8_0.gguf", tmp_path / "x.gguf")
    choices = Choices(**{**vars(SMALL), "backend": backend})
    original, text = str(tmp_path / "model"), str(place / "text.txt")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        evaluate(original, text, [tmp_path / name], choices, Touching(tmp_path / name))
    kept = list((tmp_path / "cache").rglob("*.zip"))
    assert len(kept) == (name != "model")
