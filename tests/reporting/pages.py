"""Checks that every page has to pass."""

import html.parser
import re

VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """The text and the sources of images of a page whose tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def checked_page(document: str) -> Page:
    """A page that is whole, has no script and asks for nothing from elsewhere."""
    page = Page()
    page.feed(document)
    assert page.open == []
    assert all(re.match(r"data:image/[a-z+]+;base64,", image) for image in page.images)
    assert "<script" not in document and not re.search(r"https?://", document)
    page.text = re.sub(r"\s+", " ", page.text)  # as a browser shows it
    return page
