"""Photos in: every kind of file, crops, and crop coordinates."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge.errors import InputError
from edge.preprocess import (
    NEUTRAL,
    Crop,
    crop_image,
    face_crop,
    face_height,
    from_crop,
    load_image,
    to_crop,
)
from edge.spec import CROP
from edge.topology import CHIN, FACE_OVAL, FOREHEAD_TOP, LANDMARKS, LEFT_CHEEK_EDGE, RIGHT_CHEEK_EDGE

SHARED = Path(__file__).parents[1].parent / "shared"

finite = st.floats(-4000, 4000, width=32)
crops = st.builds(Crop, finite, finite, st.floats(16, 5000, width=32))


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Red on the left, blue on the right, a green top line."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 200
    image[:, width // 2 :, 2] = 200
    image[: height // 8, :, 1] = 200
    return image


def oval_face(centre: tuple[float, float], height: float, width: float) -> np.ndarray:
    """Landmarks on an ellipse; only the outline matters here."""
    angles = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    points = np.zeros((LANDMARKS, 3), np.float32)
    points[:, :2] = centre
    points[FACE_OVAL, 0] += width / 2 * np.sin(angles)
    points[FACE_OVAL, 1] -= height / 2 * np.cos(angles)
    points[FOREHEAD_TOP, :2] = centre[0], centre[1] - height / 2
    points[CHIN, :2] = centre[0], centre[1] + height / 2
    points[RIGHT_CHEEK_EDGE, :2] = centre[0] - width / 2, centre[1]
    points[LEFT_CHEEK_EDGE, :2] = centre[0] + width / 2, centre[1]
    return points


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.gif"])
def test_formats_give_the_same_pixels(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(picture()).save(tmp_path / name, **options)
    image = load_image(tmp_path / name)
    assert image.dtype == np.uint8
    assert image.shape == (40, 60, 3)
    assert np.abs(image.astype(int) - picture()).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.linspace(0, 255, 40 * 60).reshape(40, 60)
    if mode == "I;16":
        made = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode == "I":
        made = Image.fromarray((grey * 257).astype(np.int32))
    elif mode == "F":
        made = Image.fromarray((grey / 255).astype(np.float32))
    else:
        made = Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB").convert(mode)
    file = tmp_path / ("a.tiff" if mode not in ("PA", "P") else "a.png")
    if mode == "PA":
        made = made.convert("RGBA").convert("P")
    made.save(file)
    image = load_image(file)
    assert image.shape == (40, 60, 3)
    if mode not in ("1", "P", "PA"):
        assert np.abs(image.mean(axis=2) - grey).max() < 3


def test_sixteen_bit_grey_png_is_not_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(tmp_path / "a.png")
    assert np.abs(load_image(tmp_path / "a.png").astype(int) - 128).max() <= 1


def test_alpha_lies_over_neutral_grey(tmp_path: Path) -> None:
    image = np.dstack([picture(), np.full((40, 60), 255, np.uint8)])
    image[:, :10, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    read = load_image(tmp_path / "a.png")
    assert (read[:, :10] == NEUTRAL).all()
    assert (read[:, 10:] == picture()[:, 10:]).all()


def swapped_profile() -> bytes:
    """An ICC profile (version 2, matrix and curve) in which red and green have changed places."""

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    text = b"text" + bytes(4) + b"none\0" + bytes(3)
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"swap\0" + bytes(78 + 1)
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    tags = {
        b"desc": desc, b"cprt": text, b"wtpt": xyz(0.9642, 1.0, 0.8249), b"rXYZ": xyz(*green), b"gXYZ": xyz(*red),
        b"bXYZ": xyz(*blue), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    white = struct.pack(">iii", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head = (head + bytes(28) + white).ljust(128, b"\0")
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with alpha", "LA"])
def test_colour_profiles_are_honoured_with_alpha_too(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture())
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(np.repeat([[0] * 10 + [255] * 50], 40, 0).astype(np.uint8)))
    elif mode.startswith("P"):
        image = image.quantize(16)
    more = {"transparency": image.getpixel((59, 39))} if mode == "P with alpha" else {}
    plain, tagged = tmp_path / "plain.png", tmp_path / "tagged.png"
    image.save(plain, **more)
    image.save(tagged, icc_profile=swapped_profile(), **more)
    before, after = load_image(plain).astype(int), load_image(tagged).astype(int)
    if mode == "LA":  # a grey picture has no use for a profile of colours
        assert np.abs(after - before).max() <= 2
        return
    assert np.abs(after[20, 20, [1, 0]] - before[20, 20, :2]).max() <= 12
    assert after[20, 20, 1] > after[20, 20, 0] + 100
    if mode == "RGBA":
        assert (after[:, :10] == NEUTRAL).all()
    if mode == "P with alpha":
        assert (after[39, 59] == NEUTRAL).all()


def test_what_pillow_would_start_programs_for_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="is not a picture in a format that can be read"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.transpose(a, (1, 0, 2)),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn(picture())))
    stored.save(tmp_path / "a.png", exif=exif)
    assert (load_image(tmp_path / "a.png") == picture()).all()


def test_heic_is_read_or_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = SHARED / "cases" / "media" / "phone.heic"
    if phone.exists():
        pytest.importorskip("pi_heif", reason="pi-heif is not installed")
        image = load_image(phone)
        assert image.shape[2] == 3
        assert image.std() > 20
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pi_heif", None)  # as if it were not installed
    (tmp_path / "me.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(InputError, match=r"needs pi-heif.*superface\[landmarks\]"):
        load_image(tmp_path / "me.HEIC")


def test_small_and_wide_photos_are_read(tmp_path: Path) -> None:
    for size in ((16, 16), (4000, 300)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        assert load_image(tmp_path / "a.png").shape == (size[1], size[0], 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose head promises a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "There is no photo"),
        (lambda p: p.mkdir(), "not a file"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("dear photo, …"), "not a picture"),
        (lambda p: p.write_bytes(bomb(100_000, 100_000)), "too many pixels|at most|up to"),
        (lambda p: p.write_bytes(bomb(12_000, 11_000)), "12000x11000 pixels"),
        (lambda p: p.write_bytes(bomb(100, 100)), "damaged"),
    ],
)
def test_unreadable_photos_are_explained(tmp_path: Path, make, says: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "me.jpg"
    make(file)
    with pytest.raises(InputError, match=says):
        load_image(file)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.gif"])
def test_truncated_photos_are_explained(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / name
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    for share in (0.5, 0.9):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"damaged|not a picture"):
            load_image(file)


@given(crop=crops, points=st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=8))
def test_crop_coordinates_go_there_and_back(crop: Crop, points: list[tuple[float, float, float]]) -> None:
    pixels = np.array(points, np.float64)
    again = from_crop(to_crop(pixels, crop), crop)
    assert again.dtype == np.float32
    assert np.allclose(again, pixels, atol=0.01, rtol=1e-5)


@given(crop=crops)
def test_crop_coordinates_are_one_at_pixel_centres(crop: Crop) -> None:
    half = crop.size / CROP / 2
    corners = np.array([[crop.x + half, crop.y + half], [crop.x + crop.size - half, crop.y + crop.size - half]])
    assert np.allclose(to_crop(corners, crop), [[-1, -1], [1, 1]], atol=1e-3)


def test_depth_has_the_unit_of_x() -> None:
    crop = Crop(100, 50, 400)
    a, b = to_crop(np.array([[120.0, 80, 0], [150, 80, 30]]), crop)
    assert b[2] - a[2] == pytest.approx(b[0] - a[0], rel=1e-5)


def test_a_crop_of_whole_pixels_is_a_slice() -> None:
    image = np.random.default_rng(0).integers(0, 255, (600, 700, 3), dtype=np.uint8)
    assert (crop_image(image, Crop(30, 20, 512)) == image[20:532, 30:542]).all()


@pytest.mark.parametrize("size", [450.0, 512.0, 901.5])
def test_landmarks_stay_on_their_pixels(size: float) -> None:
    """A bright dot lies in the crop where `to_crop` says."""
    image = np.zeros((1000, 1000, 3), np.uint8)
    image[496:505, 516:525] = 255  # centre (520.5, 500.5) in image pixels
    crop = Crop(80.25, 60.75, size)
    weights = crop_image(image, crop)[..., 0].astype(float)
    rows, columns = np.mgrid[:CROP, :CROP]
    seen = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    expected = (to_crop(np.array([520.5, 500.5]), crop) + 1) * (CROP - 1) / 2
    assert np.abs(seen - expected).max() < 0.1


def test_shrinking_does_not_alias() -> None:
    image = np.zeros((2048, 2048, 3), np.uint8)
    image[:, ::2] = 255
    out = crop_image(image, Crop(0, 0, 2048))
    assert np.abs(out[8:-8, 8:-8].astype(int) - 127).max() < 8


def test_outside_the_photo_is_calm() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)
    out = crop_image(image, Crop(-150, -150, 600)).astype(float)
    corner, middle = out[:64, :64], out[224:288, 224:288]
    assert corner.std() < 0.2 * middle.std()
    assert abs(corner.mean() - middle.mean()) < 40


@pytest.mark.parametrize("crop", [Crop(1000, 0, 100), Crop(0, 0, 0), Crop(float("nan"), 0, 10), Crop(-50, 0, 50)])
def test_a_crop_beside_the_photo_is_refused(crop: Crop) -> None:
    with pytest.raises(InputError, match="does not meet the image"):
        crop_image(np.zeros((100, 100, 3), np.uint8), crop)


@given(
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    height=st.floats(64, 900),
    slim=st.floats(0.5, 1.2),
    width_px=st.integers(200, 3000),
    height_px=st.integers(200, 3000),
)
def test_the_face_lies_in_its_crop(
    x: float, y: float, height: float, slim: float, width_px: int, height_px: int
) -> None:
    face = oval_face((x * width_px, y * height_px), height, slim * height)
    crop = face_crop(face, (width_px, height_px))
    assert crop.size > 1.3 * height
    for side, start in ((width_px, crop.x), (height_px, crop.y)):
        if crop.size <= side:
            assert start >= -1e-6
            assert start + crop.size <= side + 1e-3
    inside = ((face[FACE_OVAL] >= 0) & (face[FACE_OVAL] <= [width_px, height_px, 1])).all()
    if inside:
        # -1 and 1 are the centres of the outermost pixels: a face that touches the image's edge ends half a pixel on.
        assert np.abs(to_crop(face[FACE_OVAL], crop)[:, :2]).max() < 1.0 + 1.001 / (CROP - 1)


def test_a_face_with_room_sits_slightly_low() -> None:
    face = oval_face((1000, 1000), 400, 300)
    crop = face_crop(face, (3000, 3000))
    assert crop.size == pytest.approx(2.0 * 400)
    x, y = to_crop(np.array([[1000.0, 1000.0]]), crop)[0]
    assert x == pytest.approx(0.0, abs=1e-3)
    assert 0.1 < y < 0.35
    assert face_height(face) == pytest.approx(400)
