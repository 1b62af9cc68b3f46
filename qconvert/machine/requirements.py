"""Whether what a package says it needs is installed, in the versions that it wants: read from what
pip has written down, without importing anything."""

import importlib.metadata

from packaging.requirements import InvalidRequirement, Requirement


def unmet(name: str) -> str:
    """The first requirement that is not met, in words; empty where all are, or nothing is known.

    Args:
        name: of the package, as one installs it.
    """
    try:
        listed = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((fault for text in listed if (fault := _fault(text))), "")


def _fault(text: str) -> str:
    try:
        wanted = Requirement(text)
    except InvalidRequirement:
        return ""
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return ""
    try:
        found = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"it needs {wanted.name}, which is not installed"
    if wanted.specifier.contains(found, prereleases=True):
        return ""
    return f"it needs {wanted.name}{wanted.specifier}, and {found} is installed"
