"""What `make bench` writes: tables in Markdown and a picture, made of the tasks'
results.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.measure import EQUAL, MILESTONES, reached
from utils import plots

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmark: written by `make bench` -->", "<!-- end of benchmark -->"
MISSING = "not reached"


def write(results: list[tuple], folder: Path, docs: Path | None) -> list[Path]:
    """Writes benchmark.md and benchmark.svg into `folder` and, if given, into `docs`,
    with the README's rows.

    `results` are pairs of a task (kind, name, seed) and what it gave. Returns the pages
    that were written.
    """
    races = by_name(results, "race")
    text = page(races, results)
    pages = []
    for place in [folder] + ([docs] if docs else []):
        place.mkdir(parents=True, exist_ok=True)
        if races:
            draw(races, place / "benchmark.svg")
        pages.append(place / "benchmark.md")
        pages[-1].write_text(text, "utf-8")
    if docs and races:
        quote(docs.parent / "README.md", main_rows(races))
    return pages


def by_name(results, kind) -> dict[str, list[dict]]:
    """The results of one kind of task: under each name a list, one for each seed."""
    named: dict[str, list[dict]] = {}
    for task, result in results:
        if task.kind == kind:
            named.setdefault(task.name, []).append(result)
    return named


# ------------------------------------------------------------------ the page


def page(races, results) -> str:
    parts = [
        "# Benchmark",
        where(results),
        "What to know about these figures stands in the README, section Benchmark.",
    ]
    if races:
        parts += [
            "## Time to a distance from the truth",
            RACES,
            race_table(races),
            against_the_book(races),
        ]
        parts += [
            compilation_table(races),
            "![KL against seconds of training](benchmark.svg)",
        ]
    equals = by_name(results, "equal")
    if equals:
        parts += [
            "## The same architecture in every library",
            EQUALS.format(**EQUAL),
            equal_table(equals),
        ]
    for axis, runs in by_name(results, "scale").items():
        parts += [
            f"## What our flow costs, by {axis}",
            SCALES.get(axis, ""),
            scale_table(axis, runs[0]["rows"]),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


RACES = (
    "Two moons, 30,000 training points. Seconds of training, compilation included and "
    "evaluation left out, until the "
    "KL on 10,000 fresh points is at most so many nats: the median over the seeds and, "
    "in brackets, the range. "
    "'2 of 3' means that two of three seeds got there. The KL at the end is the mean "
    "over the seeds, and the range, "
    "or, for one seed, the standard error over the points after ±; the seconds beside "
    "it are those of the whole "
    "training."
)
EQUALS = (
    "{couplings} affine couplings, each with one network of {depth} × {width} for "
    "scale and shift, batches of {batch}. "
    "Milliseconds for one training step, for the density of 10,000 points and for "
    "10,000 samples. Ours is compiled, a "
    "whole epoch at a time; TFP's step is compiled; PyTorch runs as its libraries' "
    "documentation shows, uncompiled. "
    "Our networks see both coordinates, one of them 0, and give numbers for both: "
    "hence the few more parameters."
)
SCALES = {
    "dimension": "Eight couplings of 2 × 64, batches of 256. Memory is the peak of "
    "the process, TensorFlow included.",
    "couplings": "Two dimensions, couplings of 2 × 64, batches of 256.",
    "batch": "Two dimensions, eight couplings of 2 × 64.",
}


def where(results) -> str:
    machines = sorted(
        {result["machine"] for _, result in results if "machine" in result}
    )
    dates = sorted({result["date"] for _, result in results if "date" in result})
    days = (
        dates[0]
        if len(dates) == 1
        else f"{dates[0]} to {dates[-1]}"
        if dates
        else "unknown date"
    )
    where = " and ".join(machines) or "an unknown machine"
    return f"Measured by `make bench` on {where}, {days}. No GPU."


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def race_table(races) -> str:
    milestones = [f"{target:g}" for target in MILESTONES]
    head = [
        "model",
        *milestones,
        "KL at the end",
        "training in all (s)",
        "parameters",
        "seeds",
        "with",
    ]
    rows = []
    for name, runs in races.items():
        ends = [run["seconds"][-1] for run in runs]
        figures = [
            f"{np.median(ends):.0f}",
            f"{runs[0]['parameters']:,}",
            str(len(runs)),
            runs[0]["versions"],
        ]
        rows.append(
            [
                name,
                *(milestone(runs, target) for target in MILESTONES),
                final_kl(runs),
                *figures,
            ]
        )
    return table(head, rows)


def milestone(runs, target, compilation=True) -> str:
    """ "12 (11–14)": the median and the range of the seconds to a KL, with the time of
    compilation or without.
    """
    times = [reached(run, target, compilation) for run in runs]
    passed = sorted(time for time in times if time is not None)
    if not passed:
        return MISSING
    text = f"{np.median(passed):.1f}"
    if len(passed) > 1:
        text += f" ({passed[0]:.1f}–{passed[-1]:.1f})"
    return text if len(passed) == len(runs) else f"{text}, {len(passed)} of {len(runs)}"


def final_kl(runs) -> str:
    kls = [run["kl"][-1] for run in runs]
    if len(kls) == 1:
        return f"{kls[0]:.4f} ± {runs[0]['kl_se']:.4f}"
    return f"{np.mean(kls):.4f} ({min(kls):.4f}–{max(kls):.4f})"


def against_the_book(races) -> str:
    """The sentence that holds our flows against the book's: where its training ends,
    and when ours were there.
    """
    book = next((runs[0] for name, runs in races.items() if "book" in name), None)
    if book is None:
        return ""
    end, seconds = book["kl"][-1], book["seconds"][-1]
    sentences = [f"The book's model ends at {end:.4f} nats after {seconds:.0f} s."]
    for name, runs in races.items():
        times = [reached(run, end) for run in runs]
        if name.startswith("our ") and all(times):
            ours = np.median(times)
            sentences.append(
                f"O{name[1:]} is there after {ours:.1f} s, 1/{seconds / ours:.0f} of "
                "that."
            )
    return " ".join(sentences)


def compilation_table(races) -> str:
    """Rows of models that are compiled: how long that takes, and the milestone 0.02
    without it.
    """
    rows = []
    for name, runs in races.items():
        compiling = np.median([run["compile_seconds"] for run in runs])
        if compiling > 0.5:
            without = milestone(runs, 0.02, compilation=False)
            epoch = np.median([run["epoch_seconds"] for run in runs])
            rows.append([name, f"{compiling:.1f}", f"{epoch:.2f}", without])
    head = [
        "compiled models",
        "compilation (s)",
        "an epoch (s)",
        "seconds to 0.02 without compilation",
    ]
    return table(head, rows) if rows else ""


def equal_table(equals) -> str:
    head = [
        "library",
        "step (ms)",
        "10,000 densities (ms)",
        "10,000 samples (ms)",
        "parameters",
        "with",
    ]
    rows = []
    for name, (result, *_) in equals.items():
        figures = [
            f"{result[key]:.1f}" for key in ("step_ms", "density_ms", "sample_ms")
        ]
        rows.append([name, *figures, f"{result['parameters']:,}", result["versions"]])
    return table(head, rows)


def scale_table(axis, rows) -> str:
    head = [
        axis,
        "step (ms)",
        "10,000 densities (ms)",
        "10,000 samples (ms)",
        "parameters",
        "peak memory (MB)",
    ]
    keys = ("step_ms", "density_ms", "sample_ms")
    return table(head, [
        [
            str(row[axis]),
            *(f"{row[key]:.1f}" for key in keys),
            f"{row['parameters']:,}",
            f"{row['memory_mb']:.0f}",
        ]
        for row in rows
    ])  # fmt: skip


# ------------------------------------------------------------------ README and picture


def main_rows(races) -> str:
    """What the README quotes: for each model the seconds to two milestones, and where
    it ends.
    """
    rows = []
    for name, runs in races.items():
        seconds = np.median([run["seconds"][-1] for run in runs])
        rows.append(
            [
                name,
                milestone(runs, 0.05),
                milestone(runs, 0.02),
                final_kl(runs),
                f"{seconds:.0f}",
            ]
        )
    results = [(None, run) for runs in races.values() for run in runs]
    head = [
        "two moons",
        "seconds to 0.05 nats",
        "seconds to 0.02 nats",
        "KL at the end (nats)",
        "training in all (s)",
    ]
    said = f"{against_the_book(races)} {where(results)}".strip()
    return f"{table(head, rows)}\n\n{said}"


def quote(readme: Path, rows: str) -> None:
    """Puts the rows between the two marks in the README; leaves a README without them
    as it is.
    """
    text = readme.read_text("utf-8")
    changed = re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{rows}\n{END}",
        text,
        flags=re.S,
    )
    if changed != text:
        readme.write_text(changed, "utf-8")


def draw(races, path: Path) -> None:
    """KL against seconds of training, on logarithmic scales, a line for each seed."""
    figure, axis = plt.subplots(figsize=(plots.WIDTH, 4.6))
    for number, (name, runs) in enumerate(races.items()):
        colour, marker = (
            plots.COLOURS[number % len(plots.COLOURS)],
            "osD^vPX*hp"[number % 10],
        )
        for index, run in enumerate(runs):
            label = name if index == 0 else None
            axis.plot(
                run["seconds"],
                np.maximum(run["kl"], 1e-3),
                color=colour,
                linewidth=1.1,
                alpha=0.75,
            )
            axis.plot(
                run["seconds"][-1:],
                run["kl"][-1:],
                marker,
                color=colour,
                label=label,
                markersize=7,
            )
    for target in MILESTONES:
        axis.axhline(target, color="0.8", linewidth=0.7, zorder=0)
    axis.set(xscale="log", xlabel="seconds of training, compilation included")
    axis.set(yscale="log", ylabel="KL to the truth (nats)", ylim=(None, 1.0))
    longest = max(run["seconds"][-1] for runs in races.values() for run in runs)
    seconds = [
        tick
        for tick in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
        if tick <= 1.5 * longest
    ]
    axis.set_xticks(seconds, [f"{tick:,}" for tick in seconds])
    axis.set_yticks(MILESTONES, [f"{target:g}" for target in MILESTONES])
    axis.minorticks_off()
    axis.legend(
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        title="a mark where each training ends",
    )
    with plt.rc_context(
        {"svg.hashsalt": "benchmark"}
    ):  # the same names in the file at each writing
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
