"""Clips in and out, through PyAV (which carries its own FFmpeg): constant frame rate, upright, H.264.

Reading turns every clip into RGB frames at one constant rate; writing leaves either a whole file or none.
"""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from edge.errors import InputError

MAX_FPS = 30.0
"""Rate above which frames are left out evenly: faces say no more at 60 frames a second."""

DEFAULT_FPS = 25.0
"""Rate of clips that do not tell theirs."""

MAX_HOLD_S = 60.0
"""Longest time one frame is repeated; a longer jump in a clip's clock is taken for a fault of the file."""

HOLE_S = 0.08
"""Shortest hole in a sound's clock that is kept as silence; packets come a few milliseconds early or late."""

MAX_SIDE = 8192
"""Largest width or height of a clip, in pixels."""

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings that can be written."""

MARK = "Made with SuperFace: synthetic media"
"""What the files that `VideoWriter` makes say of themselves, in the comment that players show."""


@dataclass
class Clip:
    """A clip that is being read: iterate over it, once.

    Frames are uint8 [H, W, 3], RGB, upright, `fps` of them a second from the clip's first frame on.
    """

    path: Path
    fps: float
    length: int | None
    """About how many frames it has, where the file tells."""
    has_sound: bool
    frames: Iterator[NDArray[np.uint8]]
    notes: list[str] = field(default_factory=list)
    """What the user should know; complete once the last frame was read."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self.frames


def read_video(path: str | Path, *, max_fps: float = MAX_FPS, span: tuple[float, float] | None = None) -> Clip:
    """A clip as RGB frames at a constant rate.

    The rate is the clip's own average, halved (or divided by 3, 4, …) where it is over `max_fps`. A clip of
    variable rate is resampled: the frame shown at each moment is repeated or left out. Rotation that a phone
    noted in the file is applied.

    Args:
        path: any file that FFmpeg reads.
        max_fps: highest rate delivered, frames per second.
        span: the part to read, from and to so many seconds; default: all of it.

    Raises:
        InputError: the file is missing, empty, damaged, has no moving pictures, or none in that span.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no clip {path}. Check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give one video (MP4, MOV, WebM, …).")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes). Give a video (MP4, MOV, WebM, …).")
    container = _open(path)
    try:
        stream = _video_stream(container, path)
        if max(stream.width, stream.height) > MAX_SIDE:
            raise InputError(f"{path} is {stream.width}x{stream.height} pixels; {MAX_SIDE} a side at most. Shrink it.")
        rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        if not 1.0 <= rate <= 1000.0:
            rate = DEFAULT_FPS
        fps = rate / max(1, int(np.ceil(rate / max_fps - 0.01)))
        seconds = _duration_s(container, stream)
        clip = Clip(
            path=path,
            fps=fps,
            length=None if seconds is None else max(1, round(seconds * fps)),
            has_sound=bool(container.streams.audio),
            frames=iter(()),
        )
        decoded = _decode(container, stream, path, clip.notes, whole=span is None)
        if span:
            container.seek(round(span[0] * av.time_base))
            decoded = _within(decoded, span)
            clip.length = max(1, round((span[1] - span[0]) * fps))
        first = next(decoded, None)
        if first is None:
            raise InputError(f"{path} shows nothing between {span} seconds.")
    except BaseException:
        container.close()
        raise
    clip.frames = _at_constant_rate(first, decoded, fps, 0.5 * fps / rate, container)
    return clip


def made_here(path: Path) -> bool:
    """Whether a clip says that `VideoWriter` made it."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            said = {key.lower(): value for key, value in container.metadata.items()}
            return said.get("comment") == MARK
    except (FFmpegError, OSError, ValueError):
        return False


def _open(path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path} cannot be read as a video ({reason}). Is it whole, and a video (MP4, MOV, WebM, …)?"
        ) from error


def _video_stream(container: Any, path: Path) -> Any:
    """The first stream of moving pictures: the cover of a song is none."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = "AUTO"
            return stream
    kind = "only sound" if container.streams.audio else "no video stream"
    raise InputError(f"{path} has {kind}. Give a clip that shows a face.")


def _duration_s(container: Any, stream: Any) -> float | None:
    """Length in seconds, where the file tells."""
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / av.time_base
    else:
        return None
    return seconds if 0 < seconds < 1e6 else None


def _decode(
    container: Any, stream: Any, path: Path, notes: list[str], *, whole: bool
) -> Iterator[tuple[float | None, NDArray[np.uint8]]]:
    """Each decoded frame with its time in seconds; damaged parts are left out and counted."""
    frames = damaged = 0
    matrix = UPRIGHT
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (FFmpegError, OSError):  # the file ends in the middle of a packet
            damaged += 1
            break
        try:
            decoded = packet.decode()
        except FFmpegError:
            damaged += 1
            continue
        for frame in decoded:
            frames += 1
            matrix = _display_matrix(frame) or matrix  # it holds until the file says another
            yield frame.time, _upright(frame.to_ndarray(format="rgb24"), matrix)
    if not frames:
        raise InputError(f"Not one frame of {path} can be decoded. Is the file whole? Copy or export it again.")
    if damaged:
        notes.append(f"{damaged} damaged parts of {path.name} were left out.")
    missing = stream.frames - frames
    if whole and missing > max(2, 0.01 * stream.frames):
        notes.append(f"{path.name} is cut short or damaged: {missing} of its {stream.frames} frames are missing.")


def _within(
    decoded: Iterator[tuple[float | None, NDArray[np.uint8]]], span: tuple[float, float]
) -> Iterator[tuple[float | None, NDArray[np.uint8]]]:
    """The frames of a span; decoding began at a key frame before it."""
    for time_s, image in decoded:
        if time_s is not None and time_s >= span[1]:
            return
        if time_s is None or time_s >= span[0] - 1e-3:
            yield time_s, image


UPRIGHT = (1, 0, 0, 1)


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Where a frame's x and its y are to go, each as (right, down) of -1, 0, 1; None: it does not say.

    Pixels (x, y) are shown at (a x + c y, b x + d y), with the matrix [[a, b, u], [c, d, v], [x, y, w]] in fixed point
    (ISO 14496-12, 6.2.2). Phones write quarter turns, and mirrors for cameras that look at their owner; anything
    between is brought to the nearest of these.
    """
    for part in frame.side_data:
        if part.type == SideData.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack("=5i", bytes(part)[:20])
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return (1 if a >= 0 else -1, 0, 0, 1 if d >= 0 else -1)
            return (0, 1 if b >= 0 else -1, 1 if c >= 0 else -1, 0)
    return None


def _upright(image: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A frame [H, W, 3] as it should be shown."""
    if matrix == UPRIGHT:
        return image
    a, b, c, d = matrix
    if not a:  # x goes down, y goes right
        image = image.transpose(1, 0, 2)
    down, right = b + d, a + c
    return np.ascontiguousarray(image[::down, ::right])


def _at_constant_rate(
    first: tuple[float | None, NDArray[np.uint8]],
    rest: Iterator[tuple[float | None, NDArray[np.uint8]]],
    fps: float,
    early: float,
    container: Any,
) -> Iterator[NDArray[np.uint8]]:
    """One frame for each slot of 1 / fps seconds; a frame stands until the next one's slot.

    A frame may come early by this share of a slot (half a frame of the clip): clocks that count in
    milliseconds tremble.
    """
    with container:
        time_s, image = first
        start_s = time_s or 0.0
        slot = 0
        yield image
        for time_s, following in rest:
            wanted = slot + 1 if time_s is None else int(np.floor((time_s - start_s) * fps + early - 1e-4))
            if wanted - slot > MAX_HOLD_S * fps:
                start_s += (wanted - slot - 1) / fps
                wanted = slot + 1
            for _ in range(slot + 1, wanted):
                yield image
            if wanted > slot:
                slot = wanted
                yield following
            image = following


class VideoWriter:
    """An H.264 file from RGB frames (yuv420p, plays everywhere). A context manager.

    The file appears under its name when the block is left without an error; until then, and after an error or
    Ctrl-C, there is nothing. It says in its comment that it is synthetic (`MARK`). Behind a link, the file that the
    link leads to is written. Frames with an odd side are continued by one pixel: yuv420p needs even sides.

    Args:
        path: the file; its ending says the format (.mp4, .m4v, .mov, .mkv).
        fps: frames per second, 1..240.
        sound: a clip whose sound goes along, where it has any.
        sound_start_s: where in that clip the first frame lies, in seconds from its first frame.
        crf: quality of x264; 0 is lossless, 18 hardly to be told from it, 51 the worst.

    Raises:
        InputError: the ending or the rate cannot be written, or the folder does not exist.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        *,
        sound: str | Path | None = None,
        sound_start_s: float = 0.0,
        crf: int = 18,
    ) -> None:
        self.path = Path(os.path.realpath(path))
        kind = FORMATS.get(self.path.suffix.lower())
        if kind is None:
            raise InputError(f"{self.path} has an ending that is not written. Use one of: {', '.join(FORMATS)}.")
        if not 1.0 <= fps <= 240.0:
            raise InputError(f"A video of {fps:g} frames per second is not written. Give 1 to 240.")
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder. Give the name of a file.")
        if not self.path.parent.is_dir():
            raise InputError(f"The folder {self.path.parent} does not exist. Create it first.")
        self.frames = 0
        self._fps = Fraction(fps).limit_denominator(1001)
        self._crf = crf
        self._size: tuple[int, int] | None = None
        try:
            handle, self._temporary = tempfile.mkstemp(
                dir=self.path.parent, prefix=f".{self.path.stem}.", suffix=f".part{self.path.suffix}"
            )
            os.close(handle)
            options = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
            self._container: Any = av.open(self._temporary, "w", format=kind, options=options)
            self._container.metadata["comment"] = MARK
        except (FFmpegError, OSError) as error:
            self._discard()
            raise self._cannot_write(error) from error
        self._sound: _Sound | None = None
        if sound is not None:
            self._sound = _Sound.of(Path(sound), sound_start_s)
        self._video: Any = None

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add a frame.

        Args:
            image: uint8 [H, W, 3], RGB; all frames of one size.

        Raises:
            InputError: the frame is of another kind or size than the first, or the disk is full.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"A frame is uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}.")
        height, width = image.shape[:2]
        if self._size is None:
            self._size = (width, height)
        if self._size != (width, height):
            raise InputError(f"A frame is {width}x{height} pixels, the first was {self._size[0]}x{self._size[1]}.")
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._video is None:
                self._begin(image.shape[1], image.shape[0])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.frames
            frame.time_base = 1 / self._fps
            self._container.mux(self._video.encode(frame))
            self.frames += 1
            if self._sound is not None:
                self._sound.pump(self._container, until_s=float(self.frames / self._fps))
        except (FFmpegError, OSError) as error:
            raise self._cannot_write(error) from error

    def _begin(self, width: int, height: int) -> None:
        self._video = self._container.add_stream("libx264", rate=self._fps)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.options = {"crf": str(self._crf), "preset": "veryfast"}
        self._video.time_base = 1 / self._fps
        # Said in the file, lest a player guess by the size: BT.601, 16..235.
        self._video.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601.value
        self._video.codec_context.color_range = av.video.reformatter.ColorRange.MPEG.value
        if self._sound is not None:
            self._sound.begin(self._container)

    def _cannot_write(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(f"{self.path} cannot be written ({reason}). Is there space, and may it be written there?")

    def _discard(self) -> None:
        """Leave nothing half-written."""
        with suppress(FFmpegError, OSError, AttributeError, ValueError):
            self._container.close()
        with suppress(OSError, AttributeError):
            Path(self._temporary).unlink(missing_ok=True)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            InputError: no frame was written, or the disk is full; nothing is left then.
        """
        try:
            if self._video is None:
                raise InputError(f"{self.path} would have no frames; nothing was written.")
            try:
                self._container.mux(self._video.encode(None))
                if self._sound is not None:
                    self._sound.finish(self._container, until_s=float(self.frames / self._fps))
                self._container.close()
                os.chmod(self._temporary, 0o666 & ~_umask())
                os.replace(self._temporary, self.path)
            except (FFmpegError, OSError) as error:
                raise self._cannot_write(error) from error
        finally:
            self._discard()
            if self._sound is not None:
                self._sound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._discard()
        if self._sound is not None:
            self._sound.close()


def _umask() -> int:
    """The user's file mask: a temporary file is private until it gets its name."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Sound:
    """The sound of a clip, copied as AAC while the pictures are written."""

    RATE = 48000

    def __init__(self, source: Any, stream: Any, start_s: float) -> None:
        self._source = source
        self._start_s = start_s
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self._layout = layout
        self._decoded: Iterator[NDArray[np.float32]] = self._samples(stream)
        self._fifo: Any = av.AudioFifo()
        self._written = 0
        self._stream: Any = None

    @classmethod
    def of(cls, path: Path, start_s: float) -> "Self | None":
        """The sound of a clip, None where it has none."""
        source = _open(path)
        if not source.streams.audio or source.streams.audio[0].codec_context is None:
            source.close()
            return None
        # Both streams have clocks of their own: the sound starts where the first picture was shown.
        pictures = source.streams.video[0] if source.streams.video else None
        offset = 0.0
        if pictures is not None and pictures.start_time is not None:
            offset = float(pictures.start_time * pictures.time_base)
        return cls(source, source.streams.audio[0], start_s + offset)

    def _samples(self, stream: Any) -> Iterator[NDArray[np.float32]]:
        """Samples float32 [C, n] at RATE, from start_s on."""
        resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self.RATE)
        position: int | None = None
        with suppress(FFmpegError, OSError):  # damaged sound ends early; the pictures matter more
            for frame in self._source.decode(stream):
                due = None if frame.time is None else round((frame.time - self._start_s) * self.RATE)
                if position is None:
                    position = due or 0
                    if position > 0:  # the sound begins later than the pictures
                        yield self._silence(position)
                elif due is not None and due - position > HOLE_S * self.RATE:
                    # What was not recorded is silent, and what follows stays beside its pictures.
                    yield self._silence(due - max(position, 0))
                    position = due
                for part in resampler.resample(frame):
                    values = np.asarray(part.to_ndarray(), dtype=np.float32)
                    skip = min(max(-position, 0), values.shape[1])
                    position += values.shape[1]
                    if skip < values.shape[1]:
                        yield values[:, skip:]

    def _silence(self, samples: int) -> NDArray[np.float32]:
        return np.zeros((1 if self._layout == "mono" else 2, max(0, samples)), np.float32)

    def begin(self, container: Any) -> None:
        """Add the stream, before the first packet."""
        self._stream = container.add_stream("aac", rate=self.RATE)
        self._stream.layout = self._layout

    def pump(self, container: Any, *, until_s: float, last: bool = False) -> None:
        """Copy sound up to a moment of the pictures; whole AAC frames only, but for the last."""
        wanted = int(until_s * self.RATE)
        size = self._stream.codec_context.frame_size or 1024
        while wanted - self._written >= (1 if last else size):
            while self._fifo.samples < size and (values := next(self._decoded, None)) is not None:
                block: Any = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), "fltp", self._layout)
                block.sample_rate = self.RATE
                self._fifo.write(block)
            frame = self._fifo.read(min(size, wanted - self._written), partial=True)
            if frame is None:  # the sound is over
                return
            frame.pts = self._written
            frame.time_base = Fraction(1, self.RATE)
            self._written += frame.samples
            container.mux(self._stream.encode(frame))

    def finish(self, container: Any, *, until_s: float) -> None:
        """Copy the rest, and write what the encoder still holds."""
        self.pump(container, until_s=until_s, last=True)
        container.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the clip that the sound came from."""
        self._source.close()
