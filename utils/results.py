"""What the chapters measured: one entry a chapter in output/results.json."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from utils import course
from utils.course import CourseError


def record(chapter: str, *, data: str, seconds: float, rows: list[dict]):
    """Writes a chapter's figures into output/results.json, returns them as a table.

    `data` names the data set, `seconds` is the running time of the chapter so far. Each
    row has a "model" and numbers under lower-case names with their unit, such as
    `validation_loss` or `train_seconds`. A KL (`kl_bulk`, `kl_plane`) may be infinite
    and is written "inf", which JSON has no number for. The newest run of a chapter
    replaces its entry; other chapters' entries stay, also where several chapters write
    at once. Raises ValueError for any other number that is not finite, CourseError
    where the file cannot be written.
    """
    entry = {
        "profile": course.profile(),
        "data": data,
        "machine": course.machine(),
        "seconds": round(seconds, 1),
        "rows": [{k: _plain(k, v) for k, v in row.items()} for row in rows],
    }
    course.output()
    path = results_path()
    try:
        with FileLock(f"{path}.lock"):
            text = json.dumps(read() | {chapter: entry}, indent=1, ensure_ascii=False)
            with course.replacing(path) as part:
                part.write_text(text + "\n", "utf-8")
    except OSError as error:  # the lock's
        raise course.cannot_write(path, error) from None
    return table(entry["rows"])


def read() -> dict:
    """All entries of output/results.json; an empty dict if there are none.

    A file that is not valid JSON is kept under another name, and a line says so.
    """
    path = results_path()
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        if isinstance(entries, dict):
            return entries
    except ValueError:
        pass
    aside = path.with_name("results.unreadable.json")
    path.replace(aside)
    print(f"{path.name} could not be read: it is kept as {aside.name}, and begun anew.")
    return {}


def table(rows: list[dict]) -> pd.DataFrame:
    """Rows as a table, models at its side; a figure that a row lacks is left blank."""
    frame = pd.DataFrame(rows).set_index("model")
    return frame.map(_shown).rename_axis(None)


def benchmarked(part: str) -> dict[str, list[dict]]:
    """What `make bench PART=part` measured, as the repository keeps it: for each row
    the figures of its seeds, such as `kl_plane` (nats) and `train_seconds`.

    A KL that is written "inf" becomes infinite. Raises CourseError where there is no
    such part.
    """
    path = course.ROOT / "docs" / "bench" / f"{part}.json"
    if not path.exists():
        raise CourseError(f"make bench has kept no part {part!r} in {path.parent}.")
    rows = json.loads(path.read_text("utf-8"))
    return {
        name: [{k: _number(v) for k, v in run.items()} for run in row["seeds"].values()]
        for name, row in rows.items()
    }


def spread(runs: list[dict], name: str, digits: int = 4) -> str:
    """A figure's median, least and most over the seeds of a row:
    "0.0084 (0.0080 to 0.0102)".

    `runs` are such as `benchmarked` returns. A KL of 1,000 nats or more is "over
    1,000": a handful of places sets it, and its digits mean nothing.
    """
    values = [run[name] for run in runs]
    most = 1_000 if name.startswith("kl") else math.inf
    middle, low, high = (
        f"{value:,.{digits}f}" if value < most else "over 1,000"
        for value in (np.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def milliseconds(call, repeats: int = 20) -> float:
    """How long `call()` takes: the median of some repeats, after one not counted."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def results_path() -> Path:
    return course.output_root() / "results.json"


def _plain(key: str, value):
    """A number or a string that JSON knows."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = float(np.asarray(value))
    if key.startswith("kl_") and number == math.inf:
        return "inf"
    if not math.isfinite(number):
        raise ValueError(f"{key} is {number}: only a finite figure is a result.")
    return number


def _number(value):
    return math.inf if value == "inf" else value


def _shown(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)
