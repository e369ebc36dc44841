"""How Sphinx makes the site: `make site`, and `make run` of its own executed copies.

tools/site.py lays the pages out as the repository has them and calls Sphinx with this.
Everything that a page needs lies beside it, so that it can be read with no network.
"""

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


def _inline(visitor, node):
    from docutils.nodes import SkipNode

    visitor.body.append(convert(node.astext().strip(), display="inline"))
    raise SkipNode


def _block(visitor, node):
    from docutils.nodes import SkipNode

    formula = convert(node.astext().strip(), display="block")
    visitor.body.append(f'<div class="math">{formula}</div>')
    raise SkipNode
