"""Where results go: checked before the work, and never over what is somebody's own."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from edge.errors import InputError


def claim(
    path: str | os.PathLike[str],
    *,
    suffixes: Collection[str],
    ours: Callable[[Path], bool],
    inputs: Collection[Path | None] = (),
    force: bool = False,
) -> Path:
    """The file that a result may be written to, links followed; known before minutes are spent on it.

    Args:
        path: as the user gave it.
        suffixes: endings that can be written, in lower case.
        ours: whether a file that is there was made by SuperFace, and may be made anew.
        inputs: files that are read meanwhile.
        force: the user said that whatever is there may go.

    Raises:
        InputError: another ending, no such folder, a folder, one that may not be written, an input, or somebody's.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} has an ending that is not written. Use one of: {', '.join(suffixes)}.")
    if target.is_dir():
        raise InputError(f"{path} is a folder. Give the name of a file.")
    if not target.parent.is_dir():
        raise InputError(f"The folder {target.parent} does not exist. Create it first.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"The folder {target.parent} may not be written to. Choose another output.")
    if not target.exists():
        return target
    for given in inputs:
        if given is not None and given.exists() and os.path.samefile(given, target):
            raise InputError(f"{path} is what is read from. Choose another output with -o.")
    if not target.is_file():
        raise InputError(f"{path} is no plain file. Choose another output.")
    if not force and not ours(target):
        raise InputError(f"{path} exists and was not made by superface. Choose another output, or add --force.")
    return target
