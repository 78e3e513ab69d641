"""A new user's way, timed: a clean clone, what the README says, the page, and a first search.

`make test-first-steps`. It needs git, Python and the package index, and nothing of this working
tree's environment: packages come into a cache of their own, as on a machine that has none of them.
What is committed is tested. Exit status 1 when the whole takes longer than five minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300.0
COMMAND = "make up"
"""What the README's quick start says; `make env` is a part of it that is timed by itself."""
CHANGE = "add one red star in the upper left corner"
_PATIENCE_S = 3 * LIMIT_S
"""A step that takes so long is given up."""
_ANSWER_S = 60.0
_STOP_S = 40.0
_LOOK_S = 0.25
_LOG_SHOWN = 3000


class StepFailedError(Exception):
    """A step did not come to its end."""


class Steps:
    """Names each step and how long it took, as it ends."""

    def __init__(self) -> None:
        self.begun = self._last = time.monotonic()

    def done(self, name: str) -> None:
        now = time.monotonic()
        print(f"{now - self._last:8.1f} s  {name}", flush=True)
        self._last = now


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="xr-first-steps-"))
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        total_s = walk(folder)
    except StepFailedError as error:
        print(f"make test-first-steps: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{total_s:8.1f} s  in all (at most {LIMIT_S:.0f})")
    return 0 if total_s <= LIMIT_S else 1


def walk(folder: Path) -> float:
    """Take all steps in `folder`; returns the seconds from the clone to the first answer.

    Raises: StepFailedError.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = clean_environment(folder) | {"XR_GATEWAY_PORT": str(port)}
    clone = folder / "xr"
    steps = Steps()
    run(["git", "clone", "--quiet", str(ROOT), str(clone)], folder, environment)
    steps.done("clone")
    check_readme(clone / "README.md")
    run(["make", "env"], clone, environment)
    steps.done("environment (make env)")
    with started(COMMAND.split(), clone, environment) as still_runs:
        page = wait_for(lambda: fetch_text(f"{url}/"), still_runs)
        for part in ("<main", *page_files(page)):
            if part.startswith("/"):
                fetch_text(url + part)
            elif part not in page:
                raise StepFailedError(f"the page at {url} is not the web page: {page[:200]!r}")
        steps.done("services started, page open (make up)")
        gallery = wait_for(lambda: ready_gallery(url), still_runs)
        steps.done(f"{gallery['images']:,} demo images indexed")
        tell(first_search(url, gallery["key"]))
        steps.done("first search answered")
        return time.monotonic() - steps.begun


def clean_environment(folder: Path) -> dict[str, str]:
    """This process's variables without settings and active environments; caches are empty."""
    unwanted = ("XR_", "MAKE", "MFLAGS", "VIRTUAL_ENV", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return kept | {"UV_CACHE_DIR": str(folder / "packages"), "PIP_NO_CACHE_DIR": "1"}


def check_readme(readme: Path) -> None:
    """Raises: StepFailedError: its first block of commands does not begin with `COMMAND`."""
    block = re.search(r"```sh\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    if block is None or not block[1].startswith(COMMAND):
        raise StepFailedError(f"the README's quick start does not begin with `{COMMAND}`")


def page_files(page: str) -> list[str]:
    """The page's own scripts and styles, which have to be there, too."""
    return re.findall(r'(?:src|href)="(/web/[^"]+)"', page)


def ready_gallery(url: str) -> dict[str, Any] | None:
    """The demo's gallery, once it can be searched."""
    for gallery in fetch(f"{url}/v1/galleries")["galleries"]:
        if gallery["name"] == "demo" and gallery["state"] == "failed":
            raise StepFailedError(f"the demo's images were not indexed: {gallery['error']}")
        if gallery["name"] == "demo" and gallery["state"] == "ready":
            found: dict[str, Any] = gallery
            return found
    return None


def first_search(url: str, gallery: str) -> dict[str, Any]:
    """As the page does it: the first image is the reference, coarse and verified results come.

    Raises: StepFailedError: a result without evidence, or none.
    """
    images = fetch(f"{url}/v1/galleries/{gallery}/images?page_size=1")["images"]
    wanted = {
        "gallery": gallery,
        "reference_image_id": images[0]["image_id"],
        "modification_text": CHANGE,
        "k": 10,
        "depth": 30,
        "knobs": {"stages": ["coarse", "verify"]},
    }
    lines = fetch_text(f"{url}/v1/search/stream", wanted).splitlines()
    answers = [json.loads(line.removeprefix("data: ")) for line in lines if line[:6] == "data: "]
    if not answers or not answers[-1].get("complete"):
        raise StepFailedError(f"the search ended without a complete answer: {lines[-1:]}")
    answer: dict[str, Any] = answers[-1]
    best = answer["hits"][0] if answer["hits"] else {}
    for what, found in (
        ("hits", answer["hits"]),
        ("propositions", answer["propositions"]),
        ("answers about the image of the first hit", best.get("image_answers")),
        ("caption of the first hit", best.get("caption")),
    ):
        if not found:
            raise StepFailedError(f"the first search has no {what}: {answer}")
    return answer


def tell(answer: Mapping[str, Any]) -> None:
    hit = answer["hits"][0]
    print(f"            {len(answer['hits'])} hits, first {hit['image_id']}: {hit['caption']}")


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Raises: StepFailedError: with the end of what it said."""
    with started(command, folder, environment) as still_runs:
        wait_for(lambda: not still_runs(), lambda: True)


@contextmanager
def started(
    command: list[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[Callable[[], bool]]:
    """A command in a process group of its own, which is stopped at the end as by Ctrl-C.

    Yields whether it still runs, a function that raises StepFailedError when it has failed.
    """
    log = folder / f"{'-'.join(command[:2])}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def still_runs() -> bool:
        if process.poll():
            told = log.read_text(errors="replace")[-_LOG_SHOWN:]
            raise StepFailedError(f"`{' '.join(command)}` ended with {process.returncode}:\n{told}")
        return process.returncode is None

    try:
        yield still_runs
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for the whole group; whoever is left after that is killed."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        else:
            return


def wait_for(look: Callable[[], Any], still_runs: Callable[[], bool]) -> Any:
    """What `look` finds, as soon as it is something. Nothing listens yet: it looks again.

    Raises: StepFailedError: the process has ended, or it takes too long.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if not still_runs():
            raise StepFailedError("the services have ended")
        try:
            found = look()
        except urllib.error.HTTPError:
            raise
        except OSError:
            found = None
        if found:
            return found
        time.sleep(_LOOK_S)
    raise StepFailedError(f"nothing after {_PATIENCE_S:.0f} s")


def fetch(url: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(fetch_text(url))
    return document


def fetch_text(url: str, body: Mapping[str, Any] | None = None) -> str:
    """What a GET of it answers, or a POST of `body` as JSON. Raises: OSError."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=_ANSWER_S) as answer:
        text: str = answer.read().decode()
        return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
