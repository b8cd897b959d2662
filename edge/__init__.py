"""The reference runtime of an avatar: numpy and ONNX Runtime, no torch. Ports follow it file by file."""

import os

# ONNX Runtime 1.32 writes a device id and a database of events under the user's folder and knows where to send them.
# Nothing leaves this machine, and nothing is written there; whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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
