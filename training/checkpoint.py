"""Weights and what they mean in one safe file: safetensors with JSON in its header. No pickle, never half-written.

A checkpoint is written under a temporary name in the same folder and then renamed, so a reader, or a run that was
killed, sees either the old file or the new one.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edge.errors import InputError
from training.config import StudentConfig
from training.student.driver import Driver, FittedDriver, RigidDriver
from training.student.network import Student

DRIVER = "driver.safetensors"
"""Name of a driver's file in a run folder."""


def write_text(path: Path, text: str) -> None:
    """Write a small file, all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record to one file, all or nothing; raises InputError where that is not possible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, temporary, metadata={"record": json.dumps(record)})
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be written ({error}). Is the disk full, or not yours to write?") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: tensors on the CPU and the record.

    Raises:
        InputError: when the file is missing, damaged, or has no record.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"There is no checkpoint {path}.") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a checkpoint ({error}). Delete it and train again.") from error


def save_student(path: Path, student: Student, record: Mapping[str, Any] | None = None) -> None:
    """Write a bound student, its widths and a free record of how it was made."""
    save_tensors(path, student.state_dict(), {"config": asdict(student.config), **(record or {})})


def load_student(path: Path) -> tuple[Student, dict[str, Any]]:
    """The bound student in `path`, in evaluation mode, and its record.

    Raises:
        InputError: when the file is no student of this version.
    """
    tensors, record = load_tensors(path)
    try:
        student = Student.untrained(StudentConfig(**record["config"]))
        student.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} holds no student of this version ({error}).") from error
    return student.eval(), record


def save_driver(folder: Path, driver: Driver) -> None:
    """Write a driver beside the student."""
    save_tensors(folder / DRIVER, driver.state_dict(), {})


def load_driver(folder: Path) -> Driver | None:
    """The driver that lies in a run folder, or None.

    Raises:
        InputError: when the file is damaged.
    """
    if not (folder / DRIVER).exists():
        return None
    tensors, _ = load_tensors(folder / DRIVER)
    try:
        return RigidDriver(**tensors) if "reference" in tensors else FittedDriver(**tensors)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{folder / DRIVER} is no driver of this version. Make the avatar again.") from error
