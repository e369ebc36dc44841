"""Drawn faces in the file layout of CelebA, with every label known.

The real CelebA data set is 1.4 GB; this package draws a stand-in. A face is a `Face`, a
plain record of numbers: `sample_face` makes one up, `draw` draws it, `attributes` says
what can be seen on it, and `draw_set` writes whole sets of them.
"""

from utils.faces.draw import draw
from utils.faces.face import ATTRIBUTES, DRAWN, VERSION, Face, attributes, sample_face
from utils.faces.files import draw_set, nth_face

__all__ = [
    "ATTRIBUTES",
    "DRAWN",
    "VERSION",
    "Face",
    "attributes",
    "draw",
    "draw_set",
    "nth_face",
    "sample_face",
]
