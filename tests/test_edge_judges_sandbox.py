"""A process of its own: what happens in there ends in a sentence out here."""

import sys
from textwrap import dedent

import pytest

from edge.errors import BundleError, InputError
from edge.judges import sandbox


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Functions that a child can import, from a folder on PYTHONPATH."""
    (tmp_path / "outside_help.py").write_text(
        dedent("""
        import os, sys, time
        from edge.errors import InputError
        from edge.judges.sandbox import limit_memory

        def refuse(): raise InputError("no such thing")
        def crash(): os.abort()
        def hang(): time.sleep(600)
        def eat():
            limit_memory(256)
            return len(bytearray(2**34))
        def fault(): return 1 / 0
        def seen(): return [os.getcwd(), os.listdir(), sys.path]
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "outside_help"


def test_results_and_errors_come_back(helper):
    assert sandbox.call("math:hypot", [3, 4], doing="Adding") == 5
    with pytest.raises(InputError, match="no such thing"):
        sandbox.call(f"{helper}:refuse", [], doing="Trying")
    with pytest.raises(BundleError, match=r"Trying ended its process \(exit code 1: ZeroDivisionError"):
        sandbox.call(f"{helper}:fault", [], doing="Trying")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_crash_is_a_sentence(helper):
    with pytest.raises(BundleError, match=r"Trying ended its process \(signal 6.*damaged or hostile"):
        sandbox.call(f"{helper}:crash", [], doing="Trying")


def test_a_hang_is_a_sentence(helper):
    with pytest.raises(BundleError, match="Trying was stopped after 3 s"):
        sandbox.call(f"{helper}:hang", [], doing="Trying", timeout_s=3)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_hunger_is_a_sentence(helper):
    with pytest.raises(BundleError, match="asks for more memory than any avatar needs"):
        sandbox.call(f"{helper}:eat", [], doing="Trying")


def test_nothing_is_imported_from_the_working_directory(helper, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    trap.mkdir()
    for module in ("json", "subprocess", "importlib", "numpy", "sitecustomize"):
        (trap / f"{module}.py").write_text("raise SystemExit('the working directory was imported')")
    monkeypatch.chdir(trap)
    monkeypatch.setenv("PYTHONPATH", ":".join(("", ".", str(tmp_path))))
    where, files, path = sandbox.call(f"{helper}:seen", [], doing="Looking")
    assert where != str(trap)
    assert files == []
    assert not {"", ".", str(trap)} & set(path)
