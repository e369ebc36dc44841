"""One row with one seed, in a process of its own: `python -m benchmarks.worker PART
NAME SEED PROFILE FILE` writes its figures into FILE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.measure import rounded
from benchmarks.rows import rows_of
from utils import course

if __name__ == "__main__":
    part, name, seed, profile, path = sys.argv[1:]
    row = next(row for row in rows_of(part) if row.name == name)
    if row.environment == "course":
        course.load_keras()
        course.seed(int(seed))
    settings = row.settings | (row.quick if profile == "quick" else {})
    figures = row.run(settings, int(seed))
    digits = {k: rounded(v) if type(v) is float else v for k, v in figures.items()}
    Path(path).write_text(json.dumps(digits), "utf-8")
