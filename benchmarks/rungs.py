"""PART=ladders, sixth: chapter 6's ladder from NICE to Glow on small images.

The figures of a training are its bits per dimension on all test images of
Fashion-MNIST, each 2 × 2 pixels averaged into one, so 14 × 14. The data set must be
there: the stand-in would give other figures, and is refused.
"""

from __future__ import annotations

from benchmarks.images import bits_after_training
from benchmarks.rows import Row


def rung(settings, seed):
    """One rung, trained for some passes over all training images."""
    from benchmarks.rung_layers import build_rung

    flow = build_rung(settings["rung"], settings["width"], seed)
    return bits_after_training(flow, settings, seed)


SETTINGS = {
    "width": 32,
    "peak": 2e-3,
    "batch": 64,
    "epochs": 3,
    "images": 60_000,
    "test_images": 10_000,
}
QUICK = {"images": 1_280, "test_images": 500, "epochs": 1}
RUNGS = "NICE", "log-scales", "channels", "batch norm"
RUNGS += "ActNorm", "1×1", "no boards", "split"
ROWS = [
    Row(f"{name} (6)", rung, SETTINGS | {"rung": name}, QUICK | {"rung": name})
    for name in RUNGS
]
# At five times the rate: does what the last two rungs cost depend on it?
ROWS += [
    Row(
        f"{name}, rate 0.01 (6)",
        rung,
        SETTINGS | {"rung": name, "peak": 1e-2},
        QUICK | {"rung": name},
    )
    for name in RUNGS[-3:]
]
