"""Where each flow stands: the rows, what is said to be missing, the pages."""

import json

import nbformat
import pytest

from tools import chapters, leaderboard


def row(model, kl, **more):
    return {"model": model, "kl": kl, "kl_se": 0.001, "train_seconds": 20.0, **more}


def entry(*rows, profile="full"):
    return {
        "profile": profile,
        "data": "two moons",
        "machine": "a machine",
        "seconds": 1.0,
        "rows": list(rows),
    }


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course with a chapter on images and two on two moons, and a README."""
    for name, source in {
        "06_images": "1",
        "08_late": "moons.load(9)",
        "09_moons": "data = moons.load(9)",
    }.items():
        cells = [
            nbformat.v4.new_markdown_cell(f"# Chapter {name[:2]}"),
            nbformat.v4.new_code_cell(source),
        ]
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells),
            tmp_path / "notebooks" / f"{name}.ipynb",
        )
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(leaderboard, "DOCS", tmp_path)
    (tmp_path / "README.md").write_text(
        f"before\n{leaderboard.BEGIN}\nold\n{leaderboard.END}\nafter\n"
    )
    return tmp_path


def code(course, stem):
    return chapters.code_hash(chapters.read(course / "notebooks" / f"{stem}.ipynb"))


def test_rows_are_those_with_a_kl_nearest_to_the_truth_first():
    results = {
        "09_moons": entry(row("b", 0.2), row("a", 0.1, parameters=5)),
        "06_images": entry({"model": "c", "bits_per_dim": 3.0}),
        "08_late": entry(row("d", 0.15), profile="quick"),
    }
    found = leaderboard.rows(results)
    assert [(row["model"], row["chapter"], row["profile"]) for row in found] == [
        ("a", "9", "full"),
        ("d", "8", "quick"),
        ("b", "9", "full"),
    ]
    assert (
        leaderboard.markdown(found).splitlines()[2]
        == "| a (9) | 0.1000 ± 0.0010 | 20 | 5 |  |  |  |"
    )
    slow = leaderboard.markdown(
        [{**found[0], "density_ms": 1003.0, "sample_ms": 9.561}]
    )
    assert "| 1,003 | 9.56 |" in slow


def test_what_readers_record_under_other_names_or_without_figures_is_left_out():
    results = {
        "my_flow": entry(row("mine", 0.01)),
        "09_mine": entry({"model": "half", "kl": 0.01}),
        "08_late": entry(row("d", 0.15)),
    }
    assert [row["model"] for row in leaderboard.rows(results)] == ["d"]


def test_appendices_stand_beside_the_chapters():
    found = leaderboard.rows({"A4_contest": entry(row("spline", 0.1))})
    assert leaderboard.label(found[0]) == "spline (A4)"
    assert "spline (A4)" in leaderboard.picture(found)
    others = {leaderboard.colour_of(number) for number in "4578"}
    assert leaderboard.colour_of("A1") not in others


def test_what_is_missing_stale_or_short_is_said(course):
    fresh = code(course, "09_moons")
    assert leaderboard.notes({}, {}) == [
        "Chapter 08: not measured yet.",
        "Chapter 09: not measured yet.",
    ]
    both = {
        "08_late": entry(row("a", 0.1)),
        "09_moons": entry(row("a", 0.1), profile="quick"),
    }
    codes = {"08_late": "another", "09_moons": fresh}
    stale, short = leaderboard.notes(both, codes)
    assert "earlier version" in stale and "quick profile" in short
    good = {"08_late": entry(row("a", 0.1)), "09_moons": entry(row("a", 0.1))}
    assert (
        leaderboard.notes(good, {"08_late": code(course, "08_late"), "09_moons": fresh})
        == []
    )


def test_readme_and_picture_are_written_from_what_was_kept(course):
    readme = course / "README.md"
    assert not leaderboard.keep(
        "06_images", entry({"model": "c", "bits_per_dim": 3.0}), "x"
    )
    assert not leaderboard.keep("06_images", None, "x")
    assert not (course / "leaderboard.json").exists()
    assert leaderboard.keep(
        "08_late", entry(row("first", 0.1)), code(course, "08_late")
    )
    assert leaderboard.keep("09_moons", entry(row("second", 0.2)), "older")
    assert leaderboard.faults() == [
        "docs/leaderboard.json: Chapter 09: its figures are those of an earlier "
        "version."
    ]
    leaderboard.write_docs(readme)
    text = readme.read_text()
    assert (
        text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    )
    assert (
        text.index("first (8)") < text.index("second (9)")
        and "an earlier version." in text
    )
    picture = (course / "leaderboard.svg").read_bytes()
    leaderboard.write_docs(readme)
    assert (
        course / "leaderboard.svg"
    ).read_bytes() == picture and readme.read_text() == text
    readme.write_text("no place for it")
    with pytest.raises(ValueError, match="README.md has no lines"):
        leaderboard.write_docs(readme)
    assert readme.read_text() == "no place for it"


def test_the_page_shows_the_figures_and_what_is_missing(course):
    results = {"09_moons": entry(row("near", 0.1, parameters=12_345), row("far", 1.6))}
    page = leaderboard.page(results, {"09_moons": code(course, "09_moons")})
    assert "leaderboard.svg" in page and ":class: sortable" in page
    assert "- Chapter 08: not measured yet." in page and "earlier" not in page
    assert "| near (9) | 0.1000 ± 0.0010 | 20 | 12,345 |" in page
    assert leaderboard.page({}, {}).count("not measured yet") == 2


def test_the_stored_leaderboard_is_what_the_readme_shows():
    kept = json.loads((leaderboard.DOCS / "leaderboard.json").read_text("utf-8"))
    readme = (chapters.ROOT / "README.md").read_text("utf-8")
    assert leaderboard.markdown(leaderboard.rows(kept)) in readme
    assert set(kept) <= {path.stem for path in chapters.find([])}
