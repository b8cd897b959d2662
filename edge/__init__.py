"""The reference runtime of an avatar: numpy and ONNX Runtime, no torch. Ports follow it file by file."""

from edge.avatar import Avatar
from edge.errors import (
    BundleError,
    InputError,
    MissingRuntimeError,
    ParityError,
    SpecError,
    SuperFaceError,
)

__all__ = [
    "Avatar",
    "BundleError",
    "InputError",
    "MissingRuntimeError",
    "ParityError",
    "SpecError",
    "SuperFaceError",
]
