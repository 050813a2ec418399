"""How far a stage before the training itself is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        stage: its name.
        done: what is done: views, steps or cases.
        total: how many there are.
    """

    stage: str
    done: int
    total: int
