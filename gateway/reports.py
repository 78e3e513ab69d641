"""Reports of finished runs as HTML, put together once and kept: a finished run does not change."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import Literal

from broker.submission import RunReport, report_run
from gateway.report.page import part_of_page, whole_page
from gateway.report.pictures import by_url, inside
from shared.settings import Settings

Form = Literal["file", "article"]
"""One HTML file with its pictures in it, or the part that the web page shows."""

_KEPT = 8


class RunReports:
    """Reports by run; the last ones stay in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: OrderedDict[str, RunReport] = OrderedDict()
        self._lock = threading.Lock()

    async def html(self, benchmark_id: str, form: Form) -> str:
        """Raises: ConfigurationError: the run is not finished. DatasetError: its data are gone."""
        return await asyncio.to_thread(self._html, benchmark_id, form)

    def _html(self, benchmark_id: str, form: Form) -> str:
        report = self._report(benchmark_id)
        if form == "article":
            return part_of_page(report, by_url(report.gallery), links=True)
        return whole_page(report, inside(self._settings.galleries_folder, report.gallery))

    def _report(self, benchmark_id: str) -> RunReport:
        with self._lock:
            if benchmark_id in self._kept:
                self._kept.move_to_end(benchmark_id)
                return self._kept[benchmark_id]
        report = report_run(self._settings, benchmark_id)
        with self._lock:
            self._kept[benchmark_id] = report
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return report
