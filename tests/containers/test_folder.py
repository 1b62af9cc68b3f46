"""The folder of work that is not complete."""

import pytest

from qconvert.containers.folder import begin_anew, is_of, open_folder, work_folder
from qconvert.errors import OutputError


def test_a_folder_of_the_same_is_taken_up_and_another_is_emptied(tmp_path):
    path = tmp_path / "out"
    with open_folder(path) as folder:
        assert not is_of(folder, "one")
        begin_anew(folder, "one")
        (folder / "made").write_bytes(b"1")
        (folder / "kept").write_bytes(b"2")
    with open_folder(path) as folder:
        assert is_of(folder, "one")
        assert not is_of(folder, "two")
        begin_anew(folder, "two", keep=("kept",))
        assert sorted(entry.name for entry in folder.iterdir()) == ["identity", "kept", "lock"]
        assert is_of(folder, "two")


def test_an_identity_that_cannot_be_read_is_no_identity(tmp_path):
    with open_folder(tmp_path / "out") as folder:
        (folder / "identity").write_bytes(b"\xff\xfe")
        assert not is_of(folder, "one")


def test_what_comes_to_nothing_leaves_nothing(tmp_path):
    with open_folder(tmp_path / "out") as folder:
        begin_anew(folder, "one")
    assert not list(tmp_path.iterdir())
    (tmp_path / "no").touch()
    with pytest.raises(OutputError, match="no directory"), open_folder(tmp_path / "no" / "out"):
        pass


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    path = tmp_path / "out"
    with (
        open_folder(path),
        pytest.raises(OutputError, match="another run is writing"),
        open_folder(path),
    ):
        pass
    assert not work_folder(path).exists()
