"""The tree of errors, and what is said of packages that are missing or do not load."""

import json
from importlib import metadata

import pytest

from samus_edge import errors

CLASSES = [name for name in errors.__all__ if name[0].isupper()]


def test_everything_but_a_bad_argument_has_one_root() -> None:
    for name in CLASSES:
        error = getattr(errors, name)
        if name != "BadArgumentError":
            assert issubclass(error, errors.SamusEdgeError)
            assert not issubclass(error, (ValueError, TypeError))
    assert issubclass(errors.BadArgumentError, ValueError)
    assert not issubclass(errors.BadArgumentError, errors.SamusEdgeError)


def test_the_documented_tree_is_complete() -> None:
    assert CLASSES == sorted(CLASSES)
    assert errors.__doc__ is not None
    for name in CLASSES:
        assert name in errors.__doc__


class _Installed:
    """A distribution as pip leaves it."""

    def __init__(self, origin: object) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        return None if self.origin is None else json.dumps(self.origin)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'samus-edge[train]'"),
        ({"url": "file:///src", "dir_info": {}}, "pip install '/src[train]'"),
        (
            {"url": "file:///src", "dir_info": {"editable": True}},
            "pip install -e '/src[train]'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, origin: object, expected: str
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: _Installed(origin))
    assert errors.install_command("train") == expected


def test_an_import_of_our_own_that_fails_is_not_explained() -> None:
    error = ModuleNotFoundError("No module named 'samus_edge.gone'", name="samus_edge.gone")
    assert errors.explain_import_error("x", error) is None


def test_a_missing_package_of_the_base_install_is_named() -> None:
    error = ModuleNotFoundError("No module named 'PIL'", name="PIL")
    explained = errors.explain_import_error("`samus-edge infer`", error)
    assert isinstance(explained, errors.MissingExtraError)
    assert "'Pillow'" in str(explained)
