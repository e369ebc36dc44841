"""The picture at the top of the README is made of stored pictures, and lint knows when it is an older one."""

import base64
import io

import nbformat
import pytest
from PIL import Image

from tools import chapters, opening


def png(colour, size=(40, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Two chapters with pictures; returns a function that stores a chapter with one of a colour."""

    def store(stem, description, colour):
        data = {"image/png": png(colour), "text/plain": description}
        cell = nbformat.v4.new_code_cell("draw()", outputs=[nbformat.v4.new_output("display_data", data)])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{stem}.ipynb")

    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(opening, "PICTURE", tmp_path / "opening.png")
    monkeypatch.setattr(opening, "PARTS", {"First": ("01_a", "Red"), "Second": ("02_b", "Blue")})
    store("01_a", "Red, all of it", (200, 0, 0))
    store("02_b", "Blue, all of it", (0, 0, 200))
    return store


def test_the_picture_shows_both_and_is_current_until_a_chapter_changes(course):
    assert opening.faults() != []
    opening.write()
    assert opening.faults() == []
    pixels = Image.open(opening.PICTURE).convert("RGB")
    width, height = pixels.size
    upper, lower = (pixels.getpixel((width // 2, int(height * place))) for place in (0.3, 0.8))
    assert upper[0] > 150 > upper[2] and lower[2] > 150 > lower[0]
    course("02_b", "Blue, all of it", (0, 0, 190))
    assert opening.faults() != []


def test_a_description_that_nothing_has_is_named(course):
    course("02_b", "Green", (0, 200, 0))
    with pytest.raises(ValueError, match="'Blue'"):
        opening.write()
    assert "'Blue'" in opening.faults()[0]
