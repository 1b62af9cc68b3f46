"""What clustered weights would weigh as codes and tables, as engines that look up store them."""

from collections.abc import Iterable

from qconvert.plan.safetensors.tensors import Quantized
from qconvert.plan.types import Plan, TensorPlan


def is_clustered(tensor: TensorPlan) -> bool:
    """Whether a weight stays in its place, with few distinct values."""
    return isinstance(tensor.coding, Quantized) and tensor.coding.scheme.is_plain


def packed_bytes(tensors: Iterable[TensorPlan]) -> int:
    """Bytes of weights, were those that are clustered stored as codes and tables."""
    return sum(map(_packed, tensors))


def _packed(tensor: TensorPlan) -> int:
    coding = tensor.coding
    if not isinstance(coding, Quantized) or not is_clustered(tensor):
        return tensor.nbytes
    bits, weights = coding.scheme.weights.bits, tensor.map.elements
    tables = -(-coding.shape[0] // coding.row_step)
    return -(-weights * bits // 8) + (tables << bits) * (tensor.nbytes // weights)


def facts(plan: Plan) -> dict[str, str]:
    """What the model card says of it; empty where nothing is clustered."""
    found = {t.coding.scheme for t in plan.tensors if isinstance(t.coding, Quantized)}
    forms = [scheme.weights for scheme in found if scheme.is_plain]
    if not forms:
        return {}
    most = 1 << max(form.bits for form in forms)
    where = "each tensor" if {form.strategy for form in forms} == {"tensor"} else "a group of rows"
    return {
        "Distinct values": f"at most {most} in {where}",
        "Bytes as codes and tables": f"{packed_bytes(plan.tensors):,}",
    }
