"""Which paths may be named in a bundle."""

import pytest

from samus_edge.runtime.bundle.bundle_files import is_safe_path


@pytest.mark.parametrize("path", ["a.onnx", "fp32/a.onnx", "..a", "a..b/c.", ".hidden", "ä ö"])
def test_plain_relative_paths_are_safe(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "/", "/etc/passwd", "a/../b", "a/..", "./a", "a//b", "a/"),
        *("C:", "C:a", "C:\\a", "C:/a", "\\\\server\\share", "a\\b", "..\\a", "a:stream"),
        *("a\0b", "a\nb", "a\x1bb", "\ud800", "*/_ORT_MEM_ADDR_/*", "a?", "x" * 256),
    ],
)
def test_paths_that_leave_the_folder_on_some_system_are_not(path: str) -> None:
    assert not is_safe_path(path)
