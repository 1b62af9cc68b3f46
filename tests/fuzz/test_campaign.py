"""The campaign in small: `make fuzz` runs the long one."""

from pathlib import Path

from fuzz.campaign import Reader, attack, run
from fuzz.mutations import of_bytes, of_json


def test_2000_damaged_files_give_an_error_or_are_read(tmp_path: Path) -> None:
    tallies = run(2000, tmp_path)
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    assert not faults, "\n".join(faults)
    assert sum(tally.read + tally.refused for tally in tallies.values()) > 1900
    assert sum(tally.read for tally in tallies.values()) > 400
    assert sum(tally.refused for tally in tallies.values()) > 400


def test_what_it_is_to_find_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": {"b": 1}, "c": [1, 2]}')
    sound = path.read_bytes()

    def crash() -> None:
        if path.read_bytes() != sound:
            raise TypeError("no")

    held: list[bytearray] = []

    def eat() -> None:
        if path.read_bytes() != sound:
            held.append(bytearray(b"\1" * (500 << 20)))
            held.clear()

    assert len(attack(Reader("x", path, of_bytes, crash), 10).faults) == 10
    assert attack(Reader("x", path, of_json, eat), 1).faults
    assert path.read_bytes() == sound
    assert not attack(Reader("x", path, of_json, lambda: None), 10).faults
