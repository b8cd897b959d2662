"""Tables in the documents are those that their CSV files make."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("make_tables", ROOT / "scripts" / "make_tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: path.name)
def test_a_document_is_up_to_date(path):
    text = path.read_text()
    assert "<!-- table speed -->" in text
    assert tables.filled(text) == text, "run python scripts/make_tables.py"


def test_every_table_has_its_place_and_rows():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for name, make in tables.TABLES.items():
        assert f"<!-- table {name} -->" in text
        assert len(make().splitlines()) > 2, f"{name} has no rows"
