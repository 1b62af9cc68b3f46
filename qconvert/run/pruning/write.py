"""A smaller checkpoint on the disk, with what it costs in its card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.open import with_states
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.containers.model_card import model_card
from qconvert.containers.target import paths_of
from qconvert.containers.whole import write_whole
from qconvert.machine.watcher import Watcher
from qconvert.model.general import CARD, general_metadata
from qconvert.model.open import Model
from qconvert.model.tokenizers.export import json_bytes
from qconvert.model.types import TensorMap
from qconvert.plan.pruning.plan import Smaller, checkpoint_of
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.directory import directory_plan
from qconvert.plan.safetensors.files import small_files
from qconvert.plan.types import Plan
from qconvert.run.stream import Result, write_files
from qconvert.run.transform import plain_config

WRITTEN = "Made smaller by qconvert {version}: parts of the original are left out."


def plan_smaller(smaller: Smaller, recipe: Recipe, made_by: Mapping[str, str]) -> Plan:
    """The directory. Its card is written when it is known what the cut costs."""
    model = smaller.whole
    files = {
        **small_files(model.checkpoint.path),
        "config.json": json_bytes(plain_config(smaller.config)),
    }
    about = {"qconvert.source.fingerprint": model.fingerprint, **made_by}
    return directory_plan(model.checkpoint, recipe, smaller.tensors, about, (), lambda plan: files)


def write_smaller(
    smaller: Smaller,
    plan: Plan,
    facts: Callable[[Checkpoint], Mapping[str, str]],
    threads: int,
    watcher: Watcher,
) -> Result:
    """Write the directory; it appears when it is complete and measured.

    Args:
        facts: what the card lists, of the finished weights.

    Raises:
        OutputError: something is there already, no room, or it cannot be written.
        WeightError: a weight is NaN or infinite.
    """
    with plan.target.making() as files:
        (result,) = write_files([(plan, files)], threads, watcher)
        tensors = {n: i for file in files for n, i in read_safetensors(file.path).items()}
        made = with_states(checkpoint_of(smaller, tensors))
        card = card_of(smaller.whole, smaller.maps, facts(made))
        write_whole(files[0].path.parent / CARD, card)
    return replace(result, paths=(*paths_of(plan.target), plan.target.path / CARD))


def card_of(
    model: Model, maps: Sequence[TensorMap], facts: Mapping[str, str], written: str = WRITTEN
) -> bytes:
    """The model card.

    Args:
        maps: the tensors that it has.
        written: the sentence that says how it came to be.
    """
    checkpoint = model.checkpoint
    metadata = general_metadata(checkpoint.path, checkpoint.source, model.family.name, maps)
    base = checkpoint.source.partition("@")[0].partition(":")[0]
    return model_card(
        metadata,
        facts,
        (),
        "text-generation",
        written=written,
        base=base,
        relation="finetune",
    ).encode()
