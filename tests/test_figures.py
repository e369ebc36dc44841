"""Drawings: shown with their words, PNG and SVG together, nothing outside the view."""

import shutil

import nbformat
import pytest
from PIL import Image

from tools import chapters, figures, lint, pictures
from utils import plots
from utils.course import CourseError

GOOD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50">
<title>A box</title><desc>A box in
the middle</desc><rect width="100" height="50" fill="white"/>
<rect x="20" y="10" width="60" height="30" fill="none" stroke="black"/></svg>
"""
CHROMIUM = any(shutil.which(name) for name in figures.BROWSERS)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", tmp_path)
    monkeypatch.setattr(plots, "FIGURES", tmp_path)
    (tmp_path / "box.svg").write_text(GOOD)
    return tmp_path


def test_the_drawings_of_the_course_have_no_faults():
    assert figures.faults() == [] and list(figures.FIGURES.glob("*.svg"))


def test_what_is_wrong_with_a_drawing_is_named(folder):
    assert figures.faults() == ["box.svg: its PNG is missing or older: make figures"]
    faults = {
        GOOD.replace("</svg>", "<script/></svg>"): "holds a script",
        GOOD.replace("<desc>A box in\nthe middle</desc>", ""): "no description",
        GOOD.replace("</svg>", ""): "no element found",
    }
    for text, words in faults.items():
        (folder / "box.svg").write_text(text)
        assert words in " ".join(figures.faults())


@needs_chromium
def test_a_drawing_is_rendered_at_twice_its_size_and_belongs_to_its_svg(folder):
    assert figures.main([]) == 0 and figures.faults() == []
    with Image.open(folder / "box.png") as picture:
        assert picture.size == (200, 100)
        grey = picture.convert("L")
    assert grey.getpixel((100, 20)) < 80 < 200 < grey.getpixel((100, 50))
    (folder / "box.svg").write_text(GOOD.replace('"60"', '"61"'))
    assert "missing or older" in figures.faults()[0]


@needs_chromium
@pytest.mark.parametrize(
    "shape",
    ['<text x="80" y="20">words</text>', '<rect x="90" y="5" width="20" height="5"/>'],
)
def test_what_sticks_out_is_named_and_not_rendered(folder, shape, capsys):
    (folder / "box.svg").write_text(GOOD.replace("</svg>", f"{shape}</svg>"))
    assert figures.main([]) == 1
    assert "sticks out of its view" in capsys.readouterr().out
    assert not (folder / "box.png").exists()


def test_a_drawing_is_shown_as_png_with_its_description(folder, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda d, **more: shown.append((d, more))
    )
    Image.new("RGB", (200, 100)).save(folder / "box.png")
    plots.drawing("box")
    ((data, more),) = shown
    assert data["text/plain"] == "A box in the middle"
    assert data["image/png"] == (folder / "box.png").read_bytes()
    assert more["metadata"]["image/png"] == {"alt": "A box in the middle", "width": 100}
    with pytest.raises(CourseError, match="no drawing 'ring'. There are: box"):
        plots.drawing("ring")


@pytest.fixture
def chapter(folder, monkeypatch):
    """A chapter that shows the drawing, with its output."""
    png = folder / "box.png"
    Image.new("RGB", (200, 100)).save(png)
    monkeypatch.setattr(chapters, "NOTEBOOKS", folder)
    import base64

    data = {"image/png": base64.b64encode(png.read_bytes()).decode(), "text/plain": "A"}
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell('plots.drawing("box")', outputs=[output])
    text = nbformat.v4.new_markdown_cell("One sentence.\nAnother one, e.g. this.")
    book = nbformat.v4.new_notebook(cells=[text, cell])
    nbformat.write(book, folder / "09_test.ipynb")
    return folder / "09_test.ipynb"


def test_lint_knows_drawings_that_are_unused_or_older(chapter):
    folder = chapter.parent
    assert lint.unused_drawings([chapter]) == []
    (folder / "other.svg").write_text(GOOD)
    assert lint.unused_drawings([chapter]) == ["other.svg: no chapter shows it"]
    Image.new("RGB", (100, 100)).save(folder / "box.png")
    assert "the drawing box is an older one" in lint.unused_drawings([chapter])[0]


def test_lint_knows_the_form_of_a_chapter(chapter):
    book = chapters.read(chapter)
    assert lint.format_faults(book) == ["1 drawings: at least 3 show what it is about"]
    book.cells[0].source = "One sentence. And another.\n\n| a. B | table |"
    assert "cell 1: two sentences in a line" in lint.format_faults(book)[1]


def test_the_pictures_on_top_are_those_that_chapters_store(tmp_path, monkeypatch):
    assert pictures.faults() == []
    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    assert len(pictures.faults()) == len(pictures.PICTURES)
    pictures.write()
    assert pictures.faults() == []
    monkeypatch.setattr(pictures, "PICTURES", {"x.png": ("04_realnvp", "Nothing such")})
    assert "no picture is stored as 'Nothing such'" in pictures.faults()[0]
