"""The public names of the runtime: complete, documented by examples that run, and enough for the
docs."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import samus_edge.runtime as public

REPOSITORY = Path(__file__).parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
EXAMPLES = sorted((REPOSITORY / "examples").rglob("*.py"))
EXAMPLED = (
    "Segmenter",
    "default_bundle_path",
    "draw_overlay",
    "measure_lesion",
    "open_cine",
    "read_image",
)


def test_the_names_are_sorted_and_documented() -> None:
    assert list(public.__all__) == sorted(public.__all__)
    for name in public.__all__:
        assert inspect.getdoc(getattr(public, name)), name


@pytest.mark.parametrize("name", EXAMPLED)
def test_its_example_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = getattr(public, name)
    # What the example needs beside the name itself it imports, or it is public too.
    names = {each: getattr(public, each) for each in public.__all__}
    (test,) = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(found, name, globs=names)
        if test.examples
    ]
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.name)
def test_docs_and_examples_import_nothing_deeper(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:from|import) (samus_edge[\w.]*)", text, re.MULTILINE)
    assert set(imported) <= {"samus_edge", "samus_edge.runtime"}
