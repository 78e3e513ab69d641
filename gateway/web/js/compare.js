// Two runs of one data set side by side, query by query.

import { get } from "./api.js";
import { empty, field, h, replace, trouble } from "./dom.js";
import { metricName, percent, when } from "./figures.js";

export async function open(place, _parts, parameters, signal) {
  const page = await get("/v1/runs?page_size=200", { signal });
  const runs = page.runs.filter(({ state }) => state === "finished");
  if (runs.length < 2) {
    replace(place, h("h1", {}, "Compare"), empty("Two finished runs of one data set are needed.",
      h("p", {}, h("a", { href: "#/benchmarks" }, "Start a benchmark"), ", or compute a run anew under other knobs: ", h("code", {}, "xr runs replay RUN --top-k 10"))));
    return;
  }
  const first = runs.find(({ id }) => id === parameters.get("first")) || runs[1];
  const second = runs.find(({ id }) => id === parameters.get("second")) || runs.find((run) => run.id !== first.id && run.dataset === first.dataset && run.split === first.split) || runs[0];
  const choose = (label, chosen) => {
    const control = h("select", {}, runs.map((run) => h("option", { value: run.id, selected: run.id === chosen.id }, `${run.dataset} ${run.split} · ${run.name || "run"} · ${when(run.submitted_at)}`)));
    return [control, field(label, control)];
  };
  const [one, oneField] = choose("First", first);
  const [two, twoField] = choose("Second", second);
  const result = h("div");
  const go = async () => {
    history.replaceState(null, "", `#/compare?${new URLSearchParams({ first: one.value, second: two.value })}`);
    replace(result, h("p", { class: "state" }, h("span", { class: "pulse" }), "Comparing query by query…"));
    try {
      const found = await get(`/v1/runs/${encodeURIComponent(one.value)}/comparison/${encodeURIComponent(two.value)}`, { signal });
      replace(result, comparison(found));
    } catch (error) {
      if (!signal.aborted) replace(result, trouble(error, go));
    }
  };
  replace(place, h("h1", {}, "Compare"), h("form", { class: "fields two", onsubmit: (event) => { event.preventDefault(); go(); } },
    oneField, twoField, h("button", { class: "primary" }, "Compare")), result);
  await go();
}

function comparison(found) {
  return [
    found.identical ? h("p", { class: "lead" }, "Both runs predict the same, byte for byte.") : null,
    h("h2", {}, "The last stage, query by query"),
    h("p", { class: "note" }, "Differences are second minus first, with the 95 % interval; p is a two-sided sign test of the queries that won against those that lost."),
    Object.keys(found.paired).length ? paired(found.paired) : h("p", { class: "note" }, "The data set publishes no ground truth."),
    h("h2", {}, "What differs in the set-up"),
    differences(found.manifest),
    changed(`Only the second finds within ${found.k}`, found.gained, found.second),
    changed(`Only the first finds within ${found.k}`, found.lost, found.first),
    h("details", {}, h("summary", {}, "Where they were made"), differences(found.environment)),
  ];
}

function paired(metrics) {
  const ends = Object.values(metrics).flatMap(({ low, high }) => [Math.abs(low), Math.abs(high)]);
  const most = Math.max(0.01, ...ends);
  const x = (value) => 60 + (55 * value) / most;
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Metrics compared" }, h("table", {},
    h("caption", { class: "hidden" }, "Metrics of both runs, and their difference"),
    h("thead", {}, h("tr", {}, ["", "first", "second", "difference", "95 % interval", "", "won", "lost", "p"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, Object.entries(metrics).map(([name, one]) => {
      const sure = one.low > 0 || one.high < 0;
      return h("tr", {},
        h("th", { scope: "row" }, metricName(name)),
        h("td", {}, percent(one.first)), h("td", {}, percent(one.second)),
        h("td", { class: sure ? "best" : null }, signed(one.difference)),
        h("td", {}, `${signed(one.low)} … ${signed(one.high)}`),
        h("td", {}, h("svg", { class: "chart spark", viewBox: "0 0 120 18", "aria-hidden": "true" },
          h("line", { class: "zero", x1: 60, x2: 60, y1: 0, y2: 18 }),
          h("line", { class: `whisker ${sure ? "sure" : "unsure"}`, x1: x(one.low), x2: x(one.high), y1: 9, y2: 9 }),
          h("circle", { class: `dot ${sure ? "sure" : "unsure"}`, cx: x(one.difference), cy: 9, r: 4 }))),
        h("td", {}, one.better), h("td", {}, one.worse),
        h("td", {}, one.p_sign < 0.001 ? "< 0.001" : one.p_sign.toFixed(3)));
    }))));
}

const signed = (value) => `${value > 0 ? "+" : ""}${percent(value)}`;

function differences(entries) {
  const names = Object.entries(entries);
  if (!names.length) return h("p", { class: "note" }, "Nothing.");
  const shown = (value) => (value === null || value === undefined ? "–" : Array.isArray(value) ? value.join(", ") : String(value));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Differences" }, h("table", {},
    h("thead", {}, h("tr", {}, ["", "first", "second"].map((name) => h("th", { scope: "col", class: "words" }, name)))),
    h("tbody", {}, names.map(([name, [one, two]]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "words" }, shown(one)), h("td", { class: "words" }, shown(two)))))));
}

function changed(title, queries, run) {
  return [
    h("h2", {}, `${title}: ${queries.length}`),
    h("ul", { class: "changed" }, queries.map((query) => h("li", {},
      h("a", { href: `#/runs/${encodeURIComponent(run)}/queries/${encodeURIComponent(query.query_id)}` }, query.modification_text || query.query_id),
      h("span", { class: "note" }, ` rank ${query.first_rank ?? "–"} → ${query.second_rank ?? "–"}`)))),
  ];
}
