"""What every converter exports: the student and its driver with fixed shapes, tensors in, tuples out.

Export wraps the model and does not edit it: `StudentGraph` holds a bound student, in which everything that
depends on the person alone is already a constant. What one runtime wants in another form is changed in that
runtime's own file.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge.errors import InputError
from edge.spec import KEYPOINTS_IN, LANDMARKS_IN, LOCAL_IN
from edge.topology import LOCAL
from training.student.driver import Driver
from training.student.network import Student


class Driving(NamedTuple):
    """Driving motion of T frames, as the student takes it."""

    keypoints: npt.NDArray[np.float32]
    """[T, K, 2], crop coordinates."""
    local_landmarks: npt.NDArray[np.float32]
    """[T, M, 2], crop coordinates."""

    def spread(self, count: int) -> "Driving":
        """At most `count` frames, evenly over the whole track."""
        rows = np.unique(np.linspace(0, len(self.keypoints) - 1, count).round().astype(int))
        return Driving(np.array(self.keypoints[rows]), np.array(self.local_landmarks[rows]))

    def frames(self) -> list[dict[str, npt.NDArray[np.float32]]]:
        """The graph's inputs, one frame each."""
        pairs = zip(self.keypoints, self.local_landmarks, strict=True)
        return [{KEYPOINTS_IN.name: keypoints[None], LOCAL_IN.name: local[None]} for keypoints, local in pairs]


class StudentGraph(nn.Module):
    """keypoints [1, K, 2], local landmarks [1, M, 2] → (image [1, 3, 512, 512] in 0..1,)."""

    def __init__(self, student: Student):
        """Wrap a bound student; it is not changed.

        Raises:
            InputError: when the student's weights are not finite numbers.
        """
        super().__init__()
        if not all(torch.isfinite(tensor).all() for tensor in student.state_dict().values()):
            raise InputError("The student's weights hold NaN or infinity: its training went wrong. Train it again.")
        self.student = student.eval()
        student.person.regions.hold()

    @torch.no_grad()
    def forward(self, keypoints: torch.Tensor, local_landmarks: torch.Tensor) -> tuple[torch.Tensor]:
        """One frame."""
        return (self.student(keypoints, local_landmarks),)

    @staticmethod
    def example_inputs() -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the right shapes, for tracing."""
        return torch.zeros(KEYPOINTS_IN.shape), torch.zeros(LOCAL_IN.shape)


class DriverGraph(nn.Module):
    """landmarks [1, 478, 3] → (keypoints [1, K, 2], local landmarks [1, M, 2])."""

    local: torch.Tensor

    def __init__(self, driver: Driver):
        """Wrap a driver.

        Raises:
            InputError: when its numbers have other shapes or are not finite.
        """
        super().__init__()
        if not driver.sound():
            raise InputError("The driver is not a finite map of the right shapes.")
        self.driver = driver
        self.register_buffer("local", torch.from_numpy(LOCAL))

    def forward(self, landmarks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One frame."""
        return self.driver(landmarks), landmarks.index_select(1, self.local)[:, :, :2]

    def example_inputs(self) -> tuple[torch.Tensor]:
        """An input of the right shape, for tracing."""
        noise = torch.rand(LANDMARKS_IN.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return (self.driver.faces(noise),)
