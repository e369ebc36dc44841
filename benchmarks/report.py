"""What `make bench` writes: the tables in pages of docs/ and in the README, and two
pictures, all of what docs/bench/ keeps.

A page has prose by hand and, between two marks, tables by this module:
`<!-- NAME: written by make bench -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.measure import MILESTONES, reached
from benchmarks.rows import FOLDER, Row, rows_of, runs
from utils import course, plots

DOCS = course.ROOT / "docs"
MARKS = r"(<!-- {0}: written by `make bench` -->\n).*?(<!-- end of {0} -->)"
MISSING = "not reached"
LARGE = 1_000  # nats
BUSY = 0.1  # of the processors: more than that beside a row is said
HOW_AGAIN = 'To measure a row again: ROWS="RealNVP" make bench.'
OLD = {"Gaussian (4)", "30 Gaussians (4)", "kernel (4)"}  # models that are no flows
SHORT = {  # rows of the benchmark under other names than the leaderboard's
    "RealNVP (4)": "our RealNVP (chapter 4)",
    "spline flow (A4)": "our spline flow, by TFP (appendix A4)",
}


def write(folder: Path = FOLDER, docs: Path | None = None) -> list[Path]:
    """Writes all tables into `folder`/report.md or, with `docs`, into the pages there
    and the README beside it, with the pictures. Returns what was written.
    """
    if docs is None:
        texts = [f"## {name}\n\n{make(folder)}" for name, make in TABLES.items()]
        page = folder / "report.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n\n".join(texts) + "\n", "utf-8")
        return [page]
    written = []
    for page in [docs.parent / "README.md", *sorted(docs.glob("*.md"))]:
        text = page.read_text("utf-8")
        if (filled := fill(text, folder)) != text:
            page.write_text(filled, "utf-8")
            written.append(page)
    for name, draw in PICTURES.items():
        (docs / name).write_text(draw(folder), "utf-8")
        written.append(docs / name)
    return written


def fill(text: str, folder: Path = FOLDER) -> str:
    """A page with today's tables between its marks."""
    for name, make in TABLES.items():
        pattern = MARKS.format(re.escape(name))
        if re.search(pattern, text, re.S):
            table = make(folder)
            replaced = rf"\g<1>{_escaped(table)}\n\g<2>"
            text = re.sub(pattern, replaced, text, flags=re.S)
    return text


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\")


def faults() -> list[str]:
    """A line for each page whose tables are not those of docs/bench/."""
    pages = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
    texts = ((page, page.read_text("utf-8")) for page in pages)
    return [
        f"{page.name}: its tables are not those of docs/bench: make bench"
        for page, text in texts
        if fill(text) != text
    ]


# ------------------------------------------------------------------ figures


def measured(part: str, folder: Path) -> list[tuple[Row, list[dict]]]:
    """The rows of a part that were measured, with their figures, seed by seed."""
    found = ((row, runs(part, row, folder)) for row in rows_of(part))
    return [(row, figures) for row, figures in found if figures]


def number(value) -> float:
    """A kept figure as a number; "inf" is infinite."""
    return float(value)


def nats(value) -> str:
    """A KL: four digits after the point where it is small, none where it is large. A
    very large one is set by the few worst places, and only its size is said.
    """
    value = number(value)
    if not np.isfinite(value):
        return "inf"
    if abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:,.0f}" if value < LARGE else f"over {LARGE:,}"


def seconds(value) -> str:
    """Three digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(figures: list[dict], name: str, form=nats) -> str:
    """ "0.0095 (0.0088–0.0101)": the median over the seeds and their range."""
    values = sorted(number(run[name]) for run in figures if name in run)
    if not values:
        return ""
    middle = form(values[len(values) // 2] if len(values) % 2 else np.median(values))
    if len(values) == 1 or form(values[0]) == form(values[-1]):
        return middle
    between = "–" if values[0] >= 0 else " to "  # no dash before a minus
    return f"{middle} ({form(values[0])}{between}{form(values[-1])})"


def where(found: list[tuple[Row, list[dict]]]) -> str:
    """On which machine and when; rows of another machine, or timed beside other work,
    are named.
    """
    if not found:
        return "Nothing is measured yet: `make bench`."
    every = [run for _, figures in found for run in figures]
    usual = Counter(run["machine"] for run in every).most_common(1)[0][0]
    days = sorted({run["date"] for run in every})
    day = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    without = "" if "NVIDIA" in usual else ", without a GPU"
    said = [f"Measured by `make bench` on {usual}, {day}{without}."]
    for machine in sorted({run["machine"] for run in every} - {usual}):
        names = [
            row.name for row, f in found if any(run["machine"] == machine for run in f)
        ]
        said.append(f"On {machine}: {'; '.join(names)}.")
    busy = [row.name for row, f in found if any(run["busy"] >= BUSY for run in f)]
    if busy:
        said.append(f"Timed beside other work, at least one seed: {'; '.join(busy)}.")
    return " ".join(said)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ------------------------------------------------------------------ two moons


def ranked(folder: Path) -> list[tuple[Row, list[dict]]]:
    """The rows of the leaderboard, by the median KL over the plane; infinite ones come
    last.
    """
    found = [
        (row, figures)
        for row, figures in measured("moons", folder)
        if not (row.tuning or of_module(row, "contest") or of_module(row, "posterior"))
    ]

    def middle(figures, name):
        return float(np.median([number(run[name]) for run in figures]))

    return sorted(
        found, key=lambda pair: [middle(pair[1], k) for k in ("kl_plane", "kl_bulk")]
    )


def leaderboard(folder: Path) -> str:
    head = ["model (chapter)", "KL, plane", "KL, bulk", "compiling (s)", "training (s)"]
    head += ["parameters", "10,000 densities (ms)", "10,000 samples (ms)", "seeds"]
    rows, found = [], ranked(folder)
    for row, figures in found:
        cells = [row.name, spread(figures, "kl_plane"), spread(figures, "kl_bulk")]
        cells += [
            spread(figures, f"{k}_seconds", seconds) for k in ("compile", "train")
        ]
        count = figures[0].get("parameters")
        cells.append(f"{count:,}" if count else "")
        cells += [middle_of(figures, f"{k}_ms") for k in ("density", "sample")]
        rows.append([*cells, str(len(figures))])
    troubles = {
        f"{row.name}: {run['trouble']}"
        for row, figures in found
        for run in figures
        if "trouble" in run
    }
    return "\n\n".join([table(head, rows), *sorted(troubles), where(found)])


def short_leaderboard(folder: Path) -> str:
    """The README's: how far from the truth, and after how long."""
    rows, found = [], ranked(folder)
    for row, figures in found:
        cells = [spread(figures, "kl_plane"), in_all(figures)]
        rows.append([row.name, *cells])
    head = ["model (chapter)", "KL (nats)", "compiling and training (s)"]
    return "\n\n".join([table(head, rows), where(found)])


def middle_of(figures, name) -> str:
    values = [run[name] for run in figures if name in run]
    return seconds(float(np.median(values))) if values else ""


def trials(folder: Path) -> str:
    """What was tried before the settings of a row were chosen."""
    found = [pair for part in ("moons", "peers") for pair in measured(part, folder)]
    found = [
        (row, figures)
        for row, figures in found
        if row.tuning and not of_module(row, "contest")
    ]
    rows = []
    for row, (run,) in found:
        name, _, change = row.name.partition(", trial: ")
        total = run["compile_seconds"] + run["train_seconds"]
        nll = f"{number(run['validation_nll']):.4f}"
        rows.append([name, change, nll, nats(run["kl_bulk"]), seconds(total)])
    head = ["model", "changed", "validation NLL", "KL, bulk", "seconds"]
    return "\n\n".join([table(head, rows), where(found)])


def tails(folder: Path) -> str:
    """Each flow as its chapter has it, then with one thing changed."""
    plain = {row.name: (row, f) for row, f in measured("moons", folder)}
    changed = [p for p in measured("ladders", folder) if of_module(p[0], "tails")]
    rows, shown, found = [], set(), []
    for row, figures in changed:
        name, _, change = row.name.partition(", ")
        if name not in shown and name in plain:
            found.append(plain[name])
            rows.append([name, "as in its chapter", *_tail_cells(plain[name][1])])
        shown.add(name)
        found.append((row, figures))
        rows.append([name, change, *_tail_cells(figures)])
    head = ["flow (chapter)", "changed", "KL, plane", "KL, bulk", "seconds in all"]
    return "\n\n".join([table(head, rows), where(found)])


def of_module(row: Row, name: str) -> bool:
    """Whether it is one of the rows of benchmarks/<name>.py."""
    return row.run.__module__ == f"benchmarks.{name}"


def _tail_cells(figures) -> list[str]:
    return [*(spread(figures, f"kl_{k}") for k in ("plane", "bulk")), in_all(figures)]


def in_all(figures) -> str:
    """Seconds of compiling and training."""
    totals = [
        {"total": run["compile_seconds"] + run["train_seconds"]} for run in figures
    ]
    return spread(totals, "total", seconds)


# ------------------------------------------------------------------ time to a distance


def races(folder: Path) -> list[tuple[str, Row, list[dict]]]:
    """Our two flows, the libraries' and the book's: what has a KL epoch by epoch."""
    ours = [(r, f) for r, f in measured("moons", folder) if r.name in SHORT]
    peers = [p for p in measured("peers", folder) if "by_epoch" in p[1][0]]
    found = [*ours, *peers, *measured("book", folder)]
    return [(name_of(r), r, f) for r, f in found if not r.tuning]


def name_of(row: Row) -> str:
    compiled = ", by torch.compile" if row.settings.get("compile") else ""
    return SHORT.get(row.name, row.name) + compiled


def distance(folder: Path) -> str:
    """Seconds until the KL over the bulk is at most so many nats."""
    rows, found = [], races(folder)
    for name, row, figures in found:
        times = [milestone(figures, target) for target in MILESTONES]
        end = spread(figures, "kl_bulk")
        total = [run["by_epoch"]["seconds"][-1] for run in figures]
        parameters = f"{figures[0]['parameters']:,}"
        more = [end, seconds(float(np.median(total))), parameters]
        more += [str(row.settings[k]) for k in ("epochs", "batch")]
        rows.append([name, *times, *more, str(len(figures))])
    head = ["model", *(f"{target:g}" for target in MILESTONES)]
    head += ["KL, bulk, of what is kept", "seconds in all", "parameters"]
    head += ["epochs", "batch", "seeds"]
    return "\n\n".join([table(head, rows), where([(r, f) for _, r, f in found])])


def milestone(figures, target, compilation=True) -> str:
    """ "12 (11–never)": the median and the range of the seconds to a KL, with the
    time of compilation or without; a seed that does not get there never does.
    """
    times = [reached(run, target, compilation) for run in figures]
    every = [{"time": np.inf if time is None else time} for time in times]
    if all(time is None for time in times):
        return MISSING
    return spread(every, "time", lambda t: f"{t:.1f}" if t < np.inf else "never")


def compiling(folder: Path) -> str:
    """Rows that compile: how long that takes, and 0.02 nats without it."""
    rows = []
    for name, _, figures in races(folder):
        if figures[0]["compile_seconds"] > 0.3:
            cells = [spread(figures, "compile_seconds", seconds)]
            cells.append(spread(figures, "epoch_seconds", seconds))
            rows.append([name, *cells, milestone(figures, 0.02, compilation=False)])
    head = ["model", "compiling (s)", "an epoch (s)"]
    return table([*head, "seconds to 0.02 nats without compiling"], rows)


# ------------------------------------------------------------------ costs


def equal(folder: Path) -> str:
    found = [p for p in measured("peers", folder) if p[0].name.startswith("equal")]
    rows = []
    for row, (run, *_) in found:
        cells = [seconds(run[f"{k}_ms"]) for k in ("step", "density", "sample")]
        first = seconds(run["compile_seconds"]) if run["compile_seconds"] else ""
        cells += [first, f"{run['parameters']:,}", run["versions"]]
        rows.append([row.name.removeprefix("equal: "), *cells])
    head = ["library", "step (ms)", "10,000 densities (ms)", "10,000 samples (ms)"]
    head += ["compiling (s)", "parameters", "with"]
    return "\n\n".join([table(head, rows), where(found)])


def splines(folder: Path) -> str:
    found = [p for p in measured("ladders", folder) if of_module(p[0], "splines")]
    rows = []
    for row, figures in found:
        cells = [f"{figures[0]['nodes']:,}"]
        for name in ("trace", "xla", "compile", "epoch"):
            cells.append(spread(figures, f"{name}_seconds", seconds))
        rows.append([row.name, *cells])
    head = ["flow", "nodes of the gradient", "tracing it (s)", "XLA (s)"]
    head += ["compiling in training (s)", "an epoch (s)"]
    return "\n\n".join([table(head, rows), where(found)])


def ladder(folder: Path) -> str:
    """From the book's model to chapter 4's, one change a rung."""
    found = [p for p in measured("ladders", folder) if "schedule" in p[0].settings]
    found = [p for p in found if "by_epoch" in p[1][0]]
    rows = []
    for row, figures in found:
        last = [run["by_epoch"]["kl_bulk"][-10:] for run in figures]
        every = [np.inf if kl is None else kl for some in last for kl in some]
        cells = [spread(figures, "kl_bulk"), f"{nats(min(every))}–{nats(max(every))}"]
        cells += [
            spread(figures, f"{k}_seconds", seconds) for k in ("epoch", "compile")
        ]
        rows.append([row.name, *cells, f"{figures[0]['parameters']:,}"])
    head = ["change", "KL, bulk, after 30 epochs", "over the last 10, all seeds"]
    head += ["an epoch (s)", "compiling (s)", "parameters"]
    return "\n\n".join([table(head, rows), where(found)])


def loops(folder: Path) -> str:
    """What an epoch costs by who runs the loop over its steps."""
    found = [p for p in measured("ladders", folder) if "loop" in p[0].settings]
    rows = []
    for row, figures in found:
        size, _, name = row.name.removeprefix("loop, ").partition(": ")
        cells = [spread(figures, f"{k}_seconds", seconds) for k in ("epoch", "compile")]
        rows.append([name, size, *cells])
    head = ["who runs the loop", "couplings × width × layers"]
    head += ["an epoch (s)", "the first one, more (s)"]
    return "\n\n".join([table(head, rows), where(found)])


def digits(folder: Path) -> str:
    """Densities in 64 dimensions."""
    found = [p for p in measured("images", folder) if of_module(p[0], "digits")]
    rows = []
    for row, figures in found:
        name, _, data = row.name.partition(", ")
        chosen = Counter(run["chosen"] for run in figures).most_common()
        cells = [spread(figures, "nats", lambda value: f"{value:.1f}")]
        cells += [str(figures[0]["tries"]), "; ".join(name for name, _ in chosen)]
        rows.append([data, name, *cells, spread(figures, "seconds", seconds)])
    head = [
        "data",
        "model",
        "nats an image",
        "tries",
        "chosen",
        "seconds for all tries",
    ]
    return "\n\n".join([table(head, rows), where(found)])


def contest(folder: Path) -> str:
    """Known densities in 8 and 32 dimensions: a line a contestant and density."""
    found = [p for p in measured("moons", folder) if of_module(p[0], "contest")]
    scores = {row.name: figures for row, figures in found if row.tuning}
    rows = []
    for row, figures in found:
        if row.tuning:
            continue
        name, _, density = row.name.partition(", ")
        trials = [
            f"{trial.partition('trial: ')[2]}: {figures[0]['validation_kl']:.2f}"
            for trial, figures in scores.items()
            if trial.startswith(f"{row.name}, trial")
        ]
        cells = [spread(figures, "kl", "{:.2f}".format), "; ".join(trials)]
        cells += [f"{figures[0]['parameters']:,}"]
        rows.append([density, name, *cells])
    rows.sort(key=lambda row: row[0])  # the rows of a density keep their order
    head = ["density", "model", "KL", "its trials, KL on validation points"]
    return "\n\n".join([table([*head, "parameters"], rows), where(found)])


def posterior(folder: Path) -> str:
    """Chapter 5's posterior: both divergences, and the draws on one ridge."""
    found = [p for p in measured("moons", folder) if of_module(p[0], "posterior")]
    rows = []
    for row, figures in found:
        on_one = [min(run["fraction"], 1 - run["fraction"]) for run in figures]
        both = sum(part > 0.05 for part in on_one)
        cells = [spread(figures, "kl_reverse", "{:.3f}".format)]
        cells.append(f"{both} of {len(figures)}")
        cells.append(spread(figures, "train_seconds", seconds))
        rows.append([row.name.partition(", ")[2], *cells])
    head = ["family", "KL(q ‖ p)", "both ridges", "training (s)"]
    return "\n\n".join([table(head, rows), where(found)])


def limits(folder: Path) -> str:
    """NICE pushed towards its floor, and the thread between the moons."""
    found = [p for p in measured("ladders", folder) if of_module(p[0], "limits")]
    rows = []
    for row, figures in found:
        cells = [spread(figures, f"kl_{k}") for k in ("plane", "bulk")]
        cells.append(spread(figures, "log_pass", "{:.1f}".format))
        cells.append(spread(figures, "train_seconds", seconds))
        rows.append([row.name, *cells, f"{figures[0]['parameters']:,}"])
    head = ["flow", "KL, plane", "KL, bulk", "log q at the pass", "training (s)"]
    return "\n\n".join([table([*head, "parameters"], rows), where(found)])


def few(folder: Path) -> str:
    """Chapter 5's chain on 800 points."""
    found = [p for p in measured("ladders", folder) if of_module(p[0], "few")]
    names = ("kl_bulk", "kl_plane", "training_nll", "validation_nll")
    rows = []
    for row, figures in found:
        cells = [spread(figures, name) for name in (*names, "best_validation_nll")]
        rows.append([row.name.partition(", ")[2], *cells])
    head = ["of the chain", "KL, bulk", "KL, plane", "training NLL, last epoch"]
    head += ["validation NLL, last epoch", "validation NLL, best epoch"]
    return "\n\n".join([table(head, rows), where(found)])


def rungs(folder: Path) -> str:
    """Chapter 6's models of small images, one change a rung."""
    found = [p for p in measured("ladders", folder) if of_module(p[0], "rungs")]
    rows = []
    for row, figures in found:
        bits = spread(figures, "bits_per_dim", lambda value: f"{float(value):.3f}")
        cells = [bits, f"{figures[0]['parameters']:,}"]
        rows.append([row.name.removesuffix(" (6)"), *cells])
    head = ["rung", "bits per dimension", "weights"]
    return "\n\n".join([table(head, rows), where(found)])


def triangular(folder: Path) -> str:
    """Chapter 7's flow with both kinds of layers, and with one."""
    found = [p for p in measured("moons", folder) if p[0].name == "MintNet (7)"]
    found += [p for p in measured("ladders", folder) if of_module(p[0], "triangular")]
    rows = []
    for row, figures in found:
        cells = [spread(figures, f"kl_{k}") for k in ("plane", "bulk")]
        rows.append([row.name, *cells, spread(figures, "train_seconds", seconds)])
    head = ["eight layers", "KL, plane", "KL, bulk", "training (s)"]
    return "\n\n".join([table(head, rows), where(found)])


def autoencoders(folder: Path) -> str:
    """Chapter 1's networks beside principal components."""
    found = [p for p in measured("images", folder) if of_module(p[0], "autoencoders")]
    rows = []
    for row, figures in found:
        forms = {
            "cross_entropy": "{:.4f}",
            "rmse": "{:.4f}",
            "neighbours_right": "{:.1%}",
        }
        for way in ("normal", "box", "gaussian", "mixture"):
            forms |= {f"none_{way}": "{:.1%}", f"class_{way}": "{:.1%}"}
        rows.append(
            [row.name, *(spread(figures, k, f.format) for k, f in forms.items())]
        )
    head = ["model", "cross-entropy", "RMSE", "neighbours right"]
    for way in ("standard normal", "box", "Gaussian", "mixture"):
        head += [f"{way}: like none", "wrong class"]
    return "\n\n".join([table(head, rows), where(found)])


LIKENESS = {
    "normal": "standard normal",
    "box": "box",
    "gaussian": "Gaussian",
    "mixture": "mixture",
}


def variational(folder: Path) -> str:
    """Chapter 2's large VAEs: losses, and what is drawn from their latent spaces."""
    found = [
        (row, figures)
        for row, figures in of_modules_rows(folder, "variational", "")
        if not row.name.startswith("small")
    ]
    forms = {"loss": "{:.2f}", "reconstruction_loss": "{:.2f}", "kl_loss": "{:.2f}"}
    forms |= {"cross_entropy": "{:.4f}", "distance_from_normal": "{:.3f}"}
    forms |= {"limit": "{:.3f}"}
    head = ["model", "loss", "reconstruction", "KL", "cross-entropy of μ"]
    head += ["draws from normal", "limit"]
    for way, words in LIKENESS.items():
        forms |= {f"none_{way}": "{:.1%}", f"strict_{way}": "{:.1%}"}
        forms |= {f"class_{way}": "{:.1%}"}
        head += [f"{words}: like none", "by chapter 1's limit", "wrong class"]
    rows = [
        [row.name, *(spread(figures, k, f.format) for k, f in forms.items())]
        for row, figures in found
    ]
    return "\n\n".join([table(head, rows), where(found)])


def betas(folder: Path) -> str:
    """Chapter 2's small VAEs, by the weight of the KL term."""
    found = of_modules_rows(folder, "variational", "small VAE")
    forms = {"reconstruction": "{:.1f}", "kl": "{:.2f}"}
    forms |= {"distance_from_normal": "{:.3f}", "epochs": "{:.0f}"}
    rows = []
    for row, figures in found:
        cells = [spread(figures, k, f.format) for k, f in forms.items()]
        dims = [
            ", ".join(f"{v:.1f}" for v in run["kl_by_dimension"]) for run in figures
        ]
        rows.append([row.name, *cells, dims[0] if dims else ""])
    head = ["model", "reconstruction (nats)", "KL (nats)", "draws from normal"]
    head += ["epochs", "KL by coordinate, first seed (nats)"]
    return "\n\n".join([table(head, rows), where(found)])


def levels(folder: Path) -> str:
    """Appendix A3's VAEs."""
    found = of_modules_rows(folder, "likelihood", "")
    forms = {"elbo_nats": "{:.1f}", "bound_nats": "{:.1f}", "kl": "{:.2f}"}
    forms |= {"bits_per_dim": "{:.3f}"}
    rows = [
        [row.name, *(spread(figures, k, f.format) for k, f in forms.items())]
        for row, figures in found
    ]
    head = ["model", "minus ELBO (nats)", "minus the bound of 64 draws (nats)"]
    return "\n\n".join(
        [table([*head, "KL (nats)", "bits per dimension"], rows), where(found)]
    )


def blur(folder: Path) -> str:
    """Chapter 3's VAEs for faces, each another cause of blur."""
    found = of_modules_rows(folder, "faces", "")
    forms = {"mean_squared_error": "{:.5f}", "sharpness": "{:.3f}", "sigma": "{:.3f}"}
    forms |= {"kl": "{:.1f}"}
    rows = [
        [
            row.name.removeprefix("faces, "),
            *(spread(figures, k, f.format) for k, f in forms.items()),
        ]
        for row, figures in found
    ]
    head = ["model", "mean squared error", "sharpness", "σ", "KL (nats)"]
    return "\n\n".join([table(head, rows), where(found)])


def of_modules_rows(folder: Path, module: str, begins: str) -> list:
    """The measured rows of a module of PART=images whose names begin so."""
    return [
        (row, figures)
        for row, figures in measured("images", folder)
        if of_module(row, module) and row.name.startswith(begins)
    ]


def images(folder: Path) -> str:
    """Chapter 7's MintNet and Glow on small images, and what was tried before."""
    found = [p for p in measured("images", folder) if of_module(p[0], "images")]
    chosen = [pair for pair in found if not pair[0].tuning]
    rows = []
    for row, figures in chosen:
        tries = [
            f"{trial.settings['peak']:g}: {run['bits_per_dim']:.3f}"
            for trial, (run, *_) in found
            if trial.tuning == row.name
        ]
        cells = [spread(figures, "bits_per_dim", "{:.3f}".format), "; ".join(tries)]
        cells.append(spread(figures, "train_seconds", seconds))
        cells.append(spread(figures, "sample_ms", "{:.0f}".format))
        rows.append([row.name, *cells, f"{figures[0]['parameters']:,}"])
    head = ["model (chapter)", "bits per dimension", "its trials: peak, bits"]
    head += ["training (s)", "100 samples (ms)", "parameters"]
    return "\n\n".join([table(head, rows), where(found)])


TABLES = {
    "leaderboard": leaderboard,
    "short leaderboard": short_leaderboard,
    "trials": trials,
    "tails": tails,
    "distance": distance,
    "compiling": compiling,
    "equal": equal,
    "splines": splines,
    "ladder": ladder,
    "loops": loops,
    "contest": contest,
    "posterior": posterior,
    "limits": limits,
    "few": few,
    "rungs": rungs,
    "triangular": triangular,
    "digits": digits,
    "autoencoders": autoencoders,
    "variational": variational,
    "betas": betas,
    "levels": levels,
    "blur": blur,
    "images": images,
}

# ------------------------------------------------------------------ pictures


def board_picture(folder: Path) -> str:
    """The leaderboard, as SVG: both KLs of each model, and its seconds."""
    found = ranked(folder)
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(plots.WIDTH, 0.8 + 0.36 * len(found)),
        width_ratios=(3, 2),
        sharey=True,
    )
    top = 30.0  # nats: further right stands an arrow
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    for place, (row, figures) in enumerate(found):
        bulk, plane = (
            [number(run[f"kl_{k}"]) for run in figures] for k in ("bulk", "plane")
        )
        colour = "0.45" if row.name in OLD else plots.COLOURS[0]
        ends = np.clip([np.median(bulk), np.median(plane)], 1e-3, top)
        left.plot(ends, [place, place], color="0.8", zorder=1)
        left.plot(np.clip(bulk, 1e-3, top), [place] * len(bulk), "o", color=colour)
        within = [value for value in plane if value <= top]
        hollow = {
            "markerfacecolor": "white",
            "markeredgecolor": colour,
            "markersize": 9,
        }
        left.plot(within, [place] * len(within), "o", zorder=0, linestyle="", **hollow)
        if any(value > top for value in plane):
            left.plot([top], [place], ">", color=plots.COLOURS[1], clip_on=False)
            left.annotate(nats(max(plane)), (top, place), (7, 0), **beside)
        spans = [
            float(np.median([run[f"{k}_seconds"] for run in figures]))
            for k in ("compile", "train")
        ]
        right.barh(place, spans[0], 0.6, color="0.75")
        right.barh(place, spans[1], 0.6, left=spans[0], color=plots.COLOURS[2])
        right.annotate(seconds(sum(spans)), (sum(spans), place), (3, 0), **beside)
    left.set_yticks(range(len(found)), [row.name for row, _ in found])
    left.invert_yaxis()
    left.set(xscale="log", xlim=(2e-3, top), xlabel="KL to the truth (nats)")
    marks = [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]
    left.set_xticks(marks, [f"{mark:g}" for mark in marks])
    left.minorticks_off()
    left.set_title("filled: bulk   hollow: whole plane", fontsize=9)
    right.set(xlabel="seconds", xlim=(0, None))
    right.margins(x=0.15)
    right.set_title("compiling, then training", fontsize=9)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="0.92")
        axis.set_axisbelow(True)
    figure.subplots_adjust(wspace=0.34)
    return as_svg(figure, "leaderboard")


def race_picture(folder: Path) -> str:
    """KL over the bulk against seconds of training, a line for each seed."""
    figure, axis = plt.subplots(figsize=(plots.WIDTH, 4.6))
    longest = 1.0
    for place, (name, _, figures) in enumerate(races(folder)):
        colour = plots.COLOURS[place % len(plots.COLOURS)]
        marker = "osD^vPX*hp"[place % 10]
        for index, run in enumerate(figures):
            kls = np.array(run["by_epoch"]["kl_bulk"], float)
            times, label = run["by_epoch"]["seconds"], None if index else name
            axis.plot(times, np.maximum(kls, 1e-3), color=colour, lw=1.1, alpha=0.75)
            end = np.maximum(kls[-1:], 1e-3)
            axis.plot(times[-1:], end, marker, color=colour, label=label, markersize=7)
            longest = max(longest, times[-1])
    for target in MILESTONES:
        axis.axhline(target, color="0.8", linewidth=0.7, zorder=0)
    axis.set(xscale="log", xlabel="seconds of training, compilation included")
    axis.set(yscale="log", ylabel="KL over the bulk (nats)", ylim=(5e-3, 1.0))
    ticks = [t for t in (1, 3, 10, 30, 100, 300, 1_000, 3_000) if t <= 1.5 * longest]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_yticks(MILESTONES, [f"{target:g}" for target in MILESTONES])
    axis.minorticks_off()
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": 9}
    axis.legend(frameon=False, title="a mark where each training ends", **place)
    return as_svg(figure, "benchmark")


def as_svg(figure, salt: str) -> str:
    """A figure as SVG that is the same at each writing."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": salt}):
        figure.savefig(
            buffer,
            format="svg",
            bbox_inches="tight",
            facecolor="white",
            metadata={"Date": None},
        )
    plt.close(figure)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


PICTURES = {"leaderboard.svg": board_picture, "benchmark.svg": race_picture}
