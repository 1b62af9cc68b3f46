"""JUnit XML, as CI systems read it."""

from pathlib import Path
from xml.etree import ElementTree as ET

from evaluations import evaluation, file_scores

from qconvert.evaluation.gates.gates import judge, make_gates
from qconvert.evaluation.gates.junit import to_junit


def test_every_file_and_gate_is_a_test_case():
    made = evaluation(file_scores("out/a.gguf", 0.01, 1.5), file_scores("b", float("nan")))
    verdicts = judge(made, make_gates(0.05, 0.02))
    root = ET.fromstring(to_junit([file.path for file in made.files], verdicts, 12.5))
    assert root.tag == "testsuites"
    (suite,) = root
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures")) == ("4", "2")
        assert (element.get("errors"), element.get("time")) == ("0", "12.500")
    assert [(case.get("classname"), case.get("name")) for case in suite] == [
        ("out/a.gguf", "max-kld"),
        ("out/a.gguf", "max-perplexity-increase"),
        ("b", "max-kld"),
        ("b", "max-perplexity-increase"),
    ]
    failed = [case for case in suite if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["max-perplexity-increase", "max-kld"]
    assert failed[0].find("failure").get("message") == "perplexity +50.00% is above 2.00% by 48.00%"
    assert failed[0].find("failure").text.startswith("out/a.gguf: perplexity")


def test_files_without_gates_pass():
    root = ET.fromstring(to_junit([Path("a"), Path("b")], (), 1))
    assert [case.get("classname") for case in root[0]] == ["a", "b"]
    assert root.get("failures") == "0"


def test_names_cannot_break_the_document():
    name = "a<b>&\"'\x00\x1b]]>é.gguf"
    made = evaluation(file_scores(name, 1.0))
    text = to_junit([Path(name)], judge(made, make_gates(0.1, None)), 1)
    case = ET.fromstring(text)[0][0]
    assert case.get("classname") == "a<b>&\"'\ufffd\ufffd]]>é.gguf"
