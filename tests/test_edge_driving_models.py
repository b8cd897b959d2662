"""MediaPipe's model files: where they are looked for; the assembled landmark model agrees with the official one."""

import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge.driving import assembly as face_landmarker
from edge.driving import models
from edge.driving.models import ASSEMBLED_NAME, LANDMARKER, SEGMENTER, cache_folder, find_landmarker, find_segmenter
from edge.errors import InputError, MissingRuntimeError
from edge.topology import LANDMARKS, LEFT_IRIS_CENTRE, RIGHT_IRIS_CENTRE

SHARED = Path(__file__).parents[1].parent / "shared"

AGREEMENT = 0.02
"""Largest mean distance between the assembled and the official model, in inter-ocular distances."""


def quiet(line: str) -> None:
    """No progress lines."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, no variable set, no network."""
    monkeypatch.delenv("SUPERFACE_LANDMARKER", raising=False)
    monkeypatch.delenv("SUPERFACE_SEGMENTER", raising=False)
    monkeypatch.setenv("SUPERFACE_CACHE", str(tmp_path / "cache"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(models.urllib.request, "urlopen", refuse)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution\n")
    monkeypatch.setattr(models.subprocess, "run", lambda *args, **kwargs: failed)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def assembled() -> Path:
    """The assembled model, kept in the user's cache between runs."""
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    target = cache_folder() / ASSEMBLED_NAME
    if not (target.is_file() and models._is_whole(target)):
        try:
            content = face_landmarker.assemble(*models._from_wheel(models.DETECTOR, models.MESH))
        except models._Unavailable as error:
            pytest.skip(f"the package index cannot be reached: {error}")
        models._write(target, content)
    return target


def test_a_named_file_comes_first(offline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named, other = tmp_path / "a.task", tmp_path / "b.task"
    named.write_bytes(b"a")
    other.write_bytes(b"b")
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(other))
    assert find_landmarker(named) == named
    assert find_landmarker() == other
    with pytest.raises(InputError, match="given is no file"):
        find_landmarker(tmp_path / "missing.task")
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(tmp_path))
    with pytest.raises(InputError, match="SUPERFACE_LANDMARKER is no file"):
        find_landmarker()


def test_all_ways_are_listed_when_none_works(offline: Path) -> None:
    lines: list[str] = []
    with pytest.raises(MissingRuntimeError) as caught:
        find_landmarker(progress=lines.append)
    message = str(caught.value)
    for part in (str(offline), "no network", "no matching distribution", "SUPERFACE_LANDMARKER"):
        assert part in message
    assert any("Assembling" in line for line in lines)
    assert not list(offline.glob("*"))


def test_a_wrong_download_is_not_kept(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reply:
        def read(self, limit: int) -> bytes:
            return b"<html>log in to this network</html>"

        def __enter__(self) -> "Reply":
            return self

        def __exit__(self, *args: object) -> None: ...

    monkeypatch.setattr(models.urllib.request, "urlopen", lambda *a, **k: Reply())
    with pytest.raises(MissingRuntimeError, match="wrong sha256"):
        find_landmarker(progress=quiet)


def test_a_download_is_kept(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_download", lambda official: b"model")
    monkeypatch.setattr(models, "LANDMARKER", LANDMARKER._replace(sha256=models._sha256(b"model")))
    first = find_landmarker(progress=quiet)
    assert first == offline / LANDMARKER.name
    monkeypatch.setattr(models, "_download", None)
    assert find_landmarker(progress=quiet) == first


def test_a_damaged_cache_is_made_again(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline.mkdir()
    (offline / ASSEMBLED_NAME).write_bytes(b"PK half a zip")
    (offline / LANDMARKER.name).write_bytes(b"half a model")
    with pytest.raises(MissingRuntimeError, match="no way led to it"):
        find_landmarker(progress=quiet)


def test_an_assembled_model_is_checked_and_made_again(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_from_wheel", lambda *files: [file.path.encode() for file in files])
    monkeypatch.setattr(models, "assemble", lambda detector, mesh: b"assembled")
    first = find_landmarker(progress=quiet)
    assert first == offline / ASSEMBLED_NAME
    monkeypatch.setattr(models, "assemble", lambda detector, mesh: b"assembled anew")
    assert find_landmarker(progress=quiet).read_bytes() == b"assembled"
    first.write_bytes(b"assembleD")
    lines: list[str] = []
    assert find_landmarker(progress=lines.append).read_bytes() == b"assembled anew"
    assert "is not as it was written" in lines[0]


def test_a_cache_that_cannot_be_written_is_explained(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline.write_bytes(b"a file, no folder")
    monkeypatch.setattr(models, "_download", lambda official: b"model")
    with pytest.raises(MissingRuntimeError, match="SUPERFACE_CACHE"):
        find_landmarker(progress=quiet)


def test_the_segmenter_is_the_same_file_from_everywhere(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingRuntimeError, match="SUPERFACE_SEGMENTER"):
        find_segmenter(progress=quiet)
    monkeypatch.setattr(models, "SEGMENTER", SEGMENTER._replace(sha256=models._sha256(b"segmenter")))
    monkeypatch.setattr(models, "_from_wheel", lambda *files: [b"segmenter"])
    kept = find_segmenter(progress=quiet)
    assert kept == offline / SEGMENTER.name
    assert kept.read_bytes() == b"segmenter"
    kept.write_bytes(b"another")
    with pytest.raises(InputError, match="another file"):
        find_segmenter(kept)
    assert find_segmenter(progress=quiet).read_bytes() == b"segmenter"


def test_the_table_orders_all_values_once() -> None:
    table = face_landmarker._gather_table().reshape(LANDMARKS, 3)
    assert table.min() == 2  # the mesh's own x and y of point 0 give way to the lips'
    assert table.max() == 1404 + 160 + 142 + 142 + 10 + 10 + 2 - 1
    assert len(np.unique(table)) > LANDMARKS * 3 - 20  # irises share their two depths
    # Depth of the mesh is the mesh's own; finer points replace x and y only.
    assert (table[:468, 2] == np.arange(468) * 3 + 2).all()
    assert (table[468:, 0] >= 1404).all()


def test_the_assembled_file_is_a_stored_zip_of_two_networks(assembled: Path) -> None:
    with zipfile.ZipFile(assembled) as bundle:
        assert bundle.namelist() == ["face_detector.tflite", "face_landmarks_detector.tflite"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in bundle.infolist())
        assert bundle.read("face_landmarks_detector.tflite")[4:8] == b"TFL3"


def test_the_assembled_model_agrees_with_the_official_one(assembled: Path, portraits: dict[str, Path]) -> None:
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    from edge.driving.landmarks import Landmarker
    from edge.preprocess import load_image

    official = SHARED / "models" / "face_landmarker.task"
    if not official.is_file():
        pytest.skip("the official model file is not at hand")
    with Landmarker(official) as wanted, Landmarker(assembled) as got:
        for path in portraits.values():
            image = load_image(path)
            (expected,), (face,) = wanted.detect(image), got.detect(image)
            between_eyes = np.linalg.norm(expected[RIGHT_IRIS_CENTRE, :2] - expected[LEFT_IRIS_CENTRE, :2])
            apart = np.linalg.norm(face[:, :2] - expected[:, :2], axis=1) / between_eyes
            assert apart.mean() <= AGREEMENT
            assert np.abs(face[:, 2] - expected[:, 2]).mean() / between_eyes <= AGREEMENT


def test_mediapipe_stays_out_until_asked() -> None:
    code = "import edge.driving.landmarks, edge.driving.track, sys; sys.exit('mediapipe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
