"""Pictures that more than one chapter draws: same sizes, same colours, and words for who cannot see them.

Every function draws, shows the figure with `alt` as its alternative text, and closes it.
"""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

# Ten colours chosen by a survey to be told apart with normal and with colour-deficient sight (Petroff, 2021).
COLOURS = tuple(plt.style.library["petroff10"]["axes.prop_cycle"].by_key()["color"])
WIDTH = 9.0  # inches: the width of every figure
DPI = 90


def show(figure: plt.Figure, alt: str) -> None:
    """Shows a figure as PNG with an alternative text, and closes it.

    The text goes where readers of the file find it: the plain-text form of the output.
    """
    from IPython.display import display

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    display({"image/png": buffer.getvalue(), "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def image_rows(rows: dict[str, np.ndarray], alt: str, columns: list[str] | None = None) -> None:
    """Rows of images under one another, each with its name at the left.

    `rows` maps a name to images `(count, height, width[, channels])` in [0, 1], the same count in each row; `columns`
    are titles over the first row.
    """
    count = len(next(iter(rows.values())))
    side = (WIDTH - 1.2) / count
    figure, axes = plt.subplots(len(rows), count, figsize=(WIDTH, side * len(rows) + 0.3), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=True):
            draw_image(axis, image)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for axis, title in zip(axes[0], columns or [], strict=False):
        axis.set_title(title, fontsize=9)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    show(figure, alt)


def image_grid(images: np.ndarray, alt: str, columns: int, titles: list[str] | None = None, width=WIDTH) -> None:
    """Images `(count, height, width[, channels])` in [0, 1], row by row, with an optional title over each."""
    lines = -(-len(images) // columns)
    side = width / columns
    figure, axes = plt.subplots(lines, columns, figsize=(width, (side + 0.25 * bool(titles)) * lines), squeeze=False)
    for axis in axes.flat[len(images) :]:
        axis.axis("off")
    for index, image in enumerate(images):
        draw_image(axes.flat[index], image)
        if titles:
            axes.flat[index].set_title(titles[index], fontsize=9, pad=3)
    figure.subplots_adjust(wspace=0.06, hspace=0.06 + 0.25 * bool(titles))
    show(figure, alt)


def draw_image(axis, image: np.ndarray) -> None:
    """One image in [0, 1] on an axis without ticks; a single channel is drawn dark on white, as in print."""
    image = np.asarray(image)
    grey = image.ndim == 2 or image.shape[-1] == 1
    axis.imshow(image.squeeze() if grey else image, cmap="Greys" if grey else None, vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("0.85")


def embedding(
    axis, points: np.ndarray, labels: np.ndarray, class_names, x_label="z₁", y_label="z₂", name_classes: bool = True
) -> None:
    """A scatter of 2-D points `(count, 2)` coloured by class on an axis, each class named at its median."""
    for index, name in enumerate(class_names):
        chosen = points[labels == index]
        axis.scatter(*chosen.T, s=5, alpha=0.6, color=COLOURS[index], linewidths=0, label=name)
    if name_classes:
        for index, name in enumerate(class_names):
            where = np.median(points[labels == index], axis=0)
            axis.annotate(
                name, where, ha="center", va="center", fontsize=9, weight="bold", color=COLOURS[index],
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip
    axis.set_aspect("equal")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)


def class_legend(figure, axis, columns: int = 5) -> None:
    """The legend of an embedding, under the figure: class names beside dots large enough to see their colour."""
    handles, names = axis.get_legend_handles_labels()
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "ncols": columns}
    legend = figure.legend(handles, names, markerscale=3, frameon=False, handletextpad=0.1, **place)
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def curves(
    lines: dict[str, tuple], alt: str, x_label: str, y_label: str, levels: dict[str, float] | None = None, y_limits=None
) -> None:
    """Lines `name: (x, y)` in one picture, each with its own marker, over named horizontal levels."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4))
    for (name, (x, y)), marker, colour in zip(lines.items(), "osD^vPX*", COLOURS, strict=False):
        axis.plot(x, y, marker=marker, color=colour, label=name)
    for (name, level), style in zip((levels or {}).items(), ("--", ":", "-."), strict=False):
        axis.axhline(level, color="0.35", linestyle=style, linewidth=1.2, label=f"{name}: {level:.4f}")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.set_ylim(y_limits)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    show(figure, alt)
