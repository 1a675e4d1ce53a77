"""The documentation site: ``sphinx-build -W docs FOLDER`` makes it, with no network."""

import dataclasses
import importlib.metadata
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

import jaxlmm

project = "jaxlmm"
author = "The jaxlmm developers"
copyright = author
version = release = importlib.metadata.version("jaxlmm")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # MathJax's files beside the pages, in the place of a network's
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "jaxlmm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_sidebars = {"index": [], "changelog": []}
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button-field"],
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_exclude = ".linenos, .gp, .go"

FIELDS = {field.name for field in dataclasses.fields(jaxlmm.Fit)}


def of_a_result(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """Classes of results are not made by hand: no signature."""
    return ("", None) if what == "class" and dataclasses.is_dataclass(obj) else None


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Names of the package, written as code, lead to their docstrings: ``jaxlmm.fit(X, Y)``, ``fit.test(L)``."""
    objects = app.env.domains.python_domain.objects
    for literal in list(doctree.findall(nodes.literal)):
        if any(isinstance(parent, (nodes.reference, nodes.title, pending_xref)) for parent in ancestors(literal)):
            continue
        found = re.fullmatch(r"(jaxlmm\.|fit\.|Fit\.|)([A-Za-z_][\w.]*)(\(.*\))?", literal.astext(), re.S)
        if not found or not (found[1] or docname == "api"):
            continue
        tries = [f"jaxlmm.{found[2]}", f"jaxlmm.Fit.{found[2]}", f"jaxlmm.plots.{found[2]}"]
        if found[1] in ("fit.", "Fit."):
            tries = ["jaxlmm.Fit" if found[2] in FIELDS else tries[1]]
        elif docname == "api" and found[2] in FIELDS:
            tries = ["jaxlmm.Fit"]
        name = next((name for name in tries if name in objects), None)
        if name is None:
            continue
        entry = objects[name]
        target = make_refnode(app.builder, docname, entry.docname, entry.node_id, literal.deepcopy(), name)
        literal.replace_self(target)


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """The nodes that hold this one."""
    out = []
    while node.parent is not None:
        node = node.parent
        out.append(node)
    return out


def setup(app: Sphinx) -> None:
    """What the site does beside its extensions."""
    app.connect("autodoc-process-signature", of_a_result)
    app.connect("doctree-resolved", link_names)
