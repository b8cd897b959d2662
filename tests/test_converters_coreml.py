"""Student → Core ML: packages that are executed, what they hold, and refusals."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("coremltools", reason="coremltools is not installed")

from converters import to_coreml
from converters.to_coreml import convert, export_coreml, lint, pack_constants
from edge.errors import BundleError, InputError
from edge.judges.check import GATES
from edge.runtimes import load_graph
from edge.spec import KEYPOINTS_IN, LOCAL_IN, NETWORK
from edge.topology import LOCAL

ROOT = Path(__file__).parents[1]
FRAMES = 2


@pytest.fixture(scope="module")
def packages(random_student, driver, driving):
    """The random student at the precisions that need no quantiser, and its driver."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_coreml, "VERIFIED_FRAMES", FRAMES)
        students, lowered = export_coreml(
            random_student,
            driver,
            calibration=driving[1],
            held_out=driving[2],
            precisions=("fp16", "w8", "palette6", "image"),
        )
    return {student.precision: student for student in students}, lowered


def written(graph, folder: Path) -> Path:
    for path, body in graph.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder / graph.path


def test_every_precision_is_executed_and_meets_its_gate(packages):
    students, _ = packages
    assert set(students) == {"fp16", "w8", "palette6", "image"}
    for precision, student in students.items():
        assert student.parity.runtime == "coreml"
        assert student.parity.mean_db >= GATES[precision].mean_db
        assert student.parity.worst_db >= GATES[precision].worst_db
        assert student.parity.frames == FRAMES
        assert sys.platform == "darwin" or student.parity.engine.startswith("MIL interpreter (Linux)")
    sizes = [sum(map(len, students[precision].files.values())) for precision in ("palette6", "w8", "fp16")]
    assert sizes == sorted(sizes)


def test_half_precision_reaches_its_goal_because_motion_stays_whole(packages):
    assert packages[0]["fp16"].parity.worst_db >= 60


def packed_shapes(model) -> list[tuple[int, ...]]:
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    made = (part.outputs[0] for part in block.operations if part.type == "constexpr_affine_dequantize")
    return sorted(tuple(size.constant.size for size in value.type.tensorType.dimensions) for value in made)


def test_pictures_lie_in_eight_bits(packages, tmp_path):
    import coremltools

    spec = coremltools.utils.load_spec(str(written(packages[0]["fp16"], tmp_path)))
    assert packed_shapes(spec) == [(1, 3, NETWORK, NETWORK), (1, 4, NETWORK, NETWORK)]
    plain = convert(nn_of(lambda k, m: m + k.mean()), (KEYPOINTS_IN, LOCAL_IN), ("z",), "iOS16", "fp32")
    assert pack_constants(plain) is plain


def test_tables_of_whole_numbers_lie_in_eight_bits(tmp_path):
    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole, self.other = nn.Linear(112, 1024), nn.Linear(40, 2048)
            self.whole.weight.data = torch.randint(-127, 128, (1024, 112)).float()

        def forward(self, keypoints, local_landmarks):
            return self.whole(local_landmarks.flatten(1)), self.other(keypoints.flatten(1))

    tables, doors = Tables().eval(), (KEYPOINTS_IN, LOCAL_IN)
    model = pack_constants(convert(tables, doors, ("a", "b"), "iOS17", "fp16"))
    assert packed_shapes(model.get_spec()) == [(1024, 112)]
    model.save(str(tmp_path / "tables.mlpackage"))
    points = [torch.randn(door.shape) for door in doors]
    inputs = {door.name: value.numpy() for door, value in zip(doors, points, strict=True)}
    got = load_graph("coreml", tmp_path / "tables.mlpackage")(**inputs)
    for wanted, found in zip(tables(*points), got, strict=True):
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4, atol=1e-3)


def test_the_package_says_what_it_is(packages, tmp_path):
    import coremltools

    spec = coremltools.utils.load_spec(str(written(packages[0]["image"], tmp_path)))
    metadata = spec.description.metadata
    assert metadata.author == "SuperFace"
    assert "synthetic media" in metadata.shortDescription
    assert len(metadata.userDefined["superface.student_sha256"]) == 64
    assert all(door.shortDescription for door in spec.description.input)
    image = spec.description.output[0].type.imageType
    assert (image.width, image.height) == (NETWORK, NETWORK)
    assert spec.specificationVersion == 7  # iOS 16


def test_the_driver_is_the_teachers(packages, driver, driving, tmp_path):
    landmarks = driving[0][11:12]
    keypoints, local = load_graph("coreml", written(packages[1], tmp_path))(landmarks=landmarks)
    np.testing.assert_allclose(local[0], landmarks[0, LOCAL, :2], atol=1e-6)
    np.testing.assert_allclose(keypoints[0], driver(torch.from_numpy(landmarks))[0], atol=1e-5)


def nn_of(function) -> nn.Module:
    class Of(nn.Module):
        def forward(self, keypoints, local_landmarks):
            return (function(keypoints, local_landmarks),)

    return Of().eval()


def test_lint_names_what_the_neural_engine_does_not_take():
    model = convert(
        nn_of(lambda k, m: torch.cumsum(m, 1) + k.sum()), (KEYPOINTS_IN, LOCAL_IN), ("image",), "iOS16", "fp32"
    )
    with pytest.raises(InputError, match=r"operation cumsum \(it makes \w+\).*neural engine"):
        lint(model)


def test_a_damaged_package_is_a_sentence(packages, tmp_path):
    package = written(packages[0]["fp16"], tmp_path)
    model = next(package.rglob("*.mlmodel"))
    model.write_bytes(model.read_bytes()[:-200])
    with pytest.raises(BundleError):
        load_graph("coreml", package)


def test_refusals(random_student, driving):
    with pytest.raises(InputError, match="not fp8"):
        export_coreml(random_student, None, calibration=driving[1], held_out=driving[2], precisions=["fp8"])


def test_the_script(packages, tmp_path, monkeypatch, capsys):
    """All of it but the lowering, which `packages` has done."""
    monkeypatch.setattr(to_coreml, "export_coreml", lambda *_, **__: ([packages[0]["fp16"]], packages[1]))
    arguments = ["", "--tier", "nano", "--precision", "fp16", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert to_coreml.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pictures are not" in lines[0]
    result = json.loads(lines[-1])
    assert result["verified"] is True
    assert result["target"] == "iOS16"
    assert (tmp_path / "out/student.mlpackage/Manifest.json").is_file()
    assert (tmp_path / "out/driver.mlpackage/Manifest.json").is_file()
    with pytest.raises(InputError, match="Add --force"):
        to_coreml.main()


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["to_coreml.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "converters" / "to_coreml.py"), run_name="__main__")
    assert "iOS16" in capsys.readouterr().out
