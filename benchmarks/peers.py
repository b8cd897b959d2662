"""What others' networks cost a frame, beside ours, on this machine: `python benchmarks/peers.py`.

Each peer is rebuilt as plain convolutions of its published configuration with random weights, runs in ONNX Runtime as
ours do, and is timed in turn with them. Batch normalisations are left out: they fold into convolutions. In the two
that warp volumes, the warps and the candidate motions they make are left out as well: their figures are lower bounds.

    FOMM              vox-256: keypoint detector, dense motion, generator, as one frame runs them
    face-vid2vid      its dense motion and SPADE generator at 256 px; without the pose estimator
    LivePortrait      W and G at 512 px; without the motion extractor M
    THA4 student      face and body morpher, the distilled SIRENs at 512 px

Writes docs/peers.csv and prints the table.
"""

import argparse
import csv
import io
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from converters.cli import random_driver, random_driving, random_student
from converters.to_onnx import export_onnx
from edge.judges.bench import machine
from training.config import TIERS
from training.student.cost import student_cost

TABLE = Path(__file__).parents[1] / "docs" / "peers.csv"
COLUMNS = ("network", "pixels", "precision", "gmacs", "published_gmacs", "threads", "median_ms", "p90_ms", "times_ours")


def conv(inputs: int, outputs: int, kernel: int = 3, *, depth: bool = False) -> nn.Module:
    """A convolution that keeps the size."""
    return (nn.Conv3d if depth else nn.Conv2d)(inputs, outputs, kernel, padding=kernel // 2)


class Hourglass(nn.Module):
    """The hourglass that FOMM and its children share: channels double on the way down, skips on the way up."""

    def __init__(self, inputs: int, base: int, most: int, levels: int, *, depth: bool = False) -> None:
        super().__init__()
        width = [inputs, *[min(most, base * 2 ** (level + 1)) for level in range(levels)]]
        self.down = nn.ModuleList(conv(width[n], width[n + 1], depth=depth) for n in range(levels))
        self.up = nn.ModuleList(
            conv(width[n + 1] * (1 if n == levels - 1 else 2), min(most, base * 2**n), depth=depth)
            for n in reversed(range(levels))
        )
        self.scale, self.outputs = ((1, 2, 2) if depth else (2, 2)), base + inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, …] → [N, base + inputs, …]."""
        pool = F.avg_pool3d if len(self.scale) == 3 else F.avg_pool2d
        skips = [x]
        for layer in self.down:
            skips.append(pool(F.relu(layer(skips[-1])), self.scale))
        x = skips.pop()
        for layer in self.up:
            x = torch.cat([F.relu(layer(F.interpolate(x, scale_factor=self.scale))), skips.pop()], 1)
        return x


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = conv(channels, channels), conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W], same out."""
        return x + self.two(F.relu(self.one(F.relu(x))))


class Fomm(nn.Module):
    """First Order Motion Model, vox-256: 10 keypoints with Jacobians."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Hourglass(3, 32, 1024, 5)
        self.keypoints, self.jacobian = conv(35, 10, 7), conv(35, 40, 7)
        self.motion = Hourglass(44, 64, 1024, 5)
        self.mask, self.occlusion = conv(108, 11, 7), conv(108, 1, 7)
        self.first, self.down = conv(3, 64, 7), nn.ModuleList([conv(64, 128), conv(128, 256)])
        self.bottleneck = nn.Sequential(*[Residual(256) for _ in range(6)])
        self.up, self.last = nn.ModuleList([conv(256, 128), conv(128, 64)]), conv(64, 3, 7)

    def forward(self, source: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """Source and driving frame [1, 3, 256, 256] → frame."""
        small = F.avg_pool2d(source, 4)
        features = self.detector(F.avg_pool2d(driving, 4))
        heat = self.keypoints(features).flatten(2).softmax(-1).view(1, 10, 64, 64)
        places = self.jacobian(features).mean((2, 3)).view(10, 2, 2)
        shifts = torch.cat([torch.zeros(1, 2), places[:, 0]])
        grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 64, 64], align_corners=False)
        moved = grid + 0.01 * shifts[:, None, None]
        shown = F.grid_sample(small.expand(11, -1, -1, -1), moved, align_corners=False).reshape(1, 33, 64, 64)
        hourglass = self.motion(torch.cat([heat, heat[:, :1], shown], 1))
        share = self.mask(hourglass).softmax(1)
        field = (share[0, :, :, :, None] * moved).sum(0, keepdim=True)
        x = F.relu(self.first(source))
        for layer in self.down:
            x = F.avg_pool2d(F.relu(layer(x)), 2)
        x = F.grid_sample(x, field, align_corners=False) * torch.sigmoid(self.occlusion(hourglass))
        x = self.bottleneck(x)
        for layer in self.up:
            x = F.relu(layer(F.interpolate(x, scale_factor=2)))
        return torch.sigmoid(self.last(x))


class Spade(nn.Module):
    """A SPADE residual block: instance norm, scaled and shifted by what the features say."""

    def __init__(self, inputs: int, outputs: int, label: int = 256, hidden: int = 128) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.convs = nn.ModuleList([conv(inputs, middle), conv(middle, outputs)])
        widths = [inputs, middle]
        if inputs != outputs:
            self.convs.append(nn.Conv2d(inputs, outputs, 1))
            widths.append(inputs)
        self.shared = nn.ModuleList(conv(label, hidden) for _ in widths)
        self.gamma, self.beta = (nn.ModuleList(conv(hidden, width) for width in widths) for _ in range(2))

    def _norm(self, x: torch.Tensor, label: torch.Tensor, index: int) -> torch.Tensor:
        seen = F.relu(self.shared[index](label))
        return F.instance_norm(x) * (1 + self.gamma[index](seen)) + self.beta[index](seen)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] and features [N, 256, 64, 64] → [N, outputs, H, W]."""
        label = F.interpolate(label, x.shape[-2:])
        y = self.convs[0](F.leaky_relu(self._norm(x, label, 0), 0.2))
        y = self.convs[1](F.leaky_relu(self._norm(y, label, 1), 0.2))
        return y + (self.convs[2](self._norm(x, label, 2)) if len(self.convs) == 3 else x)


class Volumes(nn.Module):
    """face-vid2vid and its child LivePortrait: 3-D dense motion and a SPADE generator, without the warps."""

    def __init__(self, keypoints: int, *, upscale: int) -> None:
        super().__init__()
        inputs = (keypoints + 1) * 5
        self.compress = nn.Conv3d(32, 4, 1)
        self.hourglass = Hourglass(inputs, 32, 1024, 5, depth=True)
        self.mask = conv(32 + inputs, keypoints + 1, 7, depth=True)
        self.occlusion = conv((32 + inputs) * 16, 1, 7)
        self.third, self.fourth, self.fc = conv(512, 256), nn.Conv2d(256, 256, 1), conv(256, 512)
        self.middle = nn.ModuleList(Spade(512, 512) for _ in range(6))
        self.up = nn.ModuleList([Spade(512, 256), Spade(256, 64)])
        self.last, self.upscale, self.repeats = conv(64, 3 * upscale**2), upscale, inputs // 4 + 1

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """F_3D [1, 32, 16, 64, 64] → frame."""
        inputs = self.mask.in_channels - 32
        candidates = F.relu(self.compress(volume)).repeat(1, self.repeats, 1, 1, 1)[:, :inputs]
        hourglass = self.hourglass(candidates)
        share = self.mask(hourglass).softmax(1)
        x = self.fourth(F.relu(self.third((volume * share[:, :1]).flatten(1, 2))))
        x = label = x * torch.sigmoid(self.occlusion(hourglass.flatten(1, 2)))
        x = self.fc(x)
        for block in self.middle:
            x = block(x, label)
        for block in self.up:
            x = block(F.interpolate(x, scale_factor=2), label)
        x = self.last(F.leaky_relu(x, 0.2))
        return torch.sigmoid(F.pixel_shuffle(x, self.upscale) if self.upscale > 1 else x)


class Tha4(nn.Module):
    """Talking Head(?) Anime from a Single Image 4, the distilled student: two SIRENs, every layer a 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        face, body = [41, *[128] * 8], [[47, 360, 360, 180], [180 + 47, 180, 180, 90], [90 + 47, 90, 90, 90]]
        self.face = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(face))
        self.face_last, self.last = nn.Conv2d(128, 4, 1), nn.Conv2d(90, 7, 1)
        self.body = nn.ModuleList(nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths)) for widths in body)

    def forward(self, image: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Image [1, 4, 512, 512] and pose [1, 45] → frame."""

        def places(size: int, values: torch.Tensor) -> torch.Tensor:
            axis = torch.linspace(-1, 1, size)
            grid = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)])[None]
            return torch.cat([grid, values[:, :, None, None].expand(-1, -1, size, size)], 1)

        x = places(128, pose[:, :39])
        for layer in self.face:
            x = torch.sin(30 * layer(x))
        face = F.pad(self.face_last(x), (192, 192, 80, 304))
        image = image + face
        for level, layers in enumerate(self.body):
            here = places(128 * 2**level, pose)
            x = here if level == 0 else torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), here], 1)
            for layer in layers:
                x = torch.sin(30 * layer(x))
        out = self.last(x)
        grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 512, 512], align_corners=False)
        moved = F.grid_sample(image, grid + out[:, :2].movedim(1, -1), align_corners=False)
        return moved + (out[:, 3:] - moved) * out[:, 2:3]


class Network(NamedTuple):
    """One line of the table before it is timed."""

    name: str
    pixels: int
    precision: str
    gmacs: float
    published: float | None
    """GMACs that others counted for it (the papers' or design notes' figures)."""
    model: bytes
    inputs: dict[str, np.ndarray]


def peer(
    name: str, pixels: int, published: float | None, module: nn.Module, inputs: dict[str, torch.Tensor]
) -> Network:
    """A peer's module as a counted ONNX graph."""
    module = module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs.values())
    buffer = io.BytesIO()
    torch.onnx.export(
        module, tuple(inputs.values()), buffer, input_names=list(inputs), opset_version=18, dynamo=False, verbose=False
    )
    arrays = {key: value.numpy() for key, value in inputs.items()}
    return Network(name, pixels, "fp32", counter.get_total_flops() / 2e9, published, buffer.getvalue(), arrays)


def ours(tier: str) -> list[Network]:
    """A tier's student of random weights, fp32 and int8."""
    student = random_student(TIERS[tier])
    motion = [random_driving(student, 64, seed) for seed in (1, 2)]
    lowered, _ = export_onnx(
        student, random_driver(), calibration=motion[0], held_out=motion[1], precisions=("fp32", "int8"), verify=False
    )
    inputs = {"keypoints": motion[1].keypoints[:1], "local_landmarks": motion[1].local_landmarks[:1]}
    gmacs = student_cost(student.config).gmacs
    return [
        Network(f"SuperFace {tier}", 512, precision, gmacs, None, next(iter(graph.files.values())), inputs)
        for precision, graph in zip(("fp32", "int8"), lowered, strict=True)
    ]


def runner(network: Network, threads: int) -> Callable[[], Any]:
    """ONNX Runtime on a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network.model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, network.inputs)


def measure(networks: list[Network], threads: int, rounds: int) -> list[list[float]]:
    """Milliseconds of each network in each round, all in turn, so that the machine's moods hit all alike."""
    runs = [runner(network, threads) for network in networks]
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in networks]
    for _ in range(rounds):
        for run, own, network in zip(runs, times, networks, strict=True):
            for _ in range(1 if network.gmacs > 20 else 5):  # as long in all as a heavy one takes once
                begun = time.perf_counter()
                run()
                own.append(1000 * (time.perf_counter() - begun))
    return times


def main() -> int:
    """Build, time, print, write; the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="times that each heavy network runs (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="end with the rows as one JSON line")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        frame, volume = torch.rand(1, 3, 256, 256), torch.rand(1, 32, 16, 64, 64)
        networks = [
            *[network for tier in ("nano", "low", "standard") for network in ours(tier)],
            peer("THA4 student", 512, 18.9, Tha4(), {"image": torch.rand(1, 4, 512, 512), "pose": torch.rand(1, 45)}),
            peer("FOMM", 256, 55.0, Fomm(), {"source": frame, "driving": frame}),
            peer("face-vid2vid, motion and generator", 256, None, Volumes(15, upscale=1), {"volume": volume}),
            peer("LivePortrait W and G", 512, 623.0, Volumes(21, upscale=2), {"volume": volume}),
        ]
    rows = []
    print(machine())
    print(f"{'network':36}{'pixels':>7}{'weights':>9}{'GMACs':>8}{'counted':>9}", end="")
    print(f"{'threads':>9}{'ms':>9}{'p90':>9}{'× ours':>8}")
    for threads in arguments.threads:
        times = measure(networks, threads, arguments.rounds)
        base = next(
            float(np.median(own))
            for network, own in zip(networks, times, strict=True)
            if (network.name, network.precision) == ("SuperFace standard", "fp32")
        )
        for network, own in zip(networks, times, strict=True):
            median, p90 = float(np.median(own)), float(np.quantile(own, 0.9))
            row = (
                network.name, network.pixels, network.precision, round(network.gmacs, 2), network.published or "",
                threads, round(median, 1), round(p90, 1), round(median / base, 2),
            )  # fmt: skip
            rows.append(row)
            print(f"{row[0]:36}{row[1]:>7}{row[2]:>9}{row[3]:>8.2f}{row[4] or '–':>9}", end="")
            print(f"{threads:>9}{row[6]:>9.1f}{row[7]:>9.1f}{row[8]:>8.2f}")
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    if arguments.json:
        print(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
