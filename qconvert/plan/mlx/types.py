"""MLX's types: what `-t` accepts for directories that mlx-lm reads.

    mlx2 - mlx8              integers with a scale and a bias for each group
    mlx-mxfp4, mlx-mxfp8     small floats, a power of two for 32 weights
    mlx-nvfp4                float4, a float8 scale for 16 weights

The last three are the modes of these names in MLX.
"""

from dataclasses import dataclass
from typing import Any, Literal

from qconvert.errors import UsageError
from qconvert.formats.mlx.affine import GROUP_SIZES, Affine
from qconvert.formats.mlx.floats import BITS, GROUPS, Floats
from qconvert.formats.safetensors.types import ScaleDtype
from qconvert.formats.types import Format

AFFINE = ("mlx8", "mlx6", "mlx5", "mlx4", "mlx3", "mlx2")
FLOATS = ("mlx-mxfp8", "mlx-mxfp4", "mlx-nvfp4")
MLX = (*AFFINE, *FLOATS)

USUAL_GROUP = 64

Mode = Literal["affine", "mxfp4", "nvfp4", "mxfp8"]


@dataclass(frozen=True)
class Storage:
    """How MLX stores a weight.

    Attributes:
        name: the type's.
        mode: as MLX calls it.
        bits: of one weight.
        group_size: weights of a row that share a scale.
    """

    name: str
    mode: Mode
    bits: int
    group_size: int

    def format(self, dtype: ScaleDtype, searched: bool) -> Format:
        """The format that stores it.

        Args:
            dtype: of the model.
            searched: look for better scales than MLX's own.
        """
        if self.mode == "affine":
            return Affine(self.bits, self.group_size, dtype, searched)
        return Floats(self.mode, dtype, searched)

    @property
    def setting(self) -> dict[str, Any]:
        """What `quantization` of config.json says of it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    @property
    def words(self) -> str:
        """As tables and notices have it: "mlx4", or "mlx4 in groups of 32"."""
        is_usual = self.mode != "affine" or self.group_size == USUAL_GROUP
        return self.name if is_usual else f"{self.name} in groups of {self.group_size}"


def make_storage(name: str, group_size: int | str | None = None) -> Storage:
    """The storage of a type.

    Args:
        name: one of MLX.
        group_size: of integers, 32, 64 or 128; None for the usual one.

    Raises:
        UsageError: MLX has no such groups.
    """
    if name in FLOATS:
        mode: Literal["mxfp4", "nvfp4", "mxfp8"]
        mode = next(mode for mode in GROUPS if name == f"mlx-{mode}")
        return Storage(name, mode, BITS[mode], GROUPS[mode])
    size = USUAL_GROUP if group_size is None else group_size
    if not isinstance(size, int) or size not in GROUP_SIZES:
        known = ", ".join(map(str, reversed(GROUP_SIZES)))
        raise UsageError(f"MLX has no groups of {size!r:.40}", f"known: {known}")
    return Storage(name, "affine", int(name.removeprefix("mlx")), size)
