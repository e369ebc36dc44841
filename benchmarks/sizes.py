"""PART=ladders, second: what chapter 4's flow costs by dimension, couplings and
batch.
"""

from __future__ import annotations

from benchmarks.equal import step_and_speeds
from benchmarks.measure import peak_memory
from benchmarks.rows import Row
from utils.chapters import definitions


def size(settings, seed):
    """The costs of chapter 4's flow, and the peak memory of the process."""
    build_realnvp = definitions("04_realnvp", "build_realnvp")
    dim, shape = settings["dimension"], (settings["couplings"], settings["width"], 2)
    figures = step_and_speeds(build_realnvp(dim, *shape), settings, dim)
    return {**figures, "memory_mb": peak_memory()}


USUAL = {"dimension": 2, "couplings": 8, "batch": 256, "width": 64, "steps": 117}
SIZES = {"dimension": (2, 8, 64), "couplings": (2, 16), "batch": (1024,)}
ROWS = [
    Row(f"size: {axis} {n}", size, USUAL | {axis: n}, {"steps": 5}, seeds=(0,))
    for axis, sizes in SIZES.items()
    for n in sizes
]
