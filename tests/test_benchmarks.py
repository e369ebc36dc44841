"""What `make bench` computes, keeps and writes. Its measurements need PyTorch and time,
and are not made here.
"""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from benchmarks import measure, peers, report, rows, run, variational
from benchmarks.rows import Row
from utils import course


def figures(
    kl_plane, kl_bulk=0.01, seconds=(4.0, 5.0, 6.0), kl=(0.2, 0.04, 0.01), **more
):
    """The figures of one seed, as a worker gives them."""
    return {
        "kl_plane": kl_plane,
        "kl_bulk": kl_bulk,
        "compile_seconds": 3.0,
        "train_seconds": seconds[-1] - 3.0,
        "epoch_seconds": 1.0,
        "by_epoch": {"seconds": list(seconds), "kl_bulk": list(kl)},
        "machine": "2 cores of a processor",
        "date": "2026-01-02",
        "busy": 0.0,
        **more,
    }


def trained(settings, seed):
    """A row's function."""
    return {"figure": settings["size"] + seed}


@pytest.fixture
def part(monkeypatch):
    """A part of two rows, of two seeds and of one."""
    two = Row("two (4)", trained, {"size": 1}, seeds=(0, 1))
    one = Row("one (5)", trained, {"size": 2}, seeds=(0,))
    monkeypatch.setattr(rows, "PARTS", {"moons": ()})
    for module in (rows, run, report):
        monkeypatch.setattr(module, "rows_of", lambda name: [two, one])
    return two, one


# ------------------------------------------------------------------ measuring


def test_the_truth_has_a_kl_of_zero_and_a_wrong_constant_shows_in_full():
    clock = measure.Clock(epochs=2)
    clock.lap(7.0, clock.log_p)
    clock.lap(8.0, clock.log_p - 0.25)
    found = clock.figures()
    assert found["by_epoch"]["seconds"] == [7.0, 8.0]
    assert np.allclose(found["by_epoch"]["kl_bulk"], [0, 0.25 * 0.9999], atol=1e-4)
    assert found["compile_seconds"] == pytest.approx(6.0), "a usual epoch took 1 s"
    assert found["train_seconds"] == pytest.approx(2.0)
    clock.compiles = False
    assert clock.figures()["compile_seconds"] == 0


def test_a_model_with_holes_is_judged_infinite_and_says_where():
    data = measure.Clock(1).data

    def log_prob(x):
        return np.where(x[:, 0] > 2.15, -np.inf, data.truth.log_prob(x))

    found = measure.judged(log_prob, data)
    assert found["kl_plane"] == "inf" and abs(found["kl_bulk"]) < 1e-9
    assert "-inf at" in found["trouble"]
    assert json.loads(json.dumps(found)) == found


def test_a_distance_is_reached_at_the_first_epoch_at_or_below_it():
    found = figures(0.02, kl=(0.2, 0.02, 0.04))
    assert measure.reached(found, 0.02) == 5.0
    assert measure.reached(found, 0.02, compilation=False) == 2.0
    assert measure.reached(found, 0.01) is None
    broken = figures(0.02, kl=(None, 0.02, 0.04))
    assert measure.reached(broken, 0.02) == 5.0


def test_the_libraries_get_our_schedule():
    from utils import training

    ours = training.warmup_cosine(1.0, 1_000)
    for step in (0, 1, 50, 100, 101, 500, 999):
        theirs = peers.climb_and_fall(step, 1_000)
        assert theirs == pytest.approx(float(ours(step)), abs=1e-6), step


def test_our_side_measures_a_row(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    arguments = ["worker", "moons", "RealNVP (4)", "0", "quick", str(path)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_module("benchmarks.worker", run_name="__main__")
    found = json.loads(path.read_text())
    assert len(found["by_epoch"]["kl_bulk"]) == 2 and found["parameters"] == 3_852
    assert 0 < found["compile_seconds"] < found["by_epoch"]["seconds"][0]
    assert float(found["kl_plane"]) > 0.05, "two epochs do not make a flow"


def test_a_row_that_fails_is_one_line():
    row = Row("no such row", trained)
    assert run.measure("moons", row, 0, quick=True).startswith("StopIteration")


def test_work_beside_a_row_shows_and_the_row_s_own_does_not():
    """Of 2 × 50 processor seconds a row used 60: other work had a fifth of all, or
    none.
    """
    assert run.busy_beside((0, 0, 0), (100, 80, 60)) == pytest.approx(0.2)
    assert run.busy_beside((10, 10, 5), (110, 70, 65)) == pytest.approx(0)
    assert run.busy_beside((0, 0, 0), (0, 0, 0)) == 0, "where the system does not tell"
    before = run.processor_seconds()
    code = "import time\nwhile time.process_time() < 0.4: pass"
    subprocess.run([sys.executable, "-c", code])
    assert run.processor_seconds()[2] - before[2] > 0.2, "a child's own is known"


# ------------------------------------------------------------------ keys

BEFORE = '''
import numpy as np
from elsewhere import Layer

WIDTH = 3

def helper(x):
    return x + WIDTH

def unrelated(x):
    return x - 1

def model(settings, seed):
    """A text."""
    return helper(Layer()), definitions("09_flow", "Flow")
'''
CHAPTER = """
class Base:
    slope = 2

class Flow(Base):
    pass

class Other:
    pass
"""


def key_of(tmp_path, source, chapter=CHAPTER):
    path = tmp_path / "rows.py"
    path.write_text(source)
    cell = nbformat.v4.new_code_cell(chapter, metadata={"tags": ["definitions"]})
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    place = tmp_path / "notebooks" / "09_flow.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), place)
    rows._statements.cache_clear()
    return repr(rows.needed(path, {"model"}))


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("return x + WIDTH", "return x - WIDTH", False),
        ("WIDTH = 3", "WIDTH = 4", False),
        ("from elsewhere import Layer", "from other import Layer", False),
        ("slope = 2", "slope = 3", False),
        ("class Flow(Base)", "class Flow(Other)", False),
        ("return x - 1", "return x - 2", True),
        ('"""A text."""', '"""Another."""  # and a comment', True),
        ("import numpy as np\n", "", True),
        ("return x - 1", "return x - 1\n\nROWS = [settings for settings in ()]", True),
        ("from elsewhere import Layer", "from elsewhere import Layer, more", True),
        ("class Other:\n    pass", "class Other:\n    slope = 1", True),
        ("helper(Layer()),", "helper(\n        Layer()),", True),
    ],
)
def test_a_key_is_of_the_code_that_a_row_needs(tmp_path, monkeypatch, old, new, same):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    before = key_of(tmp_path, BEFORE)
    assert old in BEFORE + CHAPTER
    after = key_of(tmp_path, BEFORE.replace(old, new), CHAPTER.replace(old, new))
    rows._statements.cache_clear()
    assert (before == after) is same


def test_a_key_follows_into_other_files_of_the_benchmark():
    """The loop that trains every flow, the judge and the clock belong to a row."""
    code = repr(rows.needed(Path(rows.__file__).parent / "moons.py", {"ffjord"}))
    for name in ("measured", "Clock", "judged", "rounded", "rk4", "Penalised"):
        assert f"('name', '{name}')" in code, name


def test_names_that_a_key_cannot_see_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="write the names out"):
        key_of(tmp_path, BEFORE.replace('"09_flow", "Flow"', '"09_flow", *names'))
    rows._statements.cache_clear()


def test_a_key_changes_with_settings():
    keys = {Row("a", trained, {"size": size}).key() for size in (1, 2, 1)}
    assert len(keys) == 2


def test_a_row_of_a_chapter_rests_on_its_classes():
    """The leaderboard's RealNVP on Coupling and Flow, and not on chapter 5."""
    row = next(row for row in rows.rows_of("moons") if row.name == "RealNVP (4)")
    code = repr(rows.needed(Path(rows.__file__).parent / "moons.py", {"realnvp"}))
    for name in ("Coupling", "RealNVP", "Flow", "coupling_network", "build_realnvp"):
        assert f"('name', '{name}')" in code, name
    assert "MaskedShiftAndLogScale" not in code and len(row.key()) == 16


# ------------------------------------------------------------------ what is kept


def test_seeds_are_added_one_by_one_and_stale_ones_go(part, tmp_path):
    two, one = part
    rows.keep("moons", two, 1, {"figure": 2}, tmp_path)
    rows.keep("moons", one, 0, {"figure": 3}, tmp_path)
    rows.keep("moons", two, 0, {"figure": 1}, tmp_path)
    assert rows.runs("moons", two, tmp_path) == [{"figure": 1}, {"figure": 2}]
    assert list(rows.stored("moons", tmp_path)) == ["two (4)", "one (5)"]
    changed = Row(two.name, trained, {"size": 9}, seeds=(0, 1))
    assert rows.runs("moons", changed, tmp_path) == []
    rows.keep("moons", changed, 0, {"figure": 9}, tmp_path)
    gone = Row("gone (4)", trained, {"size": 1})
    rows.keep("moons", gone, 0, {"figure": 9}, tmp_path)
    assert list(rows.stored("moons", tmp_path))[-1] == "gone (4)"
    rows.prune("moons", tmp_path)
    assert list(rows.stored("moons", tmp_path)) == ["two (4)", "one (5)"]
    assert rows.runs("moons", changed, tmp_path) == [{"figure": 9}]
    assert rows.runs("moons", one, tmp_path) == [{"figure": 3}]


def test_what_is_missing_stale_or_too_much_is_said(part, tmp_path):
    two, one = part
    assert [line.split(": ", 1)[1] for line in rows.faults(tmp_path)] == [
        "two (4) is not measured: make bench PART=moons",
        "one (5) is not measured: make bench PART=moons",
    ]
    rows.keep("moons", two, 0, {"figure": 1}, tmp_path)
    rows.keep("moons", Row(one.name, trained, {"size": 9}), 0, {}, tmp_path)
    kept = rows.stored("moons", tmp_path)
    kept["one (5)"] = {"key": "another", "seeds": {"0": {}}}
    kept["gone (4)"] = kept["two (4)"]
    (tmp_path / "moons.json").write_text(json.dumps(kept))
    lacks, stale, gone = rows.faults(tmp_path)
    assert "two (4) lacks a seed" in lacks and "one (5) is stale" in stale
    assert "gone (4) is no row any more" in gone


def test_a_run_goes_on_where_it_was_seed_by_seed(part, tmp_path):
    two, one = part
    assert run.tasks("moons", "", tmp_path, quick=False) == [
        ("moons", two, 0),
        ("moons", one, 0),
        ("moons", two, 1),
    ]
    rows.keep("moons", two, 0, {"figure": 1}, tmp_path)
    left = [("moons", one, 0), ("moons", two, 1)]
    assert run.tasks("moons", "", tmp_path, quick=False) == left
    again = [("moons", two, 0), ("moons", two, 1)]
    assert run.tasks("moons", "two", tmp_path, quick=False) == again
    short = [("moons", two, 0), ("moons", one, 0)]
    assert run.tasks("moons", "", tmp_path, quick=True) == short, "each time anew"


def test_a_row_or_part_that_is_not_there_is_one_line(part, monkeypatch):
    monkeypatch.setenv("ROWS", "tow")
    with pytest.raises(SystemExit, match="no row begins so. There are: two"):
        run.main()
    monkeypatch.setenv("PART", "moon")
    with pytest.raises(SystemExit, match="PART is moon: give one of"):
        run.main()


def test_a_row_that_fails_leaves_pages_and_other_rows(part, monkeypatch, capsys):
    two, one = part
    monkeypatch.setattr(run, "rows_of", lambda name: [two, one])
    fails = {one.name: "ValueError: no luck"}
    kept, written = [], []
    monkeypatch.setattr(
        run, "measure", lambda p, row, s, q: fails.get(row.name, figures(1))
    )
    monkeypatch.setattr(
        run, "keep", lambda p, row, seed, f, folder: kept.append((row.name, seed))
    )
    monkeypatch.setattr(run, "prune", lambda part, folder: None)
    monkeypatch.setattr(run, "stored", lambda part, folder: {})
    monkeypatch.setattr(run, "PARTS", {"moons": ()})
    monkeypatch.setattr(
        run.report, "write", lambda folder, docs: written.append(docs) or []
    )
    assert run.main() == 1 and kept == [("two (4)", 0), ("two (4)", 1)]
    assert "FAILED: ValueError: no luck" in capsys.readouterr().out
    assert written == [run.ROOT / "docs"]


@pytest.mark.parametrize("name", rows.PARTS)
def test_the_rows_of_a_part_have_names_of_their_own_and_three_seeds(name):
    found = rows.rows_of(name)
    assert len({row.name for row in found}) == len(found) > 0
    certain = ("Gaussian (4)", "kernel (4)", "equal", "spline c", "the book's", "PCA")
    for row in found:
        single = (3,) if row.tuning else (0,)  # no trial is one of a row's seeds
        usual = not row.tuning and not row.name.startswith(certain)
        usual = usual and "10,000" not in row.name
        if row.name.startswith("posterior"):
            single, usual = tuple(range(10)), False
        if row.name != "FFJORD (8), Student base":
            assert row.seeds == ((0, 1, 2) if usual else single), row.name


def test_rivals_have_as_many_trials_and_the_best_on_validation_points_is_chosen():
    found = {}
    for name in ("moons", "peers"):
        kept = rows.stored(name)
        for row in rows.rows_of(name):
            of_contest = "source" in row.settings  # which has a test of its own
            if row.tuning and not row.settings.get("compile") and not of_contest:
                nll = kept[row.name]["seeds"]["3"]["validation_nll"]
                found.setdefault(row.tuning, []).append((float(nll), row.settings))
    assert {len(trials) for trials in found.values()} == {3}
    assert len(found) == 7
    every = [*rows.rows_of("moons"), *rows.rows_of("peers")]
    settings = {row.name: row.settings for row in every}
    for name, trials in found.items():
        nll, best = min(trials, key=lambda trial: trial[0])
        if name in ("RealNVP (4)", "FFJORD (8)"):  # nearly as good: the page says why
            assert next(n for n, s in trials if s == settings[name]) < nll + 0.005
        else:
            assert settings[name] | {"compile": None} == best | {"compile": None}, name


# ------------------------------------------------------------------ tables


def test_the_nearest_over_the_plane_comes_first_and_infinite_ones_last(part, tmp_path):
    two, one = part
    assert "Nothing is measured yet" in report.leaderboard(tmp_path)
    where = "log q is nan at 3 places."
    broken = figures("inf", kl_bulk=0.004, trouble=where)
    rows.keep("moons", two, 0, broken, tmp_path)
    rows.keep("moons", two, 1, figures("inf", kl_bulk=0.006), tmp_path)
    rows.keep("moons", one, 0, figures(123.4, parameters=5, density_ms=9.56), tmp_path)
    text = report.leaderboard(tmp_path)
    first, second = text.splitlines()[2:4]
    assert first == "| one (5) | 123 | 0.0100 | 3 | 3 | 5 | 9.56 |  | 1 |"
    assert second.startswith("| two (4) | inf | 0.0050 (0.0040–0.0060) | 3 | 3 |")
    assert f"two (4): {where}" in text
    assert "on 2 cores of a processor, 2026-01-02" in text


def test_a_row_of_another_machine_or_beside_other_work_is_named(part, tmp_path):
    two, one = part
    rows.keep("moons", two, 0, figures(0.1), tmp_path)
    rows.keep("moons", two, 1, figures(0.1, busy=0.4), tmp_path)
    rows.keep("moons", one, 0, figures(0.1, machine="8 cores of another"), tmp_path)
    text = report.leaderboard(tmp_path)
    assert "On 8 cores of another: one (5)." in text
    assert "Timed beside other work, at least one seed: two (4)." in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00949, "0.0095"),
        (161.4, "161"),
        (999.4, "999"),
        (161.4e9, "over 1,000"),
        ("inf", "inf"),
        (-0.00004, "-0.0000"),
    ],
)
def test_a_kl_is_written_with_four_digits_where_it_is_small(value, text):
    assert report.nats(value) == text


def test_a_table_gives_median_and_range_and_says_what_only_some_seeds_reached():
    kls = ((0.2, 0.04, 0.012), (0.2, 0.04, 0.03))
    ours = [figures(0.1, kl=kl, kl_bulk=kl[-1]) for kl in kls]
    assert report.milestone(ours, 0.05) == "5.0"
    assert report.milestone(ours, 0.02) == "never (6.0–never)"
    assert report.milestone(ours, 0.01) == report.MISSING
    assert report.spread(ours, "kl_bulk") == "0.0210 (0.0120–0.0300)"


def test_tables_and_pictures_are_put_into_pages_and_the_readme(part, tmp_path):
    two, one = part
    for seed in (0, 1):
        rows.keep("moons", two, seed, figures(1e9), tmp_path)
    rows.keep("moons", one, 0, figures(0.02), tmp_path)
    docs, mark = tmp_path / "docs", "written by `make bench`"
    docs.mkdir()
    marks = f"<!-- leaderboard: {mark} -->", "<!-- end of leaderboard -->"
    old = "\n".join(["before", marks[0], "old", marks[1], "after", ""])
    for page in (tmp_path / "README.md", docs / "board.md"):
        page.write_text(old)
    written = report.write(tmp_path, docs)
    assert {path.name for path in written} == {
        *("README.md", "board.md", "leaderboard.svg", "benchmark.svg")
    }
    text = (docs / "board.md").read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text and "| one (5) | 0.0200 |" in text
    assert report.fill(text, tmp_path) == text, "the same again changes nothing"
    picture = (docs / "leaderboard.svg").read_text("utf-8")
    assert "over 1,000" in picture, "what is beyond the scale has its figure"
    report.write(tmp_path, docs)
    assert (docs / "leaderboard.svg").read_text("utf-8") == picture


def test_a_page_that_is_not_of_the_kept_figures_is_named(monkeypatch):
    for name in ("leaderboard", "short leaderboard"):
        monkeypatch.setitem(report.TABLES, name, lambda folder: "another")
    names = {line.split(":")[0] for line in report.faults()}
    assert names == {"README.md", "leaderboard.md"}


def test_every_table_stands_in_a_page():
    pages = [course.ROOT / "README.md", *report.DOCS.glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    for name in report.TABLES.keys() - {"images"}:
        assert f"<!-- {name}: written by `make bench` -->" in text, name


# ------------------------------------------------------------------ models


def test_the_books_coupling_subtracts_and_divides():
    """z = (x - t) exp(-s), with the log-determinant that automatic differentiation
    finds.
    """
    import keras

    from utils import checks
    from utils.chapters import definitions

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)]
    )
    coupling = definitions("04_realnvp", "BookCoupling")([1, 0], network)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    s, t = (
        keras.ops.convert_to_numpy(part) for part in coupling.log_scale_and_shift(x)
    )
    z, log_det = (keras.ops.convert_to_numpy(part) for part in coupling.inverse(x))
    assert np.abs(s[:, 1]).max() > 0.05 and not s[:, 0].any()
    assert np.allclose(z, (x - t) * np.exp(-s), atol=1e-6) and np.allclose(
        log_det, -s.sum(axis=1), atol=1e-6
    )
    checks.flow_errors(coupling, x)


def test_a_student_base_is_the_density_of_scipy():
    from types import SimpleNamespace

    from scipy.stats import multivariate_t

    from benchmarks.flows import student

    x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32") * 3
    identity = SimpleNamespace(
        inverse=lambda x: (x, np.float32(0)), forward=None, trainable_variables=[]
    )
    expected = multivariate_t(df=4, shape=np.eye(2)).logpdf(x)
    assert np.allclose(student(identity).log_prob(x), expected, atol=1e-5)


def test_the_bounds_of_all_couplings_add_up():
    """The row with a bound on the sum: each coordinate's bounds share it out."""
    from benchmarks import tails

    seen = []
    settings = {
        "couplings": 4,
        "width": 4,
        "depth": 1,
        "bound": 5.0,
        "sum_of_bounds": 5.0,
    }

    def look(flow, settings, seed):
        seen.append((flow, settings))
        return {}

    original = tails.measured
    tails.measured = look
    try:
        tails.realnvp(settings, 0)
    finally:
        tails.measured = original
    flow = seen[0][0]
    flow.log_prob(np.zeros((3, 2), "float32"))
    parts = flow.trainable_variables[-1]
    assert parts.shape == (4,), "the shares are trained"
    parts.assign([0.0, 1.0, 2.0, -1.0])
    couplings = flow.log_prob.__self__.couplings
    flow.log_prob(np.zeros((3, 2), "float32"))
    bounds = [float(coupling.bound) for coupling in couplings]
    assert bounds[0] + bounds[2] == pytest.approx(5) == bounds[1] + bounds[3]
    assert bounds[0] < bounds[2] and bounds[1] > bounds[3]


def test_a_rung_builds_what_its_settings_say():
    from benchmarks import ladder

    small = {"width": 8, "couplings": 3}
    book, ours = (
        ladder.built(s | small) for s in (ladder.BOOK, ladder.OURS | {"bound": 5.0})
    )
    kinds = [type(flow.couplings[0]).__name__ for flow in (book, ours)]
    assert kinds == ["BookCoupling", "Coupling"]
    depth = [len(flow.couplings[0].network.weights) // 2 for flow in (book, ours)]
    assert depth == [2 * 5, 3] and len(book.couplings) == len(ours.couplings) == 3
    assert [flow.couplings[0].bound for flow in (book, ours)] == [1.0, 5.0]
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    assert np.array_equal(ours.inverse(x)[0], x)
    assert not np.allclose(book.inverse(x)[0], x, atol=1e-3)


def test_each_rung_changes_something_and_the_last_is_chapter_4s():
    from benchmarks import ladder, moons

    rungs = [row.settings for row in ladder.ROWS if row.name.startswith("rung")]
    assert all(a != b for a, b in zip(rungs, rungs[1:]))
    same = ("couplings", "width", "depth", "bound", "batch")
    assert all(rungs[-1][name] == moons.CHAPTER_4[name] for name in same)
    assert rungs[-1]["rate"] == moons.CHAPTER_4["peak"]


def test_points_in_64_dimensions_are_split_standardised_and_have_their_jacobian():
    from benchmarks import digits

    train, validation, test, log_std = digits.points(digits.DIGITS, seed=1)
    assert [len(x) for x in (train, validation, test)] == [4 * 1297, 250, 250]
    assert np.allclose(train.mean(axis=0), 0, atol=1e-4)
    assert np.allclose(train.std(axis=0), 1, atol=1e-4)
    other = digits.points(digits.DIGITS, seed=2)
    assert not np.allclose(test, other[2], atol=0.1) and abs(log_std - other[3]) < 2
    assert 0 < log_std < 64 * np.log(2)  # logits of a pixel spread over one or two


def test_the_best_try_on_validation_points_counts_and_not_on_test_points(monkeypatch):
    from benchmarks import digits

    sets = np.zeros((4, 1)), np.ones((4, 1)), np.full((4, 1), 2.0), 0.5
    monkeypatch.setattr(digits, "points", lambda settings, seed: sets)

    def fit(good_on):
        return lambda train, validation: lambda x: np.where(x[:, 0] == good_on, 9.0, 1)

    tries = [("test", fit(2.0)), ("validation", fit(1.0)), ("train", fit(0.0))]
    found = digits.contest({}, 0, tries)
    assert found["chosen"] == "validation" and found["tries"] == 3
    assert found["nats"] == 0.5 and found["validation_nats"] == 8.5


def test_the_contest_has_equal_trials_and_rows_with_what_was_chosen():
    from benchmarks import contest

    trials, finals = contest.rows_of_trials(), contest.rows_of_the_contest()
    assert len(finals) == len(contest.CONTESTANTS) * len(contest.DENSITIES)
    for row in finals:
        own = [trial for trial in trials if trial.tuning == row.name]
        assert len(own) == 3 and row.settings in [trial.settings for trial in own]
        assert set(row.seeds).isdisjoint(own[0].seeds)


def test_the_choice_of_the_contest_is_that_of_the_validation_points():
    from benchmarks import contest

    kept = rows.stored("moons")
    for row in contest.rows_of_the_contest():
        trials = [t for t in contest.rows_of_trials() if t.tuning == row.name]
        scores = [kept[t.name]["seeds"]["3"]["validation_kl"] for t in trials]
        assert trials[int(np.argmin(scores))].settings == row.settings, row.name


def test_the_contest_measures_the_kl_by_the_exact_density():
    from benchmarks import contest

    settings = {"source": "clusters", "dim": 8}
    (_, _, test), (_, log_p) = contest.points("clusters", 8)
    ten = contest.judged(settings, lambda x: np.zeros(len(x)), 1.0)
    assert ten["kl"] == pytest.approx(log_p.mean(), rel=1e-4)
    flow = contest.build({"model": "NICE", "dim": 8, "layers": 2, "width": 4})
    assert type(flow).__name__ == "NICE" and len(flow.couplings) == 2


def test_the_limits_of_likeness_are_those_of_chapter_1s_stored_run():
    notebook = nbformat.read(course.ROOT / "notebooks" / "01_autoencoder.ipynb", 4)
    tables = (
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "limit" in output.get("data", {}).get("text/plain", "")
    )
    lines = next(tables).splitlines()
    for dim, limit in variational.LIMITS.items():
        line = next(x for x in lines if x.startswith(f"{dim} numbers, a mixture"))
        assert float(line.split()[-1]) == limit
