"""The gates of a converted student, and what is tried when one is missed."""

import numpy as np
import pytest
import torch

from converters.cli import random_driver
from converters.parity import GATES, compare, first_within_gate, require, require_driver
from converters.student_graph import DriverGraph
from edge.errors import ParityError


def test_parity_is_over_all_frames_and_the_worst_counts():
    frame = np.full((1, 3, 8, 8), 0.5, np.float32)
    found = compare([frame] * 2, [frame + 0.001, frame + 0.01])
    assert (found.mean_db, found.worst_db) == (pytest.approx(50, abs=0.01), pytest.approx(40, abs=0.01))
    assert require(found, "onnx", "int8", "tests").frames == 2
    with pytest.raises(ParityError, match=r"50\.0 dB on average and 40\.0 dB at worst on tests; 60 and 60 dB"):
        require(found, "onnx", "fp32", "tests")
    with pytest.raises(ParityError, match="no frames"):
        compare([], [])
    with pytest.raises(ParityError, match="draws NaN"):
        compare([frame], [frame * np.nan])
    assert GATES["int8"].worst_db < GATES["fp32"].worst_db


def test_the_first_choice_that_meets_its_gate_is_taken():
    tried = []

    def make(choice):
        tried.append(choice)
        if choice < 2:
            raise ParityError(f"{choice} misses")
        return choice

    assert first_within_gate(make, (0, 2, 3)) == 2
    assert tried == [0, 2]
    with pytest.raises(ParityError, match="1 misses"):
        first_within_gate(make, (0, 1))


def test_a_driver_is_the_same_map_or_none():
    graph = DriverGraph(random_driver())

    def run(landmarks):
        return [value.numpy() for value in graph(torch.from_numpy(landmarks))]

    require_driver(graph, run, "tests", 1e-5)
    for wrong in (1e-4, np.nan):
        with pytest.raises(ParityError, match="The driver in tests differs"):
            require_driver(
                graph, lambda landmarks, wrong=wrong: [value + wrong for value in run(landmarks)], "tests", 1e-5
            )
