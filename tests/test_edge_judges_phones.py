"""Predictions for phones: the fit finds a known line, errors are of rows left out, and all is marked predicted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.__main__ import main
from edge.bundle import read_manifest
from edge.judges import phones
from edge.judges.phones import OURS, Published, fit, leave_one_out, predict, read_published, table, warp_gmacs


@given(
    base=st.floats(0.0, 50.0),
    slope=st.floats(0.1, 100.0),
    work=st.lists(st.floats(0.2, 60.0), min_size=2, max_size=8, unique=True).filter(lambda w: max(w) > 1.1 * min(w)),
)
def test_a_line_is_found_again(base, slope, work):
    line = fit(work, [base + slope * gmacs for gmacs in work])
    for gmacs in work:
        assert line.at(gmacs) == pytest.approx(base + slope * gmacs, rel=1e-3)


@given(st.lists(st.tuples(st.floats(0.1, 60.0), st.floats(0.1, 1000.0)), min_size=1, max_size=8))
def test_no_network_is_free(points):
    line = fit(*zip(*points, strict=True))
    assert line.base_ms >= 0
    assert line.ms_per_gmac > 0


def test_one_row_gives_a_rate_and_no_error():
    assert fit([2.0], [10.0]) == pytest.approx((0.0, 5.0))
    assert leave_one_out([2.0], [10.0]) == []


def test_left_out_rows_are_predicted_from_the_others():
    assert leave_one_out([1.0, 2.0, 3.0], [12.0, 22.0, 32.0]) == pytest.approx([0, 0, 0], abs=1e-9)
    # Without the third row the first two give 2 ms + 10 ms per GMAC: 32 ms for a row of 64.
    assert leave_one_out([1.0, 2.0, 3.0], [12.0, 22.0, 64.0])[2] == pytest.approx(0.5)


def rows(device, unit, precision, points, source="a table"):
    return [Published(device, f"net{g}", g, precision, "x", unit, "", ms, source) for g, ms in points]


@pytest.fixture
def published():
    ours = [
        Published("here", tier, gmacs, precision, "onnxruntime", "cpu", "1", 10 + 20 * gmacs, OURS)
        for tier, gmacs in (("nano", 0.5), ("low", 1.0), ("standard", 2.5))
        for precision in ("fp32", "int8")
    ]
    warped = Published("fast", phones.WARPED, 50.0, "float", "x", "npu", "", 205.0, "a table")
    return [
        *ours,
        warped,
        *rows("slow", "cpu", "fp32", [(1.0, 100.0), (2.0, 200.0)]),
        *rows("middle", "cpu", "int8", [(1.0, 8.0), (2.0, 16.0)]),
        *rows("fast", "npu", "int8", [(1.0, 6.0), (2.0, 7.0)]),
    ]


def test_a_warp_counts_as_convolutions_of_the_same_time(published):
    assert warp_gmacs(published, "fp32") == pytest.approx(0.5)
    # 50 GMACs at 1 ms each in 8 bits, 2 ms in 16, beside a base of 5 ms: 105 ms expected, 205 published.
    assert phones.npu_warp_factor(published) == pytest.approx(2.0)


def test_predictions_and_recommendations(published):
    slow, middle, fast = predict(published, avatar=("me", 2.0))
    assert (slow.device, middle.device, fast.device) == ("slow", "middle", "fast")
    assert slow.frame_ms["standard"] == pytest.approx(100 * (2.5 + 0.5))
    assert slow.recommended == "none"
    assert middle.frame_ms["me"] == pytest.approx(8 * 2.5)
    assert middle.recommended == "standard"
    assert fast.frame_ms["low"] == pytest.approx(5 + 1.0 * 2)
    assert slow.error == pytest.approx(0.0)


def test_the_smallest_tier_may_be_slower():
    assert phones._recommend({"nano": 60.0, "low": 90.0}) == "nano"
    assert phones._recommend({"nano": 39.0, "low": 40.0, "standard": 41.0}) == "low"


def test_the_table_of_the_package_is_whole():
    published = read_published()
    assert {row.unit for row in published} == {"cpu", "npu"}
    assert all(row.latency_ms > 0 and row.gmacs > 0 and row.source for row in published)
    assert list(phones.tiers(published)) == ["nano", "low", "standard"]
    assert 0 < warp_gmacs(published, "fp32") < 3
    assert 1 < phones.npu_warp_factor(published) < 5


def test_the_command_needs_no_avatar_and_says_predicted(capsys, avatar_bundle):
    assert main(["bench", "--devices"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("PREDICTED")
    assert "A53" in said
    assert main(["bench", str(avatar_bundle), "--devices", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kind"] == "predicted"
    assert list(data["devices"][0]["frame_ms"]) == ["nano", "low", "standard", read_manifest(avatar_bundle).name]
    assert main(["bench"]) == 2
    assert "Which avatar?" in capsys.readouterr().err


def test_reading():
    assert "recommended" in table(predict())
