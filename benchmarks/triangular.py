"""PART=ladders, seventh: chapter 7's flow on two moons with lower layers alone, which
all together are one triangular map.
"""

from __future__ import annotations

from benchmarks.flows import measured
from benchmarks.moons import MINTNET, QUICK
from benchmarks.rows import Row
from utils.chapters import definitions


def lower_alone(settings, seed):
    """As many layers as chapter 7's MintNet has, none of them upper."""
    MintFlow = definitions("07_mintnet", "MintFlow")
    flow = MintFlow(2, settings["layers"], settings["width"], both=False)
    return measured(flow, settings, seed)


ROWS = [Row("MintNet (7), lower layers alone", lower_alone, MINTNET, QUICK)]
