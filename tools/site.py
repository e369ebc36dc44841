"""The site: chapters, drawings and the pages of docs/, made by Sphinx and MyST-NB.

    python -m tools.site [FOLDER]

makes it of the stored notebooks, in output/site or FOLDER, and executes nothing. `make
run` makes the same of its own executed copies. docs/conf.py has Sphinx's settings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from tools import chapters
from utils import course

DOCS = chapters.ROOT / "docs"
FIGURES = chapters.NOTEBOOKS / "figures"
MARK = "searchindex.js"  # in every site that Sphinx has made
OTHER_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md", "LICENSE")


class SiteError(Exception):
    """Sphinx could not make the site, or had something to complain of."""


def build(
    target: Path, copies: Path | None = None, results=None, failures=None
) -> None:
    """Makes the site in `target`.

    With `copies`, a folder of executed notebooks, those stand in for the stored ones;
    `results` are the figures of that run, and `failures` maps a chapter that failed to
    what stopped it. Raises SiteError with Sphinx's own words, and where `target` holds
    something else than a site.
    """
    if target.exists() and any(target.iterdir()) and not (target / MARK).exists():
        raise SiteError(f"{target} holds other files: choose a folder that is empty.")
    with tempfile.TemporaryDirectory() as folder:
        source, fresh = Path(folder, "source"), Path(folder, "site")
        lay_out(source, copies, results, failures or {})
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html"]
        command += ["-c", str(DOCS), str(source), str(fresh)]
        settings = {"capture_output": True, "text": True, "errors": "replace"}
        ended = subprocess.run(command, cwd=chapters.ROOT, check=False, **settings)
        complaints = ended.stderr.replace(f"{source}/", "").strip()
        if ended.returncode or (complaints and not copies):
            raise SiteError(complaints or ended.stdout)
        if complaints:  # in a reader's own cells: no reason to withhold the site
            print(complaints)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(fresh, target)


def lay_out(source: Path, copies: Path | None, results, failures: dict) -> None:
    """Lays the pages out as the repository has them, so that their links hold. The
    first one is the README with the site's contents at its end."""
    shutil.copytree(DOCS, source / "docs", ignore=shutil.ignore_patterns("_static"))
    contents = source / "docs" / "contents.md"
    readme = (chapters.ROOT / "README.md").read_text("utf-8")
    first = readme + "\n" + contents.read_text("utf-8")
    (source / "index.md").write_text(first, "utf-8")
    contents.unlink()
    for name in OTHER_PAGES:
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(chapters.ROOT / name, source / name)
    (source / "notebooks").mkdir()
    if FIGURES.exists():
        shutil.copytree(FIGURES, source / "notebooks" / "figures")
    for path, notebook in chapters.readable():
        if copies and (copies / path.name).exists():
            notebook = chapters.read(copies / path.name)
        prepare(notebook, failures.get(path.stem))
        nbformat.write(notebook, source / "notebooks" / path.name)
    board = source / "docs" / "leaderboard.md"
    sortable(board)
    fill(board, "this run", own_figures(results) if copies else "")
    ran = this_run(results, failures, copies) if copies else ""
    fill(source / "index.md", "this run", ran)
    fill(source / "docs" / "gallery.md", "drawings", gallery())


def fill(path: Path, place: str, text: str) -> None:
    """Puts a text where a page has a comment with the name of the place."""
    page = path.read_text("utf-8")
    path.write_text(page.replace(f"<!-- {place} -->", text), "utf-8")


def sortable(path: Path) -> None:
    """Tables of a page become such that a click on a heading sorts."""
    page = path.read_text("utf-8")
    directive = r"```{table}\n:class: sortable\n\n\g<0>```\n"
    path.write_text(re.sub(r"(?:^\|.*\n)+", directive, page, flags=re.M), "utf-8")


def own_figures(results: dict) -> str:
    """The KLs that the chapters found in this run, one training each."""
    kls = {"kl_plane": "KL, plane", "kl_bulk": "KL, bulk", "kl": "KL by draws"}
    found = [
        (f"{row['model']} ({chapters.number(stem)})", row)
        for stem, entry in results.items()
        if re.match(r"A?\d+_", stem)  # not what readers record under names of their own
        for row in entry["rows"]
        if kls.keys() & row.keys()
    ]
    if not found:
        return ""
    lines = [["model (chapter)", *kls.values(), "training (s)"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for name, row in found:
        cells = [f"{float(row[k]):.4f}" if k in row else "" for k in kls]
        spent = row.get("train_seconds", "")
        lines.append([name, *cells, f"{spent:.3g}" if spent != "" else ""])
    head = "## As the chapters found it on this machine\n\nOne seed each.\n\n"
    return head + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prepare(notebook: nbformat.NotebookNode, failure: str | None) -> None:
    """Folded cells, alternative texts and a failure, in the way that MyST-NB knows."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            badge = r"\[!\[Open in Colab\]\([^)]*\)\]"  # its words are enough here
            cell.source = re.sub(badge, "[Open in Colab]", cell.source)
            continue
        folded = cell.metadata.get("jupyter", {}).get("source_hidden")
        tags = set(cell.metadata.get("tags", []))
        if cell.source.startswith(("# Solution", "# Continued")):
            cell.metadata.tags = sorted(tags | {"hide-cell"})
        elif folded:
            cell.metadata.tags = sorted(tags | {"hide-input"})
        texts = [output["data"] for output in cell.outputs if "data" in output]
        alts = [data.get("text/plain", "") for data in texts if "image/png" in data]
        if alts:
            cell.metadata["mystnb"] = {"image": {"alt": "; ".join(alts)}}
    if failure:
        words = f":::{{error}}\nThis chapter failed at {failure}\n:::"
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(words))


def this_run(results: dict, failures: dict, copies: Path) -> str:
    """A table of the chapters as they ran on this machine, for the first page."""
    lines = ["## As they ran on this machine", ""]
    lines += ["| chapter | data | machine | time |", "| --- | --- | --- | --- |"]
    for path, notebook in chapters.readable():
        name = chapters.title(notebook)
        cells = [f"[{name}](notebooks/{path.name})"]
        entry = results.get(path.stem)
        if path.stem in failures:
            cells += [f"failed at {failures[path.stem]}".replace("|", "\\|"), "", ""]
        elif not (copies / path.name).exists():
            cells += ["not run yet: stored outputs", "", ""]
        elif entry is None:
            cells += ["no figures were recorded", "", ""]
        else:
            minutes = f"{entry['seconds'] / 60:.1f} min"
            data = f"{entry['data']}, {entry['profile']} profile"
            cells += [data, entry["machine"], minutes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gallery() -> str:
    """Every drawing under its title, with its description."""
    from utils import plots

    parts = []
    for path in sorted(FIGURES.glob("*.svg")):
        title, description = plots.words_of(path)
        shown = f"![{description}](../notebooks/figures/{path.stem}.png)"
        parts.append(f"## {title}\n\n{shown}")
    return "\n\n".join(parts)


def main(arguments: list[str]) -> int:
    target = Path(arguments[0]) if arguments else course.output_root() / "site"
    try:
        build(target)
    except SiteError as error:
        print(error)
        return 1
    print(f"Read it: {target / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
