"""The plan of a Hugging Face directory made of a GGUF file.

    config.json, generation_config.json         from the metadata
    tokenizer.json and its companions           from the `tokenizer.*` keys
    model.safetensors, or shards and an index   streamed, slab by slab
    README.md                                   where it comes from

Everything small is made before a weight is read, so what cannot work is said at once.
"""

from collections import Counter
from collections.abc import Sequence

from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.model_card import model_card
from qconvert.containers.target import Slot
from qconvert.errors import UsageError
from qconvert.model.directory_files import directory_files, special_ids
from qconvert.model.open import NO_TOKENIZER
from qconvert.model.reverse import Description, describe
from qconvert.model.tokenizers.stored import Stored, read_stored
from qconvert.model.types import TensorMap
from qconvert.plan.blocks import Blocks
from qconvert.plan.changes import larger, rounded
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.config import DTYPES
from qconvert.plan.safetensors.directory import directory_plan
from qconvert.plan.safetensors.notices import NO_POOLER
from qconvert.plan.types import Plan, TensorPlan

AUTO = "auto"


def make_export_plan(checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """Decide what the directory will hold.

    Args:
        checkpoint: an opened GGUF file.
        recipe: its type is "f32", "f16" or "bf16" for all tensors; "auto" keeps each tensor's own
            float type and makes quantized ones F32, the only type that holds their weights
            exactly.

    Raises:
        UnsupportedError: a family or tokenizer that cannot be written.
        CheckpointError: metadata that cannot be trusted.
        PlanError: tensors do not fit the metadata.
        UsageError: another dtype.
    """
    description = describe(checkpoint)
    tensors = tuple(_plan_tensor(checkpoint, map_, recipe.type) for map_ in description.tensors)
    stored = read_stored(checkpoint.metadata, description.config["vocab_size"])
    identity = fingerprint(checkpoint)
    notices = _notices(checkpoint, description, tensors, stored)
    family = description.family

    def files(plan: Plan) -> dict[str, bytes]:
        torch_dtype = DTYPES[next(iter(plan.formats))]
        config = {
            **description.config,
            **special_ids(stored, description.config),
            "torch_dtype": torch_dtype,
        }
        types = Counter(info.dtype for info in checkpoint.tensors.values())
        facts = {
            "Source": checkpoint.source,
            "Fingerprint": identity,
            "Class": config["architectures"][0],
            "Parameters": f"{plan.parameters:,}",
            "Stored as": ", ".join(f"{count} {name}" for name, count in types.most_common()),
            "Written as": ", ".join(f"{count} {name}" for name, count in plan.formats.items()),
        }
        task = "feature-extraction" if family.encoder else "text-generation"
        return {
            **directory_files(checkpoint.metadata, config, family.name, stored),
            "README.md": model_card(checkpoint.metadata, facts, notices, task).encode(),
        }

    made_by = {"qconvert.source.fingerprint": identity}
    return directory_plan(checkpoint, recipe, tensors, made_by, notices, files)


def _notices(
    checkpoint: Checkpoint,
    description: Description,
    tensors: Sequence[TensorPlan],
    stored: Stored | None,
) -> tuple[str, ...]:
    notices = [*description.notices, *_lost(checkpoint), *rounded(tensors)]
    notices += larger(tensors, checkpoint.tensors)
    if description.family.unstored:
        notices.append(NO_POOLER)
    if stored is None:
        notices.append(NO_TOKENIZER)
    else:
        notices += stored.notices
    return tuple(notices)


def _plan_tensor(checkpoint: Checkpoint, map_: TensorMap, dtype: str) -> TensorPlan:
    stored = [checkpoint.tensors[part.source].dtype for part in map_.parts]
    wanted = dtype.upper()
    if dtype == AUTO:
        wanted = stored[0] if len(set(stored)) == 1 and stored[0] in DTYPES else "F32"
    if wanted not in DTYPES:
        raise UsageError(f"{dtype!r} is no dtype", "choose auto, f32, f16 or bf16")
    slot = Slot(map_.name, map_.shape, wanted, map_.elements * PLAIN[wanted])
    coding = Blocks(map_.name, wanted, map_.rows)
    return TensorPlan(map_.name, map_.shape, stored[0], map_, (slot,), coding, wanted, wanted)


def _lost(checkpoint: Checkpoint) -> list[str]:
    types = Counter(info.dtype for info in checkpoint.tensors.values())
    quantized = sorted(set(types) - {*DTYPES, "F64"})
    if not quantized:
        return []
    return [f"the source is quantized ({', '.join(quantized)}): what it lost stays lost"]
