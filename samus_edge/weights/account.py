"""Account of a weight transfer: which tensors were taken, adapted, new or left over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightAccount:
    """What happened to every tensor of a model and of the checkpoint that it was started from.

    Attributes:
        source: what the weights were loaded from.
        taken: model tensors copied unchanged.
        adapted: model tensors computed from a checkpoint tensor, with how.
        new: model tensors that keep their own initial value.
        left_over: checkpoint tensors that no model tensor uses.
    """

    source: str
    taken: tuple[str, ...]
    adapted: dict[str, str]
    new: tuple[str, ...]
    left_over: tuple[str, ...]

    def summary(self) -> str:
        """Several lines for a log: counts, then every adapted tensor and the new ones by part."""
        lines = [
            f"weights from {self.source}: {len(self.taken)} tensors taken, "
            + f"{len(self.adapted)} adapted, {len(self.new)} new, {len(self.left_over)} left over"
        ]
        lines += [f"  adapted  {name}: {how}" for name, how in self.adapted.items()]
        parts: dict[str, int] = {}
        for name in self.new:
            part = _place(name)
            parts[part] = parts.get(part, 0) + 1
        lines += [f"  new      {part}: {count} tensors" for part, count in parts.items()]
        lines += [f"  left over  {name}" for name in self.left_over]
        return "\n".join(lines)


def _place(name: str) -> str:
    """Where a tensor is, with one line for all blocks: `image_encoder.blocks.*.adapter`."""
    levels = name.split(".")
    if len(levels) > 3 and levels[2].isdecimal():
        levels[2] = "*"
        return ".".join(levels[:4])
    return ".".join(levels[:2])
