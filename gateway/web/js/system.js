// The system now: agents, their queues and throughput, coordinators, searches, profiles.

import { get } from "./api.js";
import { h, replace, trouble } from "./dom.js";

const EVERY_MS = 2000;

export async function open(place, _parts, _parameters, signal) {
  const board = h("div");
  const models = h("div");
  replace(place, h("h1", {}, "System"), board, models);
  const { profiles } = await get("/v1/profiles", { signal });
  replace(models, profileList(profiles));
  while (!signal.aborted) {
    try {
      const [system, ready] = await Promise.all([get("/v1/system", { signal }), readiness(signal)]);
      replace(board, state(system, ready));
    } catch (error) {
      if (signal.aborted) return;
      replace(board, trouble(error));
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

/** "Not ready" is an answer here, not an error. */
async function readiness(signal) {
  const response = await fetch("/readyz", { signal });
  return response.json();
}

function state(system, ready) {
  return [
    h("p", { class: `lead ${ready.ready ? "good" : "warning"}` }, ready.ready ? "Everything is up." : ready.reasons?.join("; ") || ready.detail),
    h("h2", {}, "Agents"),
    h("div", { class: "agents" }, system.agents.map(agent)),
    h("h2", {}, "Benchmarks and searches"),
    h("dl", { class: "counts" },
      count("coordinators", system.coordinators.coordinators.length), count("jobs waiting", system.coordinators.waiting),
      Object.entries(system.runs).map(([name, number]) => count(`runs ${name}`, number)),
      count("searches running", system.searches.running), count("searches answered", system.searches.answered),
      count("searches refused", system.searches.refused)),
    h("p", { class: "note" }, `XR ${system.version}, profile ${system.profile}`),
  ];
}

const count = (name, number) => h("div", {}, h("dt", {}, name), h("dd", {}, number.toLocaleString()));

function agent(one) {
  const busy = one.details.length ? one.details.reduce((sum, { busy_share }) => sum + busy_share, 0) / one.details.length : 0;
  return h("section", { class: "agent" },
    h("h3", {}, one.agent, " ", h("span", { class: `badge ${one.workers.length ? "finished" : "failed"}` }, one.workers.length ? `${one.workers.length} up` : "none")),
    h("meter", { min: 0, max: 1, value: busy, "aria-label": `${one.agent}: busy` }),
    h("dl", { class: "counts" },
      count("busy", `${Math.round(100 * busy)} %`),
      count("answers/s", one.answered_per_s === null ? "–" : one.answered_per_s.toFixed(1)),
      count("waiting", one.waiting), count("under way", one.pending), count("given up", one.dead)),
    h("ul", { class: "note" }, one.details.map((worker) => h("li", {}, `${worker.worker}${worker.model ? ` · ${worker.model}` : ""}${worker.ready ? "" : " · not ready"}`))));
}

function profileList(profiles) {
  return [h("h2", {}, "Profiles"), profiles.map((one) => h("details", {},
    h("summary", {}, one.name, one.current ? h("span", { class: "badge finished" }, "in use") : null),
    h("dl", { class: "setup" }, Object.entries(one.roles).map(([role, model]) => [h("dt", {}, role), h("dd", {}, `${model}: ${Object.values(one.models[model] || {}).filter((value) => typeof value === "string").join(", ")}`)]))))];
}
