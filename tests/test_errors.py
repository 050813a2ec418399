"""The tree of errors."""

from samus_edge import errors


def test_everything_but_bad_arguments_has_one_root() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.SamusEdgeError)
        assert not issubclass(error, (ValueError, TypeError))


def test_the_documented_tree_is_complete() -> None:
    assert errors.__all__ == sorted(errors.__all__)
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__
