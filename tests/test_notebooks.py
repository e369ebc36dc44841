"""What all chapters have in common."""

import re

import pytest

from tools import address, chapters, lint

PATHS = chapters.find([])
CHAPTERS = [path for path in PATHS if chapters.number(path.stem).isdigit()]
PARTS = (
    "**You will learn**",
    "**In the book**",
    "**Needs**",
    "## Summary",
    "## Exercises",
    "## References",
)


def prose(path):
    return "\n".join(
        cell.source
        for cell in chapters.read(path).cells
        if cell.cell_type == "markdown"
    )


TEXTS = {path.name: (path, prose(path)) for path in PATHS} | {
    path.name: (path, path.read_text("utf-8"))
    for path in (
        chapters.ROOT / "README.md",
        *sorted((chapters.ROOT / "docs").glob("*.md")),
    )
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_chapters_and_the_appendices_are_found():
    named = [path.stem.partition("_")[0] for path in PATHS]
    counted = [f"{number:02d}" for number in range(1, len(CHAPTERS) + 1)]
    assert named[: len(CHAPTERS)] == counted
    appendices = named[len(CHAPTERS) :]  # they are numbered by the design, not by age
    assert appendices == sorted(set(appendices)) and all(
        re.fullmatch(r"A\d", name) for name in appendices
    )


def test_nothing_but_notebooks_lies_beside_them():
    """What a run writes goes under output/."""
    known = {"figures", "sources", ".ipynb_checkpoints", ".jupyter_cache"}
    found = {path.name for path in chapters.NOTEBOOKS.iterdir()}
    assert found - known - {path.name for path in PATHS} == set()


def test_the_set_up_cell_is_the_same_everywhere_and_holds_the_address():
    assert lint.set_up_faults(PATHS) == []
    assert f'"{address.current()}"' in code_cells(chapters.read(PATHS[0]))[0].source


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_chapter_has_its_parts_in_order(path):
    places = [TEXTS[path.name][1].find(part) for part in PARTS]
    assert -1 not in places, (
        f"missing: {[part for part in PARTS if part not in TEXTS[path.name][1]]}"
    )
    assert places == sorted(places)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_solutions_are_folded_and_every_exercise_has_one(path):
    notebook = chapters.read(path)
    exercises = sum(
        len(re.findall(r"^\*\*\d+\.(?: [^*]+)?\*\*", cell.source, re.M))
        for cell in notebook.cells
    )
    solutions = [
        cell for cell in code_cells(notebook) if cell.source.startswith("# Solution")
    ]
    assert exercises == len(solutions) > 0
    assert all(
        cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions
    )


@pytest.mark.parametrize("name", TEXTS)
def test_links_between_chapters_and_files_resolve(name):
    path, text = TEXTS[name]
    folder = path.parent
    for target, anchor in re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", text):
        if target.startswith(("http", "mailto")):
            continue
        assert (folder / target).exists(), f"{target} is not there"
        if anchor and target.endswith(".ipynb"):
            headings = re.findall(r"^##+ (.+)$", prose(folder / target), re.M)
            assert anchor[1:] in map(slug, headings), f"{target}{anchor}"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", TEXTS)
def test_chapters_and_sections_that_are_named_exist(name):
    headings = {
        match
        for path in PATHS
        for match in re.findall(
            r"^##+ (A?\d+\.\d+)(?= )", TEXTS[path.name][1], re.MULTILINE
        )
    }
    text = TEXTS[name][1]
    for section in re.findall(r"\b[Ss]ections? (A?\d+\.\d+)", text):
        assert section in headings, f"there is no section {section}"
    for number in re.findall(r"\b[Cc]hapter (\d+)\b", text):
        assert int(number) in range(1, len(CHAPTERS) + 1), f"no chapter {number}"
    there = {chapters.number(path.stem) for path in PATHS}
    for number in re.findall(r"\b[Aa]ppendix (A\d+)\b", text):
        assert number in there, f"there is no appendix {number}"


def test_the_readme_has_a_row_with_a_badge_for_each_chapter():
    readme = TEXTS["README.md"][1]
    for path in PATHS:
        rows = [
            line
            for line in readme.splitlines()
            if line.startswith("| [") and f"(notebooks/{path.name})" in line
        ]
        assert len(rows) == 1 and address.colab(path.name) in rows[0], (
            f"{path.name}: no row, or no badge"
        )


def test_each_fault_in_the_table_has_its_test():
    tests = chapters.ROOT / "tests"
    named = re.findall(
        r"`(test_\w+)` \|$", (tests / "README.md").read_text("utf-8"), re.M
    )
    written = "\n".join(path.read_text("utf-8") for path in tests.glob("test_*.py"))
    assert len(named) >= 30
    assert not [name for name in named if f"def {name}(" not in written]
