"""Renders the drawings: notebooks/figures/NAME.svg to NAME.png at twice its size.

    python -m tools.figures [NAME …]

by Chromium, headless. A drawing of which anything sticks out of its view is named and
not rendered, so that a PNG is also a proof that nothing does. Each PNG holds the
fingerprint of its SVG, by which `make lint` sees that the two belong together.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PIL import Image, PngImagePlugin

from tools import chapters
from utils import course, plots

FIGURES = chapters.NOTEBOOKS / "figures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run".split()
FLAGS += ["--disable-background-networking", "--allow-file-access-from-files"]
MEASURE = """
<script>
const svg = document.querySelector("svg"), view = svg.viewBox.baseVal, out = [];
for (const e of svg.querySelectorAll("text, rect, circle, path, line, polygon")) {
  if (e.closest("defs")) continue;
  const b = e.getBBox();
  if (b.x < view.x || b.y < view.y || b.x + b.width > view.x + view.width
      || b.y + b.height > view.y + view.height) out.push(e.textContent || e.tagName);
}
document.body.innerHTML = "<pre>" + JSON.stringify(out) + "</pre>";
</script>
"""


def fingerprint(svg: Path) -> str:
    return hashlib.sha256(svg.read_bytes()).hexdigest()[:16]


def faults(folder: Path | None = None) -> list[str]:
    """What `make lint` has to say of the drawings and their PNGs."""
    found = []
    for svg in sorted((folder or FIGURES).glob("*.svg")):
        try:
            title, description = plots.words_of(svg)
        except (ElementTree.ParseError, course.CourseError) as error:
            found.append(f"{svg.name}: {error}")
            continue
        if "<script" in svg.read_text("utf-8"):
            found.append(f"{svg.name}: holds a script")
        png = svg.with_suffix(".png")
        stored = Image.open(png).text.get("svg") if png.exists() else None
        if stored != fingerprint(svg):
            found.append(f"{svg.name}: its PNG is missing or older: make figures")
    return found


def browser() -> str:
    """The command of a Chromium. Raises CourseError where there is none."""
    for name in BROWSERS:
        if shutil.which(name):
            return name
    raise course.CourseError(
        "Drawings are rendered by Chromium, which is not here: install it (Debian and "
        "Ubuntu: apt install chromium)."
    )


def run_browser(*arguments: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), *FLAGS, f"--user-data-dir={profile}", *arguments]
        settings = {"capture_output": True, "text": True, "timeout": 60}
        return subprocess.run(command, check=True, **settings).stdout


def outside(svg: Path) -> list[str]:
    """The words or shapes of a drawing that stick out of its view."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        content = f"<!doctype html><body>{svg.read_text('utf-8')}{MEASURE}</body>"
        page.write_text(content, "utf-8")
        shown = run_browser("--dump-dom", page.as_uri())
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", shown, re.S)[1]))


def render(svg: Path) -> None:
    """Writes the PNG beside an SVG."""
    root = ElementTree.parse(svg).getroot()
    width, height = (round(float(n)) for n in root.get("viewBox").split()[2:])
    with tempfile.TemporaryDirectory() as folder:
        shot, page = Path(folder, "shot.png"), Path(folder, "page.html")
        style = f"<style>body{{margin:0}} svg{{width:{width}px;display:block}}</style>"
        page.write_text(f"<!doctype html>{style}{svg.read_text('utf-8')}", "utf-8")
        size = f"--window-size={width},{height}"
        twice = "--force-device-scale-factor=2"
        run_browser(f"--screenshot={shot}", size, twice, page.as_uri())
        note = PngImagePlugin.PngInfo()
        note.add_text("svg", fingerprint(svg))
        picture = Image.open(shot).convert("RGB").crop((0, 0, 2 * width, 2 * height))
        with course.replacing(svg.with_suffix(".png")) as part:
            few = picture.quantize(64, dither=Image.Dither.NONE)
            few.save(part, "PNG", optimize=True, pnginfo=note)


def main(chosen: list[str]) -> int:
    failed = 0
    for svg in sorted(FIGURES.glob("*.svg")):
        if chosen and svg.stem not in chosen:
            continue
        sticks_out = outside(svg)
        if sticks_out:
            failed += 1
            print(f"{svg.name}: sticks out of its view: {', '.join(sticks_out)}")
        else:
            render(svg)
            print(f"{svg.stem}.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
