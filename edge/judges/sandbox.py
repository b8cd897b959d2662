"""A function of ours in a process of its own: its crash, hang or hunger for memory ends that process and not this one.

A graph from elsewhere is run by libraries in C++ that trust it: a damaged program aborts the process, a hostile one
takes all memory or never ends. `call` runs what may do so in a child, with a limit on time and, where the system
keeps one, on memory. It is no jail: the child may do whatever the user may. It never imports from the working
directory, whatever lies there.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge import errors
from edge.errors import BundleError, SuperFaceError

TIMEOUT_S = 300.0
"""Far more than a whole check takes on a slow machine."""
MEMORY_MB = 3072
"""Beyond what Python and a runtime's library hold before they see a graph; a student takes some hundred."""


def call(
    function: str,
    arguments: Sequence[Any],
    *,
    doing: str,
    timeout_s: float = TIMEOUT_S,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What a function returns in a fresh process.

    Args:
        function: "module:name".
        arguments: what JSON can say.
        doing: for errors, as in "Measuring onnx int8".
        timeout_s: then the process is killed.
        environment: variables beside this process's own.

    Raises:
        SuperFaceError: the same that the function raised there.
        BundleError: when the process crashed, or was still running after `timeout_s`.
    """
    command = [sys.executable, "-P", "-m", "edge.judges.sandbox", function, json.dumps(list(arguments))]
    with tempfile.TemporaryDirectory() as nowhere:  # where nothing lies that Python or a library could pick up
        try:
            done = subprocess.run(
                command, cwd=nowhere, env=_environment() | dict(environment or {}), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BundleError(
                f"{doing} was stopped after {timeout_s:.0f} s. A frame takes a fraction of one; do not use this avatar."
            ) from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1][:300]
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise BundleError(
            f"{doing} ended its process ({ended}: {said}). The file is damaged or hostile; fetch it again."
        ) from error
    if "error" in answer:
        kind, sentence = answer["error"]
        raise getattr(errors, kind)(sentence)
    return answer["result"]


def limit_memory(megabytes: int = MEMORY_MB) -> None:
    """From now on this process gets so much more address space and no more, where the system keeps such a limit.

    To be called when libraries are loaded and no graph is.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + megabytes * 2**20
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort leaves no gigabytes on the disk
    except (ImportError, OSError, ValueError):
        pass  # Neither Windows nor macOS; there the limit on time is all.


def _environment() -> dict[str, str]:
    """This process's variables, with a path to our modules and none to what lies in the working directory."""
    root = str(Path(__file__).parents[2])
    path = [root, *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(part))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def main() -> None:
    """In the child: call, and print the answer as the last line."""
    function, arguments = sys.argv[1], json.loads(sys.argv[2])
    module, _, name = function.partition(":")
    try:
        answer = {"result": getattr(importlib.import_module(module), name)(*arguments)}
    except SuperFaceError as error:
        answer = {"error": [type(error).__name__, str(error)]}
    except MemoryError:
        answer = {"error": ["BundleError", "A graph of this avatar asks for more memory than any avatar needs."]}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
