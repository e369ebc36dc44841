"""output/results.json."""

import json

import numpy as np
import pytest

from utils import results


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    return tmp_path


def record(chapter, value):
    return results.record(chapter, data="d", seconds=1.23, rows=[{"model": "m", "kl": value}])


def test_newest_run_of_a_chapter_wins_and_others_stay():
    record("01_a", 1.0)
    record("02_b", 2.0)
    record("01_a", np.float32(0.5))
    entries = json.loads(results.results_path().read_text())
    assert entries["01_a"]["rows"] == [{"model": "m", "kl": 0.5}]
    assert entries["02_b"]["rows"][0]["kl"] == 2.0
    assert entries["01_a"]["profile"] == "quick" and entries["01_a"]["seconds"] == 1.2


def test_a_figure_that_is_not_finite_is_refused_and_nothing_is_lost():
    record("01_a", 1.0)
    with pytest.raises(ValueError, match="kl is nan"):
        record("01_a", float("nan"))
    assert results.read()["01_a"]["rows"][0]["kl"] == 1.0


def test_unreadable_file_is_kept_aside_and_named(folder, capsys):
    results.results_path().write_text('{"01_a": ')
    record("02_b", 2.0)
    assert set(results.read()) == {"02_b"}
    assert (folder / "results.unreadable.json").read_text() == '{"01_a": '
    assert "kept as results.unreadable.json" in capsys.readouterr().out


def test_table_leaves_blanks_for_what_was_not_measured():
    rows = [{"model": "a", "kl": 0.012345, "parameters": 343043}, {"model": "b", "kl": 1.0}]
    table = results.table(rows)
    assert list(table.loc["a"]) == ["0.01235", "343,043"]
    assert list(table.loc["b"]) == ["1", ""]


def test_milliseconds_are_the_median_without_the_first_call():
    import time

    pauses = iter([0.2, 0.002, 0.002, 0.1])  # the first call compiles, one of the others is disturbed
    assert 1.5 < results.milliseconds(lambda: time.sleep(next(pauses)), repeats=3) < 20
