"""Devices by the names that options have for them."""

from typing import TYPE_CHECKING

from qconvert.containers.sizes import human_bytes, parse_size
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from qconvert.machine.devices import Device

CONTEXT = 4096
"""Tokens whose keys and values have to fit beside the weights, where the model takes as many."""


def find_device(name: str) -> "Device":
    """The device of that name, in any case.

    Raises:
        UsageError: there is none.
    """
    from qconvert.machine.devices import DEVICES

    found = DEVICES.get(name.lower())
    if found is None:
        raise UsageError(f"--for {name!r:.40} is no device", f"choose {', '.join(DEVICES)}")
    return found


def size_or_device(text: str | None, option: str, model: str) -> int | None:
    """Bytes of '5G', or what a file of a model may have on a device, beside the keys and values of
    CONTEXT tokens.

    Raises:
        UsageError: it is neither, or not even those fit the device.
        Also what opening the model raises.
    """
    from qconvert.machine.devices import DEVICES, machine_of

    if text is None or text.lower() not in DEVICES:
        return parse_size(text, option)
    from qconvert.checkpoint.open import locate, open_path
    from qconvert.machine.advice import room_for_files
    from qconvert.model.open import open_model
    from qconvert.model.shapes import cache_bytes

    opened = open_model(open_path(*locate(model, headers_only=True)))
    cache = cache_bytes(opened.architecture, opened.metadata, CONTEXT)
    room = room_for_files(machine_of(find_device(text)), cache)
    if room < 1000:
        raise UsageError(
            f"{option} {text}: the keys and values of {CONTEXT} tokens alone take "
            f"{human_bytes(cache)}",
            "take a smaller model",
        )
    return room // 1000 * 1000
