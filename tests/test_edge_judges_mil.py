"""Core ML packages in numpy: what torch computes, family by family, and no surprise from a damaged package."""

import json
import shutil
import sys
import time
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from converters.student_graph import StudentGraph
from edge.errors import BundleError, MissingRuntimeError, SpecError
from edge.judges import ops
from edge.judges.check import psnr_db
from edge.judges.mil import CONSTANTS, OPERATIONS, MilProgram
from edge.spec import IMAGE_OUT, KEYPOINTS_IN, LOCAL_IN


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="session")
def ct():
    return pytest.importorskip("coremltools", reason="coremltools is not installed")


@contextmanager
def converting():
    """Without the warnings that coremltools and torch.export raise about their own insides."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Function _TORCH_OPS_REGISTRY", DeprecationWarning)
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        warnings.filterwarnings("ignore", "Implicitly cleaning up <TemporaryDirectory", ResourceWarning)
        yield


@pytest.fixture
def package(ct, tmp_path):
    """A converter: a torch module with its example inputs, or a MIL program, → a saved package."""

    def convert(model, *example, half=False, target="iOS16", compress=None, **doors):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpackage"
        with converting():
            if example:
                tensors = tuple(map(torch.from_numpy, example))
                model = torch.export.export(model.eval(), tensors).run_decompositions({})
            made = ct.convert(
                model,
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                **doors,
            )
            if compress:
                made = compress(made)
            made.save(str(path))
            del made, model
        return path

    return convert


def run(program, *inputs):
    return program.run(**dict(zip(program.input_names, inputs, strict=True)))


def kinds(program):
    return {step.kind for step in program.program.steps}


class Function(nn.Module):
    """A module of a function, or of several modules that all get the same input."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts
        self.registered = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))

    def forward(self, *inputs):
        if self.registered:
            return tuple(part(*inputs) for part in self.registered)
        return self.parts[0](*inputs)


def resize(x, size, corners=False):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=corners)


IMAGE = (1, 4, 9, 8)
FAMILIES = {
    "convolutions": (
        Function(
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1)),
            nn.Conv2d(4, 6, 1, bias=False),
            nn.Conv2d(4, 6, 3, dilation=2, groups=2),
            nn.Conv2d(4, 4, (1, 3), groups=4, padding="same"),
        ),
        [IMAGE],
        {"conv"},
    ),
    "warps": (
        Function(
            lambda x, grid: (
                F.grid_sample(x, grid, padding_mode="border", align_corners=True),
                F.grid_sample(x, grid, padding_mode="border", align_corners=False),
                F.grid_sample(x, grid, padding_mode="zeros", align_corners=False),
            )
        ),
        [IMAGE, (1, 3, 5, 2)],
        {"resample"},
    ),
    "resizes": (
        Function(
            lambda x: (
                resize(x, (18, 16)),
                resize(x, (20, 30)),
                resize(x, (5, 3)),
                resize(x, (20, 30), True),
                resize(x, (72, 64), True),
                F.interpolate(x, scale_factor=3),
            )
        ),
        [IMAGE],
        {"upsample_bilinear", "upsample_nearest_neighbor"},
    ),
    "products": (
        Function(
            lambda x, y: (
                torch.bmm(x, y),
                torch.matmul(y.transpose(1, 2), x.transpose(1, 2)),
                x.softmax(-1),
                y.softmax(1),
                (x - y.transpose(1, 2)) / (1 + y.transpose(1, 2).abs()),
            )
        ),
        [(2, 3, 4), (2, 4, 3)],
        {"matmul", "softmax", "transpose", "sub", "real_div", "abs", "add"},
    ),
    "linear": (Function(nn.Linear(8, 5), nn.Linear(8, 3, bias=False)), [(2, 8)], {"linear"}),
    "shuffles": (
        Function(nn.PixelShuffle(2), nn.PixelUnshuffle(3)),
        [(1, 8, 6, 3)],
        {"pixel_shuffle", "pixel_unshuffle"},
    ),
    "slices": (
        Function(
            lambda x: (
                torch.cat([x[:, 1:3, ::2, -3:], x[:, :2, ::2, 1:4]], 1),
                x[:, 1] * x[:, -1],
                torch.cat([part * (i + 1) for i, part in enumerate(x.split([1, 3], 1))], 1),
                torch.stack(x.unbind(1)[::-1], 2),
                x.index_select(1, torch.tensor([3, 0, 0])),
            )
        ),
        [IMAGE],
        {"slice_by_index", "concat", "mul", "split", "squeeze", "stack", "gather"},
    ),
    "shapes": (
        Function(
            lambda x: (
                x.unsqueeze(0).squeeze(1).permute(0, 2, 3, 1).reshape(1, -1, 4).flatten(0, 1),
                x.repeat(2, 1, 1, 3),
                F.pad(x, (1, 2, 3, 0), value=0.5),
                F.pad(x, (1, 2, 3, 1), mode="reflect"),
                F.pad(x, (1, 2, 3, 1), mode="replicate"),
            )
        ),
        [IMAGE],
        {"expand_dims", "squeeze", "transpose", "reshape", "tile", "pad"},
    ),
    "functions": (
        Function(
            lambda x, y: (
                torch.exp(-x) + x**3,
                torch.sqrt(x.abs()) + torch.rsqrt(y.abs() + 1),
                torch.maximum(x, y) - torch.minimum(x, y.clamp(0, 1)),
                F.relu(x) * y.sigmoid(),
                F.leaky_relu(x, 0.2) * y.tanh(),
            )
        ),
        [(2, 3), (2, 3)],
        {"exp", "pow", "sqrt", "rsqrt", "maximum", "minimum", "clip", "relu", "sigmoid", "leaky_relu", "tanh"},
    ),
    "reductions": (
        Function(
            lambda x: (x.sum(1), x.mean((2, 3), keepdim=True), x.amax(-1), x.amin((1, 2))),
        ),
        [IMAGE],
        {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"},
    ),
    "pools": (
        Function(nn.AvgPool2d(2), nn.AvgPool2d(3, (2, 1), 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        [IMAGE],
        {"avg_pool"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_agrees_with_torch(name, half, package):
    module, shapes, expected_kinds = FAMILIES[name]
    inputs = [noise(*shape, seed=index) for index, shape in enumerate(shapes)]
    program = MilProgram(package(module, *inputs, half=half))
    assert kinds(program) - {"cast"} >= expected_kinds
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, inputs))
    got = run(program, *inputs)
    assert len(got) == len(program.output_names) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == tuple(theirs.shape)
        tolerance = 1e-2 if half else 1e-5
        np.testing.assert_allclose(ours, theirs.numpy(), atol=tolerance, rtol=tolerance)


def test_what_torch_never_writes(ct, package):
    """Operations and forms of other converters, and of coremltools' own passes, against numpy and torch."""
    from coremltools.converters.mil import Builder as mb

    weight = noise(3, 2, 2, 3)
    scale, zero = np.array([0.5, 0.01], np.float32), np.array([0, 5], np.int8)
    rows = np.broadcast_to(np.array([2, 0], np.int32)[:, None], (1, 2, 2, 6))

    @mb.program(input_specs=[mb.TensorSpec((1, 2, 5, 6))], opset_version=ct.target.iOS17)
    def written(x):
        conv = {"weight": weight, "strides": [2, 2]}
        return (
            mb.slice_by_size(x=x, begin=[0, 1, -3, 2], size=[1, -1, 2, -1]),
            mb.slice_by_index(
                x=x,
                begin=[0, 1, 0, -2],
                end=[0, 0, 0, 1],
                stride=[1, 1, 2, -1],
                begin_mask=[True, False, True, False],
                end_mask=[True, False, True, False],
                squeeze_mask=[False, True, False, False],
            ),
            mb.conv(x=x, pad_type="same", **conv),
            mb.conv(x=x, pad_type="same_lower", **conv),
            mb.conv(x=x, pad_type="valid", **conv),
            mb.resize_bilinear(x=x, target_size_height=9, target_size_width=7, sampling_mode="STRICT_ALIGN_CORNERS"),
            mb.resize(x=x, shape=[10, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
            mb.resize(x=x, shape=[10, 18], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
            mb.gather_along_axis(x=x, indices=rows, axis=2),
            mb.dequantize(
                input=mb.quantize(input=x, scale=scale, zero_point=zero, axis=1, output_dtype="int8"),
                scale=scale,
                zero_point=zero,
                axis=1,
            ),
            mb.dequantize(
                input=mb.quantize(input=x, scale=np.float32(0.02), output_dtype="uint8"), scale=np.float32(0.02)
            ),
            mb.square(x=x),
            mb.inverse(x=mb.square(x=x)),
            mb.cast(x=mb.cast(x=mb.mul(x=x, y=np.float32(3)), dtype="int32"), dtype="fp32"),
            mb.reduce_sum(x=x),
        )

    x = noise(1, 2, 5, 6) * 2
    tensor, kernel = torch.from_numpy(x), torch.from_numpy(weight)
    column, zeros = scale[:, None, None], zero[:, None, None].astype(np.float32)
    expected = [
        x[:, 1:, 2:4, 2:],
        x[:, 1, ::2, 4:1:-1],
        # Height 5 by 2, two taps: one row at the end; width 6 by 2, three taps: one column at the end.
        F.conv2d(F.pad(tensor, (0, 1, 0, 1)), kernel, stride=2),
        F.conv2d(F.pad(tensor, (1, 0, 1, 0)), kernel, stride=2),
        F.conv2d(tensor, kernel, stride=2),
        resize(tensor, (9, 7), True),
        resize(tensor, (10, 6)),
        F.interpolate(tensor, scale_factor=(2, 3)),
        x[:, :, [2, 0]],
        (np.clip(np.rint(x / column) + zeros, -128, 127) - zeros) * column,
        np.clip(np.rint(x / np.float32(0.02)), 0, 255) * np.float32(0.02),
        x**2,
        1 / (x**2 + 1e-4),  # MIL's reciprocal is not torch's.
        np.trunc(x * 3),
        x.sum(),
    ]
    program = MilProgram(package(written, target="iOS17"))
    assert {"slice_by_size", "resize", "resize_bilinear", "quantize", "dequantize", "square"} <= kinds(program)
    for ours, theirs in zip(run(program, x), expected, strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_an_identity_field_returns_its_input(half, package):
    module = Function(lambda x, grid: F.grid_sample(x, grid, padding_mode="border", align_corners=True))
    features, field = noise(1, 3, 16, 16), ops.coordinate_grid(16, 16)[None]
    (got,) = run(MilProgram(package(module, features, field, half=half)), features, field)
    # In 16 bits a coordinate near 1 lies up to 2⁻¹² off: 1/280 of these cells.
    np.testing.assert_allclose(got, features, atol=2e-2 if half else 1e-5)


def test_halves_are_rounded_and_may_overflow(package):
    values = np.array([[1.0, 1.0001, 9.0, 12.0]], np.float32)
    program = MilProgram(package(Function(lambda x: torch.exp(x) * 0.1), values, half=True))
    (got,) = run(program, values)
    assert np.isinf(got[0, 3])  # e¹² is past the largest half.
    exponent = np.exp(values[:, :3].astype(np.float16).astype(np.float32)).astype(np.float16)
    expected = (exponent.astype(np.float32) * np.float32(np.float16(0.1))).astype(np.float16)
    np.testing.assert_array_equal(got[:, :3], expected)


def test_what_is_handed_out_is_the_callers(package):
    """A constant, an input and a computed value as outputs: changing them changes no later frame."""
    constant, values = noise(2, 3), noise(2, 3, seed=1)
    module = Function(lambda x: (torch.from_numpy(constant) * 2, x.reshape(3, 2), x + 1))
    program = MilProgram(package(module, values))
    given = values.copy()
    for _ in range(2):
        got = run(program, given)
        for ours, theirs in zip(got, (constant * 2, values.reshape(3, 2), values + 1), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
            ours[:] = np.nan


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_image_outputs_are_levels(half, ct, package):
    module = Function(lambda x: x.sigmoid() * 255)
    doors = {"outputs": [ct.ImageType(name="image", color_layout=ct.colorlayout.RGB)]}
    values = noise(1, 3, 6, 5)
    program = MilProgram(package(module, values, half=half, **doors))
    assert program.output_names == ("image",)
    (got,) = run(program, values)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, ops.sigmoid(values) * 255, atol=0.15 if half else 1e-3)


def small_net():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 3),
    )
    return nn.Sequential(*layers).eval()


def linear(optimize):
    return optimize.linear_quantize_weights, {"mode": "linear_symmetric", "weight_threshold": 256}


def palette(optimize):
    return optimize.palettize_weights, {"mode": "kmeans", "nbits": 6, "weight_threshold": 256}


def pruning(optimize):
    return optimize.prune_weights, {"target_sparsity": 0.3, "weight_threshold": 256}


COMPRESSIONS = {
    "constexpr_affine_dequantize": ("iOS16", linear, "OpLinearQuantizerConfig"),
    "constexpr_lut_to_dense": ("iOS16", palette, "OpPalettizerConfig"),
    "constexpr_sparse_to_dense": ("iOS16", pruning, "OpMagnitudePrunerConfig"),
    "constexpr_blockwise_shift_scale": ("iOS18", linear, "OpLinearQuantizerConfig"),
}


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_compressed_weights(kind, ct, package):
    """The decoded weights are what the compression means, and the net computes with them."""
    from coremltools.optimize import coreml as optimize

    target, method, config = COMPRESSIONS[kind]

    def compress(model):
        function, settings = method(optimize)
        compressed = function(
            model, optimize.OptimizationConfig(op_type_configs={"conv": getattr(optimize, config)(**settings)})
        )
        main = compressed.get_spec().mlProgram.functions["main"]
        assert kind in {op.type for op in main.block_specializations[main.opset].operations}
        return compressed

    net, image = small_net(), noise(1, 3, 12, 10)
    program = MilProgram(package(net, image, target=target, compress=compress))
    decoded = [step.arguments["weight"] for step in program.program.steps if step.kind == "conv"]
    originals = [layer.weight.detach().numpy() for layer in net if isinstance(layer, nn.Conv2d)]
    for weight, original in zip(decoded, originals, strict=True):
        if method is linear:
            step = np.abs(original).max((1, 2, 3), keepdims=True) / 127
            np.testing.assert_allclose(weight, np.rint(original / step) * step, atol=1e-5)
        elif method is palette:
            assert len(np.unique(weight)) <= 64
            assert np.abs(weight - original).max() < 0.05
        else:
            np.testing.assert_allclose(weight[weight != 0], original[weight != 0], rtol=1e-6)
            assert (weight == 0).mean() == pytest.approx(0.3, abs=0.01)
    with torch.no_grad():
        for layer, weight in zip((net[0], net[2], net[4]), decoded, strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
        expected = net(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(run(program, image)[0], expected, atol=1e-5)


def test_the_student_in_16_bits(random_student, driving, ct, package):
    graph, frames = StudentGraph(random_student), driving[2].spread(2).frames()
    doors = {
        "inputs": [ct.TensorType(name=door.name, shape=door.shape) for door in (KEYPOINTS_IN, LOCAL_IN)],
        "outputs": [ct.TensorType(name=IMAGE_OUT.name)],
    }
    path = package(graph, *(tensor.numpy() for tensor in graph.example_inputs()), half=True, **doors)
    program = MilProgram(path)
    assert program.input_names == (KEYPOINTS_IN.name, LOCAL_IN.name)
    assert program.output_names == (IMAGE_OUT.name,)
    for inputs in frames:
        begun = time.perf_counter()
        (got,) = program.run(**inputs)
        took = time.perf_counter() - begun
        expected = graph(*map(torch.from_numpy, inputs.values()))[0].numpy()
        print(f"{psnr_db(expected, got, peak=1.0):.1f} dB, {took * 1e3:.0f} ms")
        assert got.shape == IMAGE_OUT.shape
        assert psnr_db(expected, got, peak=1.0) >= 45


# -- What can be wrong


@pytest.fixture(scope="session")
def whole(ct, tmp_path_factory):
    """A package with a weight file. Read-only: tests that disturb it copy it first."""
    path = tmp_path_factory.mktemp("mil") / "net.mlpackage"
    with converting():
        program = torch.export.export(small_net(), (torch.zeros(1, 3, 12, 10),)).run_decompositions({})
        ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16).save(str(path))
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "net.mlpackage")


def model_of(package):
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weights_of(package):
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def test_wrong_inputs_are_explained(whole):
    program = MilProgram(whole)
    with pytest.raises(SpecError, match="wants input, and got z"):
        program.run(z=noise(1, 3, 12, 10))
    with pytest.raises(SpecError, match="wants input, and got nothing"):
        program.run()
    with pytest.raises(SpecError, match=r"has shape \(1, 3, 10, 12\), this program wants \(1, 3, 12, 10\)"):
        program.run(input=noise(1, 3, 10, 12))


def test_unknown_operations_and_forms_are_named(package):
    values = noise(1, 2, 4, 4)
    with pytest.raises(BundleError, match=r"uses cumsum, erf, which .* Write the model without"):
        MilProgram(package(Function(lambda x: torch.erf(x).cumsum(1)), values))
    field = noise(1, 4, 4, 2)
    nearest = Function(lambda x, grid: F.grid_sample(x, grid, mode="nearest", align_corners=True))
    program = MilProgram(package(nearest, values, field))
    with pytest.raises(BundleError, match=r"\(resample\) cannot be computed .*nearest.* is not known"):
        run(program, values, field)


@pytest.mark.parametrize("cut", [0, 10, 1000, -1])
def test_a_truncated_program(cut, copy):
    model_of(copy).write_bytes(model_of(copy).read_bytes()[:cut])
    with pytest.raises(BundleError, match=r"damaged: model.mlmodel is cut short|holds no ML Program"):
        MilProgram(copy)


@pytest.mark.parametrize("cut", [0, 10, 1000, -1000])
def test_truncated_weights(cut, copy):
    weights_of(copy).write_bytes(weights_of(copy).read_bytes()[:cut])
    with pytest.raises(BundleError, match=r"net.mlpackage cannot be loaded .* Are its weights complete\?"):
        MilProgram(copy)


def test_missing_parts(copy):
    weights_of(copy).unlink()
    with pytest.raises(
        BundleError, match=r"cannot be loaded \(Could not open .*weight.bin\). Are its weights complete"
    ):
        MilProgram(copy)
    model_of(copy).unlink()
    with pytest.raises(BundleError, match=r"model.mlmodel cannot be read \(No such file"):
        MilProgram(copy)
    (copy / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(BundleError, match=r"manifest of net.mlpackage is not that of a Core ML package"):
        MilProgram(copy)
    shutil.rmtree(copy)
    with pytest.raises(BundleError, match=r"Manifest.json cannot be read \(No such file.* Copy the package again"):
        MilProgram(copy)


def test_another_kind_or_version_of_model(ct, copy):
    spec = ct.proto.Model_pb2.Model.FromString(model_of(copy).read_bytes())
    spec.specificationVersion = 99
    model_of(copy).write_bytes(spec.SerializeToString())
    with pytest.raises(BundleError, match=r"specification 99; .* reads up to \d+. Update coremltools"):
        MilProgram(copy)
    spec.Clear()
    spec.specificationVersion = 4
    spec.neuralNetwork.SetInParent()
    model_of(copy).write_bytes(spec.SerializeToString())
    with pytest.raises(BundleError, match="holds no ML Program"):
        MilProgram(copy)


def test_without_coremltools(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingRuntimeError, match=r'pip install "superface\[coreml\]"'):
        MilProgram(copy)


def test_every_operation_is_one_of_coremltools(ct):
    """A name that MIL does not know could never be met."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    assert SSAOpRegistry.core_ops.keys() >= OPERATIONS.keys() | CONSTANTS
