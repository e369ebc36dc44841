"""`make bench`: every row alone, in a process of its own, one after another.

    PART=moons make bench         moons, book, peers, ladders or images; all if unset
    ROWS="RealNVP" make bench     the rows whose names begin so, measured again
    QUICK=1 make bench            a short version that shows that everything runs

What is measured is kept after each seed in docs/bench/, so that an interrupted run goes
on where it was; rows that are measured with today's code are left alone. Then the
pages of docs/ and the README's table are written. The short version writes into
output/benchmarks/ alone.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.rows import FOLDER, PARTS, Row, keep, prune, rows_of, stored
from tools.environment import python_of
from utils import course

ROOT = course.ROOT
BUSY = 0.1  # the fraction of the processors that others may use while a row is timed


def main() -> int:
    quick, words = bool(os.environ.get("QUICK")), os.environ.get("ROWS", "")
    parts = os.environ.get("PART", "").split() or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"PART is {', '.join(unknown)}: give one of {', '.join(PARTS)}.")
    names = [row.name for part in parts for row in rows_of(part)]
    if not any(name.startswith(words) for name in names):
        sys.exit(f"ROWS is {words}: no row begins so. There are: {', '.join(names)}.")
    folder = course.output_root() / "benchmarks" / "quick" if quick else FOLDER
    for part in parts:
        prune(part, folder)
    waiting = [task for part in parts for task in tasks(part, words, folder, quick)]
    failed = 0
    for number, (part, row, seed) in enumerate(waiting, 1):
        show = f"[{number} of {len(waiting)}] {part}: {row.name}, seed {seed}"
        print(show, end=" … ", flush=True)
        started = time.perf_counter()
        figures = measure(part, row, seed, quick)
        if isinstance(figures, str):
            failed += 1
            print(f"FAILED: {figures}", flush=True)
            continue
        keep(part, row, seed, figures, folder)
        busy = "" if figures["busy"] < BUSY else ", beside other work"
        print(f"{time.perf_counter() - started:.0f} s{busy}", flush=True)
    if not waiting:
        print(f"All rows are measured. {report.HOW_AGAIN}")
    for page in report.write(folder, docs=None if quick else ROOT / "docs"):
        print(page)
    return 1 if failed else 0


def tasks(part: str, words: str, folder: Path, quick: bool) -> list:
    """What is still to be measured: (part, row, seed), seed by seed, so that a slow
    minute of the machine does not fall on one row alone.
    """
    found = []
    for row in rows_of(part):
        entry = stored(part, folder).get(row.name, {"key": None})
        fresh = entry["key"] == row.key() and not words and not quick
        if words and not row.name.startswith(words):
            continue
        done = set(entry["seeds"]) if fresh else set()
        seeds = row.seeds[:1] if quick else row.seeds
        found += [(part, row, seed) for seed in seeds if str(seed) not in done]
    return sorted(found, key=lambda task: task[2])


def measure(part: str, row: Row, seed: int, quick: bool) -> dict | str:
    """The figures of a row with one seed, or the last line of what went wrong."""
    torch = row.environment == "torch"
    python = python_of(str(ROOT / ".venv-benchmarks")) if torch else sys.executable
    profile = "quick" if quick else "full"
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "COURSE_PROFILE": profile}
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "figures.json"), Path(folder, "log")
        command = [python, "-m", "benchmarks.worker", part, row.name, str(seed)]
        before = processor_seconds()
        with log.open("w") as stream:
            process = subprocess.run(
                [*command, profile, str(path)],
                cwd=ROOT,
                env=os.environ | quiet,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        if process.returncode or not path.exists():
            lines = log.read_text("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else f"exit status {process.returncode}"
        figures = json.loads(path.read_text("utf-8"))
    busy = round(busy_beside(before, processor_seconds()), 2)
    today = datetime.date.today().isoformat()
    return figures | {"machine": machine(), "date": today, "busy": busy}


def processor_seconds() -> tuple[float, float, float]:
    """What all processors had to give since the machine started, what of it was used,
    and what our finished children used; zeros where the system does not tell.
    """
    with contextlib.suppress(OSError):
        first = Path("/proc/stat").read_text().splitlines()[0]
        ticks = [int(word) for word in first.split()[1:9]]
        idle = ticks[3] + ticks[4]  # and waiting for a disk
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        second = os.sysconf("SC_CLK_TCK")
        used = (sum(ticks) - idle) / second
        return sum(ticks) / second, used, own.ru_utime + own.ru_stime
    return 0.0, 0.0, 0.0


def busy_beside(before, after) -> float:
    """The fraction of all processors that other work had while a child ran."""
    given, used, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, (used - own) / given) if given else 0.0


def machine() -> str:
    """ "2 cores of Intel(R) Xeon(R) Processor (model 167)", where the system tells."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8")
        if found := re.search(r"^model name\s*: (.+)$", text, re.M):
            number = re.search(r"^model\s*: (.+)$", text, re.M)
            model = found[1] + (f" (model {number[1]})" if number else "")
    return f"{course.cores()} cores of {model}"


if __name__ == "__main__":
    sys.exit(main())
