"""output/results.json."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from utils import course, results


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    return tmp_path


def record(chapter, value):
    return results.record(
        chapter, data="d", seconds=1.23, rows=[{"model": "m", "kl": value}]
    )


def test_newest_run_of_a_chapter_wins_and_others_stay():
    record("01_a", 1.0)
    record("02_b", 2.0)
    record("01_a", np.float32(0.5))
    entries = json.loads(results.results_path().read_text())
    assert entries["01_a"]["rows"] == [{"model": "m", "kl": 0.5}]
    assert entries["02_b"]["rows"][0]["kl"] == 2.0
    assert entries["01_a"]["profile"] == "quick" and entries["01_a"]["seconds"] == 1.2


def test_an_infinite_kl_is_a_result_that_json_can_hold():
    def recorded(kl):
        rows = [{"model": "a", "kl_plane": kl, "kl_bulk": 0.25}]
        return results.record("04_c", data="d", seconds=1.0, rows=rows)

    shown = recorded(np.float64("inf"))
    assert results.read()["04_c"]["rows"][0]["kl_plane"] == "inf"
    assert "Infinity" not in results.results_path().read_text()
    assert shown.loc["a", "kl_plane"] == "inf" and shown.loc["a", "kl_bulk"] == "0.25"
    for kl in (float("nan"), -float("inf")):
        with pytest.raises(ValueError, match="kl_plane is"):
            recorded(kl)


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
    rows = [
        {"model": "a", "kl": 0.012345, "parameters": 343043},
        {"model": "b", "kl": 1.0},
    ]
    table = results.table(rows)
    assert list(table.loc["a"]) == ["0.01235", "343,043"]
    assert list(table.loc["b"]) == ["1", ""]


def test_milliseconds_are_the_median_without_the_first_call():
    import time

    pauses = iter(
        [0.2, 0.002, 0.002, 0.1]
    )  # the first call compiles, one of the others is disturbed
    assert 1.5 < results.milliseconds(lambda: time.sleep(next(pauses)), repeats=3) < 20


WRITER = """
import sys
from utils import results
for value in range(30):
    rows = [{"model": "m", "kl": value}]
    name = f"{sys.argv[1]}_{value}"
    results.record(name, data="d", seconds=1.0, rows=rows)
"""


def writers(*chapters, before=""):
    env = os.environ | {"PYTHONPATH": str(course.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    commands = [[sys.executable, "-c", before + WRITER, name] for name in chapters]
    started = [
        subprocess.Popen(c, env=env, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    return [
        (process.communicate(timeout=300)[1], process.returncode) for process in started
    ]


def test_two_runs_that_write_at_once_keep_all_entries():
    ended = writers(
        "01_a",
        "02_b",
        "03_c",
        before="from utils import course; course.machine = lambda: 'm'\n",
    )
    assert [code for _, code in ended] == [0, 0, 0], ended
    entries = results.read()
    assert len(entries) == 90, "an entry is lost where two read before either writes"
    assert entries["03_c_29"]["rows"][0]["kl"] == 29


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_leaves_the_figures_that_were_there(folder):
    record("01_a", 1.0)
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    before += "from utils import course; course.machine = lambda: 'm'\n"
    before += "course._make_writable = lambda folder: None\n"
    ((said, code),) = writers("02_b", before=before)
    assert (
        code == 1
        and "results.json cannot be written (File too large): free space"
        in said.splitlines()[-1]
    )
    assert set(results.read()) == {"01_a"}


def test_figures_of_the_benchmark_are_read_seed_by_seed(tmp_path, monkeypatch):
    kept = tmp_path / "docs" / "bench"
    kept.mkdir(parents=True)
    seeds = {"0": {"kl_plane": "inf", "chosen": "a"}, "1": {"kl_plane": 0.5}}
    text = json.dumps({"flow": {"key": "k", "settings": {}, "seeds": seeds}})
    (kept / "moons.json").write_text(text)
    monkeypatch.setattr(course, "ROOT", tmp_path)
    first, second = results.benchmarked("moons")["flow"]
    assert first == {"kl_plane": np.inf, "chosen": "a"} and second["kl_plane"] == 0.5


def test_a_part_of_the_benchmark_that_is_not_there_is_one_line():
    with pytest.raises(course.CourseError, match="no part 'nothing'"):
        results.benchmarked("nothing")


def test_a_spread_is_the_median_the_least_and_the_most():
    runs = [{"kl": v, "train_seconds": 1_000 * v} for v in (3.0, 1.0, 9.0, 2.0)]
    assert results.spread(runs, "kl", 1) == "2.5 (1.0 to 9.0)"
    assert results.spread(runs, "train_seconds", 0) == "2,500 (1,000 to 9,000)"
    assert results.spread(runs[:1], "kl", 2) == "3.00"
    assert results.spread(runs[:1], "kl") == "3.0000"
    far = [{"kl_plane": v} for v in (0.01, 1_000.0, float("inf"))]
    assert results.spread(far, "kl_plane", 2) == "over 1,000 (0.01 to over 1,000)"
