"""Pretrained networks that judge frames, in losses and in metrics: found on this machine, never shipped.

Each is looked for by file name in the folder that `SUPERFACE_MODELS` names, then in the user's cache
(`~/.cache/superface/models`); VGG-19 is downloaded from its official address where there is a way to it. What was found
is part of a run's card, because another judge makes another teacher.

    perceptual   vgg19-dcbb9e9d.pth (torchvision's VGG-19) · vgg_normalised_conv3_1.pth with lpips_squeeze.npz · none
    head pose    fsanet-1x1-iter-688590.onnx with fsanet-var-iter-688590.onnx · none
    identity     mobilefacenet_y1.onnx (ArcFace), for CSIM alone
    LPIPS        lpips_alex.npz, for reports alone: no loss may use it

Files are read with `weights_only`, `allow_pickle=False`, or as plain ONNX: nothing in them is executed.
"""

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edge.errors import InputError
from edge.judges.onnx_graph import Graph, read_graph

VGG_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG_NAME = "vgg19-dcbb9e9d.pth"
VGG_SHA256_BEGINS = "dcbb9e9d"
"""As its publisher pins it: in the file's name."""
PYRAMID = 3
"""Sizes at which the pyramid perceptual loss compares: 1, 1/2, 1/4."""
SMALLEST = 32
"""Pixels under which a picture has no pyramid any more."""


def model_folders() -> list[Path]:
    """Where pretrained networks are looked for, in order."""
    named = os.environ.get("SUPERFACE_MODELS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "superface" / "models"
    return [*([Path(named)] if named else []), cache]


def find_network(name: str) -> Path | None:
    """The file of that name in one of `model_folders`, or in a folder within; None where there is none."""
    for folder in model_folders():
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    return None


def _download_vgg() -> Path | None:
    """VGG-19 in the cache; None where its address cannot be reached, or what it gives is not it."""
    target = model_folders()[-1] / VGG_NAME
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            part = Path(file.name)
            digest = hashlib.sha256()
            with urllib.request.urlopen(VGG_URL, timeout=10) as answer:
                while block := answer.read(1 << 20):
                    digest.update(block)
                    file.write(block)
        if digest.hexdigest().startswith(VGG_SHA256_BEGINS):
            os.replace(part, target)
            return target
    except OSError:
        pass
    finally:
        if part:
            part.unlink(missing_ok=True)
    return None


# Perceptual ----------------------------------------------------------------------------------------------------------


class Vgg19(nn.Module):
    """VGG-19 to relu5_1, in torchvision's layout (`features.N.weight`): five maps, relu1_1 … relu5_1."""

    TAPS = (1, 6, 11, 20, 29)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1)):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Frames float32 [N, 3, H, W] in 0..1 → maps of five depths."""
        x, maps = (frames - self.mean) / self.spread, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.TAPS:
                maps.append(x)
        return maps


class VggNormalised(nn.Module):
    """VGG-19 to relu3_1 with channels of unit mean (as for style transfer): three maps, relu1_1 … relu3_1."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), value)

    def _conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.relu(
            F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))
        )

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Frames float32 [N, 3, H, W] in 0..1 → maps of three depths."""
        x = F.conv2d(frames, self.get_buffer("0_weight"), self.get_buffer("0_bias"))
        first = self._conv(x, "2")
        second = self._conv(F.max_pool2d(self._conv(first, "5"), 2, ceil_mode=True), "9")
        third = self._conv(F.max_pool2d(self._conv(second, "12"), 2, ceil_mode=True), "16")
        return [first, second, third]


class _Lpips(nn.Module):
    """What AlexNet and SqueezeNet of LPIPS v0.1 share: scaled input, maps of unit length, a weight a channel."""

    mean = (-0.030, -0.088, -0.188)
    spread = (0.458, 0.448, 0.450)

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(np.array(value)).float())

    def _conv(self, x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return F.relu(
            F.conv2d(x, getattr(self, f"features_{name}_weight"), getattr(self, f"features_{name}_bias"), **how)
        )

    def taps(self, x: torch.Tensor) -> list[torch.Tensor]:
        raise NotImplementedError

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Frames float32 [N, 3, H, W] in 0..1 → maps of several depths, of unit length over channels."""
        mean, spread = (frames.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.spread))
        return [F.normalize(x, dim=1, eps=1e-6) for x in self.taps((2 * frames - 1 - mean) / spread)]

    def distance(self, frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """LPIPS of each frame: [N]; smaller is nearer."""
        total = frames.new_zeros(len(frames))
        for index, (mine, theirs) in enumerate(zip(self(frames), self(reference), strict=True)):
            weight = getattr(self, f"lin{index}_weight")
            total = total + F.conv2d((mine - theirs).square(), weight).mean((1, 2, 3))
        return total


class LpipsAlex(_Lpips):
    """LPIPS on AlexNet: for reports."""

    def taps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps after each of five convolutions."""
        maps = [self._conv(x, "0", stride=4, padding=2)]
        maps.append(self._conv(F.max_pool2d(maps[-1], 3, 2), "3", padding=2))
        maps.append(self._conv(F.max_pool2d(maps[-1], 3, 2), "6", padding=1))
        maps.append(self._conv(maps[-1], "8", padding=1))
        maps.append(self._conv(maps[-1], "10", padding=1))
        return maps


class LpipsSqueeze(_Lpips):
    """LPIPS on SqueezeNet: depth for the perceptual loss where VGG-19's deep layers are missing."""

    def _fire(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = self._conv(x, f"{name}_squeeze")
        return torch.cat([self._conv(x, f"{name}_expand1x1"), self._conv(x, f"{name}_expand3x3", padding=1)], 1)

    def taps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps of seven depths."""
        x = self._conv(x, "0", stride=2)
        maps = [x]
        for group in (("3", "4"), ("6", "7"), ("9",), ("10",), ("11",), ("12",)):
            if len(maps) < 4:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            for name in group:
                x = self._fire(x, name)
            maps.append(x)
        return maps


class Perceptual(NamedTuple):
    """The perceptual network of a run."""

    maps: Callable[[torch.Tensor], Sequence[torch.Tensor]]
    """Frames in, feature maps out; at every size of the pyramid."""
    card: str
    """What it is, for the run's card."""


def load_perceptual(device: torch.device, *, download: bool = True) -> Perceptual | None:
    """Pyramid features for L_P; None where no network is found: the discriminator's features then serve alone."""
    path = find_network(VGG_NAME) or (_download_vgg() if download else None)
    networks: list[nn.Module] = []
    if path:
        vgg = Vgg19()
        state = _load_torch(path)
        vgg.load_state_dict({name: state[name] for name in vgg.state_dict()})
        networks, card = [vgg], "VGG-19 (torchvision), relu1_1 to relu5_1"
    elif path := find_network("vgg_normalised_conv3_1.pth"):
        networks, card = [VggNormalised(_load_torch(path))], "VGG-19 normalised, relu1_1 to relu3_1"
        if deep := find_network("lpips_squeeze.npz"):
            networks.append(LpipsSqueeze(_load_arrays(deep)))
            card += ", and SqueezeNet of LPIPS"
    else:
        return None
    for network in networks:
        network.requires_grad_(False).eval().to(device)

    def maps(frames: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for level in range(PYRAMID):
            if level:
                frames = F.avg_pool2d(frames, 2)
            if level and frames.shape[-1] < SMALLEST:
                break
            found += [values for network in networks for values in network(frames)]
        return found

    return Perceptual(maps, card)


def load_lpips(device: torch.device) -> LpipsAlex | None:
    """LPIPS for reports, or None."""
    path = find_network("lpips_alex.npz")
    return LpipsAlex(_load_arrays(path)).requires_grad_(False).eval().to(device) if path else None


def _load_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} cannot be read as weights ({error}). Delete it or fetch it again.") from error


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as weights ({error}). Delete it or fetch it again.") from error


# ONNX networks, differentiable ---------------------------------------------------------------------------------------


class OnnxNetwork(nn.Module):
    """A network from an ONNX file, run node by node in torch, so that gradients pass to its input."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.graph: Graph = read_graph(path)
        if unknown := sorted({node.kind for node in self.graph.nodes} - _OPERATIONS.keys() - {"Constant"}):
            raise InputError(f"{path.name} uses {', '.join(unknown)}, which is not known here.")
        constants = dict(self.graph.constants)
        constants |= {n.outputs[0]: n.attributes["value"] for n in self.graph.nodes if n.kind == "Constant"}
        # Shapes and indices stay with the CPU, which reads them; what is computed with moves with the network.
        self._whole: dict[str, torch.Tensor] = {}
        self._places: dict[str, str] = {}
        for index, (name, value) in enumerate(constants.items()):
            tensor = torch.from_numpy(np.array(value))
            if tensor.is_floating_point():
                self._places[name] = f"constant_{index}"
                self.register_buffer(self._places[name], tensor, persistent=False)
            else:
                self._whole[name] = tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The first output for the first input."""
        values: dict[str, Any] = dict(self._whole)
        values |= {name: self.get_buffer(place) for name, place in self._places.items()}
        values[next(name for name in self.graph.inputs if name not in values)] = x
        for node in self.graph.nodes:
            if node.kind == "Constant":
                continue
            given = [values[name] if name else None for name in node.inputs]
            made = _OPERATIONS[node.kind](given, node.attributes)
            values[node.outputs[0]] = made.to(x.device) if made.is_floating_point() else made
        return values[self.graph.outputs[0]]


def _pads(attributes: dict[str, Any]) -> list[int]:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return [left, right, top, bottom]


def _conv(v: list[Any], a: dict[str, Any]) -> torch.Tensor:
    x = F.pad(v[0], _pads(a))
    return F.conv2d(
        x, v[1], v[2] if len(v) > 2 else None, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1)
    )


def _pool(kind: Callable[..., torch.Tensor], fill: float) -> Callable[[list[Any], dict[str, Any]], torch.Tensor]:
    return lambda v, a: kind(F.pad(v[0], _pads(a), value=fill), a["kernel_shape"], a.get("strides", 1))


def _gemm(v: list[Any], a: dict[str, Any]) -> torch.Tensor:
    left, right = (x.T if a.get(flag) else x for x, flag in ((v[0], "transA"), (v[1], "transB")))
    product = a.get("alpha", 1.0) * left @ right
    return product + a.get("beta", 1.0) * v[2] if len(v) > 2 else product


def _reduce(kind: Callable[..., torch.Tensor]) -> Callable[[list[Any], dict[str, Any]], torch.Tensor]:
    return lambda v, a: kind(v[0], dim=tuple(a["axes"]), keepdim=bool(a.get("keepdims", 1)))


def _slice(v: list[Any], a: dict[str, Any]) -> torch.Tensor:
    starts, ends = (a["starts"], a["ends"]) if "starts" in a else (v[1].tolist(), v[2].tolist())
    axes = a.get("axes") or (v[3].tolist() if len(v) > 3 and v[3] is not None else list(range(len(starts))))
    cut = [slice(None)] * v[0].ndim
    for start, end, axis in zip(starts, ends, axes, strict=True):
        cut[axis] = slice(int(start), int(end))
    return v[0][tuple(cut)]


def _pad(v: list[Any], a: dict[str, Any]) -> torch.Tensor:
    pads = list(a["pads"]) if "pads" in a else v[1].tolist()
    half = len(pads) // 2
    ordered = [side for axis in reversed(range(half)) for side in (pads[axis], pads[axis + half])]
    return F.pad(v[0], ordered)


def _unsqueeze(v: list[Any], a: dict[str, Any]) -> torch.Tensor:
    for axis in sorted(a["axes"]):
        v = [v[0].unsqueeze(axis)]
    return v[0]


def _gather(v: list[Any], a: dict[str, Any]) -> torch.Tensor:
    axis = a.get("axis", 0)
    return v[0].select(axis, int(v[1])) if v[1].ndim == 0 else v[0].index_select(axis, v[1].to(v[0].device))


_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}
_OPERATIONS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "Add": lambda v, a: v[0] + v[1],
    "AveragePool": _pool(F.avg_pool2d, 0.0),
    "BatchNormalization": lambda v, a: F.batch_norm(v[0], v[3], v[4], v[1], v[2], eps=a.get("epsilon", 1e-5)),
    "Cast": lambda v, a: v[0].to(_TYPES[a["to"]]),
    "Concat": lambda v, a: torch.cat([x.to(v[0].device) for x in v], a["axis"]),
    "ConstantOfShape": lambda v, a: torch.full(v[0].tolist(), float(np.ravel(a.get("value", 0.0))[0])),
    "Conv": _conv,
    "Div": lambda v, a: v[0] / v[1] if v[0].is_floating_point() else v[0] // v[1],
    "Exp": lambda v, a: v[0].exp(),
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": lambda v, a: v[0] @ v[1],
    "MaxPool": _pool(F.max_pool2d, -float("inf")),
    "Mul": lambda v, a: v[0] * v[1],
    "PRelu": lambda v, a: torch.where(v[0] < 0, v[0] * v[1], v[0]),
    "Pad": _pad,
    "Pow": lambda v, a: v[0] ** v[1],
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": lambda v, a: F.relu(v[0]),
    "Reshape": lambda v, a: v[0].reshape(
        [v[0].shape[i] if size == 0 else int(size) for i, size in enumerate(v[1].tolist())]
    ),
    "Shape": lambda v, a: torch.tensor(v[0].shape),
    "Sigmoid": lambda v, a: torch.sigmoid(v[0]),
    "Slice": _slice,
    "Sqrt": lambda v, a: v[0].sqrt(),
    "Squeeze": lambda v, a: v[0].squeeze(tuple(a["axes"])),
    "Sub": lambda v, a: v[0] - v[1],
    "Tanh": lambda v, a: torch.tanh(v[0]),
    "Transpose": lambda v, a: v[0].permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}


class HeadPose(nn.Module):
    """FSA-Net's head pose (MIT), the mean of its two variants; differentiable."""

    FILES = ("fsanet-1x1-iter-688590.onnx", "fsanet-var-iter-688590.onnx")

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(OnnxNetwork(path) for path in paths)

    def forward(self, frames: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Yaw, pitch, roll in degrees: [N, 3]; yaw > 0 turns the nose to the image's left, pitch > 0 is up.

        Args:
            frames: float32 [N, 3, H, W] in 0..1.
            landmarks: float32 [N, 478, 3]: where the face lies.
        """
        low, high = landmarks[..., :2].amin(1), landmarks[..., :2].amax(1)
        patch = read_box(frames, (low + high) / 2, (high - low) * 0.8, 64)
        scaled = (patch.flip(1) * 255 - 127.5) / 128
        with torch.autocast(frames.device.type, enabled=False):  # a degree is finer than bf16's steps
            return torch.stack([network(scaled.float()) for network in self.networks]).mean(0)


def load_head_pose(device: torch.device) -> HeadPose | None:
    """The network of L_H, or None."""
    paths = [find_network(name) for name in HeadPose.FILES]
    return HeadPose([p for p in paths if p]).requires_grad_(False).eval().to(device) if all(paths) else None


class FaceIdentity(nn.Module):
    """ArcFace embeddings of MobileFaceNet, for CSIM."""

    PLACES = torch.tensor(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = OnnxNetwork(path)

    def forward(self, frames: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Embeddings [N, 128] of unit length.

        Args:
            frames: float32 [N, 3, H, W] in 0..1.
            landmarks: float32 [N, 478, 3], of these frames.
        """
        points = torch.stack(
            [landmarks[:, rows, :2].mean(1) for rows in ([33, 133], [362, 263], [1, 4], [61], [291])], 1
        )
        places = self.PLACES.to(points)
        # The similarity that carries the places of the aligned face to this one (Umeyama), as complex numbers.
        centre, goal = points.mean(1, keepdim=True), places.mean(0)
        a, b = (
            torch.view_as_complex((places - goal).contiguous()),
            torch.view_as_complex((points - centre).contiguous()),
        )
        turn = (a.conj() * b).sum(1, keepdim=True) / a.abs().square().sum()
        axis = torch.arange(112, device=points.device, dtype=points.dtype)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        pixels = torch.view_as_complex(torch.stack([x - goal[0], y - goal[1]], -1).contiguous()).flatten()
        grid = torch.view_as_real(turn * pixels) + centre
        aligned = F.grid_sample(frames, grid.view(-1, 112, 112, 2), padding_mode="border", align_corners=True)
        return F.normalize(self.network(aligned * 255), dim=1)


def load_identity(device: torch.device) -> FaceIdentity | None:
    """The network of CSIM, or None."""
    path = find_network("mobilefacenet_y1.onnx")
    return FaceIdentity(path).requires_grad_(False).eval().to(device) if path else None


def read_box(frames: torch.Tensor, centre: torch.Tensor, half: torch.Tensor, size: int) -> torch.Tensor:
    """A box of each frame at one size, antialiased by averaging: float32 [N, 3, size, size].

    Args:
        frames: float32 [N, 3, H, W].
        centre: float32 [N, 2], crop coordinates.
        half: float32 [N, 2], half its width and height.
        size: of the result.
    """
    fine = 2 * size
    axis = (torch.arange(fine, device=frames.device) + 0.5) * (2 / fine) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1)[None] * half[:, None, None] + centre[:, None, None]
    return F.avg_pool2d(F.grid_sample(frames, grid, padding_mode="border", align_corners=True), 2)
