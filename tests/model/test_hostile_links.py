"""No small file is followed out of a checkpoint, and none that is no file is waited for."""

import os
from pathlib import Path

import pytest
from speaking_models import save_speaking_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe

SMALL = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "chat_template.json", "chat_template.jinja"),
    *("additional_chat_templates/tools.jinja", "modules.json", "tokenizer.model"),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_speaking_model(tmp_path / "m")


def refusal(model: Path, type_: str, out: Path) -> str:
    """What stops a plan; else nothing of the secret is in what would be written."""
    try:
        made = make_plan(open_model(open_checkpoint(str(model))), Recipe(type_, output=out))
    except CheckpointError as error:
        return error.message
    written = [*made.target.small_files.values(), *(f.header() for f in made.target.weight_files)]
    assert not any(b"HUSH" in data for data in written)
    return ""


def put(path: Path, name: str, make) -> Path:
    place = path / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    make(place)
    return place


@pytest.mark.parametrize("type_", ["q8_0", "w8a16"])
@pytest.mark.parametrize("name", SMALL)
def test_a_link_out_of_the_checkpoint_is_never_read(
    model: Path, name: str, type_: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    original = model / name
    secret.write_bytes(original.read_bytes() if original.is_file() else b'{"a": "HUSH"}')
    put(model, name, lambda place: place.symlink_to(secret))
    message = refusal(model, type_, tmp_path / "out")
    # Not every kind of output has a place for every file: then it is not read at all.
    assert "outside its directory" in message or not message
    assert message or name not in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", ""])
def test_nor_is_one_in_a_modules_folder(model: Path, name: str, tmp_path: Path) -> None:
    """Those are copied as they stand, and one of them is called as the model's own settings."""
    (model / "modules.json").write_text('[{"type": "x.Pooling", "path": "1_Pooling"}]')
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for file in ("config.json", "model.safetensors"):
        (secrets / file).write_text('{"a": "HUSH"}')
    if name:
        put(model, f"1_Pooling/{name}", lambda place: place.symlink_to(secrets / name))
    else:
        (model / "1_Pooling").symlink_to(secrets)
    assert "outside its directory" in refusal(model, "w8a16", tmp_path / "out")


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/a.jinja"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(model: Path, name: str, kind: str) -> None:
    def make(place: Path) -> None:
        os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/zero")

    put(model, name, make)
    message = refusal(model, "q8_0", model.with_name("out"))
    assert "not a regular file" in message or not message


def test_links_inside_a_hubs_cache_are_what_they_are_for(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--org--name"
    snapshot, blobs = home / "snapshots" / ("0" * 40), home / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in model.iterdir() if p.is_file())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    assert not refusal(snapshot, "q8_0", tmp_path / "out")
