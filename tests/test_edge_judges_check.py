"""The verdict on a bundle, and the measure behind it."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated

from converters.golden import golden_motion
from converters.write_bundle import BundleContents, Lowered, manifest_text, write_bundle
from edge.avatar import Avatar, open_graph
from edge.bundle import (
    GRAPHS,
    FileEntry,
    read_array,
    read_frame,
    read_manifest,
    verify_files,
)
from edge.errors import BundleError
from edge.judges.bench import bench
from edge.judges.check import GATES, SAME_DB, check, psnr_db, report
from edge.motion import port_tables
from edge.runtimes import installed
from edge.topology import LOCAL


def test_psnr():
    frame = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(frame, frame, peak=255) == pytest.approx(SAME_DB)
    assert psnr_db(frame, frame + 255, peak=255) == pytest.approx(0)
    assert psnr_db(frame.astype(float), frame + 0.1, peak=1) == pytest.approx(20)


def test_int8_may_differ_and_fp32_may_not():
    assert GATES["fp32"].mean_db == 60
    assert GATES["int8"] == (35, 33)


def test_a_good_avatar_passes(avatar_bundle):
    result = check(avatar_bundle)
    assert result.passed
    assert {(row.runtime, row.precision) for row in result.rows} == {
        (runtime, precision) for runtime in ("onnx", "numpy") for precision in ("fp32", "int8")
    }
    assert result.driver_error < 1e-6
    assert [(rung.step, rung.passed) for rung in result.rungs] == [
        ("crop", True), ("live filter", True), ("retargeting", True)
    ]  # fmt: skip
    assert json.loads(json.dumps(result.as_json()))["passed"] is True
    assert report(result).endswith("passed")


def disturbed(bundle, folder, name, body):
    """A copy with another file in it, and a manifest that vouches for it."""
    shutil.copytree(bundle, folder)
    (folder / name).write_bytes(body)
    manifest = read_manifest(folder)
    files = manifest.files | {name: (len(body), hashlib.sha256(body).hexdigest())}
    files = {path: type(manifest.files[name])(*entry) for path, entry in files.items()}
    (folder / "manifest.json").write_bytes(manifest_text(dataclasses.replace(manifest, files=files)))
    return folder


def test_other_frames_fail(avatar_bundle, tmp_path):
    other = (avatar_bundle / "golden/frame_1.png").read_bytes()
    result = check(disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/frame_0.png", other), runtimes=["onnx"])
    assert not result.passed
    assert "FAILED" in report(result)


def test_a_driver_that_is_off_fails(avatar_bundle, tmp_path):
    points = np.frombuffer((avatar_bundle / "golden/keypoints.f32").read_bytes(), "<f4") + np.float32(1e-3)
    folder = disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/keypoints.f32", points.tobytes())
    result = check(folder, runtimes=["onnx"])
    assert result.driver_error == pytest.approx(1e-3, rel=0.01)
    assert not result.passed


@pytest.mark.parametrize(("name", "step"), [("live_landmarks", "live filter"), ("landmarks", "retargeting")])
def test_a_broken_rung_names_itself(avatar_bundle, tmp_path, name, step):
    manifest = read_manifest(avatar_bundle)
    values = read_array(avatar_bundle, manifest, f"golden/{name}.f32").copy()
    values[-1, 0, 0] += 0.001
    folder = disturbed(avatar_bundle, tmp_path / "broken.avatar", f"golden/{name}.f32", values.tobytes())
    result = check(folder, runtimes=["onnx"])
    assert [rung.step for rung in result.rungs if not rung.passed] == [step]
    assert not result.passed
    assert f"{step}: FAILED" in report(result)


def test_another_crop_and_no_face_are_seen(avatar_bundle, tmp_path):
    manifest = read_manifest(avatar_bundle)
    folder = tmp_path / "crop.avatar"
    shutil.copytree(avatar_bundle, folder)
    moved = dataclasses.replace(manifest, golden_camera=manifest.golden_camera._replace(size=500.0))
    (folder / "manifest.json").write_bytes(manifest_text(moved))
    assert not check(folder, runtimes=["onnx"]).rungs[0].passed
    nothing = np.zeros((478, 3), "<f4").tobytes()
    folder = disturbed(avatar_bundle, tmp_path / "none.avatar", "golden/camera_neutral.f32", nothing)
    with pytest.raises(BundleError, match="are no face"):
        check(folder, runtimes=["onnx"])


def test_a_golden_frame_of_another_size(avatar_bundle, tmp_path):
    thumbnail = (avatar_bundle / "identity/thumbnail.png").read_bytes()
    with pytest.raises(BundleError, match="is 32 × 32, not 512 × 512"):
        check(disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/frame_0.png", thumbnail))


CASES = Path(__file__).parents[1].parent / "shared" / "cases" / "bundles"


REASONS = {
    "driver_empty_coreml": "0 files for 'coreml'",
    "driver_two_files": "2 files for 'onnx'",
    "external_unlisted_file": "w.bin lies in",
    "golden_fewer_arrays": "must be of shape",
    "golden_none": "at least one golden frame",
    "lm_big": "no array of shape",
    "loop_forever": "a graph inside a graph",
    "name_abs": "no name for an avatar",
    "name_ansi": "control characters",
    "png_bomb": "no readable PNG|not a readable PNG",
    "pte_abort": "ended its process",
    "student_input_names": "its inputs are kp",
    "student_int_output": "image is int8",
    "student_runtime_fail": "image is float32 of no shape",
}


def upgraded(case, folder, faces):
    """A bundle of format 2 with what format 3 adds, so that it is refused for its own sake."""
    shutil.copytree(case, folder, symlinks=True)
    data = json.loads((folder / "manifest.json").read_text())
    motion = golden_motion(faces[0], ("neutral",))
    data |= {"format_version": 3, "golden_camera": motion.camera._asdict(), "tables": port_tables()}
    for name in ("camera_neutral", "camera_landmarks", "live_landmarks"):
        array = getattr(motion, name)
        (folder / "golden" / f"{name}.f32").write_bytes(array.tobytes())
        data["arrays"][f"golden/{name}.f32"] = list(array.shape)
        entry = FileEntry(array.nbytes, hashlib.sha256(array.tobytes()).hexdigest())
        data["files"][f"golden/{name}.f32"] = entry._asdict()
    (folder / "manifest.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("case", sorted(CASES.glob("*.avatar")) or [None], ids=lambda path: path.stem if path else "")
def test_hostile_bundles_are_answered_in_a_sentence(case, faces, tmp_path):
    if case is None:
        pytest.skip("no hostile bundles are at hand")
    if case.stem == "pte_abort" and not installed("executorch"):
        pytest.skip("executorch is not installed")
    folder = upgraded(case, tmp_path / case.name, faces)
    if case.stem == "ok":
        result = check(folder)
        assert result.driver_error < 1e-6
        assert all(row.passed for row in result.rows)
        return
    with pytest.raises(BundleError) as caught:
        check(folder)
    assert str(caught.value).isprintable()
    assert re.search(REASONS.get(case.stem, ""), str(caught.value))


def test_graphs_are_linted_before_any_runtime_loads_them(avatar_bundle, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(avatar_bundle / "student.onnx")
    loop = onnx.helper.make_node("Loop", ["", ""], [], body=onnx.helper.make_graph([], "b", [], []))
    model.graph.node.insert(0, loop)
    folder = disturbed(avatar_bundle, tmp_path / "a.avatar", "student.onnx", model.SerializeToString())
    for use in (lambda: check(folder), lambda: Avatar.load(folder), lambda: bench(folder, frames=3, threads=[1])):
        with pytest.raises(BundleError, match="a graph inside a graph"):
            use()


@pytest.mark.skipif(not installed("executorch"), reason="executorch is not installed")
def test_damaged_programs_of_executorch_are_a_sentence(avatar_bundle, tmp_path):
    uses = {"check": lambda folder: check(folder, runtimes=["executorch"])}
    uses["load"] = lambda folder: Avatar.load(folder, runtime="executorch")
    for (name, use), body in zip(uses.items(), (b"\0" * 4096, b"\x1c\0\0\0ET12" + bytes(range(256))), strict=True):
        folder = tmp_path / f"{name}.avatar"
        shutil.copytree(avatar_bundle, folder)
        manifest = read_manifest(folder)
        graphs = {
            graph: spec._replace(files=spec.files | {"executorch": {"fp32": f"{graph}.pte"}})
            for graph, spec in manifest.graphs.items()
        }
        entry = FileEntry(len(body), hashlib.sha256(body).hexdigest())
        for graph in graphs:
            (folder / f"{graph}.pte").write_bytes(body)
        manifest = dataclasses.replace(
            manifest, graphs=graphs, files=manifest.files | {f"{graph}.pte": entry for graph in graphs}
        )
        (folder / "manifest.json").write_bytes(manifest_text(manifest))
        with pytest.raises(BundleError):
            use(folder)


def test_code_beside_a_bundle_does_not_run(avatar_bundle, tmp_path, monkeypatch):
    for module in ("json", "numpy", "onnxruntime", "edge"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    shutil.copytree(avatar_bundle, tmp_path / "a.avatar")
    monkeypatch.chdir(tmp_path)
    assert check("a.avatar").passed
    assert bench("a.avatar", frames=3, threads=[1], runtimes=["onnx"]).rows
    (tmp_path / "a.avatar" / "json.py").write_text("")
    monkeypatch.chdir(tmp_path / "a.avatar")
    with pytest.raises(BundleError, match=r"json\.py lies in"):
        bench(".", frames=3, threads=[1])
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def tiny(faces, tmp_path_factory):
    """A whole avatar of a few kilobytes: one colour, as bright as the keypoints' mean."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def model(nodes, constants, kind):
        doors = (
            [helper.make_tensor_value_info(s.name, onnx.TensorProto.FLOAT, s.shape) for s in side]
            for side in GRAPHS[kind]
        )
        kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, kind, *doors, kept)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()

    node = helper.make_node
    student = model(
        [
            node("ReduceMean", ["keypoints", "axes"], ["a"], keepdims=1),
            node("ReduceMean", ["local_landmarks", "axes"], ["b"], keepdims=1),
            node("Add", ["a", "b"], ["sum"]),
            node("Reshape", ["sum", "shape"], ["one"]),
            node("Expand", ["one", "size"], ["flat"]),
            node("Clip", ["flat", "low", "high"], ["image"]),
        ],
        {
            "axes": np.array([1, 2]), "shape": np.array([1, 1, 1, 1]), "size": np.array([1, 3, 512, 512]),
            "low": np.float32(0), "high": np.float32(1),
        },
        "student",
    )  # fmt: skip
    rows = {"k": LOCAL[:20].astype(np.int64), "l": LOCAL.astype(np.int64)}
    ends = {"zero": np.array([0]), "two": np.array([2]), "last": np.array([2])}
    driver = model(
        [
            node("Slice", ["landmarks", "zero", "two", "last"], ["flat"]),
            node("Gather", ["flat", "k"], ["keypoints"], axis=1),
            node("Gather", ["flat", "l"], ["local_landmarks"], axis=1),
        ],
        rows | ends,
        "driver",
    )
    motion = golden_motion(faces[0], ("neutral",))
    local = motion.landmarks[:, LOCAL, :2]
    bright = float(np.clip(local[:, :20].mean() + local.mean(), 0, 1))
    contents = BundleContents(
        name="tiny",
        students=[Lowered("onnx", "fp32", "student.onnx", {"student.onnx": student})],
        drivers=[Lowered("onnx", "fp32", "driver.onnx", {"driver.onnx": driver})],
        thumbnail=np.zeros((32, 32, 3), np.uint8),
        source_landmarks=faces[0],
        source_keypoints=faces[0][LOCAL[:20]],
        golden=motion,
        golden_keypoints=local[:, :20],
        golden_local_landmarks=local,
        golden_frames=np.full((1, 512, 512, 3), round(255 * bright), np.uint8),
        gmacs=0.001,
        parameters=1,
        created_with="tests",
        teacher="none",
    )
    folder = tmp_path_factory.mktemp("tiny") / "tiny.avatar"
    write_bundle(folder, contents)
    return folder


def test_a_tiny_avatar_passes(tiny):
    assert check(tiny).passed


def test_mutated_bundles_are_a_sentence_or_sound(tiny, tmp_path):
    """Every file of an avatar changed at random, and vouched for: nothing but BundleError comes of it.

    What survives reading and lint goes on to the runtimes, in their own processes, a few times.
    """
    manifest, rng, survived = read_manifest(tiny), np.random.default_rng(0), 0
    names = ["manifest.json", "student.onnx", "driver.onnx", "golden/frame_0.png", "golden/keypoints.f32"]
    for number in range(300):
        name, folder = names[number % len(names)], tmp_path / f"{number}.avatar"
        shutil.copytree(tiny, folder)
        body = mutated((tiny / name).read_bytes(), rng)
        (folder / name).write_bytes(body)
        if name != "manifest.json":
            entry = FileEntry(len(body), hashlib.sha256(body).hexdigest())
            vouched = dataclasses.replace(manifest, files=manifest.files | {name: entry})
            (folder / "manifest.json").write_bytes(manifest_text(vouched))
        try:
            found = read_manifest(folder)
            verify_files(folder, found)
            for frame in found.golden_frames:
                read_frame(folder, found, frame)
            for array in found.arrays:
                read_array(folder, found, array)
            for graph in ("driver", "student"):
                open_graph(folder, found, graph, "numpy")
            if name.endswith(".onnx") and survived < 8:
                survived += 1
                check(folder)
        except BundleError:
            pass
        shutil.rmtree(folder)
    assert survived == 8
