"""The benchmark measures what it says; no absolute time is asserted."""

import json

import pytest

from edge.errors import BundleError, InputError
from edge.judges.bench import bench, profile, profile_table, table


@pytest.fixture(scope="module")
def result(avatar_bundle):
    return bench(avatar_bundle, frames=4, threads=(1,))


def test_rows(result):
    assert [(row.runtime, row.precision, row.threads) for row in result.rows] == [
        ("onnx", "fp32", 1),
        ("onnx", "int8", 1),
    ]
    for row in result.rows:
        assert 0 < row.min_ms <= row.median_ms <= row.p90_ms
        assert row.gflops_per_s == pytest.approx(result.gflops / row.median_ms * 1000)
        assert row.share_of_peak == pytest.approx(row.gflops_per_s / row.gemm_gflops_per_s)
        assert 0 < row.extra_rss_mb < row.peak_rss_mb


def test_for_reading_and_for_machines(result):
    text = table(result)
    assert "GMACs" in text
    assert "student.int8.onnx" in text
    data = json.loads(json.dumps(result.as_json()))
    assert data["rows"][0]["precision"] == "fp32"
    assert data["gflops"] == 2 * data["gmacs"]


def test_a_profile_says_where_the_time_goes(avatar_bundle):
    whole, quantised = profile(avatar_bundle, frames=3)
    assert (whole.precision, quantised.precision) == ("fp32", "int8")
    assert {"GridSample", "Resize"} <= whole.kinds.keys() & quantised.kinds.keys()
    assert any(kind.endswith("Conv") for kind in whole.kinds)
    assert "QLinearConv" in quantised.kinds
    assert list(whole.kinds.values()) == sorted(whole.kinds.values(), reverse=True)
    assert 0 < whole.outside_convolutions < 1
    assert "neither convolution nor matrix product" in profile_table([whole])


def test_senseless_numbers(avatar_bundle):
    with pytest.raises(InputError, match="3 to 100000 frames and 1 to 256 threads"):
        profile(avatar_bundle, frames=2)
    with pytest.raises(InputError, match="3 to 100000 frames and 1 to 256 threads"):
        bench(avatar_bundle, frames=1)
    with pytest.raises(InputError, match="3 to 100000 frames and 1 to 256 threads"):
        bench(avatar_bundle, threads=(0,))


def test_a_failing_process_is_explained(avatar_bundle, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BundleError, match=r"Measuring onnx fp32 ended its process \(exit code 1"):
        bench(avatar_bundle, frames=3, threads=(1,))
