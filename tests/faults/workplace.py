"""Where the cases work: the data, the image database built once, the undisturbed run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.run_store import PREDICTIONS
from shared.redis_server import PrivateRedis
from tests.faults import engines
from tests.faults.system import System
from tests.faults.watched_run import Reference, Task, WatchedRun, require

CALL_MS = 250.0
"""How long an engine's call takes, whatever is in it: most kills then hit one under way."""
WINDOW = 16
DEMO = Task("demo", "val", 240, {"top_k": 30, "rank_depth": 100})


class Workplace:
    """One folder for all cases of a suite.

    Attributes:
        data_root: where the data sets are.
        task: what every run asks for.
        reference: what the undisturbed run of it gave.
    """

    def __init__(self, root: Path, data_root: Path, task: Task, seed: int) -> None:
        self.root = root
        self.task = task
        self.seed = seed
        self.reference: Reference
        self.data_root = data_root
        self._template = root / "template"

    def prepare(self) -> None:
        """Build the image database once, then ask all queries without a fault."""
        for leftover in (self._template, self.root / "undisturbed"):
            shutil.rmtree(leftover, ignore_errors=True)
        with self.system("building", call_ms=0.0) as system:
            one = Task(self.task.dataset, self.task.split, 1, self.task.knobs)
            with WatchedRun.submit(system, one) as run:
                view = run.end()
                require(view.state == "finished", f"building failed: {view.error}")
            for name in ("galleries", "image_db"):
                shutil.copytree(system.home / name, self._template / name)
        with self.system("undisturbed") as system:
            self.reference = self.undisturbed(system, self.task)

    def undisturbed(self, system: System, task: Task) -> Reference:
        """Ask all queries of a system that is left alone."""
        with WatchedRun.submit(system, task, "undisturbed") as run:
            view = run.end()
            require(view.state == "finished", f"the undisturbed run is {view.state}: {view.error}")
            require(not view.counts.get("failed"), f"undisturbed, and yet {view.counts}")
            return Reference((run.folder / PREDICTIONS).read_bytes(), run.seconds)

    def system(
        self,
        case: str,
        *,
        call_ms: float = CALL_MS,
        request_ms: float = 0.0,
        given: Mapping[str, str] | None = None,
        **options: Any,
    ) -> System:
        """A system with a home of its own, not yet started; `options` are those of `System`."""
        home = self.root / case
        shutil.rmtree(home, ignore_errors=True)
        self.control(case).mkdir(parents=True)
        for name in ("galleries", "image_db"):
            if (self._template / name).is_dir():
                shutil.copytree(self._template / name, home / name)
        profile = home / "paced.toml"
        profile.write_text(engines.profile(self.control(case), call_ms, request_ms))
        settings = {
            "XR_PROFILE": str(profile),
            "XR_DATA_ROOT": str(self.data_root),
            "XR_WINDOW": str(WINDOW),
            **(given or {}),
        }
        return System(home, settings, **options)

    def control(self, case: str) -> Path:
        """The folder in which faults are asked of the engines."""
        return self.root / case / "control"

    def redis(self, case: str) -> PrivateRedis:
        """A Redis beside a case's home, for the case to disturb."""
        folder = self.root / f"{case}-redis"
        shutil.rmtree(folder, ignore_errors=True)
        return PrivateRedis(folder)

    def draw(self, case: str) -> random.Random:
        """What the case draws at random: the same for the same seed."""
        return random.Random(f"{self.seed}/{case}")

    def forget(self, case: str) -> None:
        """Remove what a case has left; those that failed are kept to be looked at."""
        shutil.rmtree(self.root / case, ignore_errors=True)
        shutil.rmtree(self.root / f"{case}-redis", ignore_errors=True)


def write_demo(data_root: Path) -> None:
    """The demo data set, once for all suites on this machine."""
    from gateway.commands.demo import SEED, write_demo_data

    if not (data_root / "demo" / "gallery.jsonl").is_file():
        write_demo_data(data_root / "demo", SEED)
