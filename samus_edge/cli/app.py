"""The `samus-edge` command: one Typer app, one module per subcommand."""

import logging
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

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
    finetune,
    infer,
    info,
    serve,
    sign,
    track,
    train,
    verify,
)
from samus_edge.cli import eval as evaluation  # not to hide the builtin
from samus_edge.errors import (
    BadArgumentError,
    JobInterruptedError,
    SamusEdgeError,
    explain_import_error,
)

_ISSUES = "https://github.com/samus-edge/samus-edge/issues"
_logger = logging.getLogger("samus_edge")

EXIT_FAILED = 1
EXIT_BAD_ARGUMENT = 2
EXIT_INTERRUPTED = 130

# Of click's usage errors Typer exports only BadParameter. What all of them have in common is its
# base, both in the click that newer Typers bring along and in an installed one.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="samus-edge",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Promptable lesion segmentation in ultrasound, built for the edge. Not a medical device.",
)
# In the order in which they are met: first use, then make.
app.command("infer")(infer.command)
app.command("track")(track.command)
app.command("info")(info.command)
app.add_typer(data.app, name="data")
app.command("finetune")(finetune.command)
app.command("train")(train.command)
app.command("convert")(convert.command)
app.command("eval")(evaluation.command)
app.command("ablate")(ablate.command)
app.command("export")(export.command)
app.command("calibrate")(calibrate.command)
app.command("verify")(verify.command)
app.command("sign")(sign.command)
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
        arguments: without the program's name; None for those of this process. Without a command,
            the help is shown.

    Returns:
        The exit code: 0 done; 1 the job failed; 2 an argument is wrong; 130 interrupted. For 1, 2
        and 130 one line on stderr says why. Anything else is a bug: the line says so, the
        traceback follows, and the exit code is 1.
    """
    # Paths may hold bytes that are no text in this locale; they shall not make printing fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    named, depth = _named_command(command, words)
    if depth == len(words) and hasattr(named, "commands"):  # samus-edge, samus-edge data
        words.append("--help")
    try:
        _refuse_repeated(named, words)
        result = command.main(args=words, prog_name="samus-edge", standalone_mode=False)
    except _UsageError as err:
        return _fail(_usage_message(err, words), EXIT_BAD_ARGUMENT)
    except BadArgumentError as err:
        return _fail(str(err), EXIT_BAD_ARGUMENT)
    except JobInterruptedError as err:
        return _fail(str(err), EXIT_INTERRUPTED)
    except SamusEdgeError as err:
        return _fail(str(err), EXIT_FAILED)
    except ImportError as err:
        explained = explain_import_error(_command_name(words), err, extra=_extra_of(words))
        return _bug(err) if explained is None else _fail(str(explained), EXIT_FAILED)
    except OSError as err:
        return _fail(str(err), EXIT_FAILED)
    except MemoryError:
        return _fail("not enough memory. Use a smaller image or fewer prompts.", EXIT_FAILED)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as err:  # noqa: BLE001  # our own mistakes, which are said to be that
        return _bug(err)
    if result == EXIT_INTERRUPTED:  # what Typer makes of a first Ctrl-C
        return _fail("interrupted", EXIT_INTERRUPTED)
    return result if isinstance(result, int) else 0


def _bug(err: Exception) -> int:
    """Whatever is neither a wrong argument nor a failed job is our mistake: logged with its
    traceback."""
    _fail(
        f"this is a bug in samus-edge {__version__} ({type(err).__name__}). Please report it: "
        f"{_ISSUES}",
        1,
    )
    _logger.error("unhandled", exc_info=err)
    return EXIT_FAILED


def _command_name(words: Sequence[str]) -> str:
    named = next((word for word in words if not word.startswith("-")), "")
    return f"`samus-edge {named}`" if named else "`samus-edge`"


def _extra_of(words: Sequence[str]) -> str | None:
    """The extra of all that a command needs, not only of the package that it missed first."""
    return "export" if words and words[0] in ("export", "calibrate", "finetune") else None


def _named_command(command: Any, words: Sequence[str]) -> tuple[Any, int]:
    """The command that the first words name, or the group, and how many words that takes."""
    for depth, word in enumerate(words):
        found = getattr(command, "commands", {}).get(word)
        if found is None:
            return command, depth
        command = found
    return command, len(words)


def _refuse_repeated(command: Any, words: Sequence[str]) -> None:
    """An option that takes one value and is given twice would silently lose the first.

    Raises:
        BadArgumentError: naming the option.
    """
    once = {
        name: parameter
        for parameter in command.params
        if getattr(parameter, "nargs", 1) == 1 and not getattr(parameter, "multiple", False)
        for name in parameter.opts
        if name.startswith("--") and not getattr(parameter, "is_flag", False)
    }
    given = [word.partition("=")[0] for word in words]
    for name in once:
        if given.count(name) > 1:
            raise BadArgumentError(
                f"{name} is given {given.count(name)} times, and takes one value."
            )


def _fail(message: str, exit_code: int) -> int:
    """Say why in exactly one line, whatever the message holds."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return exit_code


def _usage_message(err: BaseException, words: Sequence[str]) -> str:
    """What is wrong with the command line itself, with the value, and where to look it up."""
    message = err.format_message() if hasattr(err, "format_message") else str(err)
    names = getattr(getattr(err, "param", None), "opts", ())
    parts = [part for word in words for part in word.split("=", 1)]
    value = next((after for name, after in pairwise(parts) if name in names), "")
    if value and value not in message:
        message = f"{message.rstrip('.')}, got {value!r}."
    context = getattr(err, "ctx", None)
    path = "samus-edge" if context is None else context.command_path
    return f"{message} Try: {path} --help"


if __name__ == "__main__":
    sys.exit(main())
