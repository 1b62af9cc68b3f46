"""What a model loses where a tensor is quantized, for each of the formats that it may have.

The loss is how far what the model foretells diverges, in nats a token. Where the rows w_r of a
weight are off by e_r, x_t is its input, and g_tr is what the log likelihood of a window is derived
by its output (`qconvert.forward.gradients`), it is to second order

    1/2 sum over r of E (e_r . G_r)^2      G_r = sum over t of g_tr x_t, of a window

where errors of different rows count as independent. Those of different tokens do not: what inputs
have in common makes an error that attention adds up. Each token of the output projection has a draw
of its own, so that there the sum over t stands outside of the square.

Scales are fitted to some windows, and errors weighed on others. Of each matrix some rows are
quantized. So one walk through the sample and one back tell it of all tensors and formats at once,
where a measurement would take one walk for each of them.

Sources: F. Kunstner et al., "Limitations of the empirical Fisher", arXiv 1905.12558 (the draw);
R. Grosse, R. Martens, "A Kronecker-factored approximate Fisher matrix", arXiv 1602.01407.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.algorithms.damping import factored
from qconvert.algorithms.guard import output_error
from qconvert.calibration.moments import Moments
from qconvert.containers.store import Store
from qconvert.formats.quantize import quantize
from qconvert.formats.types import Seen
from qconvert.forward.gradients import (
    Product,
    derive_at_head,
    embedding_factor,
    slopes_of_embedding,
    walk_back,
    walk_through,
)
from qconvert.forward.walk import Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.mapping import EMBEDDING
from qconvert.plan.algorithms import first_matrix, format_to_fit, gguf_name, is_elsewhere, order_of
from qconvert.plan.types import TensorPlan
from qconvert.run.executor import Executor, Threads
from qconvert.run.fitting import linear_algebra_on, peak_of, prepared, spread, with_lookups

ROWS = 128
"""Of each matrix, that are quantized."""

MATRICES = 4
"""Experts of which rows are quantized."""

THROUGH, HEAD = "through", "head"
"""What the store has when these parts are done; of blocks it has their losses."""

TINY = 1e-30

Candidates = Mapping[str, Sequence[TensorPlan]]
"""By name of a tensor, what it may become."""

Losses = dict[str, list[float]]
"""By the same names, in nats a token, of each candidate."""


@dataclass
class Observed:
    """What was seen of a block's products.

    Attributes:
        shown: inputs of the windows that scales are fitted to, weighted by gradients.
        gradients: by weight and matrix, of each of the other windows G, [ROWS, columns].
    """

    shown: Moments = field(default_factory=Moments)
    gradients: dict[tuple[str, int], list[Any]] = field(default_factory=dict)

    def add(self, product: Product, shown: int) -> None:
        """Args:
        product: of one window.
        shown: so many windows come first.
        """
        if not product.slopes or not len(product.x):
            return
        if product.start >= shown:
            for name, slopes in product.slopes.items():
                rows = spread(slopes.shape[1], ROWS)
                made = slopes[:, rows].float().T @ product.x.float()
                self.gradients.setdefault((name, product.matrix), []).append(made)
            return
        _observe_weighted(self.shown, product)

    def forget(self) -> None:
        """Begin with another block."""
        self.shown = Moments()
        self.gradients.clear()


@dataclass
class AtHead:
    """What was seen of the output projection.

    Attributes:
        shown, unseen: its inputs.
        slopes: the sum over tokens of each row's squared gradient, [rows].
    """

    shown: Moments = field(default_factory=Moments)
    unseen: Moments = field(default_factory=Moments)
    slopes: Any = 0

    def add(self, product: Product, shown: int) -> None:
        (square,) = (slopes.float().square() for slopes in product.slopes.values())
        self.slopes = self.slopes + square.sum(dim=0).cpu().double()
        _observe_weighted(self.shown if product.start < shown else self.unseen, product)


def _observe_weighted(moments: Moments, product: Product) -> None:
    """Inputs, each token weighted by the size of its gradient."""
    size = sum(s.float().square().sum(dim=1, keepdim=True) for s in product.slopes.values())
    weight = (size / (size.mean() + TINY)).sqrt()
    moments.observe(product.names, (product.x * weight).to(product.x.dtype), product.matrix)


def measure_losses(
    walk: Walk, candidates: Candidates, store: Store, watcher: Watcher, threads: int = 1
) -> Losses:
    """What each candidate loses; of tensors that the model's products say nothing of, nothing.

    Args:
        walk: that keeps its hidden states in the store's folder, in batches of one window, cut at
            the windows that errors are weighed on.
        store: of an identity that says the walk's and the candidates'.
        threads: rows that are quantized at once.

    Raises:
        UnsupportedError: the model has no output projection.
        WeightError: NaN or infinity comes out of a block.
    """
    tokens = walk.tokens.size
    if not walk.states.exist():
        store.clear()
    done = [index for index in range(len(walk)) if _mark(index) in store]
    behind = len(walk) * (THROUGH in store) + 2 * len(done)
    watcher.begin(3 * len(walk) * tokens, behind * tokens)

    def advance(windows: int) -> None:
        watcher.advance(windows * walk.tokens.shape[1], "through the model")

    if THROUGH not in store:
        walk_through(walk, advance)
        store.put(THROUGH, {})
    with Threads(threads) as executor:
        bench = _Bench(walk, executor, _by_weight(candidates))
        if HEAD not in store:
            head = AtHead()
            derive_at_head(walk, lambda product: head.add(product, walk.cut))
            _keep(store, HEAD, bench.losses_at_head(head))
        seen = Observed()
        begin = min(done, default=len(walk)) - 1
        for block in walk_back(walk, begin, lambda product: seen.add(product, walk.cut)):
            _keep(store, _mark(block.index), bench.losses(seen, block.linears))
            seen.forget()
            watcher.advance(2 * tokens, f"back to block {block.index + 1}")
        losses: Losses = {}
        for entry in (HEAD, *map(_mark, range(len(walk)))):
            losses |= {name: array.tolist() for name, array in store.get(entry).items()}
        for name, looked_up in bench.losses_of_lookups().items():
            own = losses.get(name, [0.0] * len(looked_up))
            losses[name] = [a + b for a, b in zip(own, looked_up, strict=True)]
    return losses


def _mark(index: int) -> str:
    """What the store has when it has the losses of a block."""
    return f"block {index}"


def _keep(store: Store, mark: str, losses: Losses) -> None:
    store.put(mark, {name: np.array(each, np.float64) for name, each in losses.items()})


def _by_weight(candidates: Candidates) -> dict[str, dict[str, Sequence[TensorPlan]]]:
    """By the GGUF name of the weight that tensors are, or are a part of."""
    found: dict[str, dict[str, Sequence[TensorPlan]]] = {}
    for name, each in candidates.items():
        found.setdefault(gguf_name(each[0]), {})[name] = each
    return found


@dataclass(frozen=True)
class _Bench:
    """Where candidates are made.

    Attributes:
        by_weight: candidates, by the GGUF name of the weight and by their own.
    """

    walk: Walk
    executor: Executor
    by_weight: Mapping[str, Mapping[str, Sequence[TensorPlan]]]

    def losses(self, seen: Observed, weights: Iterable[str]) -> Losses:
        """Of the tensors of some weights in blocks."""
        return {
            name: self._of_tensor(seen, weight, each)
            for weight in weights
            for name, each in self.by_weight.get(weight, {}).items()
            if not is_elsewhere(each[0])
        }

    def _of_tensor(self, seen: Observed, weight: str, each: Sequence[TensorPlan]) -> list[float]:
        map_ = each[0].map
        height = map_.shape[-2]
        matrices = map_.rows // height
        chosen = range(0, matrices, -(-matrices // MATRICES))
        tokens = self.walk.tokens[self.walk.cut :].size
        total = np.zeros(len(each))
        for own in chosen:
            matrix = first_matrix(each[0]) + own
            gradients = seen.gradients.get((weight, matrix))
            about = seen.shown.of(weight, matrix)
            if not gradients or about is None:
                continue
            fitted = factored(about)
            rows = spread(height, ROWS)  # of transformers'; a tensor may have another order
            places = _places(order_of(each[0]), rows)
            x = prepared(self.walk.model.checkpoint, each[0], own * height, (own + 1) * height)
            offs = self._offs(each, x[places], own * height, fitted)
            by_window = np.stack([made.cpu().numpy() for made in gradients])
            products = np.einsum("krc,wrc->kwr", offs, by_window, optimize=True)
            share = height / len(rows)
            total += np.square(products, dtype=np.float64).sum(axis=(1, 2)) * share
        return list(total * matrices / len(chosen) / (2 * tokens))

    def losses_at_head(self, head: AtHead) -> Losses:
        """Of the output projection, or of the embedding that is its weight too."""
        name = self.walk.output_name
        pair = head.shown.of(name), head.unseen.of(name)
        slopes = head.slopes.cpu().numpy()
        found: Losses = {}
        for tensor_name, each in self.by_weight.get(name, {}).items():
            if pair[0] is None or pair[1] is None or pair[1].hessian is None:
                continue
            fitted = factored(with_lookups(pair[0]) if name == EMBEDDING else pair[0])
            offs = self._offs(each, self._rows(each[0], _by_weight_of(slopes)), 0, fitted)
            errors = [output_error(off, pair[1]) / len(off) for off in offs]
            found[tensor_name] = list(np.array(errors) * slopes.sum() / (2 * self.walk.tokens.size))
        return found

    def losses_of_lookups(self) -> Losses:
        """Of the token embedding, whose rows go into the first block."""
        slopes = sum(
            each.flatten(0, 1).float().square().sum(dim=0).cpu().double()
            for each in slopes_of_embedding(self.walk)
        )
        own = slopes.cpu().numpy() * embedding_factor(self.walk) ** 2 / self.walk.tokens.size
        used = np.sort(self.walk.tokens.reshape(-1))[:: max(self.walk.tokens.size // ROWS, 1)]
        found: Losses = {}
        for name, each in self.by_weight.get(EMBEDDING, {}).items():
            offs = self._offs(each, self._rows(each[0], used), 0, None)
            squares = np.square(offs, dtype=np.float64).mean(axis=1)
            found[name] = list(squares @ own / 2)
        return found

    def _rows(self, tensor: TensorPlan, rows: np.ndarray) -> np.ndarray:
        """Single rows of a table, float32 [rows, columns]."""
        checkpoint = self.walk.model.checkpoint
        made = [prepared(checkpoint, tensor, int(row), int(row) + 1) for row in rows]
        return np.concatenate(made)

    def _offs(
        self, each: Sequence[TensorPlan], x: np.ndarray, start: int, seen: Seen | None
    ) -> np.ndarray:
        """What rows of a matrix that begins at `start` are off by, of each candidate: float32
        [candidates, rows, columns]."""
        x = np.ascontiguousarray(x)

        def off(tensor: TensorPlan) -> np.ndarray:
            peak = peak_of(self.walk.model.checkpoint, tensor)
            format_ = format_to_fit(tensor) if tensor.algorithm else None
            if format_ is None or seen is None:
                return np.asarray(tensor.coding.read_back(x, start, peak) - x)
            made = quantize(format_, x, seen, peak or None, ALGORITHMS[tensor.algorithm])
            return np.asarray(format_.dequantize(made) - x)

        with linear_algebra_on(1):
            return np.stack(list(self.executor.map(off, each)))


def _places(order: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """Where transformers' rows are in a tensor's matrix."""
    if not order:
        return rows
    size = len(order)
    return np.asarray(rows // size * size + np.argsort(order)[rows % size])


def _by_weight_of(slopes: np.ndarray) -> np.ndarray:
    """Rows, each as often as what it weighs: at even distances of the sum."""
    ends = np.cumsum(slopes)
    return np.asarray(np.searchsorted(ends, (np.arange(ROWS) + 0.5) / ROWS * ends[-1]))
