"""Text and notebook: one way at a time, outputs kept, differences found."""

import nbformat
import pytest

pytest.importorskip("jupytext", reason="for developers: make lint installs it")

from tools import chapters, sync
from utils.course import CourseError

PATHS = chapters.find([])


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_chapter_is_what_its_text_says(path):
    assert sync.differences(path) == []


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A notebook of four cells with outputs, and its text."""
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)
    (tmp_path / "sources").mkdir()
    folded = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
    cells = [
        nbformat.v4.new_markdown_cell("# Title\nOne sentence."),
        nbformat.v4.new_code_cell("x = 1", execution_count=1),
        nbformat.v4.new_code_cell("draw(x)", metadata=folded, execution_count=2),
        nbformat.v4.new_code_cell("x + 1", execution_count=3),
    ]
    cells[2].metadata["lines_to_next_cell"] = 2
    for cell in cells[1:]:
        words = f"output of {cell.source}"
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=words)]
    path = tmp_path / "09_test.ipynb"
    metadata = {"course": {"code": "of the outputs"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    assert sync.main(["--back"]) == 0
    return path


def edit(path, old, new):
    source = sync.source_of(path)
    text = source.read_text("utf-8")
    assert old in text
    source.write_text(text.replace(old, new), "utf-8")


def outputs(path):
    cells = [cell for cell in chapters.read(path).cells if cell.cell_type == "code"]
    return [cell.outputs[0].text if cell.outputs else None for cell in cells]


def test_a_text_holds_cells_tags_and_folding_and_nothing_else(chapter):
    text = sync.source_of(chapter).read_text("utf-8")
    assert text.startswith("# %% [markdown]\n# # Title\n# One sentence.")
    assert 'tags=["hide-input"]' in text and '"source_hidden": true' in text
    assert "lines_to_next_cell" not in text and "output of" not in text
    assert sync.differences(chapter) == []


def test_an_edit_of_prose_layout_or_comment_arrives_and_outputs_stay(chapter):
    before = outputs(chapter)
    edit(chapter, "One sentence.", "Another sentence.")
    edit(chapter, "draw(x)", "draw(\n    x,\n)")
    edit(chapter, "x + 1", "x + 2")  # lint says that its output is older
    assert len(sync.differences(chapter)) == 3
    assert sync.main([]) == 0
    assert sync.differences(chapter) == [] and outputs(chapter) == before
    stored = chapters.read(chapter)
    assert "Another sentence." in stored.cells[0].source
    assert stored.metadata.course.code == "of the outputs"
    assert [cell.id for cell in stored.cells] == [f"cell-00{n}" for n in range(1, 5)]


def test_a_new_cell_has_no_outputs_and_the_others_keep_theirs(chapter):
    edit(chapter, "# %%\nx = 1", "# %%\ny = 0\n\n# %%\nx = 1")
    sync.main([])
    kept = ["output of x = 1", "output of draw(x)", "output of x + 1"]
    assert outputs(chapter) == [None, *kept]


def test_an_edit_in_the_notebook_goes_back_into_the_text(chapter):
    stored = chapters.read(chapter)
    stored.cells[0].source = "# Title\nWritten in Jupyter."
    nbformat.write(stored, chapter)
    assert sync.differences(chapter) == [f"cell 1 differs from its text: {sync.CURE}"]
    sync.main(["--back"])
    assert "Written in Jupyter." in sync.source_of(chapter).read_text("utf-8")
    assert sync.differences(chapter) == []


def test_what_differs_is_named(chapter):
    edit(chapter, 'tags=["hide-input"]', 'tags=["definitions"]')
    assert sync.differences(chapter) == [f"cell 3 differs from its text: {sync.CURE}"]
    edit(chapter, "# %% [markdown]", "# %%")
    assert sync.differences(chapter)[0] == f"cell 1 differs from its text: {sync.CURE}"
    sync.source_of(chapter).unlink()
    assert "has no text 09_test.py in sources/" in sync.differences(chapter)[0]


def test_nothing_is_written_where_nothing_changed(chapter):
    sync.main([])
    before = chapter.stat().st_mtime_ns, sync.source_of(chapter).stat().st_mtime_ns
    sync.main([])
    sync.main(["--back"])
    after = chapter.stat().st_mtime_ns, sync.source_of(chapter).stat().st_mtime_ns
    assert after == before


def test_what_a_sync_replaces_is_kept(chapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "output"))
    stored = chapters.read(chapter)
    stored.cells[1].source = "x = 1  # my answer"
    nbformat.write(stored, chapter)
    sync.main([])
    (copy,) = (tmp_path / "output" / "replaced").iterdir()
    assert (
        "my answer" in copy.read_text("utf-8") and str(copy) in capsys.readouterr().out
    )
    assert "my answer" not in chapter.read_text("utf-8")


@pytest.mark.parametrize("case", ["raw", "picture", "mark"])
def test_a_cell_that_no_text_can_hold_is_refused(chapter, case):
    stored = chapters.read(chapter)
    if case == "raw":
        stored.cells.append(nbformat.v4.new_raw_cell("raw"))
    elif case == "picture":
        stored.cells[0].attachments = {"x.png": {"image/png": "AAAA"}}
    else:
        stored.cells[1].source = "x = 1\n# %%\ny = 2"
    nbformat.write(stored, chapter)
    before = sync.source_of(chapter).read_bytes()
    with pytest.raises(CourseError, match="has no place in a text|cannot hold"):
        sync.main(["--back"])
    assert sync.source_of(chapter).read_bytes() == before


def test_a_notebook_without_a_text_is_left_alone(chapter, capsys):
    nbformat.write(nbformat.v4.new_notebook(), chapter.with_name("Untitled.ipynb"))
    assert sync.main([]) == 0
    assert "Untitled.ipynb: left alone" in capsys.readouterr().out


def test_a_text_alone_gets_its_notebook(chapter):
    source = sync.source_of(chapter)
    source.with_name("10_new.py").write_text("# %% [markdown]\n# # New\n")
    sync.main([])
    new = chapters.read(chapter.with_name("10_new.ipynb"))
    assert [cell.source for cell in new.cells] == ["# New"]
