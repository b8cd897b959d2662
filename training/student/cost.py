"""What a frame costs: multiply-accumulates by module, and the work that a counter of multiplications leaves out.

Convention: `gflops = 2 × gmacs`, convolutions and matrix products only, as `torch.utils.flop_counter` counts them
on the whole per-frame graph (student and driver). The rest (warps, resizes, activations) is listed in elements
beside it: it costs memory traffic, not arithmetic.

`python -m training.student.cost` prints the table of the named tiers.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from edge.errors import InputError
from edge.spec import KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from edge.topology import LANDMARKS, STABLE
from training.config import TIERS, StudentConfig
from training.student.driver import RigidDriver
from training.student.network import Student

WIDTHS = (
    (16, 16, 16), (16, 24, 16), (16, 32, 16), (32, 48, 16), (32, 48, 32), (32, 64, 32), (32, 80, 32), (32, 96, 32),
    (48, 96, 48), (48, 112, 48), (48, 128, 48), (64, 112, 64), (64, 128, 64), (64, 160, 64), (64, 192, 64),
)  # fmt: skip
"""Students from cheap to dear: channels of the motion network, and of the generator at 64 and at 128 px. Multiples of
16 (all but one) keep convolutions on their fast path; what width buys: docs/log.md."""


class Cost(NamedTuple):
    """The price of one frame."""

    gmacs: float
    gflops: float
    """2 × gmacs, the driver included."""
    parameters: int
    """Learned numbers that reach the device; constants of the person (photo, features, heat-maps) not included."""
    modules: dict[str, float]
    """GMACs by module."""
    uncounted: dict[str, int]
    """Output elements of one frame by kind of work that the counter leaves out."""


_UNCOUNTED = {
    "grid_sampler_2d": "warp",
    "upsample_bilinear2d": "resize",
    "relu": "activation",
    "sigmoid": "activation",
    "_softmax": "activation",
    "exp": "activation",
    "add": "elementwise",
    "sub": "elementwise",
    "mul": "elementwise",
    "clamp": "elementwise",
    "pixel_shuffle": "shuffle",
    "pixel_unshuffle": "shuffle",
    "cat": "copy",
}


class _Elements(TorchDispatchMode):
    """Output elements by kind of operation."""

    def __init__(self) -> None:
        super().__init__()
        self.total: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        kind = _UNCOUNTED.get(func._schema.name.removeprefix("aten::").rstrip("_"))
        if kind and isinstance(out, torch.Tensor):
            self.total[kind] = self.total.get(kind, 0) + out.numel()
        return out


@lru_cache
def student_cost(config: StudentConfig) -> Cost:
    """Counts one frame of a student of these widths, without allocating its weights."""
    return count(lambda: Student.untrained(config))


def count(build: Callable[[], Student]) -> Cost:
    """Counts one frame of a student of any design; `build` is called where tensors have shapes and no memory."""
    with torch.device("meta"):
        student = build().eval()
        inputs = torch.zeros(1, KEYPOINTS, 2), torch.zeros(1, LOCAL_LANDMARKS, 2)
        counter = FlopCounterMode(display=False, depth=3)
        elements = _Elements()
        with torch.no_grad(), counter, elements:
            student(*inputs)
    modules = {
        name.partition(".")[2]: sum(ops.values()) / 2e9
        for name, ops in counter.get_flop_counts().items()
        if "." in name
    }
    modules["driver"] = driver_gmacs()
    gmacs = counter.get_total_flops() / 2e9 + modules["driver"]
    parameters = sum(p.numel() for n, p in student.named_parameters() if not n.startswith("network.distributor."))
    parameters -= 3 * NETWORK * NETWORK  # the photo in the layer is the person's, not learned
    return Cost(gmacs, 2 * gmacs, parameters, modules, elements.total)


@lru_cache
def driver_gmacs() -> float:
    """What a driver's pose fit multiplies in a frame."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        driver = RigidDriver(torch.zeros(len(STABLE), 3), torch.zeros(KEYPOINTS, 3))
        with torch.no_grad(), counter:
            driver(torch.zeros(1, LANDMARKS, 3))
    return counter.get_total_flops() / 2e9


@lru_cache
def student_config(gflops: float = TIERS["standard"], *, volume_channels: int = 192) -> StudentConfig:
    """The widest student that costs at most `gflops` a frame (2 per multiply-accumulate, everything included).

    Raises:
        InputError: below what the first of `WIDTHS` costs, where no picture is left.
    """
    best = None
    for widths in WIDTHS:
        config = StudentConfig(*widths, volume_channels=volume_channels)
        if student_cost(config).gflops > gflops:
            break
        best = config
    if best is None:
        least = student_cost(StudentConfig(*WIDTHS[0])).gflops
        tiers = ", ".join(f"{name} {most:g}" for name, most in TIERS.items())
        raise InputError(f"No student fits {gflops:g} GFLOPs a frame; {least:.2f} is the least. Tiers: {tiers}.")
    return best


def main() -> None:
    """Print the tiers."""
    for name, gflops in TIERS.items():
        config = student_config(gflops)
        cost = student_cost(config)
        size = f"{cost.gflops:.3f} GFLOPs = {cost.gmacs:.3f} GMACs, {cost.parameters / 1e6:.2f} M parameters"
        print(f"{name}: {size}, {config}")
        for module, gmacs in cost.modules.items():
            print(f"    {module:24} {gmacs:8.4f} GMACs")
        for kind, elements in cost.uncounted.items():
            print(f"    {kind:24} {elements / 1e6:8.3f} M elements, not counted")


if __name__ == "__main__":
    main()
