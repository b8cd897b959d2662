"""Which units of a student still say anything: a count of the silent ones, layer by layer.

A unit is silent if it stays below zero before its rectifier at every pixel of every frame looked at: nothing passes.
A layer may also be awake and say the same in every frame; its spread over frames tells.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from training.student.blocks import Rectifier
from training.student.network import Student

MOST_SILENT = 1 / 3
"""Of a layer: more than that, for good, is a painter that dies."""


class Layer(NamedTuple):
    """One rectified layer over some frames."""

    name: str
    """The rectifier's, within the network."""
    silent: float
    """Share of units that stay below zero at every pixel of every frame."""
    spread: float
    """Standard deviation over frames of what it passes on, mean over units and pixels."""
    level: float
    """Root mean square before the rectifier."""


@torch.no_grad()
def take_census(student: Student, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> tuple[Layer, ...]:
    """All rectified layers of motion network, generator and regions while the student draws these frames.

    Args:
        student: bound, in either mode; it is not changed.
        keypoints: float32 [T, K, 2], poses that differ; a dozen tell.
        local_landmarks: float32 [T, M, 2].
    """
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}

    def watch(name: str, layer: Rectifier) -> torch.utils.hooks.RemovableHandle:
        def look(_: object, inputs: tuple[torch.Tensor], passed: torch.Tensor) -> None:
            before = inputs[0].float()
            seen.setdefault(name, []).append((before.amax((0, 2, 3)), before.square().mean(), passed.float()))

        return layer.register_forward_hook(look)

    layers_of = [*student.network.named_modules(), *student.person.named_modules()]
    handles = [watch(name, layer) for name, layer in layers_of if isinstance(layer, Rectifier)]
    try:
        for row in range(len(keypoints)):
            student.animate(keypoints[row : row + 1], local_landmarks[row : row + 1])
    finally:
        for handle in handles:
            handle.remove()
    layers = []
    for name, frames in seen.items():
        highest = torch.stack([highest for highest, _, _ in frames]).amax(0)
        passed = torch.cat([passed for _, _, passed in frames])
        layers.append(
            Layer(
                name,
                silent=float((highest <= 0).float().mean()),
                spread=float(passed.std(0, correction=0).mean()),
                level=float(torch.stack([square for _, square, _ in frames]).mean().sqrt()),
            )
        )
    return tuple(layers)


def dying(layers: Iterable[Layer]) -> list[Layer]:
    """The layers in which too many units are silent, or whose values are no numbers."""
    return [layer for layer in layers if layer.silent > MOST_SILENT or not math.isfinite(layer.level)]


def silence(layer: Layer) -> str:
    """How silent a layer is, in words."""
    return f"{100 * layer.silent:.0f} % of its units silent" if math.isfinite(layer.level) else "no numbers any more"


def census_table(layers: Sequence[Layer]) -> str:
    """A census for reading, a line a layer."""
    lines = [f"{'layer':34} {'silent':>7} {'spread':>8} {'level':>8}"]
    lines += [f"{x.name:34} {100 * x.silent:5.0f} % {x.spread:8.4f} {x.level:8.3f}" for x in layers]
    return "\n".join(lines)
