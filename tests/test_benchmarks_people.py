"""Students of several people: rows that are kept, and living painters of the two portraits that anybody has."""

from dataclasses import replace
from pathlib import Path

import people
import pytest

from edge.errors import InputError
from training.config import TIERS, DistilConfig
from training.student.census import MOST_SILENT

CONFIG = DistilConfig(minutes=None, steps=200)


def test_people_are_found_by_name(tmp_path):
    (tmp_path / "someone.png").touch()
    (tmp_path / "notes.txt").touch()
    assert list(people.people(tmp_path)) == ["grace_hopper", "astronaut", "someone"]
    assert list(people.people(tmp_path, ["someone"])) == ["someone"]
    with pytest.raises(InputError, match="no portrait 'nobody'"):
        people.people(tmp_path, ["nobody"])
    with pytest.raises(InputError, match="no folder"):
        people.people(tmp_path / "nowhere")


def test_whoever_has_a_row_is_not_trained_again(tmp_path):
    tasks = [people.Task(name, Path("no such photo"), tmp_path, CONFIG) for name in ("a", "b")]
    table = tmp_path / "people.csv"
    people.write_rows(table, [task.row() | {"teeth": 0.5} for task in tasks])
    kept = table.read_bytes()
    rows = [row for row, _ in people.train_all(tasks, table, jobs=1)]
    assert [(row["name"], row["teeth"]) for row in rows] == [("a", "0.5"), ("b", "0.5")]
    assert table.read_bytes() == kept
    other = people.Task("a", Path("no such photo"), tmp_path, DistilConfig(minutes=None, steps=200, seed=1))
    with pytest.raises(InputError, match="no such photo"):
        list(people.train_all([other], table, jobs=1))


@pytest.mark.slow
def test_both_bundled_portraits_get_living_painters(tmp_path, landmark_model, monkeypatch, capsys):
    """At the settings that ship and few steps: no layer falls silent or says the same of every frame.

    The smaller face gets the default student, the larger one the smallest that is sold by a name.
    """
    monkeypatch.setenv("SUPERFACE_LANDMARKER", str(landmark_model))
    sizes = {"astronaut": TIERS["standard"], "grace_hopper": TIERS["nano"]}
    photos = people.people(None)
    assert photos.keys() == sizes.keys()
    tasks = [
        people.Task(name, photos[name], tmp_path, replace(CONFIG, gflops=gflops), frames=100)
        for name, gflops in sizes.items()
    ]
    for row, census in people.train_all(tasks, tmp_path / "people.csv", jobs=2):
        with capsys.disabled():
            print(f"\n{row['name']}, {row['steps']} steps\n{census}")
        assert not row["setbacks"]
        assert max(row["painter_silent"], row["motion_silent"]) < MOST_SILENT
        assert row["painter_spread"] > 1e-3
    sheets = {path.name for path in (tmp_path / "sheets").glob("*.png")}
    assert sheets == {"astronaut-0-200-100.png", "grace_hopper-0-200-100-1.0.png"}
