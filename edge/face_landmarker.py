"""Placeholder."""
import os
from pathlib import Path
from collections.abc import Callable


def find_model(path: str | Path | None = None, *, progress: Callable[[str], None] | None = None) -> Path:
    """The landmark model file."""
    return Path(path or os.environ["SUPERFACE_LANDMARKER"])
