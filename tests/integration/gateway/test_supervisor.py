"""The supervisor with real processes: restarts, back-off, stopping, and its own death."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from gateway.child import processes_of_session
from gateway.supervisor import Backoff, Service, ServiceFailedError, Supervisor

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN_WITH_CHILD = """
import signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
    start_new_session=True)
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_crashing_child_is_restarted_with_growing_pauses(tmp_path: Path) -> None:
    # Given a service that notes when it starts and then crashes
    starts = tmp_path / "starts"
    note = f"open({str(starts)!r}, 'a').write(f'{{time.time()}}\\n')"
    crash = f"import sys, time; {note}; sys.exit(1)"
    service = Service("crasher", [sys.executable, "-c", crash], ready=lambda: False)
    backoff = Backoff(first_s=0.3, max_s=10.0)

    # When it has been started four times
    with Supervisor([service], tmp_path / "logs", backoff=backoff, poll_s=0.02) as supervisor:
        wait_until(lambda: starts.exists() and len(starts.read_text().splitlines()) >= 4)
        crashes = supervisor.statuses()[0].crashes

    # Then each pause was longer than the one before by the doubled back-off
    times = [float(line) for line in starts.read_text().splitlines()]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert crashes >= 3
    assert pauses[0] >= 0.3
    assert pauses[1] >= 0.6
    assert pauses[2] >= 1.2


def test_the_pause_is_doubled_up_to_its_limit() -> None:
    backoff = Backoff(first_s=0.5, max_s=10.0)
    assert [backoff.pause_s(crashes) for crashes in (1, 2, 3, 4, 5, 6, 99)] == [
        0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0,
    ]  # fmt: skip


def test_a_killed_service_comes_back_as_a_new_process(tmp_path: Path) -> None:
    backoff = Backoff(first_s=0.05)
    with Supervisor([Service("s", SLEEPER)], tmp_path, backoff=backoff, poll_s=0.02) as supervisor:
        supervisor.wait_ready(60)
        first = supervisor.statuses()[0].pid
        assert first is not None
        # When its keeper and the program die at once
        for pid in processes_of_session(first):
            os.kill(pid, signal.SIGKILL)
        # Then another process runs
        wait_until(lambda: supervisor.statuses()[0].pid not in (None, first))
        supervisor.wait_ready(60)
        assert supervisor.statuses()[0].crashes == 1


def test_stop_leaves_no_process_even_of_those_that_ignore_sigterm(tmp_path: Path) -> None:
    # Given a service, and a child of it that left its session, that both ignore SIGTERM
    note = tmp_path / "pid"
    service = Service(
        "stubborn",
        [sys.executable, "-c", STUBBORN_WITH_CHILD, str(note)],
        ready=lambda: note.exists() and bool(note.read_text()),
    )
    supervisor = Supervisor([service], tmp_path, grace_s=0.3, poll_s=0.02)
    supervisor.start()
    supervisor.wait_ready(60)
    keeper = supervisor.statuses()[0].pid
    assert keeper is not None
    assert len(processes_of_session(keeper)) == 2

    # When the supervisor stops
    supervisor.stop()

    # Then nothing is left
    assert processes_of_session(keeper) == []
    assert not is_alive(int(note.read_text()))


def test_children_die_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    # Given a supervisor in a process of its own with one service that has a child
    note = tmp_path / "pid"
    program = f"""
import sys, time
from pathlib import Path
from gateway.supervisor import Service, Supervisor
service = Service("stubborn", [sys.executable, "-c", {STUBBORN_WITH_CHILD!r}, {str(note)!r}])
supervisor = Supervisor([service], Path({str(tmp_path)!r}), grace_s=0.3, poll_s=0.02)
supervisor.start()
supervisor.wait_ready(60)
print(supervisor.statuses()[0].pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        keeper = int(process.stdout.readline())
        wait_until(lambda: note.exists() and bool(note.read_text()))

        # When it is killed without a chance to clean up
        process.kill()
        process.wait()

        # Then its service and the service's child end too
        wait_until(lambda: processes_of_session(keeper) == [])
        assert not is_alive(int(note.read_text()))


def test_a_usage_error_of_a_service_is_not_retried_and_its_log_is_shown(tmp_path: Path) -> None:
    service = Service(
        "misled",
        [sys.executable, "-c", "import sys; print('no such profile: x'); sys.exit(2)"],
        ready=lambda: False,
    )
    with (
        Supervisor([service], tmp_path, poll_s=0.02) as supervisor,
        pytest.raises(ServiceFailedError, match=r"ended with status 2(?s:.*)no such profile"),
    ):
        supervisor.wait_ready(60)
    assert supervisor.statuses()[0].crashes == 1


def test_a_service_that_was_ready_once_is_never_given_up_however_often_it_ends(
    tmp_path: Path,
) -> None:
    # Given a service that was ready, and then ends with the status of a configuration error
    once = tmp_path / "once"
    program = (
        "import sys, time; from pathlib import Path; once = Path(sys.argv[1])\n"
        "if once.exists(): sys.exit(2)\n"
        "once.touch(); time.sleep(0.5); sys.exit(2)"
    )
    service = Service("s", [sys.executable, "-c", program, str(once)], ready=once.exists)
    backoff = Backoff(first_s=0.02, max_s=0.1)
    with Supervisor([service], tmp_path / "logs", backoff=backoff, poll_s=0.02) as supervisor:
        supervisor.wait_ready(60)
        # When it has crashed more often than one that never was ready may
        wait_until(lambda: supervisor.statuses()[0].crashes >= 6)
        # Then it still is restarted
        assert supervisor.statuses()[0].state != "failed"
        once.unlink()
        supervisor.wait_ready(60)
        assert supervisor.statuses()[0].state == "ready"


def test_a_killed_keeper_takes_its_redis_with_it_and_the_next_one_has_the_data(
    tmp_path: Path,
) -> None:
    # Given a private Redis under the supervisor, with something in it
    port = free_port()
    client = Redis(port=port)
    service = Service(
        "redis",
        [sys.executable, "-m", "gateway.redis_service", str(tmp_path / "redis"), str(port)],
        ready=lambda: answers(client),
    )
    backoff = Backoff(first_s=0.05)
    with Supervisor([service], tmp_path, backoff=backoff, poll_s=0.02) as supervisor:
        supervisor.wait_ready(60)
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 1000) if has_waitaof(client) else time.sleep(1.2)
        keeper = supervisor.statuses()[0].pid
        assert keeper is not None

        # When its keeper, and nobody else, is killed
        os.kill(keeper, signal.SIGKILL)

        # Then a new server is on the same port and folder, the old one's data in it
        wait_until(lambda: supervisor.statuses()[0].pid not in (None, keeper))
        supervisor.wait_ready(60)
        assert processes_of_session(keeper) == []
        assert client.get("kept") == b"yes"
    client.close()


@pytest.mark.slow
def test_in_a_storm_of_kills_every_service_comes_back(tmp_path: Path) -> None:
    # Given three services with children that are ready when they say so
    services = []
    for name in "abc":
        file = tmp_path / name
        program = (
            "import os, sys, time; from pathlib import Path\n"
            "Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
        )
        services.append(
            Service(
                name,
                [sys.executable, "-c", program, str(file)],
                ready=lambda file=file: file.exists() and is_alive(int(file.read_text() or 0)),
            )
        )
    backoff = Backoff(first_s=0.05, max_s=1.0, reset_s=3.0)
    with Supervisor(services, tmp_path / "logs", backoff=backoff, poll_s=0.02) as supervisor:
        supervisor.wait_ready(60)
        # When keepers and programs are killed, one after another
        chance = random.Random(7)
        for _ in range(40):
            keepers = [status.pid for status in supervisor.statuses() if status.pid is not None]
            victims = [pid for keeper in keepers for pid in processes_of_session(keeper)]
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
            time.sleep(0.3)
        began = time.monotonic()
        # Then all are there again
        supervisor.wait_ready(60)
        wait_until(lambda: all(service.ready() for service in services))
        assert time.monotonic() - began < 10.0
        assert sum(status.crashes for status in supervisor.statuses()) >= 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def has_waitaof(client: Redis) -> bool:
    return int(str(client.info("server")["redis_version"]).split(".")[0]) >= 7


def test_a_stage_starts_when_the_one_below_is_ready(tmp_path: Path) -> None:
    # Given a first stage that is not ready until told so
    allowed = tmp_path / "allowed"
    services = [
        Service("first", SLEEPER, ready=allowed.exists),
        Service("second", SLEEPER, stage=1),
    ]
    with Supervisor(services, tmp_path, poll_s=0.02) as supervisor:
        wait_until(lambda: supervisor.statuses()[0].state == "starting")
        assert supervisor.statuses()[1].state == "waiting"
        allowed.touch()
        supervisor.wait_ready(60)
        assert [status.state for status in supervisor.statuses()] == ["ready", "ready"]
