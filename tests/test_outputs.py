"""Files that commands write: known to be writable, there only when complete."""

import os
from pathlib import Path

import pytest

from tritoninit.outputs import UsageError, replacing, shown, writable


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_on_one_line():
    assert shown("a b") == "a b"
    assert shown(Path("a")) == "a"
    assert shown("a\nb") == "'a\\nb'"
    assert shown("") == "''"


class TestWritable:
    def test_none_asked_for(self):
        assert writable(None) is None

    def test_leaves_nothing_and_changes_nothing(self, folder):
        assert writable("new") == folder.resolve() / "new"
        Path("old").write_text("older")
        assert writable(Path("old")) == folder.resolve() / "old"
        assert Path("old").read_text() == "older"
        assert sorted(os.listdir()) == ["old"]

    def test_a_link_is_followed(self, folder):
        (folder / "link").symlink_to("real")
        assert writable("link") == folder.resolve() / "real"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (".", r"\. is not a file"),
            ("", "'' is not a file"),
            ("/dev/null", "/dev/null is not a file"),
            ("no/where", "cannot write no/where: No such file or directory"),
            ("w" * 300, "cannot write w+: File name too long"),
            ("a\nb/c", r"cannot write 'a\\nb/c': No such file"),
            ("a\0b", r"cannot write 'a\\x00b': "),
        ],
    )
    def test_what_cannot_be_written(self, name, message):
        with pytest.raises(UsageError, match=message):
            writable(name)
        assert os.listdir() == []

    @pytest.mark.parametrize("name", ["loop", "loop/inner", "there"])
    def test_links_in_a_circle(self, folder, name):
        (folder / "loop").symlink_to("loop")
        (folder / "there").symlink_to("back")
        (folder / "back").symlink_to("there")
        with pytest.raises(UsageError, match=f"cannot write {name}: "):
            writable(name)
        assert sorted(os.listdir()) == ["back", "loop", "there"]


class TestReplacing:
    def test_takes_the_place_when_complete(self, folder):
        path = folder / "file"
        path.write_text("older")
        with replacing(path) as temporary:
            temporary.write_text("newer")
            assert path.read_text() == "older"
            assert temporary.parent == folder
        assert path.read_text() == "newer"
        assert os.listdir() == ["file"]

    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
    def test_never_if_it_fails(self, folder, error):
        path = folder / "file"
        path.write_text("older")
        with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012 - half a file comes first
            temporary.write_text("half")
            raise error
        assert path.read_text() == "older"
        assert os.listdir() == ["file"]
