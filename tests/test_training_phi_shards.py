"""Shards: what was written comes back, samples repeat, damage is named."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from edge.errors import InputError
from training.phi.shards import LANDMARK_STEP, ClipFrames, Clips, Samples, write_clip, write_shard


def clip(key, frames, faces, *, shade=0):
    """Frames of one colour each, and a face that slides."""
    jpegs = []
    for number in range(frames):
        buffer = io.BytesIO()
        Image.new("RGB", (48, 48), (10 * number, shade, 0)).save(buffer, "JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    slide = np.linspace(0, 0.3, frames)[:, None, None]
    return ClipFrames(key, {"source": f"{key}.mp4", "fps": 25.0}, faces[0] + slide.astype(np.float32), jpegs)


@pytest.fixture
def folder(tmp_path, faces):
    for shard, names in enumerate((("a", "b"), ("c", "c__2"))):
        parts = []
        for name in names:
            parts.append(tmp_path / f"{name}.part")
            with tarfile.open(parts[-1], "w") as tar:
                write_clip(tar, clip(name, 5, faces, shade=50 * len(parts)))
        write_shard(tmp_path / f"shard-{shard:06d}.tar", parts)
    return tmp_path


def test_a_shard_is_webdatasets(folder):
    with tarfile.open(folder / "shard-000000.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["a.json", "a.landmarks.npy", "a.0000.jpg"]
    assert len(names) == 14


def test_frames_and_landmarks_come_back(folder, faces):
    clips = Clips(folder, size=48)
    assert clips.keys == ["a", "b", "c", "c__2"]
    frame = clips.frame(1, 3)
    assert frame.shape == (3, 48, 48)
    assert frame.float().mean((1, 2)).tolist() == pytest.approx([30, 100, 0], abs=4)
    landmarks = clips.landmarks(1)
    assert np.abs(landmarks - (faces[0] + np.linspace(0, 0.3, 5)[:, None, None])).max() <= LANDMARK_STEP
    assert Clips(folder, size=16).frame(0, 0).shape == (3, 16, 16)


def test_samples_repeat_and_pairs_are_two_frames(folder):
    one, other = Clips(folder, size=48), Clips(folder, size=48)
    for sample in range(20):
        pair, again = one[sample], other[sample]
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(pair, again, strict=True))
        assert not torch.equal(pair.source_landmarks, pair.driving_landmarks)
    assert one[3].seed != one[4].seed
    assert Clips(folder, size=48, seed=1)[0].seed != one[0].seed


def test_what_is_held_out_is_never_drawn(folder):
    assert Clips(folder, size=48, hold_out=("c",)).keys == ["a", "b"]
    assert Clips(folder, size=48, only=("c",)).keys == ["c", "c__2"]
    with pytest.raises(InputError, match="no clip"):
        Clips(folder, size=48, only=("nobody",))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_one_order(processes):
    parts = [
        list(Samples(first_step=2, steps=5, global_batch=8, process=p, processes=processes)) for p in range(processes)
    ]
    for step in range(3):
        size = 8 // processes
        taken = [sample for part in parts for sample in part[step * size : (step + 1) * size]]
        assert taken == list(range(8 * (step + 2), 8 * (step + 3)))


def test_damage_is_named(folder):
    shard = folder / "shard-000000.tar"
    whole = shard.read_bytes()
    clips = Clips(folder, size=48)
    place = int(clips.places[0][0])
    shard.write_bytes(whole[:place] + b"\0" * 200 + whole[place + 200 :])
    with pytest.raises(InputError, match=r"Clip a .*frame 0 is damaged"):
        Clips(folder, size=48).frame(0, 0)
    place = int(clips.landmark_places[0][0])
    shard.write_bytes(whole[:place] + b"\1" * 50 + whole[place + 50 :])
    with pytest.raises(InputError, match="landmarks are damaged"):
        Clips(folder, size=48).landmarks(0)
    shard.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="shorter than its index"):
        Clips(folder, size=48)


@pytest.mark.parametrize("change", [{"format": 9}, {"clips": 3}, {"clips": [{"key": "a", "frames": [[-5, 3]]}]}])
def test_an_index_that_lies_is_refused(folder, change):
    path = folder / "shard-000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"shard-000001\.json"):
        Clips(folder, size=48)


def test_a_shard_that_was_not_finished_does_not_count(folder):
    (folder / "shard-000001.json").unlink()
    assert Clips(folder, size=48).keys == ["a", "b"]


def test_clips_of_one_frame_are_left_out(tmp_path, faces):
    parts = []
    for name, frames in (("one", 1), ("two", 2)):
        parts.append(tmp_path / f"{name}.part")
        with tarfile.open(parts[-1], "w") as tar:
            write_clip(tar, clip(name, frames, faces))
    write_shard(tmp_path / "shard-000000.tar", parts)
    assert Clips(tmp_path, size=48).keys == ["two"]
