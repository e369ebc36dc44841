"""The pages to read: an HTML page of each executed chapter and an index, which need no network."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from tools import chapters, leaderboard
from utils import course


class MathMLRenderer(IPythonRenderer):
    """Markdown with its formulas as MathML, which browsers draw by themselves; MathJax would come from the network."""

    def inline_math(self, body: str) -> str:
        return convert(body.strip(), display="inline")

    def block_math(self, body: str) -> str:
        return convert(body.strip(), display="block")


class PageExporter(HTMLExporter):
    """nbconvert's HTML with formulas as MathML."""

    def markdown2html(self, source: str) -> str:
        source = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.html)", source)  # links between chapters
        source = re.sub(r"!\[(Open in Colab)\]\([^)]*\)", r"\1", source)  # the badge: its words are enough here
        path = str(chapters.NOTEBOOKS)
        return MarkdownWithMath(renderer=MathMLRenderer(escape=False, path=path)).render(source)

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", self.markdown2html


def to_html(notebook: nbformat.NotebookNode, name: str) -> str:
    """The page of an executed notebook."""
    config = Config()
    config.PageExporter.template_name = "course"
    config.PageExporter.extra_template_basedirs = [str(chapters.ROOT / "tools" / "template")]
    exporter = PageExporter(config=config)
    notebook.metadata["title"] = chapters.title(notebook)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})
    return page


def write(notebook: nbformat.NotebookNode, path: Path, folder: Path) -> None:
    """Writes the executed notebook and its page into a folder, under the notebook's own name."""
    page = to_html(notebook, path.stem)
    with course.replacing(folder / path.name) as part:
        nbformat.write(notebook, part)
    with course.replacing(folder / f"{path.stem}.html") as part:
        part.write_text(page, "utf-8")


def write_index(folder: Path, index: Path, failures: dict[str, str]) -> None:
    """Writes the page that leads to the others: every chapter that was run, this time or before, and the leaderboard.

    `failures` maps a chapter that failed this time to what stopped it.
    """
    results_path = index.parent / "results.json"
    try:
        results = json.loads(results_path.read_text("utf-8"))
    except (OSError, ValueError):
        results = {}
    rows = [_row(path, folder, results.get(path.stem), failures.get(path.stem)) for path in chapters.find([])]
    standing = leaderboard.section(results, leaderboard.codes_of(folder))
    page = INDEX.replace("ROWS", "\n".join(rows)).replace("LEADERBOARD", standing)
    with course.replacing(index) as part:
        part.write_text(page, "utf-8")


def _row(path: Path, folder: Path, result: dict | None, failure: str | None) -> str:
    page = folder / f"{path.stem}.html"
    name = html.escape(chapters.title(chapters.read(path)))
    if not page.exists():
        return f"<tr><td>{name}</td><td>not run yet</td><td></td><td></td></tr>"
    link = f'<a href="pages/{path.stem}.html">{name}</a>'
    if failure:
        return f"<tr><td>{link}</td><td>failed at {html.escape(failure)}</td><td></td><td></td></tr>"
    if result is None:
        return f"<tr><td>{link}</td><td>no figures were recorded</td><td></td><td></td></tr>"
    minutes = f"{result['seconds'] / 60:.1f}\N{NO-BREAK SPACE}min"
    cells = [link, f"{result['data']}, {result['profile']} profile", result["machine"], minutes]
    return "<tr>" + "".join(f"<td>{cell if cell is link else html.escape(cell)}</td>" for cell in cells) + "</tr>"


INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<title>Generative models, a notebook course</title>
<style>
  body { font-family: sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; color: #222; }
  table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
  td, th { text-align: left; padding: 0.5rem 1rem 0.5rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
  .picture { overflow-x: auto; }
  .picture svg { width: 100%; min-width: 40rem; height: auto; }
  .sortable td { white-space: nowrap; font-variant-numeric: tabular-nums; }
  .sortable button { font: inherit; font-weight: bold; text-align: left; cursor: pointer;
    border: 0; padding: 0; background: none; }
  [aria-sort="ascending"] button::after { content: " ▲"; }
  [aria-sort="descending"] button::after { content: " ▼"; }
</style>
</head>
<body>
<h1>Generative models, a notebook course</h1>
<p>The chapters as they ran on this machine. The executed notebooks lie beside the pages.</p>
<table>
<tr><th>Chapter</th><th>Data</th><th>Machine</th><th>Time</th></tr>
ROWS
</table>
<h2>Two moons: how far from the truth?</h2>
<p>The distance (KL, in nats) of each model's density from the exact one, on the same 10,000 fresh points, with its
standard error; 0 is the truth. The figures are those of this machine. A click on a heading sorts the table.</p>
LEADERBOARD
</body>
</html>
"""
