"""Check that the version is the same everywhere and is in CHANGELOG.md; `make release` runs it."""

import datetime
import re
import sys
from pathlib import Path

from samus_edge import __version__

REPOSITORY = Path(__file__).parents[1]


def release_problems(version: str, changelog: str, citation: str) -> list[str]:
    """What keeps a version from being released.

    Args:
        version: as in `samus_edge.__version__`, where alone it is written by hand.
        changelog: the text of CHANGELOG.md, in the form of Keep a Changelog.
        citation: the text of CITATION.cff.
    """
    problems = []
    heads = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", changelog, re.MULTILINE)
    if not heads or heads[0][0] != "Unreleased":
        problems.append("CHANGELOG.md does not begin with ## [Unreleased]")
    released = dict(heads)
    if version not in released:
        problems.append(f"CHANGELOG.md has no ## [{version}] - YYYY-MM-DD")
    for name, date in heads:
        if name == "Unreleased":
            continue
        try:
            datetime.date.fromisoformat(date)
        except ValueError:
            problems.append(f"CHANGELOG.md: [{name}] has no date YYYY-MM-DD, but {date!r}")
    if f"\nversion: {version}\n" not in citation:
        problems.append(f"CITATION.cff is not of version {version}")
    return problems


if __name__ == "__main__":
    texts = [(REPOSITORY / name).read_text("utf-8") for name in ("CHANGELOG.md", "CITATION.cff")]
    found = release_problems(__version__, *texts)
    print("\n".join(found) if found else f"{__version__}: version, changelog and citation agree")
    sys.exit(bool(found))
