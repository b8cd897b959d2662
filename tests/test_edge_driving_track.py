"""Tracks: the file, and clips turned into landmarks."""

import io
import weakref
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import edge.driving.track
from edge.driving.landmarks import Landmarker
from edge.driving.procedural import Controls, pose_face
from edge.driving.track import (
    MAX_FRAMES,
    Stretch,
    Track,
    bridge,
    calm,
    find_stretches,
    load_track,
    read_driving,
    save_track,
    track_video,
)
from edge.driving.video import VideoWriter, read_video
from edge.errors import InputError, SpecError
from edge.preprocess import Crop
from edge.topology import CHIN, FOREHEAD_TOP, LANDMARKS

SHARED = Path(__file__).parents[1].parent / "shared"


def make_track(frames: int = 4, fps: float = 25.0) -> Track:
    """Random landmarks."""
    rng = np.random.default_rng(0)
    return Track(
        landmarks=rng.uniform(-1, 1, (frames, LANDMARKS, 3)).astype(np.float32),
        fps=fps,
        detected=rng.random(frames) > 0.3,
        source="clip ä.mp4",
        crop=Crop(1.5, -2.0, 300.25),
        start_s=1.25,
    )


# --- The file


@given(frames=st.integers(1, 5), fps=st.floats(1, 240), name=st.text(max_size=30), crop=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_a_track_comes_back(tmp_path: Path, frames: int, fps: float, name: str, crop: bool) -> None:
    name = name.encode(errors="ignore").decode()
    track = replace(make_track(frames, fps), source=name, crop=Crop(1, 2, 3.5) if crop else None)
    read = load_track(save_track(track, tmp_path / "a.npz"))
    assert (read.landmarks == track.landmarks).all()
    assert (read.detected == track.detected).all()
    assert (read.fps, read.source, read.crop, read.start_s) == (fps, name, track.crop, 1.25)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_a_track_tells_its_length() -> None:
    track = make_track(50)
    assert (len(track), track.seconds) == (50, 2.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"landmarks": np.zeros((4, LANDMARKS, 3))}, "must be float32"),
        ({"landmarks": np.zeros((4, 468, 3), np.float32)}, r"shape \[T, 478, 3\]"),
        ({"landmarks": np.zeros((0, LANDMARKS, 3), np.float32)}, r"T ≥ 1"),
        ({"landmarks": np.full((4, LANDMARKS, 3), np.nan, np.float32)}, "frame 0 holds NaN"),
        ({"landmarks": np.full((4, LANDMARKS, 3), 300, np.float32)}, "Are they pixels"),
        ({"detected": np.ones(4)}, r"bool \[4\]"),
        ({"detected": np.ones(3, bool)}, r"bool \[4\]"),
        ({"fps": 0.0}, "frames per second"),
        ({"fps": float("nan")}, "frames per second"),
        ({"start_s": -1.0}, "start must be"),
        ({"crop": Crop(0, 0, 0)}, "crop must be"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        replace(make_track(), **change)  # type: ignore[arg-type]


def write_members(path: Path, **members: object) -> Path:
    """A track's file with some arrays replaced (None: left out)."""
    track = make_track()
    arrays: dict[str, object] = {
        "format": np.int64(1),
        "landmarks": track.landmarks,
        "fps": np.float64(25),
        "detected": track.detected,
        **members,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            if values is None:
                continue
            if isinstance(values, bytes):
                archive.writestr(f"{name}.npy", values)
                continue
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(values), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return path


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The head of an array whose body is missing."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"landmarks": None}, "has no 'landmarks'"),
        ({"format": np.int64(2)}, "format 2; this version reads 1"),
        ({"landmarks": np.zeros((4, 468, 3), np.float32)}, r"\[T, 478, 3\] is expected"),
        ({"landmarks": np.zeros((4, LANDMARKS, 3), np.float64)}, "float32 with 3 axes"),
        ({"landmarks": np.full((4, LANDMARKS, 3), np.inf, np.float32)}, "NaN or infinity"),
        ({"landmarks": np.full((4, LANDMARKS, 3), 99, np.float32)}, "Are they pixels"),
        ({"landmarks": np.array([{"a": 1}], dtype=object)}, "is expected"),
        ({"landmarks": header((10**9, LANDMARKS, 3))}, "more than a track may hold"),
        ({"landmarks": header((10**30, 10**30, 10**30))}, "more than a track may hold"),
        ({"landmarks": header((4, LANDMARKS, 3))}, "damaged"),
        ({"landmarks": b"junk"}, "damaged"),
        ({"detected": np.ones(5, bool)}, r"bool \[4\]"),
        ({"fps": np.float64(1e9)}, "frames per second"),
        ({"fps": np.array([25.0])}, "float64 with 0 axes"),
        ({"crop": np.zeros(4)}, "3 are expected"),
        ({"crop": np.array([0.0, 0, np.nan])}, "crop must be"),
        ({"source": np.zeros(200_000, np.uint8)}, "more than a track may hold"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, members: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_track(write_members(tmp_path / "a.npz", **members))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.driving.track, "MAX_FRAMES", 100)
    body = header((4, LANDMARKS, 3)) + bytes(2_000_000)
    with pytest.raises(InputError, match="more than a track may hold"):
        load_track(write_members(tmp_path / "a.npz", landmarks=body))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "There is no track"),
        (lambda p: p.mkdir(), "There is no track"),
        (lambda p: p.write_bytes(b""), "not a track"),
        (lambda p: p.write_text("no track"), "not a track"),
        (
            lambda p: np.save(p.with_suffix(".npy"), np.zeros(3)) or p.with_suffix(".npy").rename(p),
            "not a track",
        ),
    ],
)
def test_other_files_are_explained(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path / "a.npz")
    with pytest.raises(InputError, match=says):
        load_track(tmp_path / "a.npz")


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_a_damaged_file_never_ends_in_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    whole = (tmp_path / "whole.npz").read_bytes() if (tmp_path / "whole.npz").exists() else b""
    if not whole:
        save_track(make_track(2), tmp_path / "whole.npz")
        whole = (tmp_path / "whole.npz").read_bytes()
    content = bytearray(whole)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    # Headers and the directory at the end are where a bit matters most.
    places = st.integers(0, 400) | st.integers(max(0, len(content) - 900), max(0, len(content) - 1))
    for place in data.draw(st.lists(places, max_size=4)):
        if place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a.npz").write_bytes(bytes(content))
    try:
        track = load_track(tmp_path / "a.npz")
    except InputError:
        return
    assert np.isfinite(track.landmarks).all()


def test_a_place_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.npz"):
        save_track(make_track(), tmp_path / "a.pkl")
    with pytest.raises(InputError, match="cannot be written"):
        save_track(make_track(), tmp_path / "missing" / "a.npz")


def test_the_limit_of_frames_is_told() -> None:
    many = np.broadcast_to(np.float32(0), (MAX_FRAMES + 1, LANDMARKS, 3))
    with pytest.raises(SpecError, match="over the limit"):
        Track(many, 25.0, np.ones(MAX_FRAMES + 1, bool))


# --- Gaps and cuts


def face_at(x: float, height: float = 100.0) -> np.ndarray:
    """A face of that height whose points otherwise lie in one place."""
    points = np.zeros((LANDMARKS, 3), np.float32)
    points[:, 0] = x
    points[152, 1] = height
    return points


GREY = np.full((32, 32), 100, np.float32)


def stretches_of(xs: list[float | None], fps: float = 25.0, pictures: list[float] | None = None) -> list[Stretch]:
    thumbnails = [GREY + (pictures[n] if pictures else 0) for n in range(len(xs))]
    return find_stretches([None if x is None else face_at(x) for x in xs], thumbnails, fps)


def test_steady_faces_are_one_stretch() -> None:
    assert stretches_of([float(n) for n in range(20)]) == [Stretch(0, 20)]


def test_missing_ends_are_left_out() -> None:
    assert stretches_of([None, None, 1.0, 2.0, None]) == [Stretch(2, 4)]
    assert stretches_of([None, None]) == []


def test_short_gaps_are_bridged_and_long_ones_part() -> None:
    assert stretches_of([0.0, *[None] * 10, 5.0]) == [Stretch(0, 12)]
    assert stretches_of([0.0, *[None] * 11, 5.0]) == [Stretch(0, 1), Stretch(12, 13)]


def test_jumps_and_cuts_part() -> None:
    assert stretches_of([0.0, 1.0, 200.0, 201.0]) == [Stretch(0, 2), Stretch(2, 4)]
    # The same small shift is a cut when the picture changes, and a movement when it does not.
    assert stretches_of([0.0, 0.0, 10.0, 10.0], pictures=[0, 0, 80, 80]) == [Stretch(0, 2), Stretch(2, 4)]
    assert stretches_of([0.0, 0.0, 10.0, 10.0]) == [Stretch(0, 4)]
    # A flash changes the picture, but not the face.
    assert stretches_of([0.0, 0.0, 1.0, 1.0], pictures=[0, 0, 80, 0]) == [Stretch(0, 4)]


@given(
    values=hnp.arrays(np.float32, (12,), elements=st.floats(-100, 100, width=32)),
    missing=st.sets(st.integers(1, 10)),
)
def test_bridged_faces_lie_between_their_neighbours(values: np.ndarray, missing: set[int]) -> None:
    faces = [None if n in missing else face_at(float(value)) for n, value in enumerate(values)]
    landmarks, detected = bridge(faces)
    assert landmarks.shape == (12, LANDMARKS, 3)
    assert landmarks.dtype == np.float32
    assert [n for n in range(12) if not detected[n]] == sorted(missing)
    for n in range(12):
        if n in missing:
            before = max(k for k in range(n) if k not in missing)
            after = min(k for k in range(n, 12) if k not in missing)
            expected = values[before] + (values[after] - values[before]) * (n - before) / (after - before)
            assert landmarks[n, 0, 0] == pytest.approx(expected, abs=1e-3)
        else:
            assert (landmarks[n] == faces[n]).all()


def moving_faces(heights: np.ndarray) -> np.ndarray:
    """Faces whose lower lip (point 14) follows these heights in pixels; all else stands still."""
    faces = np.stack([face_at(0.0) for _ in heights])
    faces[:, 14, 1] = heights
    return faces


def test_calm_takes_trembling_and_leaves_movement() -> None:
    rng = np.random.default_rng(0)
    trembling = rng.normal(0, 0.1, 200).astype(np.float32)
    lip = calm(moving_faces(50 + trembling))[:, 14, 1]
    assert np.diff(lip, 2).std() < 0.7 * np.diff(trembling, 2).std()
    # A blink or a closing lip: three frames, 6 % of the face's height.
    closing = np.full(41, 50, np.float32)
    closing[19:22] -= (3, 6, 3)
    lip = calm(moving_faces(closing))[:, 14, 1]
    assert lip.min() == pytest.approx(44, abs=0.15)
    assert np.abs(lip - closing).max() < 0.25


@given(slope=st.floats(-5, 5), bend=st.floats(-0.5, 0.5))
def test_calm_keeps_steady_movement(slope: float, bend: float) -> None:
    times = np.arange(20)
    heights = (50 + slope * times + bend * times**2).astype(np.float32)
    lip = calm(moving_faces(heights))[:, 14, 1]
    assert np.allclose(lip[2:-2], heights[2:-2], atol=0.01)


def test_calm_leaves_very_short_tracks() -> None:
    faces = moving_faces(np.array([50.0, 52, 49], np.float32))
    assert (calm(faces) == faces).all()


# --- Clips


@pytest.fixture(scope="module")
def finder(landmark_model: Path) -> Iterator[Landmarker]:
    with Landmarker(landmark_model, video=True, max_faces=4) as made:
        yield made


@pytest.fixture(scope="module")
def photo(portraits: dict[str, Path]) -> Image.Image:
    return Image.open(portraits["grace_hopper"]).convert("RGB").resize((320, 375))


def film(path: Path, shots: list[Image.Image | None], *, fps: float = 25, length: int = 1) -> Path:
    """A clip of still pictures, each shifted a little from frame to frame; None is an empty picture."""
    with VideoWriter(path, fps) as writer:
        for number, shot in enumerate(shot for shot in shots for _ in range(length)):
            canvas = Image.new("RGB", (256, 256), (70, 80, 90))
            if shot is not None:
                canvas.paste(shot, (-30 + number % 10, -20))
            writer.write(np.asarray(canvas))
    return path


def test_a_clip_is_tracked(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    track = track_video(film(tmp_path / "a.mp4", [photo] * 12), landmarker=finder, progress=False)
    assert len(track) == 12
    assert track.fps == 25
    assert track.detected.all()
    assert (track.source, track.start_s, track.notes) == ("a.mp4", 0.0, ())
    assert np.abs(track.landmarks[..., :2]).max() < 1
    assert track.crop is not None
    # It moved 9 pixels to the right from the first to the tenth frame.
    moved = (track.landmarks[9, :, 0] - track.landmarks[0, :, 0]).mean() * track.crop.size / 2
    assert moved == pytest.approx(9, abs=2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_clip_that_lies_is_noticed(finder: Landmarker, photo: Image.Image, tmp_path: Path, turns: int) -> None:
    turned = Image.fromarray(np.rot90(np.asarray(photo.crop((0, 0, 320, 320))), turns))
    with pytest.raises(InputError, match=r"lies? (upside down|on (its|their) side)"):
        track_video(film(tmp_path / "a.mp4", [turned] * 6), landmarker=finder, progress=False)


def test_memory_does_not_grow_with_a_clip(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    """A frame leaves behind its landmarks and little more: MediaPipe's circles are swept."""
    pictures = []
    for image in read_video(film(tmp_path / "a.mp4", [photo] * 200)):
        finder.detect(image)
        pictures.append(weakref.ref(image))
    del image
    assert sum(picture() is not None for picture in pictures) < 120


def test_three_frames_are_a_clip(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    assert len(track_video(film(tmp_path / "a.mp4", [photo] * 3), landmarker=finder, progress=False)) == 3


def test_a_face_lost_for_a_moment_is_bridged(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", [photo] * 10 + [None] * 4 + [photo] * 10)
    track = track_video(clip, landmarker=finder, progress=False)
    assert len(track) == 24
    assert 3 <= (~track.detected).sum() <= 6
    assert any("frames showed no face" in note for note in track.notes)


def test_a_face_lost_for_long_ends_the_track(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", [photo] * 5 + [None] * 15 + [photo] * 30)
    track = track_video(clip, landmarker=finder, progress=False)
    assert 28 <= len(track) <= 30
    assert track.start_s == pytest.approx(0.8, abs=0.1)
    assert any(note.startswith("Kept 0.") for note in track.notes)


def test_a_clip_in_pieces_is_explained(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", ([photo] * 5 + [None] * 12) * 3)
    with pytest.raises(InputError, match="one steady shot"):
        track_video(clip, landmarker=finder, progress=False)


def test_a_cut_ends_the_track(finder: Landmarker, photo: Image.Image, tmp_path: Path) -> None:
    nearer = photo.resize((480, 562)).crop((80, 60, 480, 500))
    clip = film(tmp_path / "a.mp4", [photo] * 30 + [nearer] * 8)
    track = track_video(clip, landmarker=finder, progress=False)
    assert len(track) == 30
    assert any("longest steady view" in note for note in track.notes)


@pytest.mark.parametrize(("shots", "says"), [([None] * 6, "No face was found"), (["photo"], "one frame only")])
def test_clips_that_drive_nothing_are_explained(
    finder: Landmarker, photo: Image.Image, tmp_path: Path, shots: list[object], says: str
) -> None:
    clip = film(tmp_path / "a.mp4", [photo if shot else None for shot in shots])
    with pytest.raises(InputError, match=says):
        track_video(clip, landmarker=finder, progress=False)


def test_a_small_face_is_tracked(finder: Landmarker, portraits: dict[str, Path], tmp_path: Path) -> None:
    face = Image.open(portraits["astronaut"]).convert("RGB").resize((360, 360))
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for number in range(8):
            canvas = Image.new("RGB", (1280, 720), (70, 90, 80))
            canvas.paste(face, (800 + number, 300))
            writer.write(np.asarray(canvas))
    track = track_video(tmp_path / "a.mp4", landmarker=finder, progress=False)
    assert len(track) == 8
    assert track.crop is not None
    assert 800 < track.crop.x < 1100


def test_the_face_that_was_largest_at_first_is_followed(
    finder: Landmarker, portraits: dict[str, Path], tmp_path: Path
) -> None:
    face = Image.open(portraits["astronaut"]).convert("RGB")
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for number in range(10):
            canvas = Image.new("RGB", (960, 512), (90, 90, 90))
            canvas.paste(face.crop((50, 0, 450, 400)), (0, 100))
            side = 300 + 20 * number  # another face that comes nearer
            canvas.paste(face.crop((50, 0, 450, 400)).resize((side, side)), (440, 0))
            writer.write(np.asarray(canvas))
    track = track_video(tmp_path / "a.mp4", landmarker=finder, progress=False)
    assert len(track) == 10
    assert track.crop is not None
    assert track.crop.x < 200
    assert any("Several faces" in note for note in track.notes)


def test_progress_is_lines_without_a_terminal(
    finder: Landmarker, photo: Image.Image, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    track_video(film(tmp_path / "a.mp4", [photo] * 3), landmarker=finder)
    assert capfd.readouterr().err == "Tracking a.mp4: 3 frames\n"


def test_an_image_landmarker_is_refused(landmark_model: Path, photo: Image.Image, tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", [photo] * 3)
    with Landmarker(landmark_model) as still, pytest.raises(SpecError, match="video=True"):
        track_video(clip, landmarker=still)


def test_a_real_clip_is_tracked(finder: Landmarker) -> None:
    clip = SHARED / "data" / "videos" / "mead_m030.mp4"
    if not clip.is_file():
        pytest.skip("the shared clips are not at hand")
    track = track_video(clip, landmarker=finder, progress=False)
    assert len(track) > 90
    assert track.detected.all()
    opening = np.linalg.norm(track.landmarks[:, 13, :2] - track.landmarks[:, 14, :2], axis=1)
    assert opening.max() > 3 * (opening.min() + 0.005)


# --- Driving


def driver(faces: np.ndarray, tmp_path: Path, *poses: dict[str, float], scale: float = 1.0) -> Path:
    """A track of these poses, half a second each; the last at another size."""
    names = {name for pose in poses for name in pose}
    moved = {name: np.repeat([pose.get(name, 0.0) for pose in poses], 12) for name in names}
    landmarks = pose_face(faces[0], Controls.rest(12 * len(poses), **moved)).astype(np.float32)
    landmarks[-12:] *= np.float32(scale)
    return save_track(Track(landmarks, 25.0, np.ones(len(landmarks), bool)), tmp_path / "driver.npz")


def test_a_clip_that_begins_with_a_smile_drives_as_one_that_does_not(faces: np.ndarray, tmp_path: Path) -> None:
    talk = [{"jaw_open": 0.2}, {}, {"jaw_open": 0.4}, {}, {"jaw_open": 0.1}]
    plain = read_driving(driver(faces, tmp_path, *talk), source_landmarks=faces[1])
    smiled = read_driving(driver(faces, tmp_path, {"smile": 1.0}, *talk), source_landmarks=faces[1])
    assert plain.notes == smiled.notes == ()
    assert np.abs(smiled.landmarks[12:] - plain.landmarks).max() < 0.01


def test_a_driver_who_never_rests_or_comes_near_is_said(faces: np.ndarray, tmp_path: Path) -> None:
    turned = {"yaw_deg": 30.0, "jaw_open": 0.5}
    told = read_driving(driver(faces, tmp_path, turned, turned), source_landmarks=faces[1]).notes
    assert "No moment of driver.npz shows the driver at rest" in " ".join(told)
    near = read_driving(driver(faces, tmp_path, {}, {}, scale=2.0), source_landmarks=faces[1])
    assert "comes nearer or goes away (by 2.0 times)" in " ".join(near.notes)
    sizes = np.linalg.norm(near.landmarks[:, CHIN] - near.landmarks[:, FOREHEAD_TOP], axis=1)
    assert sizes.max() / sizes.min() < 1.25


def test_a_track_that_inflates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    frames = 20_000
    arrays = {"format": np.int64(1), "fps": np.float64(25), "detected": np.ones(frames, bool)}
    np.savez_compressed(path, landmarks=np.zeros((frames, LANDMARKS, 3), np.float32), **arrays)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InputError, match=r"would grow from .* MB, as no motion does"):
        load_track(path)
