"""How Sphinx makes the site: `make site`, and `make run` of its own executed copies.

tools/site.py lays the pages out as the repository has them and calls Sphinx with this.
Everything that a page needs lies beside it, so that it can be read with no network.
"""

import re
from itertools import zip_longest
from xml.etree import ElementTree

from latex2mathml.converter import convert

project = "Generative models, a notebook course"
author = "The authors of the course"
copyright = "2026, text and pictures under CC BY 4.0, code under MIT"
extensions = ["myst_nb", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["**/.ipynb_checkpoints", "notebooks/sources"]
nb_execution_mode = "off"  # outputs are those that the notebooks hold
nb_render_image_options = {"align": "left"}
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_js_files = ["sort.js"]
html_css_files = ["course.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}


def setup(app):
    """Formulas as MathML, which browsers draw by themselves, without a network."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer = "mathml"


MATHML = "http://www.w3.org/1998/Math/MathML"
THIN = "0.167em"  # TeX's space around the name of a function
SCRIPTS = "msub", "msup", "msubsup", "munder", "mover", "munderover"
OPENING, CLOSING = ("(", "[", "{"), (")", "]", "}")


def _mathml(formula, display):
    """A formula with TeX's spaces around log, det and the like, which MathML leaves out
    or makes as wide as around a sign, and with no space beside the bars of |t|.
    """
    ElementTree.register_namespace("", MATHML)
    math = ElementTree.fromstring(convert(formula, display=display))
    for row in list(math.iter()):
        for bar in [part for part in row if part.text == "|" and _is(part, "mo")]:
            bar.set("lspace", "0")
            bar.set("rspace", "0")
        parts = []
        for part, after in zip_longest(row, row[1:]):
            named = _names_a_function(part) and not _is(row, *SCRIPTS)
            before = parts[-1] if parts else None
            if named and before is not None:
                if not _is(before, "mo", "mspace") or before.text in CLOSING:
                    parts.append(_thin())
            parts.append(part)
            if named and after is not None:
                if not _is(after, "mspace") and after.text not in (*OPENING, *CLOSING):
                    parts.append(_thin())
        row[:] = parts
    return ElementTree.tostring(math, encoding="unicode")


def _names_a_function(part):
    """Whether it is log, det, … or that with an index; makes an identifier of it."""
    if _is(part, *SCRIPTS):
        return len(part) > 0 and _names_a_function(part[0])
    named = re.fullmatch("[a-zA-Z]{2,}", part.text or "") and _is(part, "mi", "mo")
    if named and _is(part, "mo"):
        part.tag = f"{{{MATHML}}}mi"
        part.attrib.clear()
    return bool(named)


def _thin():
    return ElementTree.Element(f"{{{MATHML}}}mspace", width=THIN)


def _is(part, *names):
    return part.tag.rpartition("}")[2] in names


def _inline(visitor, node):
    from docutils.nodes import SkipNode

    visitor.body.append(_mathml(node.astext().strip(), "inline"))
    raise SkipNode


def _block(visitor, node):
    """A formula in the middle and its number, if it has one, at the right."""
    from docutils.nodes import SkipNode

    formula, _, tag = node.astext().strip().partition(r"\tag{")
    number = f'<span class="eqno">({tag.rstrip("}")})</span>' if tag else ""
    written = _mathml(formula.strip(), "block")
    visitor.body.append(f'<div class="math">{written}{number}</div>')
    raise SkipNode
