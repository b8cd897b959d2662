"""A result lands where the user said, and on nobody's work."""

import os

import pytest

from edge.driving.outputs import claim
from edge.errors import InputError


def at(path, **kinds):
    return claim(path, suffixes=[".mp4"], ours=lambda found: b"ours" in found.read_bytes(), **kinds)


def test_new_and_our_own_files_are_written(tmp_path):
    assert at(tmp_path / "new.mp4") == (tmp_path / "new.mp4").resolve()
    (tmp_path / "old.MP4").write_bytes(b"ours")
    assert at(tmp_path / "old.MP4")


def test_somebodys_file_is_kept(tmp_path):
    path = tmp_path / "holiday.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="was not made by superface"):
        at(path)
    assert at(path, force=True) == path.resolve()


def test_an_input_is_never_an_output(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"ours")
    (tmp_path / "other.mp4").symlink_to(path)
    os.link(path, tmp_path / "hard.mp4")
    for name in ("clip.mp4", "other.mp4", "hard.mp4"):
        with pytest.raises(InputError, match="is what is read from"):
            at(tmp_path / name, inputs=[None, path], force=True)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real" / "x.mp4")
    assert at(tmp_path / "link.mp4") == (tmp_path / "real" / "x.mp4").resolve()


def test_what_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    cases = {
        "folder.mp4": "is a folder",
        "none/x.mp4": "does not exist",
        "x.gif": "has an ending",
        "pipe.mp4": "no plain file",
    }
    for name, sentence in cases.items():
        with pytest.raises(InputError, match=sentence):
            at(tmp_path / name)
