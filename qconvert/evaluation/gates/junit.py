"""Verdicts as JUnit XML, which CI systems show: a test case for each file and gate.

The elements and attributes are those that Jenkins, GitLab and GitHub's reporters have in common:
testsuites > testsuite(name, tests, failures, errors, skipped, time) > testcase(classname, name,
time) > failure(message, type).
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from qconvert.evaluation.gates.gates import Verdict, failures

SUITE = "qconvert evaluate"


def to_junit(files: Sequence[Path], verdicts: Sequence[Verdict], seconds: float) -> bytes:
    """The document.

    Args:
        files: all that were evaluated; one without a gate has a test case that passes.
        verdicts: of files at gates.
        seconds: that the evaluation took.
    """
    plain = [path for path in files if all(verdict.path != path for verdict in verdicts)]
    failed = failures(verdicts)
    counts = {
        "tests": str(len(verdicts) + len(plain)),
        "failures": str(len(failed)),
        "errors": "0",
        "time": f"{seconds:.3f}",
    }
    root = ET.Element("testsuites", {"name": SUITE} | counts)
    suite = ET.SubElement(root, "testsuite", {"name": SUITE, "skipped": "0"} | counts)
    for path in plain:
        _case(suite, path, "evaluate")
    for verdict in verdicts:
        case = _case(suite, verdict.path, verdict.gate)
        if verdict in failed:
            what = {"message": _clean(verdict.message), "type": verdict.gate}
            failure = ET.SubElement(case, "failure", what)
            failure.text = _clean(f"{verdict.path}: {verdict.message}")
        else:
            ET.SubElement(case, "system-out").text = _clean(verdict.message)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(suite: ET.Element, path: Path, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", {"classname": _clean(str(path)), "name": name, "time": "0"}
    )


def _clean(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
