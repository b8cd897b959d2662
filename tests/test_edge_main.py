"""The runtime's command line: files out, sentences for mistakes, exit codes."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge import __main__ as cli
from edge.driving.track import Track, load_track, save_track
from edge.driving.video import made_here, read_video
from edge.judges.check import CheckReport, CheckRow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def track(faces, driving, tmp_path):
    landmarks = driving[0][:6] * np.float32(0.8) + np.float32(0.05)
    return save_track(Track(landmarks=landmarks, fps=25.0, detected=np.ones(6, bool)), tmp_path / "clip.npz")


def test_animate_a_track(avatar_bundle, track, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    code = cli.main(["animate", str(avatar_bundle), "--driving", str(track), "-o", str(output), "--json"])
    assert code == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] == len(load_track(track)) == 6
    frames = list(read_video(output))
    assert len(frames) == 6
    assert frames[0].shape == (512, 512, 3)


def test_animate_without_driving(avatar_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "PROCEDURAL_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["animate", str(avatar_bundle), "--precision", "int8"]) == 0
    captured = capsys.readouterr()
    assert "random.mp4" in captured.out
    assert "synthetic media" in captured.out
    assert "frames, 0 s left" in captured.err
    assert os.listdir(tmp_path) == ["random.mp4"]


def test_mistakes_are_sentences(avatar_bundle, tmp_path, capsys):
    folder = tmp_path / "broken.avatar"
    shutil.copytree(avatar_bundle, folder)
    (folder / "student.onnx").write_bytes(b"")
    for arguments, sentence in (
        (["animate", str(tmp_path / "none.avatar")], "BundleError: .*does not exist"),
        (["check", str(folder)], "BundleError: student.onnx has 0 bytes"),
        (["bench", str(avatar_bundle), "--frames", "0"], "InputError: A benchmark wants"),
        (
            ["track", str(tmp_path / "none.mp4"), "-o", str(tmp_path / "none.txt")],
            r"InputError: .*none.txt has an ending",
        ),
        (["animate", str(avatar_bundle), "--driving", str(tmp_path / "none.npz")], "InputError"),
    ):
        assert cli.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.strip().splitlines()) == 1
        assert re.match(sentence, captured.err)


def test_ctrl_c_leaves_nothing(avatar_bundle, track, tmp_path, monkeypatch, capsys):
    from edge.avatar import Avatar

    real, calls = Avatar.animate, []

    def stop(self, landmarks):
        calls.append(landmarks)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(self, landmarks)

    monkeypatch.setattr(Avatar, "animate", stop)
    folder = tmp_path / "output"
    folder.mkdir()
    code = cli.main(["animate", str(avatar_bundle), "--driving", str(track), "-o", str(folder / "o.mp4")])
    assert code == 130
    assert os.listdir(folder) == []
    assert "nothing half-written" in capsys.readouterr().err


def test_bench_speaks_json(avatar_bundle, capsys):
    assert cli.main(["bench", str(avatar_bundle), "--frames", "3", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 3


@pytest.mark.parametrize(("mean_db", "code"), [(36.0, 0), (34.0, 1)])
def test_check_says_it_with_its_exit_code(avatar_bundle, capsys, monkeypatch, mean_db, code):
    row = CheckRow("onnx", "int8", "onnxruntime", mean_db, mean_db, 35.0, mean_db >= 35)
    monkeypatch.setattr("edge.judges.check.check", lambda bundle: CheckReport("random", 13, (), 0.0, (row,)))
    assert cli.main(["check", str(avatar_bundle)]) == code
    assert ("FAILED" in capsys.readouterr().out) == (code == 1)
    assert cli.main(["check", str(avatar_bundle), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["passed"] == (code == 0)


def test_nobodys_file_is_written_over(avatar_bundle, track, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday.mp4").write_bytes(b"precious")
    animate = ["animate", str(avatar_bundle), "--driving", str(track)]
    for arguments, sentence in (
        ([*animate, "-o", "holiday.mp4"], "was not made by superface"),
        ([*animate, "-o", "nowhere/x.mp4"], "does not exist"),
        ([*animate, "-o", "x.gif"], "has an ending"),
        (["track", "holiday.mp4", "-o", "holiday.mp4"], "has an ending"),
        ([*animate, "--threads", "100000"], "threads cannot draw"),
        (["bench", str(avatar_bundle), "--threads", "100000"], "1 to 256 threads"),
    ):
        assert cli.main(arguments) == 2
        assert sentence in capsys.readouterr().err
    assert (tmp_path / "holiday.mp4").read_bytes() == b"precious"
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    for more in ([], []):  # what we made ourselves is made anew
        assert cli.main([*animate, "-o", "link.mp4", *more]) == 0
    assert (tmp_path / "link.mp4").is_symlink()
    assert made_here(tmp_path / "real.mp4")
    assert cli.main(["animate", str(avatar_bundle), "--driving", "real.mp4", "-o", "real.mp4", "--force"]) == 2
    assert "is what is read from" in capsys.readouterr().err
    assert cli.main([*animate, "-o", "holiday.mp4", "--force"]) == 0
    assert not [name for name in os.listdir(tmp_path) if ".part" in name]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_leaves_nothing_half_written(avatar_bundle, track, tmp_path, name, code):
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here, as under nohup, and children inherit that")
    command = [sys.executable, "-m", "edge", "animate", str(avatar_bundle), "-o", str(tmp_path / "out.mp4")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if any(".part" in found for found in os.listdir(tmp_path)):
                break
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == code
        assert "Stopped; nothing half-written was left" in process.stderr.read()
    assert os.listdir(tmp_path) == [Path(track).name]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_any_terminal_will_do(avatar_bundle, encoding):
    for arguments in (["--help"], ["animate", "--help"], ["check", str(avatar_bundle)]):
        done = subprocess.run(
            [sys.executable, "-m", "edge", *arguments], cwd=ROOT, capture_output=True, check=False,
            env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="HOME is POSIX")
def test_nothing_is_written_at_home(avatar_bundle, track, tmp_path):
    """ONNX Runtime would keep a device id and a database of events there."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))} | {"HOME": str(home)}
    command = [sys.executable, "-m", "edge", "animate", str(avatar_bundle), "--driving", str(track)]
    subprocess.run([*command, "-o", str(tmp_path / "out.mp4")], cwd=ROOT, env=environment, check=True)
    assert list(home.rglob("*")) == []


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "edge", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for verb in ("animate", "track", "bench", "check"):
        assert verb in done.stdout


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_told_in_a_sentence(number, capsys):
    def full():
        raise OSError(number, os.strerror(number), "out.mp4")

    assert cli.run_safely(full) == 2
    said = capsys.readouterr().err
    assert "out.mp4 cannot be written or read" in said


def test_an_error_of_ours_is_not_hidden():
    def broken():
        raise OSError(errno.EBADF, "a bug")

    with pytest.raises(OSError, match="a bug"):
        cli.run_safely(broken)
