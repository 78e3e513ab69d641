// A run under way: its phases, rate and time left, followed by events, by asking where they end.

import { get, stream } from "./api.js";
import { h, replace } from "./dom.js";
import { duration, isOver } from "./figures.js";

const PHASES = { gallery: "reading the gallery", agents: "waiting for agents", image_database: "captions and embeddings", queries: "queries", evaluation: "metrics" };

export function phases(view) {
  const shown = view.progress.filter(({ phase }) => phase !== "done");
  return h("div", { class: "phases" },
    shown.map((one) => {
      const name = PHASES[one.phase] || one.phase;
      const left = one.rate_per_s > 0 && one.done < one.total ? duration((one.total - one.done) / one.rate_per_s) : "";
      const told = [
        `${one.done.toLocaleString()} of ${one.total.toLocaleString()}`,
        one.rate_per_s ? `${one.rate_per_s.toFixed(1)}/s` : "",
        left && !isOver(view.state) ? `${left} left` : "",
        one.failed ? `${one.failed} failed` : "",
      ].filter(Boolean);
      return h("div", { class: "phase" },
        h("span", {}, name),
        h("progress", { max: one.total || 1, value: one.done, "aria-label": name }),
        h("span", { class: "figure" }, told.join(" · ")));
    }),
    view.note ? h("p", { class: "note" }, view.note) : null);
}

/** Calls `on(view)` for every change until the run is over or the page is left. */
export async function follow(id, signal, on) {
  const path = `/v1/benchmarks/${encodeURIComponent(id)}`;
  let last = null;
  const take = (view) => on((last = view));
  while (!signal.aborted) {
    try {
      await stream(`${path}/events`, { signal }, (_name, data) => { if (data.state) take(data); });
    } catch (error) {
      if (signal.aborted) return;
      if (error.status && error.status !== 404) throw error;
    }
    if (last && isOver(last.state)) return;
    take(await get(path, { signal }));
    if (isOver(last.state)) return;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

export function badge(state) {
  return h("span", { class: `badge ${state}` }, state);
}

export function live(place, view) {
  return replace(place, badge(view.state), phases(view));
}
