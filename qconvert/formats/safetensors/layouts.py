"""The layouts of compressed-tensors, and GPTQ's and AWQ's, by the names that a config.json has for
them; "plain" is that of a checkpoint which is not quantized."""

from qconvert.errors import UnsupportedError
from qconvert.formats.safetensors.fp4 import Fp4
from qconvert.formats.safetensors.fp8 import Fp8
from qconvert.formats.safetensors.integers import Integers
from qconvert.formats.safetensors.palette import Palette
from qconvert.formats.safetensors.turned import Turned
from qconvert.formats.safetensors.types import Estimator, ScaleDtype, WeightFormat
from qconvert.formats.types import Format

LAYOUTS: dict[str, type[Integers] | type[Fp8] | type[Fp4] | type[Turned] | type[Palette]] = {
    "int-quantized": Integers,
    "pack-quantized": Integers,
    "float-quantized": Fp8,
    "nvfp4-pack-quantized": Fp4,
    "mxfp4-pack-quantized": Fp4,
    "gptq": Turned,
    "awq": Turned,
    "plain": Palette,
}


def format_of(
    form: WeightFormat, estimator: Estimator | None = None, scale_dtype: ScaleDtype = "F32"
) -> Format:
    """The format that stores weights as `form` says.

    Args:
        estimator: of the scales that `fit` chooses; the default one if None.
        scale_dtype: of scales, where the layout leaves it open.

    Raises:
        UnsupportedError: the layout has no such format, or is not known.
    """
    if form.layout not in LAYOUTS:
        raise UnsupportedError(f"layout {form.layout} is not known", f"known: {', '.join(LAYOUTS)}")
    return LAYOUTS[form.layout](form, estimator or Estimator(), scale_dtype)
