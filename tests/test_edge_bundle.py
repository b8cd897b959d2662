"""The bundle folder: whole or not at all, and nothing in it is believed before it is checked."""

import errno
import hashlib
import json
import os
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.golden import GoldenMotion
from converters.write_bundle import BundleContents, Lowered, manifest_text, write_bundle
from edge import bundle
from edge.bundle import ExpressionRow, GoldenCamera, ParityRow, parse_manifest, read_manifest, verify_files
from edge.errors import BundleError, InputError, SpecError
from edge.spec import FRAME, KEYPOINTS, LOCAL_LANDMARKS

TRUTH = np.random.default_rng(0)


PARITY = ParityRow("onnx", "fp32", "onnxruntime 1.30", 120.0, 110.0, 60.0, 8)
PACKAGE = {"student.mlpackage/Manifest.json": b"{}", "student.mlpackage/Data/com.apple.CoreML/model.mlmodel": b"model"}


def floats(*shape):
    return TRUTH.uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def contents():
    """A bundle's contents; its graphs are no graphs, which only a runtime would notice."""
    return BundleContents(
        name="someone",
        students=[
            Lowered("onnx", "fp32", "student.onnx", {"student.onnx": b"student"}, PARITY),
            Lowered("onnx", "int8", "student.int8.onnx", {"student.int8.onnx": b"smaller"}),
            Lowered("coreml", "fp16", "student.mlpackage", PACKAGE),
        ],
        drivers=[
            Lowered("onnx", "fp32", "driver.onnx", {"driver.onnx": b"driver"}),
            Lowered("coreml", "fp32", "driver.mlpackage", {"driver.mlpackage/Manifest.json": b"{}"}),
        ],
        thumbnail=np.zeros((64, 64, 3), np.uint8),
        source_landmarks=floats(478, 3),
        source_keypoints=floats(KEYPOINTS, 3),
        golden=GoldenMotion(
            GoldenCamera(1280, 720, 400.0, 50.5, 600.0, (0.0, 0.033)),
            1000 * floats(478, 3),
            1000 * floats(2, 478, 3),
            floats(2, 478, 3),
            floats(2, 478, 3),
        ),
        golden_keypoints=floats(2, KEYPOINTS, 2),
        golden_local_landmarks=floats(2, LOCAL_LANDMARKS, 2),
        golden_frames=np.stack([np.full((FRAME, FRAME, 3), value, np.uint8) for value in (40, 200)]),
        gmacs=2.9,
        parameters=1_200_000,
        created_with="superface 0.1.0",
        teacher="mesh",
        training={"steps": 10, "weights": {"local": 100.0}},
        metrics={"psnr_db": 31.5},
        licences={"photo": "public domain"},
        expressions=[
            ExpressionRow("blink", "eyes", 0.93, 0.9, 0.95, 0.7),
            ExpressionRow("ah", "mouth", 0.3, 0, 0.5, 0.7),
        ],
    )


@pytest.fixture
def folder(tmp_path, contents):
    write_bundle(tmp_path / "someone.avatar", contents)
    return tmp_path / "someone.avatar"


@pytest.fixture(scope="module")
def valid(tmp_path_factory, contents):
    """A valid manifest as plain JSON values."""
    path = tmp_path_factory.mktemp("valid") / "someone.avatar"
    write_bundle(path, contents)
    return json.loads((path / "manifest.json").read_text())


def parse(data):
    return parse_manifest(json.dumps(data).encode())


def test_what_is_written_is_read(folder, contents):
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert manifest.gflops == 2 * manifest.gmacs == 5.8
    assert manifest.graphs["student"].files == {
        "onnx": {"fp32": "student.onnx", "int8": "student.int8.onnx"},
        "coreml": {"fp16": "student.mlpackage"},
    }
    assert manifest.parity == (PARITY,)
    assert manifest.expressions == tuple(contents.expressions)
    assert [row.passed for row in manifest.expressions] == [True, False]
    assert (folder / "student.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes() == b"model"
    assert manifest.training["weights"] == {"local": 100.0}
    assert "synthetic media" in manifest.synthetic_media
    for name, array in (
        ("identity/landmarks.f32", contents.source_landmarks),
        ("golden/keypoints.f32", contents.golden_keypoints),
    ):
        np.testing.assert_array_equal(bundle.read_array(folder, manifest, name), array)
    for name, frame in zip(manifest.golden_frames, contents.golden_frames, strict=True):
        np.testing.assert_array_equal(bundle.read_frame(folder, manifest, name), frame)
    assert [path.name for path in folder.parent.iterdir()] == ["someone.avatar"]


def test_a_manifest_of_before_expressions_were_measured_is_read(valid):
    assert parse({key: value for key, value in valid.items() if key != "expressions"}).expressions == ()
    for rows in ([1], [{"expression": "blink"}], {}, [{**valid["expressions"][0], "drawn": "much"}]):
        with pytest.raises(BundleError, match="damaged"):
            parse(valid | {"expressions": rows})


def test_an_older_bundle_is_replaced_and_nothing_else_is(folder, contents, tmp_path):
    write_bundle(folder, replace(contents, name="newer"))
    assert read_manifest(folder).name == "newer"
    assert os.listdir(tmp_path) == ["someone.avatar"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="is no avatar, so it is not overwritten"):
        write_bundle(tmp_path / "photos", contents)
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("stage", ["os.fsync", "pathlib.Path.rename"])
def test_a_full_disk_leaves_the_old_bundle(folder, contents, tmp_path, monkeypatch, stage):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stage, full)
    with pytest.raises(InputError, match=r"the disk is full\. Nothing was left there"):
        write_bundle(folder, replace(contents, name="newer"))
    monkeypatch.undo()
    assert read_manifest(folder).name == "someone"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


def test_an_interruption_leaves_nothing(contents, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "new.avatar", contents)
    assert os.listdir(tmp_path) == []


def test_a_failed_swap_restores_the_old_bundle(folder, contents, tmp_path, monkeypatch):
    real = type(folder).rename

    def fail(self, target):
        if self.suffix == ".tmp":
            raise OSError(errno.EACCES, "Permission denied")
        return real(self, target)

    monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(InputError, match="Permission denied"):
        write_bundle(folder, replace(contents, name="newer"))
    assert read_manifest(folder).name == "someone"
    assert os.listdir(tmp_path) == ["someone.avatar"]


def test_wrong_contents_are_refused(contents, tmp_path):
    with pytest.raises(SpecError, match=r"golden/keypoints.f32 has shape \(2, 20, 3\)"):
        write_bundle(tmp_path / "a.avatar", replace(contents, golden_keypoints=floats(2, KEYPOINTS, 3)))
    with pytest.raises(SpecError, match="holds NaN"):
        write_bundle(tmp_path / "a.avatar", replace(contents, source_keypoints=np.full((20, 3), np.nan, "f4")))
    with pytest.raises(SpecError, match="finite figures"):
        write_bundle(tmp_path / "a.avatar", replace(contents, metrics={"psnr_db": float("inf")}))
    assert os.listdir(tmp_path) == []


def test_damage_is_named(folder):
    manifest = read_manifest(folder)
    student = folder / "student.onnx"
    original = student.read_bytes()
    for content, message in ((original[:-1], "has 6 bytes where"), (b"studenT", "was changed since")):
        student.write_bytes(content)
        with pytest.raises(BundleError, match=f"student.onnx {message}"):
            verify_files(folder, manifest)
    student.write_bytes(original)
    student.rename(folder / "model.onnx")
    with pytest.raises(BundleError, match=r"lacks student.onnx, but model.onnx has its length"):
        verify_files(folder, manifest)
    student.symlink_to(folder / "model.onnx")
    with pytest.raises(BundleError, match=r"student\.onnx is a link"):
        verify_files(folder, manifest)
    student.unlink()
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks student.onnx\. Fetch"):
        verify_files(folder, manifest)


def test_a_linked_folder_inside_is_refused(folder, tmp_path):
    (folder / "golden").rename(tmp_path / "elsewhere")
    (folder / "golden").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        verify_files(folder, read_manifest(folder))


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        read_manifest(tmp_path / "no.avatar")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file"):
        read_manifest(tmp_path / "file")


def test_unreadable_arrays_and_frames(folder):
    for value in (np.nan, np.inf, 1e9):
        manifest = signed(folder, "identity/keypoints.f32", np.full(60, value, "<f4").tobytes())
        with pytest.raises(BundleError, match=r"no array of shape .* in crop coordinates"):
            bundle.read_array(folder, manifest, "identity/keypoints.f32")
    whole = (folder / "golden/frame_0.png").read_bytes()
    zeros = b"IDAT" + zlib.compress(bytes(2**20))
    vast = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = whole[:8] + b"".join(_chunk(part) for part in (vast, zeros, b"IEND"))
    for body in (b"not a picture", whole[:-40], whole[:60] + b"\0" * 40 + whole[100:], bomb, b""):
        with pytest.raises(BundleError, match="not a readable PNG"):
            bundle.read_frame(folder, signed(folder, "golden/frame_0.png", body), "golden/frame_0.png")


def _chunk(body):
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def signed(folder, name, body):
    """A manifest that vouches for another content of a file."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(body)
    manifest = read_manifest(folder)
    entry = bundle.FileEntry(len(body), hashlib.sha256(body).hexdigest())
    manifest = replace(manifest, files=manifest.files | {name: entry})
    (folder / "manifest.json").write_bytes(manifest_text(manifest))
    return manifest


def test_what_is_not_listed_is_refused(folder, tmp_path):
    manifest = read_manifest(folder)
    (folder / "golden" / ".DS_Store").write_bytes(b"of a file manager")
    verify_files(folder, manifest)
    for stranger in ("weights.bin", "golden/more.png", "student.mlpackage/Data/com.apple.CoreML/weights/weight.bin"):
        path = folder / stranger
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        with pytest.raises(BundleError, match=r"lies in .* and is not in its manifest"):
            verify_files(folder, manifest)
        path.unlink()
        path.symlink_to("/etc/passwd")
        with pytest.raises(BundleError, match="not in its manifest"):
            verify_files(folder, manifest)
        path.unlink()
    (folder / "student.mlpackage/Data/com.apple.CoreML/weights").rmdir()
    (folder / "empty").mkdir()
    with pytest.raises(BundleError, match="not in its manifest"):
        verify_files(folder, manifest)


def test_what_was_checked_is_what_is_read(folder, monkeypatch):
    """Nobody can swap a file between its check and its use: the bytes that were hashed are the bytes returned."""
    manifest = read_manifest(folder)
    assert bundle.read_file(folder, manifest, "student.onnx") == b"student"
    (folder / "student.onnx").write_bytes(b"STUDENT")
    with pytest.raises(BundleError, match="was changed since"):
        bundle.read_file(folder, manifest, "student.onnx")


def test_a_package_is_copied_without_strangers(folder, tmp_path):
    manifest = read_manifest(folder)
    (folder / "student.mlpackage/Data/com.apple.CoreML/stranger").write_bytes(b"x")
    package = bundle.copy_package(folder, manifest, "student.mlpackage", tmp_path / "copy")
    found = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    listed = {path.partition("/")[2] for path in manifest.files if path.startswith("student.mlpackage/")}
    assert found == listed


NAMES = [
    "/tmp/x",
    "../x",
    "a/b",
    "a\\b",
    "",
    ".",
    "..",
    "-_/",
    "CON",
    "nul",
    "com1",
    "x" * 65,
    "a b",
    "a.b",
    "~",
    "a:b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(valid, name):
    with pytest.raises(BundleError, match=r"is no name for an avatar|'name' must be a text"):
        parse(valid | {"name": name})


@given(st.text())
def test_a_safe_name_is_one(name):
    safe = bundle.safe_name(name)
    assert bundle.safe_name(safe) == safe
    assert len(safe) <= 65
    assert not set(safe) & set("/\\:.~ \0")
    assert bundle.safe_name("Grace-Hopper_2") == "Grace-Hopper_2"


@pytest.mark.parametrize("char", ["\x1b", "\r", "\n", "\0", "\x7f", "\x9b", "\u202e", "\u2066", "\ud800"])
def test_control_characters_reach_no_terminal(valid, char):
    for change in ({"consent": f"a{char}b"}, {"training": {"a": [{f"k{char}": 1}]}}, {f"x{char}": 1}):
        with pytest.raises(BundleError, match="control characters"):
            parse(valid | change)
    if char != "\n":
        assert char not in bundle.printable(f"a{char}b")
    assert parse(valid | {"consent": "José agreed, « oui », 佐藤\u00a0🙂"}).consent.startswith("José")


def test_a_key_stands_once(valid):
    text = json.dumps(valid)
    with pytest.raises(BundleError, match="a key stands twice"):
        parse_manifest(text.replace('"gmacs"', '"gmacs": 1, "gmacs"', 1).encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b" " * (2**20 + 1), "larger than"),
        (b"[]", "format_version"),
        (b"{}", "format_version"),
        (b'{"format_version": 2}', "format version 2; this program reads 3.*superface make"),
        (b'{"format_version": true}', "format version True"),
        (b'{"format_version": NaN}', "NaN is no number"),
        (b'{"format_version": 3}', "must be a text"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_no_manifest(text, message):
    with pytest.raises(BundleError, match=message):
        parse_manifest(text)


@pytest.mark.parametrize(
    "path",
    [
        "../a",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a\\b",
        "C:/a",
        ".",
        "..",
        "a/.",
        "",
        "manifest.json",
        "a" * 201,
        "a\0b",
    ],
)
def test_paths_that_leave_the_bundle(valid, path):
    with pytest.raises(BundleError, match=r"is no path inside the bundle|control characters"):
        parse(valid | {"files": valid["files"] | {path: {"bytes": 1, "sha256": "0" * 64}}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {}}, "names 0 files"),
        ({"files": {"a": {"bytes": -1, "sha256": "0" * 64}}}, "size of 'a'"),
        ({"files": {"a": {"bytes": 10**12, "sha256": "0" * 64}}}, "size of 'a'"),
        ({"files": {"a": {"bytes": 1, "sha256": "zz"}}}, "64 hexadecimal digits"),
        ({"arrays": {"identity/landmarks.f32": [478, 10**9]}}, "the shape of"),
        ({"arrays": {"identity/landmarks.f32": [478, 2]}}, "cannot have"),
        ({"arrays": {"identity/other.f32": [1]}}, "not among the files"),
        ({"golden_frames": ["golden/frame_9.png"]}, "not among the files"),
        ({"gmacs": float("1e300")}, "'gmacs' must be a number"),
        ({"gmacs": True}, "'gmacs' must be a number"),
        ({"parity": [3]}, "parity row"),
        ({"name": ""}, "'name' must be a text"),
        ({"name": "\ud800"}, "control characters"),
        ({"gflops": 5.0}, "GMACs are not 5 GFLOPs"),
        ({"golden_frames": []}, "for at least one golden frame"),
    ],
)
def test_absurd_manifests(valid, change, message):
    with pytest.raises(BundleError, match=message):
        parse(valid | change)


def test_other_tensors_are_explained(valid):
    graphs = json.loads(json.dumps(valid["graphs"]))
    graphs["student"]["inputs"][0]["shape"] = [1, 15, 2]
    with pytest.raises(BundleError, match=r"keypoints\[1, 15, 2\].*this program wants keypoints\[1, 20, 2\]"):
        parse(valid | {"graphs": graphs})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no ONNX file in fp32"),
        ({"onnx": {"fp32": "student.onnx"}, "coreml": {"fp16": "other.mlpackage"}}, "not among the files"),
        ({"onnx": {"fp32": "student.onnx"}, "coreml": {"fp16": "../student.mlpackage"}}, "no path inside the bundle"),
        ({"onnx": {"fp32": "student.onnx"}, "executorch": {"fp32": "student.int8.onnx"}}, "a student and no driver"),
    ],
)
def test_graphs_of_files_that_are_not_there(valid, files, message):
    graphs = json.loads(json.dumps(valid["graphs"]))
    graphs["student"]["files"] = files
    with pytest.raises(BundleError, match=message):
        parse(valid | {"graphs": graphs})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_disturbed_manifest_raises_nothing_but_bundle_errors(valid, data):
    """Replace one value, anywhere in the tree, by any JSON at all."""
    changed = json.loads(json.dumps(valid))
    place, key = changed, data.draw(st.sampled_from(sorted(changed)))
    while isinstance(place[key], dict | list) and len(place[key]) and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    try:
        manifest = parse_manifest(json.dumps(changed).encode(errors="surrogatepass"))
    except BundleError:
        return
    assert bundle.parse_manifest(manifest_text(manifest)) == manifest


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_raise_nothing_but_bundle_errors(valid, data):
    text = bytearray(json.dumps(valid).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_manifest(bytes(text[: data.draw(st.integers(0, len(text)))]))
    except BundleError:
        return
