"""A smaller model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.types import SILENT, Size, Where, bytes_of, opened, put_on_hub, run_of, to_hub
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.run.pruning.types import Pruned


def prune(
    model: Where,
    calibration: Where,
    output: Where | None = None,
    *,
    layers: int | None = None,
    ffn: int | None = None,
    heads: int | None = None,
    hidden: int | None = None,
    experts: int | None = None,
    to: int | str | None = None,
    under: Size | None = None,
    type: str | None = None,
    sparsity: float | str | None = None,
    multiple: int = 256,
    tokens: int = 4096,
    max_shard_size: Size | None = None,
    adapter: Where | None = None,
    device: str = "auto",
    threads: int | None = None,
    push: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    force: bool = False,
    watcher: Watcher = SILENT,
) -> "Pruned":
    """Make a model smaller by leaving out what matters least.

    Args:
        calibration: what `calibrate` wrote.
        output: a new directory; by default NAME-pruned in this one.
        layers, ffn, heads, hidden, experts: what shall be left of each.
        to: parameters that shall be left, a number or "6B".
        under: bytes that a file of `type` may have.
        sparsity: set weights to zero instead: 0.5 or "2:4".
        multiple: sizes stay multiples of this, where they are.
        tokens: of the calibration, to try cuts on.
        push: a repository of the hub that gets it too; `public` if it is made for that.
        dry_run: only say what it would be.

    Raises:
        UsageError: sizes or options do not fit.
        UnsupportedError: the model, or a part of it, cannot be cut.
        PlanError: the calibration is another model's or too short, or a budget cannot be met.
        OutputError: it cannot be written, or something is there.
    """
    from qconvert.plan.recipe import model_name
    from qconvert.run.pruning.prune import prune as run
    from qconvert.run.pruning.types import Wanted, check_wanted, parse_count

    place, repo = to_hub(output, push, public)
    wanted = Wanted(
        layers,
        ffn,
        heads,
        hidden,
        experts,
        parse_count(to) if isinstance(to, str) else to,
        bytes_of(under, "under"),
        type,
        None if sparsity is None else str(sparsity),
        multiple,
        tokens,
        bytes_of(max_shard_size, "max_shard_size"),
    )
    check_wanted(wanted)
    checkpoint = opened(model, watcher, adapter)
    path = Path(place or f"{model_name(checkpoint.source)}-pruned")
    how = replace(run_of(threads, watcher, device, dry=dry_run), force=force)
    made = run(checkpoint, Path(calibration), path, wanted, how)
    if made.files:
        put_on_hub(repo, [made.files], [made.path], str(model), watcher, public=public)
    return made
