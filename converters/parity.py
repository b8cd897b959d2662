"""How near a converted student comes to the trained one, and whether that is near enough.

The gates are those of `edge.judges.check`, which the finished bundle is held to as well. A graph that misses its
gate is not written: `require` raises, and the converters leave with a non-zero exit code.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from converters.student_graph import DriverGraph
from edge.bundle import ParityRow
from edge.errors import ParityError
from edge.judges.check import GATES, Gate, psnr_db
from edge.runtimes import Run
from edge.spec import LANDMARKS_IN

__all__ = ["GATES", "Gate", "Parity", "compare", "first_within_gate", "psnr_db", "require", "require_driver"]

Choice = TypeVar("Choice")
Made = TypeVar("Made")


class Parity(NamedTuple):
    """PSNR over T frames, and the largest single difference."""

    mean_db: float
    worst_db: float
    largest_error: float
    """In units of the image, 0..1."""
    frames: int


def compare(expected: Iterable[npt.NDArray[Any] | torch.Tensor], got: Iterable[npt.NDArray[Any]]) -> Parity:
    """Frames of the trained student against frames of a converted one.

    Args:
        expected: T frames, float32 in 0..1, any shape.
        got: T frames of the same shapes.

    Raises:
        ParityError: when there are no frames, or a converted frame holds NaN.
    """
    decibels, largest = [], 0.0
    for reference, frame in zip(expected, got, strict=True):
        reference = np.asarray(reference)
        if not np.isfinite(frame).all():
            raise ParityError("The converted student draws NaN. Was it trained to the end? Nothing was written.")
        decibels.append(psnr_db(reference, frame, peak=1.0))
        largest = max(largest, float(np.abs(reference - frame).max()))
    if not decibels:
        raise ParityError("Parity was asked for over no frames at all. Give held-out keypoints.")
    return Parity(float(np.mean(decibels)), min(decibels), largest, len(decibels))


def require(parity: Parity, runtime: str, precision: str, engine: str) -> ParityRow:
    """The row for the manifest, if the gate of that precision is met.

    Args:
        parity: what was measured on keypoints that neither training nor calibration saw.
        runtime: "onnx", "executorch" or "coreml".
        precision: a key of `GATES`.
        engine: what ran the graph, with its version.

    Raises:
        ParityError: when the mean or the worst frame is below the gate.
    """
    gate = GATES[precision]
    if parity.mean_db < gate.mean_db or parity.worst_db < gate.worst_db:
        raise ParityError(
            f"The {precision} student reaches {parity.mean_db:.1f} dB on average and {parity.worst_db:.1f} "
            f"dB at worst on {engine}; {gate.mean_db:.0f} and {gate.worst_db:.0f} dB are required. "
            "Nothing was written; train longer, or leave this precision out."
        )
    return ParityRow(runtime, precision, engine, parity.mean_db, parity.worst_db, gate.mean_db, parity.frames)


def first_within_gate(make: Callable[[Choice], Made], choices: Sequence[Choice]) -> Made:
    """What is made of the first choice that meets its gate: as much in 8 bits as the gate allows, say.

    Raises:
        ParityError: of the last choice, when none does.
    """
    for choice in choices[:-1]:
        try:
            return make(choice)
        except ParityError:
            continue
    return make(choices[-1])


def require_driver(graph: DriverGraph, run: Run, runtime: str, tolerance: float) -> None:
    """The teacher's map from landmarks to keypoints, converted, is the same map.

    Args:
        graph: the map in torch.
        run: the converted one.
        runtime: its name, for the error.
        tolerance: largest difference, crop coordinates: what the runtime's arithmetic rounds away.

    Raises:
        ParityError: when it is another map.
    """
    (landmarks,) = graph.example_inputs()
    got = run(**{LANDMARKS_IN.name: landmarks.numpy()})
    for wanted, found in zip(graph(landmarks), got, strict=True):
        if not np.abs(wanted.numpy() - found).max() <= tolerance:  # NaN compares as false, too
            raise ParityError(f"The driver in {runtime} differs from torch's. Nothing was written.")
