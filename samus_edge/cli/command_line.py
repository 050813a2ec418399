"""The command that runs, as its user would type it again."""

import os
import shlex
import sys

__all__ = ["command_line"]


def command_line(*, places: bool = True) -> str:
    """`samus-edge` with the arguments of this process, quoted for a shell.

    Args:
        places: whether paths are given whole; else by their last part, for what travels further than
            this machine.
    """
    arguments = sys.argv[1:]
    if not places:
        arguments = [os.path.basename(each.rstrip(os.sep)) or each for each in arguments]
    return shlex.join(["samus-edge", *arguments])
