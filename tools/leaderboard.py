"""Where each flow stands on two moons: one picture and one table, made of what the
chapters measured.

    python -m tools.leaderboard

writes them into docs/ and the README, from docs/leaderboard.json, which `make refresh`
keeps. `make run` makes the same of its own figures and shows them on the index page.
What is missing, or older than its chapter's code, is named.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import matplotlib
import nbformat

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tools import chapters
from utils import plots

DOCS = chapters.ROOT / "docs"
BEGIN, END = (
    "<!-- leaderboard: written by `make refresh` -->",
    "<!-- end of leaderboard -->",
)
TOP = 0.15  # nats: where the picture ends
CHAPTER_COLOURS = (
    plots.COLOURS[:3] + plots.COLOURS[4:]
)  # without the grey, which baselines have
BASELINES = {
    "Gaussian",
    "Gaussians",
    "kernel",
}  # words in the names of models that are no flows


def time_text(value: float) -> str:
    """Three digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COLUMNS = {  # a figure's name in the results, its heading, and how it is written
    "kl": ("KL (nats)", "{:.4f}".format),
    "train_seconds": ("training (s)", time_text),
    "parameters": ("parameters", "{:,.0f}".format),
    "density_ms": ("10,000 densities (ms)", time_text),
    "sample_ms": ("10,000 samples (ms)", time_text),
    "inverse_error": ("inverse error", "{:.0e}".format),
}


def rows(results: dict) -> list[dict]:
    """The models of all chapters that have a KL, nearest to the truth first; each knows
    its chapter and profile.
    """
    needed = ("kl", "kl_se", "train_seconds")
    found = [
        {**row, "chapter": chapters.number(stem), "profile": entry["profile"]}
        for stem, entry in results.items()
        if re.match(r"A?\d+_", stem)  # not what readers record under names of their own
        for row in entry["rows"]
        if all(isinstance(row.get(name), (int, float)) for name in needed)
    ]
    return sorted(found, key=lambda row: row["kl"])


def notes(results: dict, codes: dict[str, str]) -> list[str]:
    """A line for each chapter about two moons whose figures are missing, stale or from
    a short run.

    `codes` maps a chapter to the fingerprint of the code that gave its figures.
    """
    lines = []
    for path, notebook in chapters.readable():
        stem = path.stem
        if not any(
            "moons.load(" in cell.source
            for cell in notebook.cells
            if cell.cell_type == "code"
        ):
            continue
        name = chapters.title(notebook)
        if stem not in results:
            lines.append(f"{name}: not measured yet.")
        elif codes.get(stem) != chapters.code_hash(notebook):
            lines.append(f"{name}: its figures are those of an earlier version.")
        elif results[stem]["profile"] != "full":
            lines.append(
                f"{name}: figures of the {results[stem]['profile']} profile, which "
                "trains for moments only."
            )
    return lines


def picture(found: list[dict]) -> str:
    """KL against seconds of training, as SVG; the floor is 0, the truth, and a root's
    scale opens up what is small.
    """
    figure, axis = plt.subplots(figsize=(plots.WIDTH, 4.2))
    axis.set_yscale(
        "function", functions=(lambda kl: abs(kl) ** 0.5, lambda root: root**2)
    )
    markers = iter("osD^vPX<>p*hdH8" * 3)
    for row in reversed(found):
        baseline = bool(BASELINES & set(re.findall(r"\w+", row["model"])))
        colour = "0.45" if baseline else colour_of(row["chapter"])
        outside = row["kl"] > TOP
        axis.errorbar(
            row["train_seconds"],
            min(max(row["kl"], 0), TOP),
            yerr=None if outside else 2 * row["kl_se"],
            fmt="^" if outside else next(markers),
            color=colour,
            markerfacecolor="white" if baseline else colour,
            markersize=7,
            elinewidth=1,
            clip_on=False,
            label=f"{row['kl']:.4f}  {label(row)}" + (" (above)" if outside else ""),
        )
    axis.set(
        xscale="log",
        ylim=(0, TOP),
        xlabel="seconds of training",
        ylabel="KL to the truth (nats)",
    )
    axis.set_yticks(
        [0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15],
        ["0", "0.005", "0.01", "0.02", "0.05", "0.1", "0.15"],
    )
    axis.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.9")
    axis.legend(
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        fontsize=9,
        title="KL and model (chapter)",
    )
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "leaderboard"}):
        figure.savefig(
            buffer,
            format="svg",
            bbox_inches="tight",
            facecolor="white",
            metadata={"Date": None},
        )
    plt.close(figure)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def colour_of(number: str) -> str:
    """A colour for each chapter from 4 on, and for the appendices after 8."""
    place = int(number) - 4 if number.isdigit() else 4 + int(number[1:])
    return CHAPTER_COLOURS[place % len(CHAPTER_COLOURS)]


def label(row: dict) -> str:
    return f"{row['model']} ({row['chapter']})"


def cells(row: dict) -> list[str]:
    """The figures of a row as they are shown; a figure that was not measured stays
    empty.
    """
    shown = [
        form(row[key]) if row.get(key) is not None else ""
        for key, (_, form) in COLUMNS.items()
    ]
    shown[0] += f" ± {row['kl_se']:.4f}"
    return shown


def markdown(found: list[dict]) -> str:
    """The table of the README."""
    head = ["model (chapter)", *(heading for heading, _ in COLUMNS.values())]
    lines = [
        head,
        ["---", *["---:"] * len(COLUMNS)],
        *([label(row), *cells(row)] for row in found),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(results: dict, codes: dict[str, str] | None = None) -> str:
    """The leaderboard of the site: picture, what is missing, a table that sorts."""
    found = rows(results)
    codes = codes or {stem: entry.get("code") for stem, entry in results.items()}
    said = [f"- {line}" for line in notes(results, codes)]
    if not found:
        return "\n".join(said)
    alt = "KL against seconds of training, for every model of two moons"
    table = f"```{{table}}\n:class: sortable\n\n{markdown(found)}\n```"
    return "\n".join([f"![{alt}](leaderboard.svg)", "", *said, "", table])


# ------------------------------------------------------------------ docs


def keep(stem: str, entry: dict | None, code: str) -> bool:
    """Puts a chapter's figures, with the fingerprint of its code, into
    docs/leaderboard.json, if it has any of a KL.
    """
    if not entry or not rows({stem: entry}):
        return False
    kept = stored() | {stem: {**entry, "code": code}}
    text = json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False)
    (DOCS / "leaderboard.json").write_text(text + "\n", "utf-8")
    return True


def stored() -> dict:
    """What docs/leaderboard.json holds; an empty dict if there is none."""
    path = DOCS / "leaderboard.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def stored_notes() -> list[str]:
    """What is missing or stale in docs/leaderboard.json."""
    kept = stored()
    return notes(kept, {stem: entry["code"] for stem, entry in kept.items()})


def faults() -> list[str]:
    """What `make lint` has to say of docs/leaderboard.json."""
    return [f"docs/leaderboard.json: {line}" for line in stored_notes()]


def write_docs(readme: Path = chapters.ROOT / "README.md") -> None:
    """Writes docs/leaderboard.svg and the README's table. Raises ValueError if the
    README has no place for it.
    """
    text = readme.read_text("utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme.name} has no lines {BEGIN} and {END}.")
    kept = stored()
    found = rows(kept)
    machines = sorted({entry["machine"] for entry in kept.values()})
    said = [f"Measured on {' and '.join(machines)}.", *stored_notes()]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    (DOCS / "leaderboard.svg").write_text(picture(found), "utf-8")
    readme.write_text(
        f"{before}{BEGIN}\n{markdown(found)}\n\n{' '.join(said)}\n{END}{after}", "utf-8"
    )


def codes_of(folder: Path) -> dict[str, str]:
    """The fingerprints of the executed notebooks in a folder."""
    return {
        path.stem: chapters.code_hash(nbformat.read(path, as_version=4))
        for path in folder.glob("*.ipynb")
    }


if __name__ == "__main__":
    write_docs()
