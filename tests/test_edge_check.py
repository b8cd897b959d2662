"""The verdict on a bundle, and the measure behind it."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge.avatar import Avatar
from edge.bench import bench
from edge.bundle import FileEntry, manifest_text, read_manifest
from edge.check import GATES, SAME_DB, check, psnr_db, report
from edge.errors import BundleError
from edge.runtimes import installed


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


def test_a_golden_frame_of_another_size(avatar_bundle, tmp_path):
    thumbnail = (avatar_bundle / "identity/thumbnail.png").read_bytes()
    with pytest.raises(BundleError, match="is 32 × 32, not 512 × 512"):
        check(disturbed(avatar_bundle, tmp_path / "a.avatar", "golden/frame_0.png", thumbnail))


CASES = Path(__file__).parents[1].parent / "shared" / "cases" / "bundles"


@pytest.mark.parametrize("case", sorted(CASES.glob("*.avatar")) or [None], ids=lambda path: path.stem if path else "")
def test_hostile_bundles_are_answered_in_a_sentence(case):
    if case is None:
        pytest.skip("no hostile bundles are at hand")
    if case.stem == "ok":
        assert check(case).passed
        return
    if case.stem == "pte_abort" and not installed("executorch"):
        pytest.skip("executorch is not installed")
    with pytest.raises(BundleError) as caught:
        check(case)
    assert str(caught.value).isprintable()


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
