"""The rows that `make bench` measures, and where their figures are kept.

A row is a function, settings and seeds. It has a key, of its settings and of the parsed
code that it rests on in benchmarks/ and in the definitions of chapters; utils does not
count. Figures under another key are stale. `docs/bench/<part>.json` keeps the figures
of a part, seed by seed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from utils import course
from utils.chapters import definition_cells

FOLDER = course.ROOT / "docs" / "bench"
PARTS = {  # part: the modules that have its rows, each a list ROWS
    "moons": ("moons", "contest", "posterior"),
    "book": ("book",),
    "peers": ("peers", "equal"),
    "ladders": ("tails", "splines", "limits", "few", "rungs", "triangular", "ladder"),
    "images": (
        "images",
        "digits",
        "autoencoders",
        "variational",
        "likelihood",
        "faces",
    ),
}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One line of a table: `run(settings, seed)` gives its figures, by their names.

    `quick` are settings of a short version that shows that everything runs. `tuning`
    marks a trial that was made to choose the settings of the row of that name.
    `environment` is "torch" for what runs beside PyTorch.
    """

    name: str
    run: Callable[[dict, int], dict]
    settings: dict = field(default_factory=dict)
    quick: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS
    tuning: str | None = None
    environment: str = "course"

    def key(self) -> str:
        """The fingerprint of its code and settings."""
        code = _code(Path(inspect.getfile(self.run)), self.run.__name__)
        text = f"({code}, {sorted(self.settings.items())!r})"  # the pair's repr
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_of(part: str) -> list[Row]:
    """All rows of a part, in the order in which they are measured."""
    modules = (importlib.import_module(f"benchmarks.{name}") for name in PARTS[part])
    return [row for module in modules for row in module.ROWS]


# ------------------------------------------------------------------ fingerprints


def needed(path: Path, names: set[str]) -> list:
    """The statements of a file, or of a chapter's definitions, that `names` rest on.

    A statement that binds a needed name is taken, and what it names is needed too; a
    call `definitions("04_realnvp", "Flow")` leads on into that chapter, and an import
    from benchmarks into that file. Layout, comments and docstrings do not count.
    """
    from tools.chapters import (
        outline,
    )  # which the environment of PyTorch has no use for

    found, waiting, seen = {}, [(path, name) for name in sorted(names)], set()
    while waiting:
        place, name = waiting.pop()
        if (place, name) in seen:
            continue
        seen.add((place, name))
        for number, statement in _statements(place):
            if name in _bound(statement):
                key = place.stem, number, name if _is_import(statement) else ""
                found[key] = outline(_only(name, statement))
                waiting += [(place, n.id) for n in ast.walk(statement) if _is_read(n)]
                statement = _only(name, statement)
                waiting += [w for n in ast.walk(statement) for w in _from_chapter(n)]
                waiting += [w for n in ast.walk(statement) for w in _from_benchmarks(n)]
    return [found[place] for place in sorted(found)]


@functools.cache
def _code(path: Path, name: str) -> str:
    """What one function of a file rests on; many rows share theirs."""
    return repr(needed(path, {name}))


@functools.cache
def _statements(path: Path) -> list[tuple[int, ast.stmt]]:
    cells = (
        definition_cells(path)
        if path.suffix == ".ipynb"
        else [(0, path.read_text("utf-8"))]
    )
    trees = (ast.parse(source).body for _, source in cells)
    return list(enumerate(statement for body in trees for statement in body))


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if _is_import(statement):
        return {a.asname or a.name.partition(".")[0] for a in statement.names}
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = getattr(statement, "targets", None) or [statement.target]
        names = (n for target in targets for n in ast.walk(target))
        return {n.id for n in names if isinstance(n, ast.Name)}
    return set()


def _is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def _only(name: str, statement: ast.stmt) -> ast.stmt:
    """An import without the names that are not needed; other statements as they are."""
    if not _is_import(statement):
        return statement
    shown = [a for a in statement.names if _bound(ast.Import([a])) == {name}]
    if isinstance(statement, ast.Import):
        return ast.Import(shown)
    return ast.ImportFrom(statement.module, shown, statement.level)


def _is_read(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _from_chapter(node: ast.AST) -> list[tuple[Path, str]]:
    called = isinstance(node, ast.Call) and getattr(node.func, "id", "")
    if called != "definitions":
        return []
    if not all(isinstance(argument, ast.Constant) for argument in node.args):
        raise ValueError(f"write the names out, for the key: {ast.unparse(node)}")
    chapter, *names = (argument.value for argument in node.args)
    return [(course.ROOT / "notebooks" / f"{chapter}.ipynb", name) for name in names]


def _from_benchmarks(node: ast.AST) -> list[tuple[Path, str]]:
    if not isinstance(node, ast.ImportFrom) or not node.module.startswith(
        "benchmarks."
    ):
        return []
    path = Path(__file__).parent / f"{node.module.partition('.')[2]}.py"
    return [(path, alias.name) for alias in node.names]


# ------------------------------------------------------------------ what was measured


def stored(part: str, folder: Path = FOLDER) -> dict:
    """What is kept of a part: for each row its key and, by seed, its figures."""
    path = folder / f"{part}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def keep(part: str, row: Row, seed: int, figures: dict, folder: Path = FOLDER) -> None:
    """Adds the figures of one seed; those of the row under another key go."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(course.output_root() / "bench.lock"):
        kept = stored(part, folder)
        entry = kept.get(row.name)
        if entry is None or entry["key"] != row.key():
            entry = {"key": row.key(), "settings": row.settings, "seeds": {}}
        entry["seeds"] = dict(sorted((entry["seeds"] | {str(seed): figures}).items()))
        _write(part, kept | {row.name: entry}, folder)


def prune(part: str, folder: Path = FOLDER) -> None:
    """Takes out what belongs to no row any more."""
    kept, names = stored(part, folder), {row.name for row in rows_of(part)}
    if kept.keys() - names:
        _write(part, {n: entry for n, entry in kept.items() if n in names}, folder)


def _write(part: str, kept: dict, folder: Path) -> None:
    order = [row.name for row in rows_of(part)]
    kept = dict(sorted(kept.items(), key=lambda e: (order + [e[0]]).index(e[0])))
    with course.replacing(folder / f"{part}.json") as file:
        file.write_text(_compact(kept), "utf-8")


def _compact(entries: dict) -> str:
    """JSON with one seed's figures a line, so that a diff shows what changed."""
    lines = []
    for name, entry in entries.items():
        seeds = ",\n   ".join(
            f"{json.dumps(seed)}: {json.dumps(figures, ensure_ascii=False)}"
            for seed, figures in entry["seeds"].items()
        )
        head = json.dumps({k: v for k, v in entry.items() if k != "seeds"})[1:-1]
        lines.append(f' {json.dumps(name)}: {{{head}, "seeds": {{\n   {seeds}}}}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def runs(part: str, row: Row, folder: Path = FOLDER) -> list[dict]:
    """The kept figures of a row, one for each seed; none if they are stale."""
    entry = stored(part, folder).get(row.name)
    if entry is None or entry["key"] != row.key():
        return []
    return [entry["seeds"][str(s)] for s in row.seeds if str(s) in entry["seeds"]]


def faults(folder: Path = FOLDER) -> list[str]:
    """A line for each row that is not measured with today's code and settings."""
    lines = []
    for part in PARTS:
        kept = stored(part, folder)
        for row in rows_of(part):
            entry, cure = kept.get(row.name), f"make bench PART={part}"
            place = f"docs/bench/{part}.json: {row.name}"
            if entry is None:
                lines.append(f"{place} is not measured: {cure}")
            elif entry["key"] != row.key():
                lines.append(f"{place} is stale, its code or settings changed: {cure}")
            elif len(runs(part, row, folder)) < len(row.seeds):
                lines.append(f"{place} lacks a seed: {cure}")
        lines += [
            f"docs/bench/{part}.json: {name} is no row any more: make bench PART={part}"
            for name in kept.keys() - {row.name for row in rows_of(part)}
        ]
    return lines
