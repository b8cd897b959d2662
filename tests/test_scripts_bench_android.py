"""The Android benchmark, against an adb that answers as a phone would; on a phone it has not been run."""

import csv
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "bench_android.sh"
ADB = r"""#!/usr/bin/env bash
echo "$*" >> "$ADB_LOG"
case "$1 $2 $3" in
  get-state*) echo "${ADB_STATE:-device}" ;;
  *manufacturer*) echo Acme ;;
  *product.model*) printf 'Phone 1\r\n' ;;
  *board.platform*) echo mt6765 ;;
  *release*) echo 14 ;;
  *./perf_test*)
    printf 'First inference time cost: 85 ms\nAverage inference time cost total: 62.29 ms\n'
    printf 'Peak working set size: 114634752 bytes\nP50 Latency: 0.0603562 s\nP90 Latency: 0.0741593 s\n' ;;
  *./runner*)
    echo 'I 00:00:00.1 executorch:executor_runner.cpp:414] Model executed successfully 1 time(s) in 93.500000 ms.'
    for n in 50 51 52 53 54 55 56 57 58 59; do
      echo "I 00:00:00.2 executorch:executor_runner.cpp:414] Model executed successfully 10 time(s) in ${n}0.0 ms."
    done ;;
  *thermalservice*) printf 'IsStatusOverride: false\nThermal Status: 2\n' ;;
esac
"""


@pytest.fixture
def phone(tmp_path):
    """The folder of a fake adb and of two runners, and how to run the script with them."""
    (tmp_path / "adb").write_text(ADB)
    (tmp_path / "adb").chmod(0o755)
    for runner in ("perf_test", "runner"):
        (tmp_path / runner).touch()

    def run(*arguments, **environment):
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        set_for_it = {"PATH": path, "ADB_LOG": str(tmp_path / "log"), "REST_SECONDS": "0", **environment}
        return subprocess.run(
            [SCRIPT, *map(str, arguments)], env=os.environ | set_for_it, capture_output=True, text=True, check=False
        )

    run.folder = tmp_path
    return run


@pytest.fixture
def executorch_bundle(tmp_path, avatar_bundle):
    """The bundle, its ONNX files passed off as ExecuTorch's."""
    bundle = shutil.copytree(avatar_bundle, tmp_path / "copy.avatar")
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(manifest.replace('"onnx"', '"executorch"'))
    return bundle


def test_rows_are_those_of_the_table(phone, avatar_bundle):
    done = phone(avatar_bundle, "--ort", phone.folder / "perf_test", "--threads", "1 4", "--minutes", "30")
    assert done.returncode == 0, done.stderr
    columns = (ROOT / "docs" / "benchmarks.csv").read_text().splitlines()[0].split(",")
    rows = [dict(zip(columns, row, strict=True)) for row in csv.reader(done.stdout.splitlines())]
    assert [(row["precision"], row["threads"]) for row in rows] == [
        (precision, threads) for precision in ("fp32", "int8") for threads in ("1", "4", "4")
    ]
    assert rows[0]["device"] == "Acme Phone 1 (mt6765)"
    assert rows[0]["os"] == "Android 14"
    assert (rows[0]["latency_ms_p50"], rows[0]["latency_ms_p90"], rows[0]["first_ms"]) == ("60.36", "74.16", "85.00")
    assert rows[0]["peak_mb"] == "115"
    assert rows[2]["backend"] == "CPU 30 min sustained; thermal status 2"
    assert int(rows[2]["runs"]) > 29000
    said = (phone.folder / "log").read_text()
    assert "push" in said
    assert "rm -rf /data/local/tmp/superface" in said.splitlines()[-1]


def test_executorch_gives_a_median_of_ten_starts(phone, executorch_bundle):
    done = phone(executorch_bundle, "--et", phone.folder / "runner", "--threads", "2", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[0].split(",")
    assert row[4] == "executorch"
    assert row[12:15] == ["54.00", "58.00", "93.50"]


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["nothing"], {}, "is no avatar"),
        (["BUNDLE"], {}, "give --ort or --et"),
        (["BUNDLE", "--ort", "missing"], {}, "no runner missing"),
        (["BUNDLE", "--ort"], {}, "--ort wants a value"),
        (["BUNDLE", "--fast"], {}, "there is no --fast"),
        (["BUNDLE", "--ort", "RUNNER"], {"ADB_STATE": "offline"}, "no phone answers"),
        (["EXECUTORCH", "--et", "SILENT"], {}, "the runner said no times"),
    ],
)
def test_what_is_wrong_is_said(phone, avatar_bundle, executorch_bundle, arguments, environment, sentence):
    (phone.folder / "silent").touch()
    known = {
        "BUNDLE": avatar_bundle,
        "EXECUTORCH": executorch_bundle,
        "RUNNER": phone.folder / "perf_test",
        "SILENT": phone.folder / "silent",
    }
    done = phone(*[known.get(argument, argument) for argument in arguments], **environment)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_help_teaches(phone):
    done = phone("--help")
    assert done.returncode == 0
    assert "--minutes" in done.stdout


def test_the_shell_scripts_are_clean():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (the dev extra has it)")
    scripts = [SCRIPT, ROOT / "scripts" / "check", ROOT / ".ci" / "run"]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
