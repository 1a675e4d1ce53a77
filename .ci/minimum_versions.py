"""Print the least versions that pyproject.toml allows, as requirements of exactly these, for pip."""

import tomllib
from pathlib import Path

NOT_RUN = ("mypy", "ruff")  # linters: one version of these is enough

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    if not requirement.startswith(NOT_RUN):
        print(requirement.replace(">=", "=="))
