"""Links from a page of the documentation to a file of the repository lead to it on the web.

In a checkout and on the repository's site `../benchmarks/results/x.json` works as it stands; the
built site holds docs/ alone.
"""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs calls this with the text of each page.

    Raises:
        FileNotFoundError: if a page links to a file that the repository does not have.
    """
    root = Path(config["config_file_path"]).parent

    def absolute(found: re.Match[str]) -> str:
        if not (root / found[1]).exists():
            raise FileNotFoundError(
                f"docs/{page.file.src_uri} links to ../{found[1]}, which does not exist"
            )
        return f"]({config['repo_url']}/blob/main/{found[1]}"

    return _LINK.sub(absolute, markdown)
