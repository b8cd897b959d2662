"""What runs a graph: by name, imported late, and explained where it is missing."""

import sys

import numpy as np
import pytest

from edge.errors import BundleError, InputError, MissingRuntimeError
from edge.runtimes import engine, format_of, installed, load_graph


def test_onnx_and_numpy_run_the_same_file(avatar_bundle, driving):
    inputs = {"landmarks": driving[0][5][None]}
    one, other = (load_graph(runtime, avatar_bundle / "driver.onnx", 1)(**inputs) for runtime in ("onnx", "numpy"))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)
    assert format_of("numpy") == format_of("onnx") == "onnx"
    assert format_of("coreml") == "coreml"


def test_engines_are_named_as_they_are(monkeypatch):
    assert engine("onnx").startswith("onnxruntime ")
    assert engine("numpy").startswith("numpy ")
    if installed("coreml"):
        monkeypatch.setattr(sys, "platform", "linux")
        assert engine("coreml").startswith("MIL interpreter (Linux), coremltools ")
        monkeypatch.setattr(sys, "platform", "darwin")
        assert engine("coreml").startswith("Core ML (macOS), coremltools ")


@pytest.mark.parametrize(("runtime", "package"), [("executorch", "executorch"), ("coreml", "coremltools")])
def test_a_missing_runtime_says_how_to_get_it(avatar_bundle, tmp_path, monkeypatch, runtime, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # As if it were not installed.
    path = tmp_path / "student.mlpackage"
    (path / "Data").mkdir(parents=True)
    (path / "Data/model").write_bytes(b"")
    (path / "Manifest.json").write_text(
        '{"itemInfoEntries": {"root": {"path": "model"}}, "rootModelIdentifier": "root"}'
    )
    with pytest.raises(MissingRuntimeError, match=rf'pip install "superface\[{runtime}\]"'):
        load_graph(runtime, path)


@pytest.mark.parametrize("runtime", ["onnx", "numpy", "executorch", "coreml"])
def test_rubbish_is_a_sentence(tmp_path, runtime):
    if not installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    (tmp_path / "student").write_bytes(b"rubbish")
    with pytest.raises(BundleError, match="student"):
        load_graph(runtime, tmp_path / "student")


def test_unknown_runtime(tmp_path):
    with pytest.raises(InputError, match=r"no runtime 'tflite'\. Choose onnx, executorch, coreml, numpy"):
        load_graph("tflite", tmp_path / "student")
