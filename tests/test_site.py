"""The site: made of stored outputs, links hold, words for pictures, failures named."""

import importlib.util
import re
from html.parser import HTMLParser

import nbformat
import pytest

from tools import chapters, site


@pytest.fixture
def built(whole_site):
    return whole_site


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.pictures, self.loaded = [], set(), [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.pictures.append(found)
        address = found.get("src") or (found.get("href") if tag == "link" else None)
        if address and found.get("rel") != "canonical":
            self.loaded.append(address)


def pages(folder):
    named = ("genindex.html", "search.html", "py-modindex.html")
    return [path for path in folder.rglob("*.html") if path.name not in named]


def test_every_chapter_and_page_is_there(built):
    for path in chapters.find([]):
        assert (built / "notebooks" / f"{path.stem}.html").exists()
    for name in ("index", "docs/companion", "docs/leaderboard", "CONTRIBUTING"):
        assert (built / f"{name}.html").exists()


def test_links_within_the_site_resolve(built):
    read = {path: Page(path) for path in pages(built)}
    for path, page in read.items():
        for link in page.links:
            if re.match(r"https?:|mailto:|javascript:", link) or link == "#":
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in read:
                assert anchor in read[target].ids, f"{path.name}: {link}"


def test_nothing_is_loaded_from_a_network(built):
    for path in pages(built):
        away = [a for a in Page(path).loaded if re.match(r"(https?:)?//", a)]
        assert not away, f"{path.name}: {away}"
        scripts = re.findall(r"<script[^>]*>", path.read_text("utf-8").lower())
        assert not any("mathjax" in script for script in scripts), path.name


def test_every_picture_has_words_of_its_own(built):
    for path in pages(built):
        for picture in Page(path).pictures:
            assert picture.get("alt"), f"{path.name}: {picture.get('src', '')[:60]}"
            assert not picture["alt"].startswith("../_images"), path.name


def test_formulas_are_mathml_and_solutions_are_folded(built):
    page = (built / "notebooks" / "04_realnvp.html").read_text("utf-8")
    assert page.count("<math") > 20 and "$$" not in re.sub(r"<pre>.*?</pre>", "", page)
    assert page.count("<details") >= 2


@pytest.fixture(scope="module")
def mathml():
    """`_mathml` of docs/conf.py; a thin space is <mspace /> here, without its width."""
    spec = importlib.util.spec_from_file_location("conf", site.DOCS / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    return lambda formula: conf._mathml(formula, "inline").replace(
        ' width="0.167em"', ""
    )


def test_names_of_functions_stand_apart_from_letters_and_not_from_brackets(mathml):
    space, log = "<mspace />", "<mi>log</mi>"
    assert f"<mi>a</mi>{space}<mi>tanh</mi>{space}<mi>v</mi>" in mathml(r"a \tanh v")
    assert f"<mrow>{log}{space}<mi>p</mi>" in mathml(r"\log p")
    assert f"{log}<mo" in mathml(r"\log(p)"), "no space before a bracket"
    assert f"<mn>2</mn></msub>{space}<mi>x</mi>" in mathml(r"\log_2 x")
    det = f'{log}{space}<mo lspace="0" rspace="0"'
    assert det in mathml(r"\log |W|").replace(' stretchy="false"', "")
    assert f"<mi>det</mi>{space}<mi>W</mi>" in mathml(r"\det W")
    squared = mathml(r"x \log_2^3 y")
    assert squared.count(space) == 2, "around the whole of it, not within"


def test_a_number_of_a_formula_stands_beside_it(built):
    page = (built / "notebooks" / "02_vae.html").read_text("utf-8")
    assert '<span class="eqno">(2.1)</span></div>' in page
    assert not re.search(r"<mtext>\(\d", page)


def test_what_a_solution_prints_is_folded_with_it(built):
    page = (built / "notebooks" / "08_ffjord.html").read_text("utf-8")
    before = page[: page.index("random pairs: paths")]
    assert before.rfind("<details") > before.rfind("</details>")


@pytest.fixture
def course_of(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(chapters, "NOTEBOOKS", folder)
    monkeypatch.setattr(site, "FIGURES", folder / "figures")
    for name in ("08_good", "09_bad"):
        cells = [nbformat.v4.new_markdown_cell(f"# Chapter {name}\n\ntext")]
        cells.append(nbformat.v4.new_code_cell("moons.load(9)"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    return tmp_path


def test_a_failed_chapter_says_so_on_its_page_and_on_the_first(course_of):
    source, copies = course_of / "source", course_of / "copies"
    copies.mkdir()
    for path in chapters.find([]):
        nbformat.write(chapters.read(path), copies / path.name)
    entry = {"profile": "quick", "data": "two moons", "machine": "a machine"}
    row = {"model": "far", "kl_bulk": 0.2, "kl_plane": "inf", "train_seconds": 3.0}
    results = {"08_good": entry | {"seconds": 90.0, "rows": [row]}}
    failures = {"09_bad": "cell 2 of 3: ValueError: no | luck"}
    site.lay_out(source, copies, results, failures)
    page = chapters.read(source / "notebooks" / "09_bad.ipynb")
    assert "This chapter failed at cell 2 of 3: ValueError" in page.cells[1].source
    first = (source / "index.md").read_text("utf-8")
    assert "| failed at cell 2 of 3: ValueError: no \\| luck |" in first
    assert "| two moons, quick profile | a machine | 1.5 min |" in first
    board = (source / "docs" / "leaderboard.md").read_text("utf-8")
    assert "| far (8) | inf | 0.2000 |  | 3 |" in board and ":class: sortable" in board
    assert board.count("| model") == 2, "the benchmark's rows, and those of this run"


def test_a_complaint_of_sphinx_stops_the_site_and_leaves_the_older_one(
    tmp_path, monkeypatch
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("older")
    (tmp_path / "site" / site.MARK).touch()

    def broken(source, *_):
        source.mkdir()
        (source / "index.md").write_text("# Title\n\n[nowhere](missing.md)\n")

    monkeypatch.setattr(site, "lay_out", broken)
    with pytest.raises(site.SiteError, match="missing.md"):
        site.build(tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "older"


def test_figures_of_readers_under_other_names_and_without_a_kl_are_left_out():
    row = {"model": "mine", "kl_plane": 0.1}
    bits = {"model": "Glow", "bits_per_dim": 3.4}
    others = {"my_flow": {"rows": [row]}, "06_glow": {"rows": [bits]}}
    assert site.own_figures(others) == ""
    old = {"08_old": {"rows": [{"model": "old", "kl": 0.5}]}}
    assert "| old (8) |  |  | 0.5000 |  |" in site.own_figures(others | old)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(site.SiteError, match="holds other files"):
        site.build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_reader_s_own_cells_do_not_withhold_the_site(tmp_path, monkeypatch, capsys):
    def broken(source, *_):
        source.mkdir()
        (source / "index.md").write_text("# Title\n\n[nowhere](missing.md)\n")

    monkeypatch.setattr(site, "lay_out", broken)
    site.build(tmp_path / "site", copies=tmp_path)
    assert (tmp_path / "site" / "index.html").exists()
    assert "missing.md" in capsys.readouterr().out
