"""The `xr` command: its sub-commands, and what its exit status says.

Exit status: 0 done, 1 it failed (a run, a service), 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.markup import escape

from gateway.client import GatewayError
from gateway.commands import (
    agents,
    benchmarks,
    datasets,
    demo,
    doctor,
    gallery,
    index,
    keys,
    output,
    plan,
    runs,
    scale,
    search,
    services,
    submission,
    sweep,
    up,
)
from gateway.commands.benchmarks import RunFailedError
from gateway.supervisor import ServiceFailedError
from shared.errors import PermanentError, XRError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="xr",
    help="Composed image retrieval by cross-modal agents: services, benchmarks, demo.",
    epilog="Exit status: 0 done, 1 failed, 2 usage or configuration, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command("demo-data")(demo.demo_data)
app.command()(up.up)
app.command()(scale.scale)
app.command()(services.gateway)
app.command()(services.coordinator)
app.command()(services.agent)
app.command()(benchmarks.bench)
app.add_typer(runs.runs_app, name="runs")
app.command()(sweep.sweep)
app.command()(plan.plan)
app.command()(search.search)
app.command()(benchmarks.cancel)
app.command()(agents.status)
app.command()(doctor.doctor)
app.add_typer(agents.dead_app, name="dead")
app.add_typer(datasets.datasets_app, name="datasets")
app.add_typer(index.index_app, name="index")
app.add_typer(gallery.gallery_app, name="gallery")
app.add_typer(keys.keys_app, name="keys")
app.add_typer(submission.submission_app, name="submission")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console command; ends the process with one of the statuses above."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Errors are told in one line."""
    try:
        status = app(args=list(arguments), prog_name="xr", standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        output.notes.print("interrupted")
        return INTERRUPTED
    except typer.TyperException as error:
        _tell_usage_error(error)
        return USAGE
    except XRError as error:
        output.notes.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return exit_status(error)
    return status if isinstance(status, int) else DONE


def _tell_usage_error(error: typer.TyperException) -> None:
    """As the framework itself would: the usage line, then what is wrong."""
    show = getattr(error, "show", None)
    if show is not None:
        show()
    else:
        output.notes.print(f"error: {escape(str(error))}", highlight=False)


def exit_status(error: XRError) -> int:
    """What a command ends with: 2 when the user can mend the call or a setting, else 1."""
    if isinstance(error, GatewayError):
        return USAGE if 400 <= error.problem.status < 500 else FAILED
    if isinstance(error, ServiceFailedError):
        return USAGE if error.misconfigured else FAILED
    if isinstance(error, (RunFailedError, submission.RefusedSubmissionError)):
        return FAILED
    return USAGE if isinstance(error, PermanentError) else FAILED


if __name__ == "__main__":
    main()
