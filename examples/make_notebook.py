"""Make `from_image_to_bundle.ipynb`, with its outputs, from `from_image_to_bundle.py`.

Needs `pip install '.[export]' nbclient ipykernel`, and as long as the notebook's fine-tuning. With
`--keep-outputs` nothing is executed: cells whose code is as before keep what they showed.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent / "from_image_to_bundle.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def cells_of(script: str) -> list[dict[str, Any]]:
    """The cells of a script in the percent format, as a notebook has them, without outputs.

    Args:
        script: its text, in which every cell begins with a line `# %%`.
    """
    cells: list[dict[str, Any]] = []
    for head, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", script, re.MULTILINE):
        text = body.strip("\n")
        metadata = {"tags": ["parameters"]} if "parameters" in head else {}
        cell: dict[str, Any] = {"id": f"cell-{len(cells)}", "metadata": metadata}
        if "[markdown]" in head:
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
            cell |= {"cell_type": "markdown"}
        else:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append({**cell, "source": text.splitlines(keepends=True)})
    return cells


def notebook_of(script: str) -> dict[str, Any]:
    """The notebook of a script, nbformat 4.5, without outputs."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells_of(script), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells; of pictures the smaller of PNG and JPEG."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.reads(json.dumps(notebook), as_version=4)
    NotebookClient(
        node, timeout=None, record_timing=False, resources={"metadata": {"path": SCRIPT.parent}}
    ).execute()
    done: dict[str, Any] = json.loads(nbformat.writes(node))
    for cell, run in zip(notebook["cells"], done["cells"], strict=True):
        for output in run.get("outputs", ()):
            data = output.get("data", {})
            if "image/jpeg" in data:
                data.pop("image/png", None)
        if cell["cell_type"] == "code":
            cell |= {key: run[key] for key in ("execution_count", "outputs")}
    return notebook


def main() -> None:
    """Write the notebook."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep-outputs", action="store_true", help="execute nothing")
    notebook = notebook_of(SCRIPT.read_text(encoding="utf-8"))
    if parser.parse_args().keep_outputs:
        earlier = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        known = {"".join(cell["source"]): cell for cell in earlier if cell["cell_type"] == "code"}
        for cell in notebook["cells"]:
            if (before := known.get("".join(cell["source"]))) is not None:
                cell |= {key: before[key] for key in ("execution_count", "outputs")}
    else:
        notebook = executed(notebook)
    NOTEBOOK.write_text(f"{json.dumps(notebook, indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
