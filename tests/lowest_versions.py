"""Print the lowest versions that `pyproject.toml` allows for a plain install, as pip constraints.

Run by `make test-versions` on Python 3.10, which has no TOML reader: the list is read line by line.
"""

import re
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions(text: str) -> list[str]:
    """`numpy>=1.24` in `[project] dependencies` gives `numpy==1.24.*`.

    Args:
        text: the content of a pyproject.toml with one dependency a line.

    Raises:
        ValueError: if a dependency has no lower bound.
    """
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None, "pyproject.toml has no list of dependencies"
    constraints = []
    for requirement in re.findall(r'"([^"]+)"', block[1]):
        bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if bound is None:
            raise ValueError(f"{requirement} has no plain lower bound, such as numpy>=1.24")
        constraints.append(f"{bound[1]}=={bound[2]}.*")
    return constraints


if __name__ == "__main__":
    print("\n".join(lowest_versions(PYPROJECT.read_text(encoding="utf-8"))))
