"""Preparing clips: what is kept, what is left out and why, and a start that goes on after another."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from edge.driving.video import VideoWriter
from edge.errors import InputError
from training.phi import prepare as module
from training.phi.prepare import Settings, find_sources, prepare
from training.phi.shards import Clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory, portraits, landmark_model):
    """Four clips: a face, the same blurred, a wall, and a face in a corner of a longer clip."""
    del landmark_model
    folder = tmp_path_factory.mktemp("videos")
    photo = Image.open(portraits["astronaut"]).convert("RGB").crop((64, 0, 384, 320))
    wall = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).resize((320, 320))
    wide = Image.new("RGB", (640, 320), (90, 90, 90))
    wide.paste(photo, (320, 0))

    def film(name, picture, frames, blank=0):
        with VideoWriter(folder / name, fps=25.0) as writer:
            for number in range(blank + frames):
                shown = wall.resize(picture.size) if number < blank else picture
                writer.write(np.asarray(shown.rotate(2 * np.sin(number / 4), resample=Image.Resampling.BICUBIC)))

    film("face.mp4", photo, 20)
    film("soft.mp4", photo.filter(ImageFilter.GaussianBlur(4)), 20)
    film("wall.mp4", wall, 20)
    film("long.mp4", wide, 25, blank=25)
    return folder


@pytest.fixture(autouse=True)
def the_landmark_model(landmark_model, monkeypatch):
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))


SMALL = Settings(size=128, frames=8)


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory, landmark_model):
    """The four clips as shards, and their card."""
    output = tmp_path_factory.mktemp("shards") / "out"
    patch = pytest.MonkeyPatch()
    patch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    licences = output.parent / "licences.csv"
    licences.write_text("file,licence\nfaces/face.mp4,CC-BY-4.0\n")
    card = prepare([videos], output, settings=SMALL, licences=licences)
    patch.undo()
    return output, card


def test_the_card_says_what_was_kept_and_why(prepared):
    output, card = prepared
    verdicts = [json.loads(line) for line in (output / "verdicts.jsonl").read_text().splitlines()]
    kept = {v["key"]: v["frames"] for v in verdicts}
    assert kept["face"] == 8
    assert kept["wall"] == kept["soft"] == 0
    reasons = {v["key"]: v["reason"] for v in verdicts}
    assert "No face" in reasons["wall"]
    assert "blurred" in reasons["soft"]
    assert card["clips"] + card["rejected"] == 4
    assert card["licences"]["CC-BY-4.0"] == 1
    page = (output / "README.md").read_text()
    assert "CC-BY-4.0" in page
    assert "blurred" in page
    assert not (output / "work").exists()


def test_shards_hold_the_face_in_its_crop(prepared):
    clips = Clips(prepared[0], size=128, only=("face",))
    assert clips.length(0) == 8
    landmarks = clips.landmarks(0)
    assert np.abs(landmarks[..., :2]).max() < 1
    pair = clips[0]
    assert pair.source.shape == (3, 128, 128)
    assert pair.source.float().std() > 20
    assert not torch.equal(pair.source, pair.driving)


def test_a_finished_folder_is_left_as_it_is(prepared, videos, monkeypatch):
    monkeypatch.setattr(module, "prepare_clip", None)  # nothing may be prepared again
    assert prepare([videos], prepared[0], settings=SMALL) == prepared[1]
    with pytest.raises(InputError, match="other clips or settings"):
        prepare([videos], prepared[0], settings=Settings(size=64))


def test_a_start_that_was_stopped_goes_on(videos, tmp_path, monkeypatch, prepared):
    done = []
    real = module.prepare_clip

    def stops(source, settings, work):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(source.key)
        return real(source, settings, work)

    monkeypatch.setattr(module, "prepare_clip", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare([videos], tmp_path / "out", settings=SMALL)
    assert not list((tmp_path / "out").glob("shard-*"))
    later = []
    monkeypatch.setattr(module, "prepare_clip", lambda s, *rest: later.append(s.key) or real(s, *rest))
    card = prepare([videos], tmp_path / "out", settings=SMALL)
    assert not set(done) & set(later)
    assert card["clips"] == prepared[1]["clips"]
    one, other = (tmp_path / "out" / "shard-000000.tar").read_bytes(), (prepared[0] / "shard-000000.tar").read_bytes()
    assert len(one) == len(other)


def test_a_listing_names_spans_and_boxes(videos, tmp_path):
    listing = tmp_path / "list.json"
    box = {"top": 0.0, "bottom": 1.0, "left": 0.5, "right": 1.0}
    clips = {"clip-1": {"ytb_id": "long", "duration": {"start_sec": 1.2, "end_sec": 2.0}, "bbox": box}}
    clips["gone"] = {"ytb_id": "gone", "duration": {"start_sec": 0, "end_sec": 1}, "bbox": box}
    listing.write_text(json.dumps({"clips": clips}))
    (source,) = find_sources([videos], listing)
    assert source.span == (1.2, 2.0)
    assert source.box == (0.0, 1.0, 0.5, 1.0)
    card = prepare([videos], tmp_path / "out", settings=SMALL, listing=listing)
    assert card["clips"] == 1
    assert Clips(tmp_path / "out", size=128).keys == ["clip-1"]


def test_mistakes_are_answered_in_a_sentence(tmp_path, videos):
    with pytest.raises(InputError, match="no video or folder"):
        find_sources([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no video"):
        find_sources([tmp_path])
    bad = tmp_path / "bad.json"
    bad.write_text('{"clips": {"a": {}}}')
    with pytest.raises(InputError, match="no listing"):
        find_sources([videos], bad)
    bad.write_text('{"clips": {"a": {"ytb_id": "b"}}}')
    with pytest.raises(InputError, match="None of the 1 clips"):
        find_sources([videos], bad)
    with pytest.raises(InputError, match="no CSV"):
        find_sources([videos], licences=bad)


def test_keys_are_unique_and_safe(tmp_path):
    for name in ("a b", "a_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x y.mp4").write_bytes(b"")
    keys = [source.key for source in find_sources([tmp_path])]
    assert keys == ["x-y", "x-y__2"]


def test_a_photo_is_posed(portraits, tmp_path):
    """Itself first, then turned: many faces to start with, and the card says who posed them."""
    card = prepare([], tmp_path / "out", settings=Settings(size=128, frames=5), photos=[portraits["grace_hopper"]])
    assert card["clips"] == 1
    clips = Clips(tmp_path / "out", size=128)
    assert clips.keys == ["posed-grace_hopper"]
    landmarks = clips.landmarks(0)
    assert len(landmarks) == 5
    assert np.abs(landmarks[1:] - landmarks[0]).max() > 0.02
    first, second = clips.frame(0, 0).float(), clips.frame(0, 3).float()
    assert 3 < (first - second).abs().mean() < 60
