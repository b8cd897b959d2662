"""How near a converted student comes to the trained one, and whether that is near enough.

The gates are those of `edge.judges.check`, which the finished bundle is held to as well. A graph that misses its
gate is not
written: `require` raises, and the converters leave with a non-zero exit code.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from edge.bundle import ParityRow
from edge.errors import ParityError
from edge.judges.check import GATES, Gate, psnr_db

__all__ = ["GATES", "Gate", "Parity", "compare", "psnr_db", "require"]


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
