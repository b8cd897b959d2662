"""The command line of the runtime: `python -m edge animate|track|bench|check …`; it needs no torch.

`superface` offers the same verbs: it takes them from `add_commands`, so that a flag is written once.
"""

import argparse
import errno
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from edge.avatar import Avatar
from edge.bundle import printable, read_manifest
from edge.driving.outputs import claim
from edge.errors import InputError, SuperFaceError
from edge.motion import Mouth
from edge.runtimes import Precision, Runtime

PROCEDURAL_SECONDS = 8.0


def add_commands(verbs: Any) -> None:
    """Add animate, track, bench and check to `add_subparsers()`; each sets `run`: arguments → exit code."""
    _add_animate(verbs.add_parser("animate", help="make an avatar follow a video or a landmark track"))
    _add_track(verbs.add_parser("track", help="turn a video into a landmark track"))
    _add_bench(verbs.add_parser("bench", help="measure an avatar's speed and memory on this machine"))
    _add_check(verbs.add_parser("check", help="verify an avatar's files, golden frames and parity"))


def run_safely(command: Callable[[], int]) -> int:
    """The exit code of a command: its own, 2 with one sentence for a user's mistake, 128 and more for a signal."""
    with _stoppable():
        return _run(command)


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except SuperFaceError as error:
        print(printable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` has; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stopped:
        print("Stopped; nothing half-written was left.", file=sys.stderr)
        return 128 + (stopped.args[0] if stopped.args else signal.SIGINT)
    except OSError as error:
        if error.errno not in _EXPLAINED:
            raise
        print(printable(f"{error.filename or 'A file'} cannot be written or read: {error.strerror}."), file=sys.stderr)
        return 2


_EXPLAINED = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip
"""Faults of a path that the user gave, or of the disk."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP stop as Ctrl-C does, so that whatever is half-written goes; a nohup is respected."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    kept = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                kept[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, before in kept.items():
            signal.signal(number, before)


def speak_plainly() -> None:
    """Whatever the terminal can show: a letter that it lacks becomes a question mark, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    speak_plainly()
    parser = argparse.ArgumentParser(prog="python -m edge", description="Drive, measure and check avatars.")
    add_commands(parser.add_subparsers(required=True, metavar="animate|track|bench|check"))
    parsed = parser.parse_args(arguments)
    return run_safely(lambda: int(parsed.run(parsed)))


# -- animate -------------------------------------------------------------------------------------------------


def _add_animate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_animate)
    parser.add_argument("avatar", type=Path, help="the folder NAME.avatar")
    parser.add_argument("--driving", type=Path, help="a video, or a track (.npz); default: a procedural motion")
    parser.add_argument("-o", "--output", type=Path, help="video to write (default: NAME.mp4)")
    parser.add_argument("--runtime", choices=get_args(Runtime), default="onnx", help="default: %(default)s")
    parser.add_argument("--precision", choices=get_args(Precision), help="default: the most exact for that runtime")
    parser.add_argument("--threads", type=int, help="threads for one frame (default: the runtime's own choice)")
    parser.add_argument(
        "--mouth",
        choices=get_args(Mouth),
        default="relative",
        help="relative: the photo's mouth is the driver's neutral one; absolute: lips part as far as the driver's, "
        "so that a photo with a laugh can close its mouth (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="write over a file that superface did not make")
    parser.add_argument("--json", action="store_true", help="end with one JSON line instead of a sentence")


def run_animate(arguments: argparse.Namespace) -> int:
    """Write a video of the avatar moving as the driving video, track or procedural motion does."""
    import numpy as np

    from edge.driving.track import TRACK_SUFFIX, read_driving
    from edge.driving.video import FORMATS, VideoWriter, made_here

    driving: Path | None = arguments.driving
    name = arguments.output or Path(f"{read_manifest(arguments.avatar).name}.mp4")
    output = claim(name, suffixes=FORMATS, ours=made_here, inputs=[driving], force=arguments.force)
    avatar = Avatar.load(
        arguments.avatar,
        runtime=arguments.runtime,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    if driving is None:
        from edge.driving.procedural import held_out_seed, procedural_track

        track = procedural_track(
            avatar.source_landmarks, seed=held_out_seed(0), seconds=PROCEDURAL_SECONDS, style="speech"
        )
    else:
        track = read_driving(driving, source_landmarks=avatar.source_landmarks, mouth=arguments.mouth)
    for note in track.notes:
        print(printable(note), file=sys.stderr)

    times_ms = []
    clip = driving if driving is not None and driving.suffix.lower() != TRACK_SUFFIX else None
    with VideoWriter(output, track.fps, sound=clip, sound_start_s=track.start_s) as writer:
        for pose in _progress(track.landmarks, "frames"):
            begun = time.perf_counter()
            frame = avatar.animate(pose)
            times_ms.append((time.perf_counter() - begun) * 1000)
            writer.write(frame)
    median_ms = float(np.median(times_ms))
    result = {
        "output": str(name),
        "frames": len(times_ms),
        "fps": track.fps,
        "median_ms": round(median_ms, 2),
        "runtime": arguments.runtime,
        "precision": avatar.precision,
    }
    sentence = f"{name}: {len(times_ms)} frames, {median_ms:.1f} ms each. {avatar.manifest.synthetic_media}"
    print(json.dumps(result) if arguments.json else sentence)
    return 0


# -- track ---------------------------------------------------------------------------------------------------


def _add_track(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_track)
    parser.add_argument("clip", type=Path, help="a video with one face")
    parser.add_argument("-o", "--output", type=Path, help="track to write (default: the clip's name with .npz)")
    parser.add_argument("--force", action="store_true", help="write over a file that is no track")
    parser.add_argument("--json", action="store_true", help="end with one JSON line instead of a sentence")


def run_track(arguments: argparse.Namespace) -> int:
    """Write the landmarks of a video's face, frame by frame, as a track."""
    from edge.driving.track import TRACK_SUFFIX, made_here, save_track, track_video

    written = arguments.output or arguments.clip.with_suffix(TRACK_SUFFIX)
    output = claim(written, suffixes=[TRACK_SUFFIX], ours=made_here, inputs=[arguments.clip], force=arguments.force)
    track = track_video(arguments.clip)
    save_track(track, output)
    for note in track.notes:
        print(printable(note), file=sys.stderr)
    found = int(track.detected.sum())
    result = {"output": str(written), "frames": len(track), "detected": found, "fps": track.fps}
    sentence = f"{written}: {len(track)} frames at {track.fps:g} per second, a face found in {found} of them."
    print(json.dumps(result) if arguments.json else sentence)
    return 0


# -- bench ---------------------------------------------------------------------------------------------------


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_bench)
    parser.add_argument("avatar", type=Path, nargs="?", help="the folder NAME.avatar")
    parser.add_argument(
        "--devices", action="store_true", help="predict named phones from published latencies instead of measuring here"
    )
    parser.add_argument(
        "--profile", action="store_true", help="where a frame's time goes in ONNX Runtime, by kind of operation"
    )
    parser.add_argument("--frames", type=int, default=60, help="counted frames per row (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads, one row each (default: 1 2)")
    parser.add_argument("--numpy", action="store_true", help="measure the plain-numpy runtime as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run_bench(arguments: argparse.Namespace) -> int:
    """Print an avatar's speed, memory and share of the machine's limit; or what named phones should need for it."""
    if arguments.devices:
        return _predict(arguments)
    from edge.judges.bench import bench, native_runtimes, profile, profile_table, table

    if arguments.avatar is None:
        raise InputError(
            "Which avatar? Give the folder NAME.avatar, or --devices to predict the tiers on named phones."
        )

    if arguments.profile:
        profiles = profile(arguments.avatar, frames=arguments.frames, threads=arguments.threads)
        print(json.dumps([one._asdict() for one in profiles]) if arguments.json else profile_table(profiles))
        return 0
    runtimes = (*native_runtimes(), "numpy") if arguments.numpy else None
    result = bench(arguments.avatar, frames=arguments.frames, threads=arguments.threads, runtimes=runtimes)
    print(json.dumps(result.as_json()) if arguments.json else table(result))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from edge.judges import phones

    manifest = read_manifest(arguments.avatar) if arguments.avatar else None
    predictions = phones.predict(avatar=(manifest.name, manifest.gmacs) if manifest else None)
    print(json.dumps(phones.as_json(predictions)) if arguments.json else phones.table(predictions))
    return 0


# -- check ---------------------------------------------------------------------------------------------------


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_check)
    parser.add_argument("avatar", type=Path, help="the folder NAME.avatar")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run_check(arguments: argparse.Namespace) -> int:
    """Print whether an avatar is intact and still draws its golden frames; 0 if it is, 1 if a gate is missed."""
    from edge.judges.check import check, report

    result = check(arguments.avatar)
    print(json.dumps(result.as_json()) if arguments.json else report(result))
    return 0 if result.passed else 1


# -- What the verbs share ------------------------------------------------------------------------------------


def _progress(items: Any, unit: str) -> Any:
    """A progress bar on a terminal, plain lines elsewhere."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(items, unit=f" {unit}", file=sys.stderr)
    return _lines(items, unit)


def _lines(items: Any, unit: str) -> Any:
    """The items, with a line at every fifth of the way."""
    total, begun = len(items), time.monotonic()
    step = max(1, math.ceil(total / 5))
    for done, item in enumerate(items, 1):
        yield item
        if done % step == 0 or done == total:
            left_s = (time.monotonic() - begun) * (total - done) / done
            print(f"{done} of {total} {unit}, {left_s:.0f} s left", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
