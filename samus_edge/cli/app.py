"""The `samus-edge` command: one Typer app, one module per subcommand."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from samus_edge import __version__
from samus_edge.cli import (
    ablate,
    bench,
    build,
    calibrate,
    convert,
    data,
    doctor,
    export,
    infer,
    info,
    serve,
    track,
    train,
    verify,
)
from samus_edge.cli import eval as evaluation  # not to hide the builtin
from samus_edge.errors import JobInterruptedError, SamusEdgeError

__all__ = ["app", "main"]

EXIT_FAILED = 1
EXIT_BAD_ARGUMENT = 2
EXIT_INTERRUPTED = 130

# Of click's usage errors Typer exports only BadParameter. What all of them have in common is its base,
# both in the click that newer Typers bring along and in an installed one.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="samus-edge",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Promptable lesion segmentation in ultrasound, built for the edge. Not a medical device.",
)
# In the order in which they are met: first use, then make.
app.command("infer")(infer.command)
app.command("track")(track.command)
app.command("info")(info.command)
app.add_typer(data.app, name="data")
app.command("train")(train.command)
app.command("convert")(convert.command)
app.command("eval")(evaluation.command)
app.command("ablate")(ablate.command)
app.command("export")(export.command)
app.command("calibrate")(calibrate.command)
app.command("verify")(verify.command)
app.command("build")(build.command)
app.command("serve")(serve.command)
app.command("bench")(bench.command)
app.command("doctor")(doctor.command)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"samus-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code: 0 done; 1 the job failed; 2 an argument is wrong; 130 interrupted. For 1 and 2
        one line on stderr says why. What is none of these is a bug and ends in a traceback.
    """
    # Paths may hold bytes that are no text in this locale; they shall not make printing fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name="samus-edge",
            standalone_mode=False,
        )
    except _UsageError as err:
        return _fail(_usage_message(err), EXIT_BAD_ARGUMENT)
    except JobInterruptedError as err:
        return _fail(str(err), EXIT_INTERRUPTED)
    except SamusEdgeError as err:
        return _fail(str(err), EXIT_FAILED)
    except (ValueError, TypeError) as err:
        if not _is_raised_by_us(err):
            raise
        return _fail(str(err), EXIT_BAD_ARGUMENT)
    except OSError as err:
        return _fail(str(err), EXIT_FAILED)
    except MemoryError:
        return _fail("not enough memory. Use a smaller image or fewer prompts.", EXIT_FAILED)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    if result == EXIT_INTERRUPTED:  # what Typer makes of a first Ctrl-C
        return _fail("interrupted", EXIT_INTERRUPTED)
    return result if isinstance(result, int) else 0


def _fail(message: str, exit_code: int) -> int:
    """Say why in exactly one line, whatever the message holds."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return exit_code


def _usage_message(err: BaseException) -> str:
    """What is wrong with the command line itself, and where to look it up."""
    message = err.format_message() if hasattr(err, "format_message") else str(err)
    context = getattr(err, "ctx", None)
    path = "samus-edge" if context is None else context.command_path
    return f"{message} Try: {path} --help"


def _is_raised_by_us(err: BaseException) -> bool:
    """Whether an error comes from a check in this package, not from a library that it called."""
    traceback = err.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    module = str(traceback.tb_frame.f_globals.get("__name__", ""))
    return module.split(".")[0] == "samus_edge"


if __name__ == "__main__":
    sys.exit(main())
