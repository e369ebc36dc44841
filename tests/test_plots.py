"""Pictures: shown with words, closed, and legible."""

import io
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.spatial.distance import pdist

from utils import course, plots


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (data, metadata)."""
    seen = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda data, raw, metadata: seen.append((data, metadata)),
    )
    return seen


images = np.random.default_rng(0).random((6, 8, 8, 1))


def test_every_picture_has_alternative_text_and_is_closed(shown):
    plots.image_grid(images, alt="a grid", columns=3, titles=list("abcdef"))
    plots.image_rows(
        {"first": images, "second": images}, alt="rows", columns=list("abcdef")
    )
    plots.curves(
        {"one": ([0, 1], [2, 1])},
        alt="a curve",
        x_label="x",
        y_label="y",
        levels={"floor": 0.5},
    )
    assert [data["text/plain"] for data, _ in shown] == ["a grid", "rows", "a curve"]
    assert all(data["image/png"].startswith(b"\x89PNG") for data, _ in shown)
    assert all(metadata["image/png"]["alt"] for _, metadata in shown)
    assert not plt.get_fignums()


def test_ten_classes_have_ten_colours_and_their_names_in_the_legend():
    labels = np.arange(40) % 10
    points = np.random.default_rng(0).normal(size=(40, 2))
    names = [f"class {label}" for label in range(10)]
    figure, axis = plt.subplots()
    plots.embedding(axis, points, labels, names)
    plots.class_legend(figure, axis)
    colours = {
        tuple(collection.get_facecolor()[0][:3]) for collection in axis.collections
    }
    assert len(colours) == 10
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert axis.get_aspect() == 1.0
    drawn = axis.collections[3].get_offsets()
    assert np.allclose(drawn, points[labels == 3]), (
        "a class is drawn where its points are"
    )
    plt.close(figure)


def test_grey_images_keep_their_scale():
    figure, axis = plt.subplots()
    plots.draw_image(axis, np.full((4, 4, 1), 0.5))
    assert axis.images[0].get_clim() == (0, 1), (
        "an image of one grey is grey, not stretched to black"
    )
    plt.close(figure)


def test_animation_is_a_picture_that_moves(shown):
    rng = np.random.default_rng(0)
    alt = "Points that jump"
    plots.animation(
        lambda axis, frame: plots.draw_points(axis, rng.normal(size=(50, 2))),
        frames=5,
        alt=alt,
    )
    (bundle, _), *_ = shown
    with Image.open(io.BytesIO(bundle["image/png"])) as picture:
        assert picture.n_frames == 5 and picture.mode == "P"
    assert bundle["text/plain"] == alt


def test_a_colour_of_the_last_frame_alone_is_shown(shown):
    plots.animation(
        lambda axis, frame: axis.set_facecolor("#1040c0" if frame == 4 else "white"),
        frames=5,
        alt="Blue",
    )
    (bundle, _), *_ = shown
    with Image.open(io.BytesIO(bundle["image/png"])) as picture:
        picture.seek(picture.n_frames - 1)  # frames that are alike are stored once
        centre = picture.convert("RGB").getpixel(
            (picture.width // 2, picture.height // 2)
        )
    assert np.abs(np.subtract(centre, (16, 64, 192))).max() < 24


def test_grid_lines_are_drawn_line_by_line_in_two_colours():
    points = plots.grid_lines(limit=2.0, count=5, fine=7)
    assert points.shape == (70, 2) and points.dtype == np.float32
    first, last = points[:7], points[-7:]
    assert np.all(first[:, 0] == -2) and first[:, 1].tolist()[::6] == [-2, 2]
    assert np.all(last[:, 1] == 2) and last[:, 0].tolist()[::6] == [-2, 2]
    figure, axis = plt.subplots()
    plots.draw_grid(axis, points, count=5)
    assert len(axis.lines) == 10 and axis.get_aspect() == 1.0
    assert np.allclose(np.transpose(axis.lines[0].get_data()), first)
    assert [line.get_color() for line in axis.lines[4:6]] == list(plots.COLOURS[:2])
    over = [line.get_zorder() for line in axis.lines]
    assert over[0] == over[5] < over[1] == over[6], "the directions are drawn in turn"
    plt.close(figure)


def test_maps_have_a_scale_each_and_ring_what_is_marked(shown, monkeypatch):
    images, rings = [], []
    axes = plots.plt.Axes
    imshow, scatter = axes.imshow, axes.scatter
    monkeypatch.setattr(
        axes,
        "imshow",
        lambda *a, **k: images.append(k | {"axis": a[0]}) or imshow(*a, **k),
    )
    monkeypatch.setattr(
        axes,
        "scatter",
        lambda *a, **k: rings.append((a[0].get_title(), *a[1:3])) or scatter(*a, **k),
    )
    panels = {"a": (np.eye(4), {"vmax": 2.0}), "b": (np.eye(4), {"vmax": 3.0})}
    plots.maps(panels, alt="Two", limit=2.0, marks=np.array([[0.5, 1.5]]))
    assert [k["vmax"] for k in images] == [2.0, 3.0]
    assert all(k["origin"] == "lower" and k["extent"][0] == -2 for k in images)
    sizes = {k["axis"].get_xticklabels()[0].get_size() for k in images}
    assert max(sizes) <= 8, "numbers that have room below maps side by side"
    (title, *place), *others = rings
    assert title == "b" and np.ravel(place).tolist() == [0.5, 1.5] and not others


@pytest.fixture
def frames(tmp_path):
    files = [tmp_path / f"epoch-{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        Image.new("RGB", (40, 20), (80 * number, 0, 0)).save(file)
    return files


def test_a_film_shows_its_files_in_order_and_is_kept(shown, frames, tmp_path):
    plots.film(frames, alt="Red", path=tmp_path / "film.png", milliseconds=400)
    (bundle, _), *_ = shown
    assert bundle["text/plain"] == "Red"
    assert (tmp_path / "film.png").read_bytes() == bundle["image/png"]
    with Image.open(tmp_path / "film.png") as picture:
        assert picture.n_frames == 3 and picture.size == (40, 20)
        reds, times = [], []
        for frame in range(3):
            picture.seek(frame)
            times.append(picture.info["duration"])
            reds.append(picture.convert("RGB").getpixel((5, 5))[0])
    assert reds == sorted(reds) and reds[2] - reds[0] > 100
    assert times == [1200, 400, 1200]


@pytest.mark.parametrize("fault", ["missing", "another size", "none"])
def test_a_film_of_files_that_do_not_fit_is_one_line(frames, fault):
    if fault == "missing":
        frames[1].unlink()
    if fault == "another size":
        Image.new("RGB", (41, 20)).save(frames[1])
    words = {"missing": "is not there", "none": "no pictures"}.get(fault, fault)
    with pytest.raises(course.CourseError, match=words):
        plots.film([] if fault == "none" else frames, alt="Red")


def test_density_panels_share_one_scale_and_lie_the_right_way_up(shown, monkeypatch):
    images = []
    real = plots.plt.Axes.imshow
    monkeypatch.setattr(
        plots.plt.Axes,
        "imshow",
        lambda *a, **k: images.append((a[1], k)) or real(*a, **k),
    )
    plots.density_panels({"a": np.eye(4), "b": 3 * np.eye(4)}, alt="Two", limit=2.0)
    assert {k["vmax"] for _, k in images} == {1.0} and all(
        k["origin"] == "lower" for _, k in images
    )


def test_points_without_classes_are_grey_and_with_classes_named(shown):
    _, axis = plt.subplots()
    plots.draw_points(axis, np.zeros((3, 2)))
    plots.draw_points(
        axis, np.zeros((4, 2)), np.array([0, 1, 1, 0]), classes=("up", "down")
    )
    assert axis.get_legend_handles_labels()[1] == ["up", "down"]
    assert axis.get_aspect() == 1.0
    plt.close()


def test_nothing_is_dropped_in_silence(shown, monkeypatch):
    axes = []
    real = plots.plt.subplots
    monkeypatch.setattr(
        plots.plt, "subplots", lambda *a, **k: axes.append(real(*a, **k)) or axes[-1]
    )
    lines = {f"line {n}": (range(3), [n, n, n]) for n in range(12)}
    levels = {f"level {n}": float(n) for n in range(5)}
    plots.curves(lines, alt="Twelve lines", x_label="x", y_label="y", levels=levels)
    assert len(axes[-1][1].get_lines()) == 17
    with pytest.raises(ValueError, match="2 titles do not fit 6 columns"):
        plots.image_rows({"first": images}, alt="rows", columns=["a", "b"])


DARK = """
import matplotlib.pyplot as plt, numpy as np, io
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.spatial.distance import pdist
from utils import plots
seen = []
import IPython.display
IPython.display.display = lambda data, raw, metadata: seen.append(data["image/png"])
plots.curves({"one": (range(5), range(5))}, alt="A line", x_label="x", y_label="y")
figure, axis = plt.subplots()  # a chapter's own cell
axis.plot(range(5))
plots.show(figure, alt="A line")
for png in seen:
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    print(grey[0, 0], int((grey < 80).sum()))
"""


def test_a_readers_dark_theme_does_not_hide_axes_and_labels(tmp_path):
    (tmp_path / "matplotlibrc").write_text(
        "axes.facecolor: black\nfigure.facecolor: black\ntext.color: "
        "white\naxes.labelcolor: white\n"
        "axes.edgecolor: white\nxtick.color: white\nytick.color: "
        "white\nsavefig.facecolor: white\n"
    )
    env = os.environ | {
        "MATPLOTLIBRC": str(tmp_path),
        "PYTHONPATH": str(course.ROOT),
        "MPLBACKEND": "agg",
    }
    ended = subprocess.run(
        [sys.executable, "-c", DARK], env=env, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    for line in ended.stdout.splitlines():
        corner, dark = map(int, line.split())
        assert corner == 255 and 300 < dark < 20_000, "dark axes and labels on white"


# What people without red cones and without green cones see of linear RGB (Machado,
# Oliveira and Fernandes, 2009, severity 1).
PROTAN = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTAN = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


def least_distance(colours, sight):
    """The smallest distance of two colours in CIELAB (D65)."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(sight), 0, 1)
    to_xyz = [
        [0.4125, 0.3576, 0.1804],
        [0.2127, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9503],
    ]
    xyz = seen @ np.transpose(to_xyz) / [0.9505, 1, 1.0888]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f.T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return pdist(lab).min()


def test_colours_of_classes_can_be_told_apart_by_everybody():
    for sight in (np.eye(3), PROTAN, DEUTAN):
        assert least_distance(plots.CLASS_COLOURS, sight) > 25
        assert least_distance(plots.COLOURS, sight) < 20  # what they replace
    assert len(plots.CLASS_COLOURS) == 10
    assert plots.CLASS_COLOURS[:2] == plots.COLOURS[:2]


def test_places_that_no_image_fills_are_blank(shown):
    """Five images in two rows of three: the sixth place shows no axis."""
    plots.image_grid(images[:5], alt="five", columns=3)
    png = Image.open(io.BytesIO(shown[0][0]["image/png"])).convert("L")
    last = np.asarray(png)[png.height // 2 + 8 :, 2 * png.width // 3 + 8 :]
    assert last.min() == 255
