"""Clips in and out: rate, rotation, sound, and files that are none."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from edge.driving.video import VideoWriter, read_video
from edge.errors import InputError

WIDTH, HEIGHT = 128, 96


def frames(count: int) -> Iterator[np.ndarray]:
    """A red bar that says the frame's number (4 pixels a frame), on grey; green at the bottom left."""
    for number in range(count):
        image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        image[8:40, : 4 * (number % 30) + 4] = (220, 30, 30)
        image[64:90, 4:40] = (30, 200, 30)
        yield image


def number_of(image: np.ndarray) -> int:
    """The number that `frames` drew."""
    red = (image[24, :, 0].astype(int) - image[24, :, 1]) > 80
    return round(red.sum() / 4) - 1


def make_clip(
    path: Path,
    times_s: list[float],
    *,
    sound: bool = False,
    beep_s: float = 1.0,
    rate: int = 25,
    pixels: str = "yuv420p",
) -> Path:
    """A clip whose frames have these times; its sound is silent, then a tone from `beep_s` on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        if pixels == "yuv420p10le":  # BT.2020 and PQ, as phones film HDR
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        tone = container.add_stream("aac", rate=44100) if sound else None
        if tone is not None:
            tone.layout = "mono"
        for image, time_s in zip(frames(len(times_s)), times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            moments = np.arange(int((times_s[-1] + 0.04) * 44100)) / 44100
            wave = np.where(moments >= beep_s, 0.5 * np.sin(2 * np.pi * 440 * moments), 0).astype(np.float32)
            fifo = av.AudioFifo()
            block = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            block.sample_rate, block.pts = 44100, 0
            fifo.write(block)
            for part in fifo.read_many(1024, partial=True):
                container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    return path


def test_frames_come_back(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25, crf=10) as writer:
        for image in frames(50):
            writer.write(image)
    clip = read_video(tmp_path / "a.mp4")
    read = list(clip)
    assert (clip.fps, clip.length, clip.has_sound, clip.notes) == (25, 50, False, [])
    assert [number_of(image) for image in read] == [n % 30 for n in range(50)]
    assert all(image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8 for image in read)
    assert np.abs(read[0].astype(int) - next(frames(1))).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize(("rate", "fps"), [(24, 24), (30, 30), (50, 25), (60, 30), (120, 30)])
def test_high_rates_are_thinned_evenly(tmp_path: Path, rate: int, fps: int) -> None:
    with VideoWriter(tmp_path / "a.mp4", rate) as writer:
        for image in frames(24):
            writer.write(image)
    clip = read_video(tmp_path / "a.mp4")
    assert clip.fps == pytest.approx(fps)
    assert [number_of(image) for image in clip] == list(range(0, 24, rate // fps))


def test_variable_rate_becomes_constant(tmp_path: Path) -> None:
    # 10 frames at 25 a second, 5 at 12.5, then one that stands for half a second.
    times = [n / 25 for n in range(10)] + [0.4 + n / 12.5 for n in range(5)] + [1.3]
    clip = read_video(make_clip(tmp_path / "a.mp4", times))
    numbers = [number_of(image) for image in clip]
    assert abs(len(numbers) - 1.3 * clip.fps) <= 2
    for slot, number in enumerate(numbers):
        shown = max(n for n, time_s in enumerate(times) if time_s <= slot / clip.fps + 0.5 / clip.fps + 1e-3)
        assert abs(number - shown) <= 1


MATRICES = {
    "upright": ((1, 0, 0, 1), lambda a: a),
    "a quarter turn clockwise": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "half a turn": ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
    "a quarter turn back": ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "upside down mirrored": ((1, 0, 0, -1), lambda a: a[::-1]),
    "mirrored and turned": ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
    "mirrored and turned back": ((0, -1, -1, 0), lambda a: np.rot90(a.transpose(1, 0, 2), 2)),
}


@pytest.mark.parametrize("hdr", [False, True], ids=["8 bits", "HDR"])
@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_are_obeyed(tmp_path: Path, name: str, hdr: bool) -> None:
    path = make_clip(tmp_path / "a.mp4", [n / 25 for n in range(3)], pixels="yuv420p10le" if hdr else "yuv420p")
    (a, b, c, d), look = MATRICES[name]
    data = bytearray(path.read_bytes())
    # The track header's matrix, as phones and cameras write it.
    unity, other = (
        b"".join((n % (1 << 32)).to_bytes(4, "big") for n in (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30))
        for a, b, c, d in ((1, 0, 0, 1), (a, b, c, d))
    )
    place = data.index(unity, data.index(b"tkhd"))
    data[place : place + 36] = other
    path.write_bytes(data)
    for image in read_video(path):
        wanted = look(next(frames(1)))
        assert image.shape == wanted.shape
        assert np.abs(image.astype(int) - wanted)[24:40, 24:40].mean() < (60 if hdr else 6)
        assert np.corrcoef(image.ravel(), wanted.ravel())[0, 1] > 0.9
        break


def test_a_truncated_clip_says_what_is_missing(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "whole.mp4", 25) as writer:
        for image in frames(100):
            writer.write(image)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: int(0.7 * len(whole))])
    clip = read_video(tmp_path / "half.mp4")
    read = list(clip)
    assert 10 < len(read) < 100
    (told,) = [note for note in clip.notes if "are missing" in note]
    assert "of its 100 frames" in told
    missing = int(told.split(":")[1].split()[0])
    assert abs(missing - (100 - len(read))) <= 2


def test_holes_in_sound_stay_holes(tmp_path: Path) -> None:
    """What follows a hole in the sound's clock stays beside its pictures."""
    source = tmp_path / "source.mkv"
    make_clip(tmp_path / "a.mp4", [n / 25 for n in range(75)], sound=True, beep_s=2.0)
    with av.open(str(tmp_path / "a.mp4")) as whole, av.open(str(source), "w") as holed:
        copies = {stream.index: holed.add_stream_from_template(stream) for stream in whole.streams}
        for packet in whole.demux():
            lost = (
                packet.stream.type == "audio" and packet.dts is not None and 0.5 < packet.dts * packet.time_base < 1.5
            )
            if packet.dts is not None and not lost:
                packet.stream = copies[packet.stream.index]
                holed.mux(packet)
    with VideoWriter(tmp_path / "b.mp4", 25, sound=source) as writer:
        for image in frames(75):
            writer.write(image)
    assert beep(tmp_path / "b.mp4") == pytest.approx(2.0, abs=0.05)


def beep(path: Path) -> float:
    """When a clip's sound is first heard, in seconds."""
    with av.open(str(path)) as container:
        return next(
            frame.time + int(np.argmax(wave)) / frame.sample_rate
            for frame in container.decode(audio=0)
            if (wave := np.abs(frame.to_ndarray()[0]) > 0.1).any()
        )


@pytest.mark.parametrize("start_s", [0.0, 0.4])
def test_sound_goes_along(tmp_path: Path, start_s: float) -> None:
    source = make_clip(tmp_path / "source.mp4", [n / 25 for n in range(50)], sound=True)
    assert read_video(source).has_sound
    with VideoWriter(tmp_path / "a.mp4", 25, sound=source, sound_start_s=start_s) as writer:
        for image in frames(40):
            writer.write(image)
    with av.open(str(tmp_path / "a.mp4")) as container:
        pictures, sound = container.streams.video[0], container.streams.audio[0]
        assert float(pictures.duration * pictures.time_base) == pytest.approx(1.6, abs=0.01)
        assert float(sound.duration * sound.time_base) == pytest.approx(1.6, abs=0.05)
        loud = [
            frame.time + np.argmax(wave) / frame.sample_rate
            for frame in container.decode(sound)
            if (wave := np.abs(frame.to_ndarray()[0]) > 0.1).any()
        ]
    assert loud[0] == pytest.approx(1.0 - start_s, abs=0.03)


def test_a_silent_source_makes_a_silent_video(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "source.mp4", [0.0, 0.04, 0.08])
    with VideoWriter(tmp_path / "a.mp4", 25, sound=source) as writer:
        for image in frames(3):
            writer.write(image)
    assert not read_video(tmp_path / "a.mp4").has_sound


def test_odd_sides_are_continued(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.full((33, 65, 3), 100, np.uint8))
    image = next(iter(read_video(tmp_path / "a.mp4")))
    assert image.shape == (34, 66, 3)
    assert np.abs(image.astype(int) - 100).max() < 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_video_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"an older video")

    def interrupted() -> None:
        with VideoWriter(tmp_path / "a.mp4", 25) as writer:
            for image in frames(5):
                writer.write(image)
            raise error

    with pytest.raises(error):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"an older video"


def test_a_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(InputError, match="No space left on device"),
        VideoWriter(tmp_path / "a.mp4", 25) as writer,
    ):
        writer.write(next(frames(1)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "fps", "says"),
    [
        ("a.avi", 25, "ending that is not written"),
        ("a.mp4", 0, "frames per second"),
        ("a.mp4", float("nan"), "frames per second"),
        ("missing/a.mp4", 25, "does not exist"),
        ("folder.mp4", 25, "is a folder"),
    ],
)
def test_what_cannot_be_written_is_explained(tmp_path: Path, name: str, fps: float, says: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=says):
        VideoWriter(tmp_path / name, fps)


def test_frames_of_another_kind_are_explained(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(InputError, match="the first was"):
            writer.write(np.zeros((32, 34, 3), np.uint8))
        with pytest.raises(InputError, match="uint8"):
            writer.write(np.zeros((32, 32, 3), np.float32))
    assert len(list(read_video(tmp_path / "a.mp4"))) == 1


def make_sound(path: Path) -> None:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "There is no clip"),
        (lambda p: p.mkdir(), "not a file"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("no clip at all\n" * 50), "cannot be read as a video"),
        (lambda p: p.write_bytes(os.urandom(4000)), "cannot be read as a video"),
        (make_sound, "only sound"),
    ],
)
def test_unreadable_clips_are_explained(tmp_path: Path, make, says: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match=says):
        read_video(tmp_path / "clip.mp4")


def test_a_clip_cut_short_is_explained(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", [n / 25 for n in range(50)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a video"):
        read_video(path)


def test_damaged_parts_are_left_out(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", [n / 25 for n in range(50)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])  # a stream format: what is there can be shown
    assert 5 < len(list(read_video(path))) < 50
