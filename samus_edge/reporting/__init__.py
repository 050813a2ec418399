"""Pages, figures and contact sheets, drawn from plain records."""

__all__: list[str] = []
