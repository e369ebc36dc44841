"""Definitions taken out of a chapter."""

import inspect
import json
import traceback

import pytest

from utils import chapters
from utils.course import CourseError


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Writes a notebook of (source, tags) cells and returns its name."""
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)

    def write(*cells):
        content = [
            {
                "cell_type": "code",
                "source": source.splitlines(keepends=True),
                "metadata": {"tags": tags},
            }
            for source, tags in cells
        ]
        (tmp_path / "09_test.ipynb").write_text(json.dumps({"cells": content}))
        return "09_test"

    return write


def test_only_tagged_cells_run_and_in_order(chapter):
    name = chapter(
        ("SIDE = 4", ["definitions"]),
        ("raise RuntimeError('a cell that trains')", []),
        ("def area():\n    return SIDE**2", ["definitions"]),
    )
    area, side = chapters.definitions(name, "area", "SIDE")
    assert area() == 16 and side == 4
    assert chapters.definitions(name, "area") is area


def test_namespace_is_empty(chapter):
    name = chapter(("found = 'pytest' in globals()", ["definitions"]))
    assert chapters.definitions(name, "found") is False


def test_source_is_known_to_inspect_tracebacks_and_autograph(chapter):
    source = "def halve(x):\n    if x > 0:\n        return x / 2\n    return fail(x)\n"
    name = chapter((source, ["definitions"]))
    halve = chapters.definitions(name, "halve")
    assert inspect.getsource(halve) == source
    with pytest.raises(NameError) as info:
        halve(-1)
    assert "return fail(x)" in "".join(traceback.format_exception(info.value))

    import tensorflow as tf

    source = "def halve_positive(x):\n    if x > 0:\n        x = x / 2\n    return x\n"
    chapters._namespace.cache_clear()
    graph = tf.function(
        chapters.definitions(chapter((source, ["definitions"])), "halve_positive")
    )
    assert (
        float(graph(tf.constant(3.0))) == 1.5
    )  # a condition on a tensor needs AutoGraph, and AutoGraph the source


def test_what_is_not_there_is_one_clear_line(chapter):
    with pytest.raises(CourseError, match="10_none.ipynb is not in the folder"):
        chapters.definitions("10_none", "VAE")
    with pytest.raises(CourseError, match="has no cell tagged 'definitions'"):
        chapters.definitions(chapter(("x = 1", [])), "x")
    chapters._namespace.cache_clear()
    with pytest.raises(CourseError, match="defines no VAE"):
        chapters.definitions(chapter(("x = 1", ["definitions"])), "VAE")
