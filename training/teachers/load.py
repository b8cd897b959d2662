"""A teacher by its name."""

import os
from pathlib import Path

from edge.errors import InputError
from training.measures.evaluators import find_network
from training.teachers import Teacher
from training.teachers.mesh import MeshTeacher
from training.teachers.superface import SuperFaceTeacher


def load_teacher(name: str) -> Teacher:
    """The teacher of that name.

    "mesh" needs no weights and works on any photo. "superface" is Φ: its weights are the file that `SUPERFACE_TEACHER`
    names, else `teacher.safetensors` in a folder of `training.measures.evaluators.model_folders`.

    Raises:
        InputError: when Φ's weights are nowhere.
    """
    if name == "mesh":
        return MeshTeacher()
    if name == "superface":
        named = os.environ.get("SUPERFACE_TEACHER")
        path = Path(named) if named else find_network("teacher.safetensors")
        if path is None:
            raise InputError(
                "The superface teacher needs weights. Train some with superface train, and name the file: "
                "SUPERFACE_TEACHER=RUN/teacher.safetensors superface make --teacher superface"
            )
        return SuperFaceTeacher(path)
    raise ValueError(f"There is no teacher {name!r}. Choose: mesh, superface.")
