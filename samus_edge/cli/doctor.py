"""`samus-edge doctor`: what is there, what is missing, and the command that installs it."""

import typer

from samus_edge.cli.options import AsJson, print_json

_MARKS = {"ok": "ok  ", "note": "note", "problem": "FAIL"}
_EXIT_FAILED = 1


def command(as_json: AsJson = False) -> None:
    """Look at this machine: versions, GPUs, TensorRT, engines, and which backends work.

    Every backend that could work segments a frame. Nothing is changed, and nothing is sent.

    Exit codes: 0 what is needed works; 1 something is broken.
    """
    # Here, so that --help answers at once.
    from samus_edge.jobs.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_json())
    else:
        width = max(len(finding.topic) for finding in diagnosis.findings)
        for finding in diagnosis.findings:
            text = " ".join(finding.text.split())
            typer.echo(f"{_MARKS[finding.level]}  {finding.topic:<{width}}  {text}")
            if finding.remedy:
                typer.echo(f"{'':{width + 8}}-> {finding.remedy}")
    if diagnosis.has_problem:
        raise typer.Exit(_EXIT_FAILED)
