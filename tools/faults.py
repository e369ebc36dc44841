"""Plants faults in what the chapters define and in `utils`, and counts those that the
tests find.

    python -m tools.faults [--count 60] [--seed 30] [--list]

A fault is one mechanical change of the parsed code: another sign, operator, constant,
axis or comparison, two arguments swapped, a term dropped. They are drawn at random from
every cell tagged `definitions` and every module of utils, and written to
output/faults/list.txt before the first test runs. Each is planted in a copy of the
repository, where the tests that name the chapter or module run, and then the chapters
that use it, in the quick profile, until one fails. What was found stays in
output/faults/results.json, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from tqdm import tqdm

from tools import chapters
from utils.course import ROOT, output_root

# These hold that outputs and rows belong to the code, and fail after any change.
TIED_TO_THE_TEXT = {"test_notebooks.py", "test_benchmarks.py", "test_sync.py"}
OTHER = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.Lt, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
SECONDS = 900  # a fault may make a program run forever


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` at characters [start, end) of one text.

    `place` is a file of the repository, `cell` the number of a cell from 0, or None.
    """

    kind: str
    place: str
    cell: int | None
    line: int
    start: int
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        cell = "" if self.cell is None else f", cell {self.cell}"
        change = f"{self.old} -> {self.new}".replace("\n", " ")
        return f"{self.place}{cell}, line {self.line}: {self.kind}: {change}"


def texts() -> Iterator[tuple[str, int | None, str]]:
    """Every text that faults are planted in: its file, its cell, its code."""
    for path in sorted((ROOT / "utils").rglob("*.py")):
        yield str(path.relative_to(ROOT)), None, path.read_text("utf-8")
    for path in chapters.find([]):
        for number, cell in enumerate(chapters.read(path).cells):
            if "definitions" in cell.metadata.get("tags", []):
                yield str(path.relative_to(ROOT)), number, cell.source


def faults_of(place: str, cell: int | None, text: str) -> list[Fault]:
    """All faults of one text that still parse."""
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line.encode()))
    raw, found = text.encode(), []
    for node in code_of(ast.parse(text)):
        start = offsets[node.lineno - 1] + node.col_offset
        end = offsets[node.end_lineno - 1] + node.end_col_offset
        for kind, changed in changes(node):
            new = f"({changed})" if isinstance(node, ast.expr) else changed
            fault = Fault(
                kind, place, cell, node.lineno, start, end, raw[start:end].decode(), new
            )
            try:
                ast.parse(planted(text, fault))
            except SyntaxError:  # such as -1 as a key of a keyword
                continue
            found.append(fault)
    return found


def code_of(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that do something: no annotations, no texts, no imports."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            skipped = ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Raise
            if isinstance(child, ast.AST) and not isinstance(child, skipped):
                if hasattr(child, "lineno"):
                    yield child
                yield from code_of(child)


def changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What may be put in a node's place: the kind of change, and the code."""
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in OTHER:
                yield "operator", written(ast.BinOp(left, OTHER[type(op)](), right))
            if isinstance(op, ast.Add | ast.Sub):
                yield "dropped term", written(left)
                yield "dropped term", written(right)
        case ast.BoolOp(op, values):
            yield "operator", written(ast.BoolOp(OTHER[type(op)](), values))
        case ast.UnaryOp(ast.USub(), operand):
            yield "sign", written(operand)
        case ast.UnaryOp(ast.Not(), operand):
            yield "comparison", written(operand)
        case ast.Compare(left, [op], [right]):
            yield "comparison", written(ast.Compare(left, [OTHER[type(op)]()], [right]))
        case ast.Call(function, [first, second, *rest], keywords):
            if not any(isinstance(a, ast.Starred) for a in (first, second)):
                swapped = ast.Call(function, [second, first, *rest], keywords)
                yield "swapped arguments", written(swapped)
        case ast.keyword("axis", value):
            other = "axis=0" if written(value) != "0" else "axis=-1"
            yield "axis", other
        case ast.Constant(bool()):
            yield "constant", str(not node.value)
        case ast.Constant(int()):
            yield "constant", str(node.value + 1)
        case ast.Constant(float()):
            yield "constant", str(node.value * 2 or 1.0)
        case ast.Call(ast.Attribute(), [argument], _):
            yield "dropped call", written(argument)


def written(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node))


def planted(text: str, fault: Fault) -> str:
    raw = text.encode()
    return (raw[: fault.start] + fault.new.encode() + raw[fault.end :]).decode()


def draw(count: int, seed: int) -> list[Fault]:
    """`count` faults: texts are shuffled and visited in turn, modules and cells alike,
    so that none has a second one before every text has its first."""
    rng = random.Random(seed)
    pools = [pool for text in texts() if (pool := faults_of(*text))]
    for pool in pools:
        rng.shuffle(pool)
    rng.shuffle(pools)
    modules = [pool for pool in pools if pool[0].cell is None]
    cells = [pool for pool in pools if pool[0].cell is not None]
    found: list[Fault] = []
    while len(found) < count and (modules or cells):  # a third of them in utils
        for group in (modules, cells, cells):
            if group and len(found) < count:
                pool = group.pop(0)
                found.append(pool.pop())
                if pool:
                    group.append(pool)
    return found


def checks_of(fault: Fault) -> list[Path]:
    """The files that pytest runs, one after the other: the place's own tests, others
    that name it, its own chapter, chapters that use it."""
    path = Path(fault.place)
    stem = "faces" if path.parent.name == "faces" else path.stem
    quoted = rf'"{stem}\\?"'  # as in definitions("04_realnvp", …), in JSON, too
    name = rf"import[^\n]*\b{stem}\b" if fault.cell is None else quoted
    tests = [
        test
        for test in sorted((ROOT / "tests").glob("test_*.py"))
        if test.name not in TIED_TO_THE_TEXT
    ]
    times = {test: len(re.findall(name, test.read_text("utf-8"))) for test in tests}
    close = sorted(filter(times.get, tests), key=times.get, reverse=True)
    own_test = f"test_{stem}", f"test_chapter_{stem[:2]}"
    close.sort(key=lambda test: test.stem not in own_test)
    using = [p for p in chapters.find([]) if re.search(name, p.read_text("utf-8"))]
    using.sort(key=lambda chapter: chapter.stem != stem)
    return [check.relative_to(ROOT) for check in close + using]


def find(fault: Fault, folder: Path) -> str | None:
    """Plants a fault in the copy `folder`, and returns the first check that fails."""
    path = folder / fault.place
    kept = path.read_bytes()
    if fault.cell is None:
        path.write_text(planted(kept.decode(), fault), "utf-8")
    else:
        notebook = nbformat.reads(kept.decode(), as_version=4)
        cell = notebook.cells[fault.cell]
        cell.source = planted(cell.source, fault)
        nbformat.write(notebook, path)
    try:
        for check in checks_of(fault):
            command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", check]
            try:
                done = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, timeout=SECONDS
                )
            except subprocess.TimeoutExpired:
                return f"{check}: not ready after {SECONDS} s"
            if done.returncode not in (0, 5):
                failed = re.findall(r"^(?:FAILED|ERROR) (.*)", done.stdout, re.M)
                said = (done.stdout + done.stderr).strip().splitlines()
                return (failed or said[-1:] or ["pytest does not start"])[0][:200]
        return None
    finally:
        path.write_bytes(kept)


def copy_of_the_repository(folder: Path) -> None:
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if not (ROOT / name).is_file():  # a link to a folder, say
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=30)
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    chosen = parser.parse_args()
    faults = draw(chosen.count, chosen.seed)
    kept = output_root() / "faults"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "list.txt").write_text("\n".join(map(str, faults)) + "\n", "utf-8")
    if chosen.list:
        print("\n".join(map(str, faults)))
        return 0
    results_file = kept / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    os.environ.pop("COURSE_OUTPUT", None)
    with tempfile.TemporaryDirectory() as folder:
        copy_of_the_repository(Path(folder))
        for fault in tqdm(faults, disable=None):
            if str(fault) in results:
                continue
            started = time.perf_counter()
            found = find(fault, Path(folder))
            seconds = round(time.perf_counter() - started)
            results[str(fault)] = {"found by": found, "seconds": seconds}
            results_file.write_text(json.dumps(results, indent=1))
            print(f"{found or 'NOT FOUND'} ({seconds} s): {fault}", flush=True)
    missed = [str(fault) for fault in faults if not results[str(fault)]["found by"]]
    print(f"{len(faults) - len(missed)} of {len(faults)} faults are found. Not found:")
    print("\n".join(missed) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
