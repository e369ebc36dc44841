"""The picture at the top of the README: two pictures of the course, one above the other.

    python -m tools.opening

writes docs/opening.png from the outputs that two chapters store; `make refresh` of one of them does the same.
"""

from __future__ import annotations

import base64
import hashlib
import io

import matplotlib
import nbformat
import numpy as np
from PIL import Image, PngImagePlugin

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tools import chapters

PICTURE = chapters.ROOT / "docs" / "opening.png"
PARTS = {  # what stands above a picture: its chapter, and how its description begins
    "Faces that nobody has, by a variational autoencoder": ("03_vae_faces", "Thirty new faces"),
    "A flow turns a Gaussian into two moons, and the velocity that does it": ("08_ffjord", "The density and the velo"),
}
WIDTH, DPI = 8.0, 110  # inches, and dots in an inch


def stored_picture(notebook: nbformat.NotebookNode, description: str) -> bytes:
    """The PNG whose description begins so, of those that a notebook stores. Raises ValueError without one."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data and data.get("text/plain", "").startswith(description):
                return base64.b64decode(data["image/png"])
    raise ValueError(f"No picture is stored as {description!r}: refresh its chapter or mend tools/opening.py.")


def parts() -> dict[str, bytes]:
    """The heading of each part and its PNG."""
    return {
        heading: stored_picture(chapters.read(chapters.find([stem])[0]), description)
        for heading, (stem, description) in PARTS.items()
    }


def fingerprint(pictures: dict[str, bytes]) -> str:
    """Changes with the headings and the pictures."""
    return hashlib.sha256(b"".join(heading.encode() + png for heading, png in pictures.items())).hexdigest()[:16]


def compose(pictures: dict[str, bytes]) -> bytes:
    """One PNG of all, with their fingerprint in it."""
    arrays = {heading: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for heading, png in pictures.items()}
    heights = [WIDTH * array.shape[0] / array.shape[1] + 0.3 for array in arrays.values()]
    figure, axes = plt.subplots(
        len(arrays), 1, figsize=(WIDTH, sum(heights)), dpi=DPI, height_ratios=heights, layout="constrained"
    )
    for axis, (heading, array) in zip(axes, arrays.items(), strict=True):
        axis.imshow(array, interpolation="lanczos")
        axis.set_title(heading, loc="left", fontsize=11)
        axis.axis("off")
    drawn, stored, note = io.BytesIO(), io.BytesIO(), PngImagePlugin.PngInfo()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    note.add_text("pictures", fingerprint(pictures))
    palette = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(stored, "PNG", optimize=True, pnginfo=note)
    return stored.getvalue()


def write() -> None:
    """Writes docs/opening.png."""
    PICTURE.write_bytes(compose(parts()))


def faults() -> list[str]:
    """What `make lint` has to say of docs/opening.png."""
    shown = Image.open(PICTURE).text.get("pictures") if PICTURE.exists() else None
    try:
        current = shown == fingerprint(parts())
    except ValueError as missing:
        return [f"docs/opening.png: {missing}"]
    return [] if current else ["docs/opening.png: not of the pictures that are stored: `python -m tools.opening`."]


if __name__ == "__main__":
    write()
