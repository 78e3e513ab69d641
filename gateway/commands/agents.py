"""`xr status` and `xr dead`: agents, queues and dead letters through the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gateway.commands import output
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.commands.scale import ProjectOption, replicas, replicas_table
from gateway.records import DeadLetterList

dead_app = typer.Typer(help="Messages that were given up.", no_args_is_help=True)
AgentArgument = Annotated[str, typer.Argument(metavar="AGENT")]
EntryArgument = Annotated[str, typer.Argument(metavar="ENTRY_ID")]


def status(
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
    project: ProjectOption = "xr",
) -> None:
    """Agents, queues, runs, and this host's containers. Exit status 1 when benchmarks would not run
    now."""
    with connect(gateway) as client:
        readiness = client.readiness()
        agents = client.agents() if readiness.redis else []
        coordinators = client.coordinators() if readiness.redis else None
        runs = client.benchmarks() if readiness.redis else []
    containers, no_docker = replicas(project)
    if as_json:
        output.print_json(
            {
                "readiness": readiness.model_dump(mode="json"),
                "agents": [agent.model_dump(mode="json") for agent in agents],
                "coordinators": coordinators and coordinators.model_dump(mode="json"),
                "runs": [run.model_dump(mode="json") for run in runs],
                "containers": [vars(service) for service in containers],
                "no_containers_because": no_docker,
            }
        )
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("agent")
        for name in ("workers", "waiting", "pending", "oldest", "dead", "busy"):
            table.add_column(name, justify="right")
        for agent in agents:
            busy = sum(worker.busy_share for worker in agent.details)
            table.add_row(
                agent.agent,
                *(str(number) for number in (len(agent.workers), agent.waiting, agent.pending)),
                f"{agent.oldest_age_s:.1f} s",
                str(agent.dead),
                f"{busy / len(agent.details):.0%}" if agent.details else "",
            )
        output.print_wide(table)
        if coordinators is not None:
            alive = ", ".join(
                f"{one.name} {one.state} {one.benchmark_id}".strip()
                for one in coordinators.coordinators
            )
            jobs = f"{coordinators.waiting} jobs waiting, {coordinators.delayed} delayed"
            output.console.print(
                f"coordinators: {alive or 'none'}; {jobs}", highlight=False, soft_wrap=True
            )
        if runs:
            output.console.print()
            output.print_wide(output.runs_table(runs))
        output.console.print()
        if containers:
            output.console.print(replicas_table(containers))
        else:
            why = no_docker or f"none of the compose project {project!r} on this host"
            output.console.print(f"containers: {escape(why)}", style="dim", soft_wrap=True)
        for reason in readiness.reasons:
            output.console.print(reason, highlight=False, soft_wrap=True)
    if not readiness.ready:
        raise typer.Exit(1)


@dead_app.command("list")
def list_dead(gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """All dead letters of all agents, oldest first."""
    with connect(gateway) as client:
        lists = [client.dead_letters(view.agent) for view in client.agents()]
    if as_json:
        output.print_json([entry.model_dump(mode="json") for entry in lists])
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("agent", "entry", "given up", "deliveries", "skill", "job", "query", "reason"):
        table.add_column(name, no_wrap=name == "entry", overflow="fold")
    for entry in lists:
        for letter in entry.dead_letters:
            table.add_row(
                entry.agent,
                letter.entry_id,
                letter.at,
                str(letter.deliveries),
                letter.skill or "unreadable",
                *(escape(text) for text in (letter.job_id, letter.query_id, letter.reason)),
            )
    if table.row_count:
        output.print_wide(table)
    else:
        output.console.print("no dead letters")


@dead_app.command("show")
def show_dead(agent: AgentArgument, entry_id: EntryArgument, gateway: GatewayOption = None) -> None:
    """One dead letter with its message, as JSON; long values are cut."""
    with connect(gateway) as client:
        letters = client.dead_letters(agent)
    output.print_json(_entry(letters, entry_id))


@dead_app.command("retry")
def retry_dead(
    agent: AgentArgument,
    entry_id: Annotated[str | None, typer.Argument(metavar="[ENTRY_ID]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="all of this agent's")] = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue one dead letter, or all of an agent's, again."""
    if everything == (entry_id is not None):
        raise typer.BadParameter("name one entry, or give --all")
    with connect(gateway) as client:
        left = (
            client.retry_all_dead_letters(agent)
            if entry_id is None
            else client.retry_dead_letter(agent, entry_id)
        )
    if as_json:
        output.print_json(left.model_dump(mode="json"))
    else:
        output.console.print(f"queued again; {agent} has {len(left.dead_letters)} left")


def _entry(letters: DeadLetterList, entry_id: str) -> dict[str, object]:
    for letter in letters.dead_letters:
        if letter.entry_id == entry_id:
            return letter.model_dump(mode="json")
    raise typer.BadParameter(f"{letters.agent} has no dead letter {entry_id}; see `xr dead list`")
