"""The pictures of the README and of the site: outputs that chapters store.

    python -m tools.pictures

writes them into docs/; `make refresh` of their chapters does the same.
"""

from __future__ import annotations

import base64

import nbformat

from tools import chapters

DOCS = chapters.ROOT / "docs"
PICTURES = {  # a file: its chapter, and how the picture's description begins
    "faces.png": ("03_vae_faces", "Thirty new faces"),
    "moons.png": ("08_ffjord", "The density and the velo"),
    "pictures/01.png": ("01_autoencoder", "Test images as dots in the latent plane"),
    "pictures/02.png": ("02_vae", "Images decoded from a grid over the square"),
    "pictures/03.png": ("03_vae_faces", "Faces without an attribute"),
    "pictures/04.png": ("04_realnvp", "Two moons; points made by the plain flow"),
    "pictures/05.png": ("05_tfp_flows", "Twelve panels"),
    "pictures/06.png": ("06_glow", "Sixty-four new clothes"),
    "pictures/07.png": ("07_mintnet", "A square grid and the two moons"),
    "pictures/08.png": ("08_ffjord", "Left the test points"),
    "pictures/A1.png": ("A1_breaks", "import keras and tf.keras"),
    "pictures/A2.png": ("A2_faster", "The KL of nine rungs"),
    "pictures/A3.png": ("A3_likelihood", "Ten test images; under them"),
    "pictures/A4.png": ("A4_which", "KL of six families"),
}


def stored(notebook: nbformat.NotebookNode, description: str) -> bytes:
    """The PNG whose description begins so; ValueError if a notebook has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            words = data.get("text/plain", "")
            if "image/png" in data and words.startswith(description):
                return base64.b64decode(data["image/png"])
    raise ValueError(f"no picture is stored as {description!r}: see tools/pictures.py")


def current() -> dict[str, bytes]:
    """Each file, and what it should hold."""
    return {
        name: stored(chapters.read(chapters.find([stem])[0]), description)
        for name, (stem, description) in PICTURES.items()
    }


def write() -> None:
    for name, png in current().items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_bytes(png)


def faults() -> list[str]:
    """What `make lint` has to say of them."""
    try:
        pictures = current()
    except ValueError as missing:
        return [f"docs/: {missing}"]
    old = [n for n, png in pictures.items() if _content(DOCS / n) != png]
    return [f"docs/{name}: not the picture that is stored: refresh" for name in old]


def _content(path) -> bytes:
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    write()
