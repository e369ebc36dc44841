"""Ctrl-C at twenty times of a whole `make run CHAPTER=04`: minutes, so not in `make
test`.

python -m pytest -m interrupts
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import chapters
from utils import course

pytestmark = [
    pytest.mark.interrupts,
    pytest.mark.skipif(not Path("/proc").exists(), reason="looks for kernels in /proc"),
]
KEPT = {"01_autoencoder": {"profile": "quick", "rows": []}}


def hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def left_over(folder: Path) -> list[str]:
    """Processes that still write into this output folder."""
    mark, found = f"COURSE_OUTPUT={folder}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            pass
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_stopped_ends_with_a_line_and_loses_nothing(tmp_path, seed):
    rng = random.Random(seed)
    (tmp_path / "results.json").write_text(json.dumps(KEPT))
    env = os.environ | {"COURSE_OUTPUT": str(tmp_path), "COURSE_PROFILE": "quick"}
    command = [sys.executable, "-m", "tools.run", "04"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings = {"cwd": course.ROOT, "env": env, "preexec_fn": hear_ctrl_c}
    process = subprocess.Popen(command, **pipes, **settings)
    time.sleep(rng.uniform(0.1, 60.0))
    for _ in range(1 + seed % 2):  # every other time twice in a row
        process.send_signal(signal.SIGINT)
        time.sleep(rng.uniform(0.0, 0.5))
    out, err = process.communicate(timeout=30)
    assert "Stopped." in out or "1 of 1 chapters" in out
    assert err == "", err
    time.sleep(0.5)
    assert left_over(tmp_path) == []
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert results["01_autoencoder"] == KEPT["01_autoencoder"]
    for page in (tmp_path / "pages").glob("*.ipynb"):
        chapters.read(page)
