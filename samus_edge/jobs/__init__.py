"""What the commands, the service and scripts all do: segment files, track a cine, examine the
machine."""

__all__: list[str] = []
