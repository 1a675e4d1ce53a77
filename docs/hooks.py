"""Run by mkdocs: what the site's Markdown writes otherwise than GitHub's, and griffe than numpydoc."""

from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    r"""A pipe in the code of a table is ``\|`` in GitHub's Markdown; "array-like" is no difference."""
    return html.replace(r"\|", "|").replace("array - like", "array-like")
