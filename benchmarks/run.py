"""`make bench`: every task in a process of its own, one after another, then the tables
and the picture.

    QUICK=1 make bench            a short version that shows that everything runs
    RESUME=1 make bench           keeps what an interrupted run has measured
    TASKS="race our" make bench   measures again what begins so, and what is missing

What it writes: output/benchmarks/<profile>/, and from a full run docs/benchmark.md,
docs/benchmark.svg and the rows that the README quotes.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from tools.environment import python_of
from utils import course

ROOT = course.ROOT
PEERS_ENVIRONMENT = ROOT / ".venv-benchmarks"


@dataclass(frozen=True)
class Task:
    kind: str  # race, equal or scale
    name: str
    worker: str  # ours or peers
    seed: int = 0

    @property
    def file(self) -> str:
        return (
            re.sub(r"\W+", "-", f"{self.kind} {self.name} {self.seed}").lower()
            + ".json"
        )


def tasks(quick: bool) -> list[Task]:
    """All tasks. The seeds of the races are interleaved, so that a slow minute of the
    machine hits every model.
    """
    seeds = range(1 if quick else 3)
    peers = (
        "zuko spline, small",
        "zuko spline, large",
        "normflows spline",
        "nflows spline",
    )
    equals = [
        ("ours", "ours"),
        ("TFP", "ours"),
        ("normflows", "peers"),
        ("zuko", "peers"),
        ("nflows", "peers"),
    ]
    chosen = [Task("equal", name, worker) for name, worker in equals]
    for seed in seeds:
        chosen += [
            Task("race", name, "ours", seed)
            for name in ("our RealNVP", "our spline flow")
        ]
        chosen += [Task("race", name, "peers", seed) for name in peers]
    chosen += [
        Task("scale", axis, "ours") for axis in ("dimension", "couplings", "batch")
    ]
    return [
        *chosen,
        Task("race", "the book's RealNVP", "ours"),
    ]  # one seed, last: it takes as long as all others


def main() -> int:
    quick, resume, words = (
        bool(os.environ.get("QUICK")),
        bool(os.environ.get("RESUME")),
        os.environ.get("TASKS", ""),
    )
    profile = "quick" if quick else "full"
    folder = course.output_root() / "benchmarks" / profile
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    failed, started = [], time.perf_counter()
    for number, task in enumerate(chosen := tasks(quick), 1):
        path = folder / "tasks" / task.file
        if path.exists() and (
            resume or not f"{task.kind} {task.name}".startswith(words)
        ):
            continue
        print(
            f"[{number:2} of {len(chosen)}] {task.kind}: {task.name}, seed {task.seed} "
            "…",
            end="",
            flush=True,
        )
        before = time.perf_counter()
        problem = execute(task, profile, path)
        print(f" {problem or 'done'}, {time.perf_counter() - before:.0f} s", flush=True)
        failed += [task] if problem else []
    paths = [(task, folder / "tasks" / task.file) for task in chosen]
    results = [
        (task, json.loads(path.read_text("utf-8")))
        for task, path in paths
        if path.exists()
    ]
    pages = report.write(
        results, folder, docs=None if quick or failed else ROOT / "docs"
    )
    print(
        f"{(time.perf_counter() - started) / 60:.0f} minutes. "
        + "  ".join(str(page) for page in pages)
    )
    for task in failed:
        print(
            f"FAILED: {task.kind} {task.name}, seed {task.seed}; its log: "
            f"{folder / 'tasks' / task.file}.log"
        )
    return 1 if failed else 0


def execute(task: Task, profile: str, path: Path) -> str | None:
    """Runs a task in its own process, which writes `path`. If it fails there is no such
    file, and its last line is returned.
    """
    python = (
        python_of(str(PEERS_ENVIRONMENT)) if task.worker == "peers" else sys.executable
    )
    path.unlink(missing_ok=True)
    command = [
        python,
        "-m",
        f"benchmarks.{task.worker}",
        task.kind,
        task.name,
        str(task.seed),
        profile,
        str(path),
    ]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "COURSE_PROFILE": profile}
    with open(f"{path}.log", "w") as log:
        process = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | quiet,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if process.returncode == 0 and path.exists():
        entry = json.loads(path.read_text("utf-8"))
        entry |= {"machine": machine(), "date": datetime.date.today().isoformat()}
        path.write_text(json.dumps(entry), "utf-8")
        return None
    path.unlink(missing_ok=True)
    lines = Path(f"{path}.log").read_text("utf-8").strip().splitlines()
    return f"FAILED: {lines[-1] if lines else f'exit status {process.returncode}'}"


def machine() -> str:
    """ "2 CPU cores (Intel(R) Xeon(R) Processor @ 2.50GHz)", where the system tells."""
    with contextlib.suppress(OSError):
        model = re.search(
            r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M
        )
        if model:
            return f"{course.cores()} CPU cores ({model[1]})"
    return f"{course.cores()} CPU cores ({platform.machine()})"


if __name__ == "__main__":
    sys.exit(main())
