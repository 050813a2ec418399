"""List the packages; everything else is in pyproject.toml.

The folders `export/`, `runtime/` and `calibration/` are installed as `samus_edge.export`,
`samus_edge.runtime` and `samus_edge.calibration`. Every folder that is a package needs an
`__init__.py`.
"""

from setuptools import find_packages, setup

FOLDERS = ["samus_edge", "export", "runtime", "calibration"]

found = find_packages(include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)])
setup(packages=[p if p.split(".")[0] == "samus_edge" else f"samus_edge.{p}" for p in found])
