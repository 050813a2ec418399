"""`samus-edge`, and `python -m samus_edge`."""

import sys


def main() -> int:
    """Run the command line; see `samus_edge.cli.app.main`."""
    try:  # Ctrl-C while modules are still being imported ends like any other
        from samus_edge.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
