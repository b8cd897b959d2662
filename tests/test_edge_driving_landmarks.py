"""Portraits: found, chosen, refused with a sentence."""

import builtins
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edge.driving.landmarks import Landmarker, _doubts, read_portrait, yaw_deg
from edge.errors import InputError, MissingRuntimeError
from edge.preprocess import face_height, from_crop, load_image
from edge.spec import CROP
from edge.topology import (
    CHIN,
    LANDMARKS,
    LEFT_IRIS_CENTRE,
    LEFT_MOUTH_CORNER,
    NOSE_TIP,
    RIGHT_IRIS_CENTRE,
    RIGHT_MOUTH_CORNER,
)

CHEEK = 50

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="module")
def landmarker(landmark_model: Path) -> Iterator[Landmarker]:
    with Landmarker(landmark_model) as finder:
        yield finder


@pytest.fixture(scope="module")
def astronaut(portraits: dict[str, Path]) -> Image.Image:
    """512 × 512 pixels, the face about 105 high near (224, 110)."""
    return Image.open(portraits["astronaut"]).convert("RGB")


@pytest.mark.parametrize("name", ["grace_hopper", "astronaut"])
def test_a_portrait(landmarker: Landmarker, portraits: dict[str, Path], name: str) -> None:
    portrait = read_portrait(portraits[name], landmarker=landmarker)
    assert portrait.name == name
    assert portrait.image.shape == (CROP, CROP, 3)
    assert portrait.image.dtype == np.uint8
    assert portrait.landmarks.shape == (LANDMARKS, 3)
    assert portrait.landmarks.dtype == np.float32
    assert np.abs(portrait.landmarks[:, :2]).max() < 1
    assert portrait.landmarks[RIGHT_IRIS_CENTRE, 0] < portrait.landmarks[LEFT_IRIS_CENTRE, 0]
    assert portrait.landmarks[NOSE_TIP, 2] < portrait.landmarks[CHIN, 2]
    assert abs(yaw_deg(portrait.landmarks)) < 10
    # The same place in the photo as a plain look at the whole of it.
    (face,) = landmarker.detect(load_image(portraits[name]))
    apart = np.linalg.norm(from_crop(portrait.landmarks, portrait.crop) - face, axis=1)
    assert apart.mean() < 0.03 * face_height(face)


@pytest.mark.parametrize("name", ["grace_hopper", "astronaut"])
def test_a_good_photo_raises_no_doubt(landmarker: Landmarker, portraits: dict[str, Path], name: str) -> None:
    assert read_portrait(portraits[name], landmarker=landmarker, strict=True).doubts == ()


DOUBTS = {
    "dark": ("very dark", lambda photo: photo.point(lambda v: 0.06 * v)),
    "blurred": ("blurred", lambda photo: photo.filter(ImageFilter.GaussianBlur(6))),
    "cut": ("made up", lambda photo: photo.crop((154, 12, 369, 312))),
}


@pytest.mark.parametrize("how", DOUBTS)
def test_what_no_good_avatar_can_come_of_is_said(
    landmarker: Landmarker, portraits: dict[str, Path], tmp_path: Path, how: str
) -> None:
    sentence, change = DOUBTS[how]
    change(Image.open(portraits["grace_hopper"]).convert("RGB")).save(tmp_path / "a.png")
    portrait = read_portrait(tmp_path / "a.png", landmarker=landmarker)
    assert any(sentence in doubt for doubt in portrait.doubts)
    assert set(portrait.doubts) <= set(portrait.notes)
    with pytest.raises(InputError, match=sentence):
        read_portrait(tmp_path / "a.png", landmarker=landmarker, strict=True)


@pytest.mark.parametrize(("case", "sentence"), [("src_blink", "eyes look closed"), ("src_wide_open", "mouth is open")])
def test_closed_eyes_and_open_mouths_are_said(landmarker: Landmarker, case: str, sentence: str) -> None:
    photo = SHARED / "cases" / "media" / f"{case}.png"
    if not photo.exists():
        pytest.skip("the cases are not at hand")
    assert sentence in " ".join(read_portrait(photo, landmarker=landmarker).doubts)


def test_lids_painted_over_eyes_are_seen(landmarker: Landmarker, portraits: dict[str, Path], tmp_path: Path) -> None:
    """Landmarks guess open eyes behind a lid; brightness tells."""
    portrait = read_portrait(portraits["astronaut"], landmarker=landmarker)
    image, points = portrait.image.copy(), (portrait.landmarks[:, :2] + 1) * (CROP - 1) / 2
    y, x = np.mgrid[:CROP, :CROP]
    for iris in (RIGHT_IRIS_CENTRE, LEFT_IRIS_CENTRE):
        away = ((x - points[iris, 0]) / 24) ** 2 + ((y - points[iris, 1]) / 14) ** 2
        image[away < 1] = image[int(points[iris, 1]) + 30, int(points[iris, 0])]
    assert "eyes look closed" in " ".join(_doubts(image, portrait.landmarks))


@pytest.mark.parametrize("name", ["grace_hopper", "astronaut"])
def test_dark_glasses_are_seen(landmarker: Landmarker, portraits: dict[str, Path], name: str) -> None:
    """Landmarks guess eyes behind the lenses."""
    portrait = read_portrait(portraits[name], landmarker=landmarker)
    points = (portrait.landmarks[:, :2] + 1) * 255.5
    apart = np.linalg.norm(points[LEFT_IRIS_CENTRE] - points[RIGHT_IRIS_CENTRE])
    y, x = np.mgrid[:CROP, :CROP]
    image = portrait.image.astype(float)
    for iris in (RIGHT_IRIS_CENTRE, LEFT_IRIS_CENTRE):
        away = ((x - points[iris, 0]) / (0.45 * apart)) ** 2 + ((y - points[iris, 1]) / (0.36 * apart)) ** 2
        image[away < 1] = 0.15 * image[away < 1] + 8
    doubts = _doubts(image.astype(np.uint8), portrait.landmarks)
    assert "Dark glasses" in " ".join(doubts)


@pytest.mark.parametrize("name", ["grace_hopper", "astronaut"])
def test_a_palm_or_a_mask_over_the_mouth_is_seen(landmarker: Landmarker, portraits: dict[str, Path], name: str) -> None:
    """Landmarks guess lips behind a palm; the dark line between them is missing."""
    portrait = read_portrait(portraits[name], landmarker=landmarker)
    points = (portrait.landmarks[:, :2] + 1) * 255.5
    centre, reach = points[[13, 14]].mean(0), np.linalg.norm(points[LEFT_MOUTH_CORNER] - points[RIGHT_MOUTH_CORNER])
    y, x = np.mgrid[:CROP, :CROP]
    over = ((x - centre[0]) / reach) ** 2 + ((y - centre[1]) / (0.55 * reach)) ** 2 < 1
    skin = portrait.image[int(points[CHEEK, 1]), int(points[CHEEK, 0])]
    fingers = 1 + 0.1 * np.sin(2 * np.pi * x / (0.4 * reach))[..., None] * np.ones(3)
    folds = 1 + 0.06 * np.sin(2 * np.pi * y / (0.15 * reach))[..., None] * np.ones(3)
    for cover in (fingers * skin, folds * np.array([150, 190, 205])):
        image = np.where(over[..., None], np.clip(cover, 0, 255), portrait.image).astype(np.uint8)
        (found,) = landmarker.detect(image)
        doubts = _doubts(image, np.concatenate([found[:, :2] / 255.5 - 1, found[:, 2:] / 255.5], axis=1))
        assert "mouth looks covered" in " ".join(doubts)


def test_yaw_turns_with_the_face(landmarker: Landmarker, portraits: dict[str, Path]) -> None:
    points = read_portrait(portraits["grace_hopper"], landmarker=landmarker).landmarks.astype(np.float64)
    angle = np.radians(25)
    # The nose (negative z) moves to the image's right.
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    assert yaw_deg(points @ turn.T) == pytest.approx(yaw_deg(points) + 25, abs=1)
    assert (points @ turn.T)[NOSE_TIP, 0] > points[NOSE_TIP, 0]


def test_several_faces(landmarker: Landmarker, astronaut: Image.Image, tmp_path: Path) -> None:
    group = Image.new("RGB", (1024, 512), (120, 120, 120))
    group.paste(astronaut.resize((400, 400)), (0, 50))
    group.paste(astronaut, (512, 0))
    group.save(tmp_path / "group.png")
    largest = read_portrait(tmp_path / "group.png", landmarker=landmarker)
    assert largest.crop.x > 512
    assert any("2 faces were found" in note and "number 2 from the left" in note for note in largest.notes)
    left = read_portrait(tmp_path / "group.png", face=1, landmarker=landmarker)
    assert left.crop.x < 400
    assert not any("faces" in note for note in left.notes)
    for wrong in (0, 3, -1):
        with pytest.raises(InputError, match=r"no face -?\d .*2 found"):
            read_portrait(tmp_path / "group.png", face=wrong, landmarker=landmarker)


def test_a_small_face_in_a_large_photo_is_found(landmarker: Landmarker, astronaut: Image.Image, tmp_path: Path) -> None:
    field = Image.new("RGB", (2000, 1600), (90, 120, 90))
    field.paste(astronaut, (1400, 1000))
    field.save(tmp_path / "field.png")
    crop = read_portrait(tmp_path / "field.png", landmarker=landmarker).crop
    assert 1400 < crop.x < 1912
    assert 990 < crop.y < 1200


def test_a_face_that_fills_the_photo_is_found(landmarker: Landmarker, astronaut: Image.Image, tmp_path: Path) -> None:
    astronaut.crop((170, 60, 280, 200)).resize((440, 560)).save(tmp_path / "tight.png")
    portrait = read_portrait(tmp_path / "tight.png", landmarker=landmarker)
    assert any("ends close to the face" in note for note in portrait.notes)


def edited(photo: Image.Image, how: str) -> Image.Image:
    """The astronaut, spoilt in some way."""
    wide = Image.new("RGB", (4000, 300), (200, 200, 200))
    wide.paste(photo.resize((250, 250)), (2500, 20))
    return {
        "dark": Image.new("RGB", (16, 16)),
        "noise": Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)),
        "small": photo.resize((128, 128)),
        "wide": wide,
        "chin cut": photo.crop((0, 0, 512, 140)),
        "side cut": photo.crop((195, 0, 512, 512)),
        "lying": photo.rotate(90),
    }[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("dark", "No face was found"),
        ("noise", "No face was found"),
        ("small", r"is \d\d pixels high; at least 64"),
        ("wide", r"is \d\d pixels high; at least 64"),
        ("chin cut", "cut off by the photo's border"),
        ("side cut", "cut off by the photo's border"),
        ("lying", "Turn the photo upright"),
    ],
)
def test_bad_photos_are_explained(
    landmarker: Landmarker, astronaut: Image.Image, tmp_path: Path, how: str, says: str
) -> None:
    edited(astronaut, how).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match=says):
        read_portrait(tmp_path / "photo.png", landmarker=landmarker)


def test_a_profile_is_explained(landmarker: Landmarker, portraits: dict[str, Path]) -> None:
    cameraman = portraits["astronaut"].parent / "camera.png"
    if not cameraman.is_file():
        pytest.skip("scikit-image ships no camera.png")
    with pytest.raises(InputError, match=r"turned by \d\d degrees"):
        read_portrait(cameraman, landmarker=landmarker)


@pytest.mark.parametrize("name", ["color.png", "chelsea.png"])
def test_what_is_no_face_is_refused(landmarker: Landmarker, portraits: dict[str, Path], name: str) -> None:
    """MediaPipe alone sees faces in colour charts and a cat's eye."""
    file = portraits["astronaut"].parent / name
    if not file.is_file():
        pytest.skip(f"scikit-image ships no {name}")
    with pytest.raises(InputError, match="No face was found"):
        read_portrait(file, landmarker=landmarker)


def test_a_painting_is_a_portrait(landmarker: Landmarker) -> None:
    painting = SHARED / "data" / "portraits" / "lp_s9_monalisa.jpg"
    if not painting.is_file():
        pytest.skip("the shared portraits are not at hand")
    assert -30 < yaw_deg(read_portrait(painting, landmarker=landmarker).landmarks) < -10


def test_all_shared_portraits_are_read(landmarker: Landmarker) -> None:
    folder = SHARED / "data" / "portraits"
    if not folder.is_dir():
        pytest.skip("the shared portraits are not at hand")
    for path in sorted(folder.iterdir())[::4]:
        portrait = read_portrait(path, landmarker=landmarker)
        assert np.abs(portrait.landmarks[:, :2]).max() < 1, path


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_a_picture_of_another_kind_is_explained(landmarker: Landmarker, image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
        landmarker.detect(image)


def test_missing_mediapipe_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("mediapipe"):
            raise ImportError("No module named 'mediapipe'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingRuntimeError, match=r'pip install "superface\[landmarks\]"'):
        Landmarker()


def test_a_file_that_is_no_model_is_explained(landmark_model: Path, tmp_path: Path) -> None:
    (tmp_path / "no.task").write_bytes(b"no model")
    with pytest.raises(MissingRuntimeError, match="cannot use the landmark model"):
        Landmarker(tmp_path / "no.task")


def test_mediapipe_is_quiet(landmark_model: Path, portraits: dict[str, Path], capfd: Any) -> None:
    image = load_image(portraits["astronaut"])
    for video in (False, True):
        with Landmarker(landmark_model, video=video) as finder:
            finder.detect(image)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"
