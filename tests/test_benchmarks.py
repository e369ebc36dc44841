"""What `make bench` computes and writes. The measurements themselves need PyTorch and
time, and are not made here.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import measure, report, run


def race(seconds, kl, compile_seconds=0.0, **more):
    """A result as the workers give it."""
    plain = {
        "kl_se": 0.001,
        "epoch_seconds": 1.0,
        "parameters": 1234,
        "versions": "library 1.0",
        "machine": "a machine",
    }
    return {
        "seconds": seconds,
        "kl": kl,
        "compile_seconds": compile_seconds,
        "date": "2026-01-02",
        **plain,
        **more,
    }


@pytest.fixture
def results():
    ours = [
        race([4.0, 5.0, 6.0], [0.2, 0.04, end], compile_seconds=3.0)
        for end in (0.012, 0.03)
    ]
    book = race([50.0, 100.0, 200.0], [0.5, 0.3, 0.04])
    tasks = [run.Task("race", "our RealNVP", "ours", seed) for seed in (0, 1)]
    return [*zip(tasks, ours), (run.Task("race", "the book's RealNVP", "ours"), book)]


def test_the_truth_has_a_kl_of_zero_and_a_wrong_constant_shows_in_full():
    clock = measure.Race(epochs=2, compiles=True)
    clock.lap(7.0, clock.log_p)
    clock.lap(8.0, clock.log_p - 0.25)
    result = clock.result(parameters=1)
    assert np.allclose(result["kl"], [0.0, 0.25]) and result["seconds"] == [7.0, 8.0]
    assert result["compile_seconds"] == pytest.approx(6.0), (
        "the first epoch took 7 s, a usual one 1 s"
    )
    clock.compiles = False
    assert clock.result()["compile_seconds"] == 0


def test_a_milestone_is_reached_at_the_first_epoch_at_or_below_it():
    result = race([4.0, 5.0, 6.0], [0.2, 0.02, 0.04], compile_seconds=3.0)
    assert measure.reached(result, 0.02) == 5.0
    assert measure.reached(result, 0.02, compilation=False) == 2.0
    assert measure.reached(result, 0.01) is None


def test_the_table_gives_median_and_range_and_says_what_only_some_seeds_reached(
    results,
):
    ours = [result for _, result in results[:2]]
    assert report.milestone(ours, 0.05) == "5.0 (5.0–5.0)"
    assert report.milestone(ours, 0.02) == "6.0, 1 of 2"
    assert report.milestone(ours, 0.01) == report.MISSING
    assert "| 3.0, 1 of 2 |" in report.compilation_table(
        report.by_name(results, "race")
    )
    assert report.final_kl(ours) == "0.0210 (0.0120–0.0300)"
    sentence = report.against_the_book(report.by_name(results, "race"))
    assert (
        "ends at 0.0400 nats after 200 s" in sentence
        and "Our RealNVP is there after 5.0 s, 1/40" in sentence
    )


def test_the_page_the_picture_and_the_readme_are_written(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    pages = report.write(results, tmp_path / "output", docs=tmp_path / "docs")
    assert [page.parent.name for page in pages] == ["output", "docs"]
    assert (tmp_path / "docs" / "benchmark.svg").stat().st_size > 5000
    page, quoted = pages[1].read_text("utf-8"), readme.read_text("utf-8")
    assert (
        "| our RealNVP | not reached |" not in page and "a machine, 2026-01-02" in page
    )
    assert (
        quoted.startswith("before\n")
        and quoted.endswith("\nafter\n")
        and "old" not in quoted
    )
    assert "0.0210 (0.0120–0.0300)" in quoted
    report.write(results, tmp_path / "output", docs=tmp_path / "docs")
    assert readme.read_text("utf-8") == quoted, "writing the same again changes nothing"


def test_every_task_has_a_file_of_its_own_and_the_races_have_three_seeds():
    tasks = run.tasks(quick=False)
    assert len({task.file for task in tasks}) == len(tasks)
    for name in {task.name for task in tasks if task.kind == "race"} - {
        "the book's RealNVP"
    }:
        assert sorted(task.seed for task in tasks if task.name == name) == [0, 1, 2]
    assert len(run.tasks(quick=True)) < len(tasks)


def test_a_task_that_fails_is_named_and_leaves_no_result(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("{}")
    problem = run.execute(run.Task("race", "no such model", "ours"), "quick", path)
    assert problem.startswith("FAILED: KeyError") and not path.exists()


def test_our_side_measures_a_race(tmp_path):
    path = tmp_path / "result.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.ours",
        "race",
        "our RealNVP",
        "0",
        "quick",
        str(path),
    ]
    subprocess.run(command, cwd=run.ROOT, check=True, capture_output=True)
    result = json.loads(path.read_text())
    assert len(result["kl"]) == len(result["seconds"]) == 2
    assert 0 < min(result["kl"]) < 1.5, (
        "a single Gaussian has 1.6; the first epochs of a high rate may go up again"
    )
    assert (
        result["parameters"] == 20_544
        and 0 < result["compile_seconds"] < result["seconds"][0]
    )


def test_the_books_coupling_subtracts_and_divides():
    """z = (x - t) exp(-s), with the log-determinant that automatic differentiation
    finds.
    """
    import keras

    from benchmarks.ours import BookCoupling
    from utils import checks

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)]
    )
    coupling = BookCoupling([1, 0], network, bound=1.0)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    s, t = (
        keras.ops.convert_to_numpy(part) for part in coupling.log_scale_and_shift(x)
    )
    z, log_det = (keras.ops.convert_to_numpy(part) for part in coupling.inverse(x))
    assert np.abs(s[:, 1]).max() > 0.05 and not s[:, 0].any()
    assert np.allclose(z, (x - t) * np.exp(-s), atol=1e-6) and np.allclose(
        log_det, -s.sum(axis=1), atol=1e-6
    )
    checks.inverse_error(lambda x: coupling.inverse(x)[0], coupling.forward, x)
    checks.log_det_error(
        lambda x: coupling.inverse(x)[0], lambda x: coupling.inverse(x)[1], x
    )
