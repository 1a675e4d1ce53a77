"""The figures of the documentation's pages: runs the code of the pages, which saves them.

Usage: python doc_figures.py [folder]     writes the figures in the folder (default: docs/figures)
"""

import os
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

DOCS = Path(__file__).resolve().parent.parent / "docs"
texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
pages = {name: text for name, text in texts.items() if "savefig(" in text}
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "figures"
folder.mkdir(parents=True, exist_ok=True)
os.chdir(folder)
for name, text in pages.items():
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)), {})
    print(name)
