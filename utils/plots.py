"""Pictures that more than one chapter draws: same sizes, same colours, and words for
who cannot see them.

Every function draws, shows the figure with `alt` as its alternative text, and closes
it.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

from utils.course import ROOT, CourseError, replacing

# Chapters are drawn by matplotlib's own settings, whatever a reader's matplotlibrc
# says: the white letters of a dark theme would vanish on the white of a page.
plt.rcdefaults()

# Ten colours chosen by a survey to be told apart with normal and with colour-deficient
# sight (Petroff, 2021).
COLOURS = tuple(plt.style.library["petroff10"]["axes.prop_cycle"].by_key()["color"])
# Ten colours of classes. The first two are those of COLOURS; the others were searched
# for by the least distance of any two in CIELAB, as everybody sees them and as people
# without red or green cones do (simulated after Machado et al., 2009): 39, 27 and 25,
# where petroff10, with two greys, has 19, 18 and 17.
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#1bd772", "#4b895d", "#7e2003", "#947a0e", "#3349e8",
    "#424242", "#ce85ac", "#5c2a7f",
)  # fmt: skip
WIDTH = 9.0  # inches: the width of every figure
DPI = 90
FIGURES = ROOT / "notebooks" / "figures"


def show(figure: plt.Figure, alt: str) -> None:
    """Shows a figure as PNG with an alternative text, and closes it.

    The text goes where readers of the file find it: the plain-text form of the output.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    _display(buffer.getvalue(), alt)


def drawing(name: str) -> None:
    """Shows a drawing of notebooks/figures/, with its description as alternative text.

    What is shown is the PNG, since outputs in SVG are not seen everywhere.
    """
    svg = FIGURES / f"{name}.svg"
    png = svg.with_suffix(".png")
    if not svg.exists() or not png.exists():
        there = ", ".join(sorted(path.stem for path in FIGURES.glob("*.svg")))
        raise CourseError(f"There is no drawing {name!r}. There are: {there}.")
    width, alt = Image.open(png).width // 2, words_of(svg)[1]
    _display(png.read_bytes(), alt, width=width)


def words_of(svg: Path) -> tuple[str, str]:
    """The title and the description that an SVG holds, in one line each."""
    root = ElementTree.parse(svg).getroot()
    space = {"svg": "http://www.w3.org/2000/svg"}
    found = [root.findtext(f"svg:{name}", "", space) for name in ("title", "desc")]
    title, description = (" ".join(text.split()) for text in found)
    if not title or not description:
        raise CourseError(f"{svg.name} has no title or no description.")
    return title, description


def image_rows(
    rows: dict[str, np.ndarray], alt: str, columns: list[str] | None = None
) -> None:
    """Rows of images under one another, each with its name at the left.

    `rows` maps a name to images `(count, height, width[, channels])` in [0, 1], the
    same count in each row; `columns` are titles over the first row.
    """
    count = len(next(iter(rows.values())))
    if columns is not None and len(columns) != count:
        raise ValueError(f"{len(columns)} titles do not fit {count} columns.")
    side = (WIDTH - 1.2) / count
    size = WIDTH, side * len(rows) + 0.3
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=True):
            draw_image(axis, image)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for axis, title in zip(axes[0], columns or [""] * count, strict=True):
        axis.set_title(title, fontsize=9)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    show(figure, alt)


def image_grid(
    images: np.ndarray,
    alt: str,
    columns: int,
    titles: list[str] | None = None,
    width=WIDTH,
) -> None:
    """Images `(count, height, width[, channels])` in [0, 1], row by row, with an
    optional title, of one line or several, over each.
    """
    lines = -(-len(images) // columns)
    side = width / columns
    words = max((title.count("\n") + 1 for title in titles or ()), default=0)
    over = 0.25 if words == 1 else 0.17 * words
    size = width, (side + over) * lines
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(images) :]:
        axis.axis("off")
    for index, image in enumerate(images):
        draw_image(axes.flat[index], image)
        if titles:
            axes.flat[index].set_title(titles[index], fontsize=9, pad=3)
    figure.subplots_adjust(
        wspace=0.06, hspace=0.06 + (over if words == 1 else over / side)
    )
    show(figure, alt)


def draw_image(axis, image: np.ndarray) -> None:
    """One image in [0, 1] on an axis without ticks; a single channel is drawn dark on
    white, as in print.
    """
    image = np.asarray(image)
    grey = image.ndim == 2 or image.shape[-1] == 1
    colours = {"cmap": "Greys"} if grey else {}
    axis.imshow(image.squeeze() if grey else image, vmin=0, vmax=1, **colours)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.85")


def embedding(
    axis,
    points: np.ndarray,
    labels: np.ndarray,
    class_names,
    x_label="z₁",
    y_label="z₂",
    name_classes: bool = True,
) -> None:
    """A scatter of 2-D points `(count, 2)` coloured by class on an axis, each class
    named at its median.
    """
    dots = {"s": 5, "alpha": 0.6, "linewidths": 0}
    words = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
    words["path_effects"] = [withStroke(linewidth=3, foreground="white")]
    classes = list(zip(class_names, cycle(CLASS_COLOURS)))
    for index, (name, colour) in enumerate(classes):
        axis.scatter(*points[labels == index].T, color=colour, label=name, **dots)
    for index, (name, colour) in enumerate(classes if name_classes else []):
        where = np.median(points[labels == index], axis=0)
        axis.annotate(name, where, color=colour, **words)
    axis.set(aspect="equal", xlabel=x_label, ylabel=y_label)


def class_legend(figure, axis, columns: int = 5) -> None:
    """The legend of an embedding, under the figure: class names beside dots large
    enough to see their colour.
    """
    handles, names = axis.get_legend_handles_labels()
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "ncols": columns}
    legend = figure.legend(
        handles, names, markerscale=3, frameon=False, handletextpad=0.1, **place
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def curves(
    lines: dict[str, tuple], alt: str, x_label: str, y_label: str, levels: dict[str,
    float] | None = None, y_limits=None, marks: bool = True,
) -> None:  # fmt: skip
    """Lines `name: (x, y)` in one picture, each with its own marker if `marks`, over
    named horizontal levels.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4))
    styles = zip(cycle("osD^vPX*"), cycle(COLOURS))  # endless, so that no line is lost
    for (name, (x, y)), (marker, colour) in zip(lines.items(), styles):
        axis.plot(x, y, marker=marker if marks else None, color=colour, label=name)
    for (name, level), style in zip((levels or {}).items(), cycle(("--", ":", "-."))):
        words = f"{name}: {level:.4f}"
        axis.axhline(level, color="0.35", linestyle=style, linewidth=1.2, label=words)
    axis.set(xlabel=x_label, ylabel=y_label, ylim=y_limits)
    whole = all(isinstance(x, range) for x, _ in lines.values())
    if whole:  # such as epochs
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    show(figure, alt)


def points_panels(
    panels: dict[str, tuple],
    alt: str,
    limit: float = 3.0,
    columns: int = 4,
    classes=None,
) -> None:
    """Panels `title: points (count, 2)`, or `title: (points, labels)` coloured by
    class, all on [−limit, limit]².
    """
    figure, axes = _square_panels(len(panels), columns)
    for axis, (title, content) in zip(axes[: len(panels)], panels.items(), strict=True):
        points, labels = content if isinstance(content, tuple) else (content, None)
        draw_points(axis, points, labels, limit, classes)
        axis.set_title(title, fontsize=10)
    if classes:
        class_legend(figure, axes[0])
    show(figure, alt)


def draw_points(
    axis, points: np.ndarray, labels=None, limit: float = 3.0, classes=None
) -> None:
    """Points (count, 2) on an axis that shows [−limit, limit]², coloured by their
    labels 0, 1, …, or grey without.
    """
    style = {"s": 3, "alpha": 0.5, "linewidths": 0}
    if labels is None:
        axis.scatter(*points.T, color="0.35", **style)
    for index in range(0 if labels is None else int(max(labels)) + 1):
        style["label"] = classes[index] if classes else None
        axis.scatter(*points[labels == index].T, color=CLASS_COLOURS[index], **style)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axis.tick_params(labelsize=8)


def density_panels(
    panels: dict[str, np.ndarray], alt: str, limit: float, columns: int = 4, top=None
) -> None:
    """Panels `title: density (n, n)` over [−limit, limit]², from the bottom left, all
    with one scale of colours.

    The scale ends at `top`, by default the largest value of the first panel.
    """
    top = top or float(np.max(next(iter(panels.values()))))
    figure, axes = _square_panels(len(panels), columns)
    for axis, (title, values) in zip(axes[: len(panels)], panels.items(), strict=True):
        place = {"origin": "lower", "extent": (-limit, limit, -limit, limit)}
        image = axis.imshow(values, cmap="BuPu", vmin=0, vmax=top, **place)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, fraction=0.03, pad=0.02)
    bar.set_label("density", fontsize=9)
    show(figure, alt)


def maps(panels: dict[str, tuple], alt: str, limit: float, marks=None) -> None:
    """Panels `title: (values (n, n), colours)` over [−limit, limit]², from the bottom
    left, each with its own scale.

    `colours` are those of matplotlib's `imshow`: cmap, vmin, vmax. `marks`, points
    (count, 2), are ringed in the last panel.
    """
    count = len(panels)
    figure, axes = plt.subplots(1, count, figsize=(WIDTH, WIDTH / count))
    place = {"origin": "lower", "extent": (-limit, limit, -limit, limit)}
    for axis, (title, (values, colours)) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(values, **place, **colours)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        bar = figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)
        bar.ax.tick_params(labelsize=7)
    if marks is not None:
        rings = {"facecolors": "none", "edgecolors": "#ff5050", "linewidths": 0.8}
        axes[-1].scatter(*np.transpose(marks), s=14, **rings)
    figure.subplots_adjust(wspace=0.45)
    show(figure, alt)


def grid_lines(limit: float = 2.7, count: int = 19, fine: int = 200) -> np.ndarray:
    """A square grid over [−limit, limit]² as points: (2 count · fine, 2) float32, first
    the lines of constant x₁, then those of constant x₂.
    """
    ticks, along = np.linspace(-limit, limit, count), np.linspace(-limit, limit, fine)
    first, second = np.meshgrid(ticks, along, indexing="ij")
    lines = np.stack([first, second], axis=-1).reshape(-1, 2)
    return np.concatenate([lines, lines[:, ::-1]]).astype("float32")


def draw_grid(axis, points: np.ndarray, limit: float = 3.0, count: int = 19) -> None:
    """What became of the points of `grid_lines`, `count` lines of each direction, on an
    axis that shows [−limit, limit]²: each direction in a colour.
    """
    for number, line in enumerate(points.reshape(2 * count, -1, 2)):
        direction, order = divmod(number, count)  # the two are drawn in turn
        style = {"color": COLOURS[direction], "zorder": 2 + order / 100}
        axis.plot(*line.T, linewidth=0.6, **style)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axis.tick_params(labelsize=8)


def _square_panels(count: int, columns: int):
    columns = min(count, columns)
    lines = -(-count // columns)
    side = WIDTH / max(columns, 2)
    size = side * columns, (side + 0.2) * lines
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat)


def animation(
    draw,
    frames: int,
    alt: str,
    size: float = 3.6,
    milliseconds: int = 80,
    hold: int = 1200,
) -> None:
    """An animation that plays wherever a picture is shown: `draw(axis, frame)` draws
    each of `frames` on an empty axis.

    It is an animated PNG, which needs no script; the first and the last frame stay for
    `hold` milliseconds.
    """
    pictures = []
    figure, axis = plt.subplots(figsize=(size, size), dpi=DPI)
    for frame in range(frames):
        axis.clear()
        draw(axis, frame)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    plt.close(figure)
    _display(_moving(pictures, milliseconds, hold), alt)


def film(
    files: list[Path],
    alt: str,
    path: Path | None = None,
    milliseconds: int = 300,
    hold: int = 1200,
) -> None:
    """An animation of pictures in files, all of one size, in the order of the list.

    It is an animated PNG, which is also written to `path`; the first and the last
    picture stay for `hold` milliseconds. Raises CourseError where a file is missing or
    of another size.
    """
    pictures = []
    for file in files:
        if not Path(file).exists():
            raise CourseError(f"{file} is not there: run the training again.")
        with Image.open(file) as image:
            pictures.append(np.asarray(image.convert("RGB")))
        if pictures[-1].shape != pictures[0].shape:
            raise CourseError(
                f"{file} has another size than {files[0]}: run the training again."
            )
    if not pictures:
        raise CourseError("There are no pictures to make a film of.")
    moving = _moving(pictures, milliseconds, hold)
    if path is not None:
        with replacing(Path(path)) as part:
            part.write_bytes(moving)
    _display(moving, alt)


def _moving(pictures: list[np.ndarray], milliseconds: int, hold: int) -> bytes:
    """Pictures (height, width, 3) in bytes as one animated PNG."""
    some = [pictures[0], pictures[len(pictures) // 2], pictures[-1]]
    some = Image.fromarray(np.concatenate(some))
    # One palette for all frames makes the file small.
    few = {"palette": some.quantize(32), "dither": Image.Dither.NONE}
    first, *others = [Image.fromarray(p).quantize(**few) for p in pictures]
    times = [hold, *[milliseconds] * (len(pictures) - 2), hold][: len(pictures)]
    moving = {"save_all": True, "append_images": others, "duration": times, "loop": 0}
    buffer = io.BytesIO()
    first.save(buffer, "PNG", optimize=True, **moving)
    return buffer.getvalue()


def _display(png: bytes, alt: str, **more) -> None:
    """A PNG with its words, in the output's plain-text form and in its metadata."""
    from IPython.display import display

    data = {"image/png": png, "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt, **more}})
