"""Pixels in and out: the one definition of how a photo is read, cropped and put into crop coordinates.

Training imports this file, Kotlin and Swift port it. Two coordinate systems meet here:

* *image pixels*: continuous, x to the right, y down, pixel p covers [p, p + 1). MediaPipe's x times the image
  width is in this system. `Crop(10, 20, 512)` is exactly `image[20:532, 10:522]`.
* *crop coordinates*: −1 and +1 at the **centres** of the first and last of the crop's 512 pixels
  (align_corners=True everywhere, docs/conventions.md).
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFilter, ImageOps, UnidentifiedImageError

from edge.errors import InputError
from edge.spec import CROP
from edge.topology import CHIN, FACE_OVAL, FOREHEAD_TOP, LEFT_CHEEK_EDGE, RIGHT_CHEEK_EDGE

MAX_PIXELS = 120_000_000
"""Largest photo that is decoded (width × height): beyond it, a small file can fill the memory."""

PICTURES = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF", "MPO", "JPEG2000", "PPM")
"""What is read, by Pillow's names. Not all that it can: for EPS it starts Ghostscript, whatever the file's ending."""

NEUTRAL = 127
"""Grey level that shows where a photo is transparent."""

CROP_FACES = 2.0
"""Side of the crop in face sizes: hair, chin and some shoulder stay in."""

CROP_RISE = 0.11
"""How far the crop's centre lies over the face's centre, in face sizes: room for hair."""

CROP_SHRINK = 0.7
"""The crop may shrink to this share of its wanted side rather than leave the image: real shoulders beat
invented ones."""


class Crop(NamedTuple):
    """A square of the original image, in image pixels; it may leave the image."""

    x: float
    """Left edge."""
    y: float
    """Top edge."""
    size: float
    """Side."""


def load_image(path: str | Path) -> NDArray[np.uint8]:
    """A photo as it should be looked at: upright, RGB, 8 bits, opaque.

    EXIF orientation and colour profiles are honoured; grey, palette, CMYK and 16-bit photos are converted;
    transparency is laid over a neutral grey; of an animation, the first picture is taken.

    Args:
        path: a picture in one of `PICTURES`; HEIC needs the package pi-heif.

    Returns:
        uint8 [H, W, 3], RGB, 0..255.

    Raises:
        InputError: the file is missing, a folder, empty, damaged, not a picture, or too large.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no photo {path}. Check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give one photo (JPEG, PNG, WebP, …).")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes). Give a photo (JPEG, PNG, WebP, …).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit and sentences follow
            with Image.open(path, formats=_formats()) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise InputError(
                        f"{path} has {width}x{height} pixels; up to {MAX_PIXELS // 10**6} million are read. "
                        "Give a smaller version of the photo."
                    )
                picture.load()
                return np.array(_to_rgb(picture), dtype=np.uint8)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} holds too many pixels. Give a smaller version of the photo.") from error
    except UnidentifiedImageError as error:
        if path.suffix.lower() in (".heic", ".heif"):
            raise InputError(
                f"{path} is a HEIC photo; reading it needs pi-heif. "
                'Run: pip install "superface[landmarks]", or save the photo as JPEG.'
            ) from error
        raise InputError(
            f"{path} is not a picture in a format that can be read (JPEG, PNG, WebP, …). Is it named wrongly?"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read by this user. Change its permissions.") from error
    # A damaged file can make Pillow's decoders raise nearly anything (OSError, SyntaxError, struct.error, …).
    except Exception as error:
        raise InputError(f"{path} is damaged or cut short ({error}). Save or copy the photo again.") from error


def _formats() -> list[str]:
    """Those of `PICTURES` that can be read here: HEIC, which iPhones make, where pi-heif is installed."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        try:
            import pi_heif

            pi_heif.register_heif_opener()
        except ImportError:
            pass
    return [name for name in PICTURES if name in Image.OPEN]


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as upright opaque RGB in sRGB."""
    profile = picture.info.get("icc_profile")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_eight_bits(picture)
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    if alpha is not None or picture.mode == "P":
        # A profile speaks of colours, which a palette and an alpha channel keep from it.
        picture = picture.convert("L" if picture.mode in ("L", "LA") else "RGB")
    if profile and picture.mode in ("RGB", "CMYK", "L"):
        picture = _to_srgb(picture, profile)
    picture = picture.convert("RGB")
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, (NEUTRAL,) * 3), alpha)
    return picture


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits or of floats, brought to 0..255.

    Pillow's own conversion clips: a 16-bit portrait would come out white.
    """
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    top = values.max(initial=0.0)
    if picture.mode == "F":
        full = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else top
    else:
        full = 255.0 if top <= 255.0 and picture.mode == "I" else 65535.0 if top <= 65535.0 else top
    return Image.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8))


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colours of a wide-gamut phone or a print profile as sRGB; an unreadable profile is left aside."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError):
        return picture
    return picture if converted is None else converted


def face_height(landmarks_px: NDArray[np.floating]) -> float:
    """Distance from the forehead's top to the chin, in image pixels.

    Args:
        landmarks_px: float [478, 2 or 3], image pixels.
    """
    return float(np.linalg.norm(landmarks_px[CHIN, :2] - landmarks_px[FOREHEAD_TOP, :2]))


def face_crop(landmarks_px: NDArray[np.floating], image_size: tuple[int, int]) -> Crop:
    """The one square around a head, for photos and clips alike: hair, chin and some shoulder stay in.

    Its side is `CROP_FACES` times the face's size: its height, or 1.25 times its width where that is more (a
    nodding head is short, a turned one narrow). It moves, and shrinks a little, rather than leave the image.

    Args:
        landmarks_px: float [478, 2 or 3], image pixels.
        image_size: width and height in pixels.
    """
    points = np.asarray(landmarks_px, dtype=np.float64)[:, :2]
    width = float(np.linalg.norm(points[LEFT_CHEEK_EDGE] - points[RIGHT_CHEEK_EDGE]))
    face = max(face_height(points), 1.25 * width, 1.0)
    oval = points[FACE_OVAL]
    centre = (oval.min(axis=0) + oval.max(axis=0)) / 2 - (0.0, CROP_RISE * face)
    wanted = CROP_FACES * face
    shortest = float(min(image_size))
    size = shortest if CROP_SHRINK * wanted <= shortest < wanted else wanted
    left, top = centre - size / 2
    # Where it had to shrink, hair stays in first: the crop's top goes up as far as the chin allows.
    top = min(top, max(centre[1] - wanted / 2, oval[:, 1].max() - 0.9 * size))
    corner = [
        min(max(start, 0.0), side - size) if size <= side else min(max(start, side - size), 0.0)
        for start, side in zip((left, top), image_size, strict=True)
    ]
    return Crop(float(corner[0]), float(corner[1]), float(size))


def crop_image(image: NDArray[np.uint8], crop: Crop, size: int = CROP) -> NDArray[np.uint8]:
    """The crop's pixels, resampled to `size` × `size` (antialiased when shrinking).

    Outside the image its border goes on, the softer the farther out: calm, with no mirrored second face.

    Args:
        image: uint8 [H, W, 3], RGB.
        crop: the square, in image pixels.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        InputError: the crop has no size, or lies wholly outside the image.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = crop.x, crop.y, crop.x + crop.size, crop.y + crop.size
    if not (
        np.isfinite([*crop]).all() and crop.size >= 1 and left < width and top < height and right > 0 and bottom > 0
    ):
        raise InputError(f"The crop {tuple(crop)} does not meet the image of {width}x{height} pixels.")
    # Only the part that is read is handled; a margin feeds the filter at the rim.
    scale = crop.size / size
    margin = int(np.ceil(4 * max(scale, 1.0)))
    x0, y0 = int(np.floor(left)) - margin, int(np.floor(top)) - margin
    x1, y1 = int(np.ceil(right)) + margin, int(np.ceil(bottom)) + margin
    inner = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    pads = ((max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)), (0, 0))
    padded = np.pad(inner, pads, mode="edge")
    kernel = Image.Resampling.LANCZOS if scale > 1 else Image.Resampling.BICUBIC
    box = (left - x0, top - y0, right - x0, bottom - y0)
    picture = Image.fromarray(padded).resize((size, size), kernel, box=box)
    out = np.array(picture, dtype=np.uint8)
    # Distance of each pixel of the result outside the image, as a share of the crop's side.
    centres = (np.arange(size) + 0.5) * scale
    beyond_x = np.maximum(np.maximum(-(left + centres), left + centres - width), 0)
    beyond_y = np.maximum(np.maximum(-(top + centres), top + centres - height), 0)
    beyond = np.hypot(beyond_x[None, :], beyond_y[:, None]) / crop.size
    if beyond.max() > 0:
        # The border is blurred before it is continued, lest one odd pixel become a long streak.
        columns, rows = np.flatnonzero(beyond_x <= 0), np.flatnonzero(beyond_y <= 0)
        if not (len(columns) and len(rows)):  # less than a pixel of the photo is in sight
            return out
        (c0, c1), (r0, r1) = columns[[0, -1]], rows[[0, -1]]
        inside = picture.crop((int(c0), int(r0), int(c1) + 1, int(r1) + 1))
        border = np.asarray(inside.filter(ImageFilter.GaussianBlur(size / 30)))
        border = np.pad(border, ((r0, size - 1 - r1), (c0, size - 1 - c1), (0, 0)), mode="edge")
        blurred = Image.fromarray(border).filter(ImageFilter.GaussianBlur(size / 20))
        soft = np.array(blurred, dtype=np.float64)
        weight = np.clip(beyond / 0.08, 0.0, 1.0)[..., None]
        out = np.rint(out * (1 - weight) + soft * weight).astype(np.uint8)
    return out


def to_crop(landmarks_px: NDArray[np.floating], crop: Crop) -> NDArray[np.float32]:
    """Image pixels → crop coordinates.

    Args:
        landmarks_px: float [..., 2 or 3], image pixels; z in the same unit, smaller is nearer.
        crop: the square.

    Returns:
        float32, same shape; x and y are −1..+1 between the centres of the crop's first and last pixel; z has
        the same unit.
    """
    points = np.asarray(landmarks_px, dtype=np.float64)
    scale = 2.0 * CROP / ((CROP - 1) * crop.size)
    out = points * scale
    # Pixel p of the crop has its centre at x + (p + 0.5) * size / CROP.
    out[..., 0] = (points[..., 0] - crop.x) * scale - CROP / (CROP - 1)
    out[..., 1] = (points[..., 1] - crop.y) * scale - CROP / (CROP - 1)
    return out.astype(np.float32)


def from_crop(landmarks: NDArray[np.floating], crop: Crop) -> NDArray[np.float32]:
    """Crop coordinates → image pixels: the inverse of `to_crop`."""
    points = np.asarray(landmarks, dtype=np.float64)
    scale = (CROP - 1) * crop.size / (2.0 * CROP)
    out = points * scale
    out[..., 0] = (points[..., 0] + CROP / (CROP - 1)) * scale + crop.x
    out[..., 1] = (points[..., 1] + CROP / (CROP - 1)) * scale + crop.y
    return out.astype(np.float32)
