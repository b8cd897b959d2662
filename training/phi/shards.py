"""Training shards: clips of one face as WebDataset tars, and frame pairs out of them in an order that repeats.

A shard is a plain tar; a clip in it is a sample of WebDataset's naming: `KEY.json`, `KEY.landmarks.npy`,
`KEY.0000.jpg` and so on. Beside it lies `shard-000000.json` with where each frame starts, so that two frames of a clip
are two short reads.
"""

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from edge.errors import InputError
from edge.topology import LANDMARKS
from training.checkpoint import write_text

FORMAT = 1
"""Version of a shard's index; a reader refuses any other."""
LANDMARK_STEP = 2.0**-14
"""Landmarks are kept as int16 in steps of this, crop coordinates: 0.015 pixels of 512, in half the bytes."""


class ClipFrames(NamedTuple):
    """One clip, ready to be written."""

    key: str
    """Letters, digits, `-` and `_`."""
    record: dict[str, Any]
    """Where it comes from; `source` and `fps` at least."""
    landmarks: np.ndarray
    """float32 [T, 478, 3], crop coordinates."""
    jpegs: Sequence[bytes]
    """T pictures of one size."""


def write_clip(tar: tarfile.TarFile, clip: ClipFrames) -> None:
    """Append a clip's members to a tar."""
    buffer = io.BytesIO()
    steps = np.clip(np.rint(clip.landmarks / LANDMARK_STEP), -(2**15), 2**15 - 1).astype(np.int16)
    np.save(buffer, steps, allow_pickle=False)
    members = [("json", json.dumps(clip.record).encode()), ("landmarks.npy", buffer.getvalue())]
    members += [(f"{number:04d}.jpg", jpeg) for number, jpeg in enumerate(clip.jpegs)]
    for ending, body in members:
        member = tarfile.TarInfo(f"{clip.key}.{ending}")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))


def write_shard(path: Path, parts: Sequence[Path]) -> None:
    """One shard of clips that lie in tars of their own, with its index; whole or not at all.

    Args:
        path: `….tar`; the index is `….json` beside it and is written last: a shard without one does not count.
        parts: tars of one clip each, made by `write_clip`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with tarfile.open(temporary, "w") as tar:
        for part in parts:
            with tarfile.open(part) as clip:
                for member in clip:
                    tar.addfile(member, clip.extractfile(member))
    index: dict[str, dict[str, Any]] = {}
    with tarfile.open(temporary) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            clip = index.setdefault(key, {"key": key, "frames": []})
            place = [member.offset_data, member.size]
            if ending.endswith("jpg"):
                clip["frames"].append(place)
            else:
                clip[ending.split(".")[0]] = place
    os.replace(temporary, path)
    write_text(path.with_suffix(".json"), json.dumps({"format": FORMAT, "clips": list(index.values())}))


class Pair(NamedTuple):
    """Two frames of one clip."""

    source: torch.Tensor
    """I_s: uint8 [3, S, S], RGB."""
    driving: torch.Tensor
    """I_d."""
    source_landmarks: torch.Tensor
    """float32 [478, 3], crop coordinates."""
    driving_landmarks: torch.Tensor
    seed: int
    """Of all else that is random about this sample."""


class Clips(torch.utils.data.Dataset[Pair]):
    """Frame pairs of all clips in a folder of shards: sample `n` is a function of the seed and n alone.

    Memory grows by 16 bytes a frame and 40 a clip; pictures are read when asked for.
    """

    def __init__(
        self, folder: Path, *, size: int, seed: int = 0, hold_out: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        """Open a folder.

        Args:
            folder: of shards.
            size: width and height of the frames; shards of another size are resized.
            seed: of the order.
            hold_out: sources (names of clips' files without ending) that are left out.
            only: sources that alone are kept, where there are any.

        Raises:
            InputError: when there is no shard, an index is damaged or of another version, or no clip is left.
        """
        super().__init__()
        self.size, self.seed = size, seed
        self.paths: list[Path] = []
        shard, frames, landmarks, starts, keys = [], [], [], [0], []
        for index_path in sorted(folder.glob("shard-*.json")):
            try:
                index = json.loads(index_path.read_text())
                clips = index["clips"]
                if index["format"] != FORMAT:
                    raise InputError(f"{index_path} is of format {index['format']}, not {FORMAT}. Prepare it again.")
                self.paths.append(index_path.with_suffix(".tar"))
                size_on_disk = self.paths[-1].stat().st_size
                for clip in clips:
                    places = np.array(clip["frames"], np.int64).reshape(-1, 2)
                    place = [int(value) for value in clip["landmarks"]]
                    if (places.sum(1) > size_on_disk).any() or (places < 0).any() or sum(place) > size_on_disk:
                        raise ValueError("the shard is shorter than its index says")
                    name = str(clip["key"])
                    if name.split("__")[0] in hold_out or (only and name.split("__")[0] not in only):
                        continue
                    if len(places) < 2:
                        continue  # nothing to drive with
                    shard.append(len(self.paths) - 1)
                    frames.append(places)
                    landmarks.append(place)
                    starts.append(starts[-1] + len(places))
                    keys.append(name)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{index_path} or its shard is damaged ({error}). Prepare it again.") from error
        if not keys:
            raise InputError(f"There is no clip to train on in {folder}. Make shards with superface prepare.")
        self.keys = keys
        self.shard = np.array(shard)
        self.places = np.concatenate(frames)
        self.landmark_places = np.array(landmarks)
        self.starts = np.array(starts)
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return 2**62  # the order has no end

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # workers open their own

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            os.close(file)

    def __getitem__(self, sample: int) -> Pair:
        draw = np.random.default_rng([self.seed, sample])
        clip = int(draw.integers(len(self.keys)))
        count = int(self.starts[clip + 1] - self.starts[clip])
        source = int(draw.integers(count))
        driving = int((source + draw.integers(1, count)) % count)
        landmarks = self.landmarks(clip)
        return Pair(
            self.frame(clip, source),
            self.frame(clip, driving),
            torch.from_numpy(landmarks[source].copy()),
            torch.from_numpy(landmarks[driving].copy()),
            int(draw.integers(2**31)),
        )

    @property
    def kept_size(self) -> int:
        """Width and height in which the first clip's frames were kept, before any resizing."""
        with Image.open(io.BytesIO(self._read(0, *self.places[0]))) as picture:
            return picture.size[0]

    def length(self, clip: int) -> int:
        """Frames of a clip."""
        return int(self.starts[clip + 1] - self.starts[clip])

    def landmarks(self, clip: int) -> np.ndarray:
        """Landmarks of a clip: float32 [T, 478, 3]; raises InputError where they are damaged or missing."""
        try:
            values = np.load(io.BytesIO(self._read(clip, *self.landmark_places[clip])), allow_pickle=False)
            if values.shape != (self.length(clip), LANDMARKS, 3) or values.dtype != np.int16:
                raise ValueError(f"{values.dtype} of the shape {values.shape}")
            return values.astype(np.float32) * np.float32(LANDMARK_STEP)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{self._where(clip)}: its landmarks are damaged ({error}). Prepare it again.") from error

    def frame(self, clip: int, number: int) -> torch.Tensor:
        """One picture: uint8 [3, S, S]; raises InputError where it is damaged."""
        try:
            picture = Image.open(io.BytesIO(self._read(clip, *self.places[self.starts[clip] + number]))).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise InputError(f"{self._where(clip)}: frame {number} is damaged ({error}). Prepare it again.") from error
        if picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def _read(self, clip: int, offset: int, size: int) -> bytes:
        shard = int(self.shard[clip])
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
        return os.pread(self._files[shard], int(size), int(offset))

    def _where(self, clip: int) -> str:
        return f"Clip {self.keys[clip]} in {self.paths[int(self.shard[clip])]}"


class Samples(torch.utils.data.Sampler[int]):
    """Which samples a process takes, step by step, from a step on: every process its part of one global order."""

    def __init__(self, *, first_step: int, steps: int, global_batch: int, process: int = 0, processes: int = 1) -> None:
        self.range = range(first_step, steps)
        self.batch, self.process, self.part = global_batch, process, global_batch // processes

    def __len__(self) -> int:
        return len(self.range) * self.part

    def __iter__(self):
        for step in self.range:
            begin = step * self.batch + self.process * self.part
            yield from range(begin, begin + self.part)
