// Benchmarks: start one, see those under way, open the finished ones.

import { get, post, remove } from "./api.js";
import { empty, field, h, replace, say, trouble } from "./dom.js";
import { isOver, metricName, percent, when } from "./figures.js";
import { badge, follow, phases } from "./progress.js";

const PAGE = 50;
const KNOWN = ["demo", "CIRR", "CIRCO", "FashionIQ-dress", "FashionIQ-shirt", "FashionIQ-toptee", "Flickr30K", "MSCOCO", "VisDial"];

export async function open(place, _parts, _parameters, signal) {
  const [{ benchmarks, next_page_token: token }, knobs] = await Promise.all([
    get(`/v1/benchmarks?page_size=${PAGE}`, { signal }),
    get("/v1/knobs", { signal }),
  ]);
  const list = h("ul", { class: "runs" });
  const shown = new Map();
  const add = (view, first) => {
    const item = h("li", {});
    shown.set(view.id, item);
    if (first) list.prepend(item);
    else list.append(item);
    row(item, view);
    if (!isOver(view.state)) follow(view.id, signal, (now) => row(item, now)).catch((error) => { if (!signal.aborted) replace(item, trouble(error)); });
  };
  const none = empty("No run yet.", h("p", {}, "Start one: the demo set needs nothing but this machine."));
  const started = (view) => {
    none.remove();
    if (!shown.has(view.id)) add(view, true);
    say(`Benchmark ${view.id} is ${view.state}`);
  };
  replace(place,
    h("div", { class: "headed" }, h("h1", {}, "Benchmarks")),
    form(knobs, started),
    h("h2", {}, "Runs"),
    benchmarks.length ? null : none,
    list,
    token ? more(token, add, signal) : null);
  benchmarks.forEach((view) => add(view, false));
}

function more(token, add, signal) {
  const button = h("button", { type: "button", class: "more", onclick: async () => {
    const page = await get(`/v1/benchmarks?page_size=${PAGE}&page_token=${encodeURIComponent(token)}`, { signal });
    page.benchmarks.forEach((view) => add(view, false));
    if (page.next_page_token) button.replaceWith(more(page.next_page_token, add, signal));
    else button.remove();
  } }, "Older runs");
  return button;
}

function row(item, view) {
  const link = `#/runs/${encodeURIComponent(view.id)}`;
  const last = Object.entries(view.metrics).at(-1);
  replace(item,
    h("div", { class: "run" },
      h("div", {},
        h("a", { href: link, class: "title" }, view.name || view.dataset),
        h("p", { class: "note" }, [`${view.dataset} ${view.split}`, when(view.submitted_at)].filter(Boolean).join(" · "))),
      badge(view.state),
      last ? h("dl", { class: "small-figures" }, Object.entries(last[1]).slice(0, 3).map(([name, value]) =>
        h("div", {}, h("dt", {}, metricName(name)), h("dd", {}, percent(value))))) : null,
      isOver(view.state) ? null : h("button", { type: "button", onclick: (event) => cancel(event.target, view.id, item) }, "Cancel")),
    isOver(view.state) ? null : phases(view),
    view.error ? h("p", { class: "warning" }, view.error) : null);
}

async function cancel(button, id, item) {
  button.disabled = true;
  try {
    await remove(`/v1/benchmarks/${encodeURIComponent(id)}`);
    say("Cancelled");
  } catch (error) {
    item.append(trouble(error));
    button.disabled = false;
  }
}

function form(knobs, started) {
  const dataset = h("input", { list: "datasets", required: true, value: "demo" });
  const split = h("input", { required: true, value: "val" });
  const name = h("input", { pattern: "[A-Za-z0-9._\\-]*" });
  const limit = h("input", { type: "number", min: 1, placeholder: "all" });
  const controls = knobControls(knobs);
  const place = h("div");
  const button = h("button", { class: "primary" }, "Start");
  return h("form", { class: "start", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    replace(place);
    try {
      const chosen = Object.fromEntries(controls.map(({ knob, read }) => [knob, read()]).filter(([, value]) => value !== undefined));
      started(await post("/v1/benchmarks", {
        dataset: dataset.value.trim(), split: split.value.trim(), name: name.value.trim(),
        limit: limit.value ? Number(limit.value) : null, knobs: chosen,
      }, { headers: { "Idempotency-Key": crypto.randomUUID?.() || String(Math.random()) } }));
    } catch (error) {
      replace(place, trouble(error));
    } finally {
      button.disabled = false;
    }
  } },
  h("datalist", { id: "datasets" }, KNOWN.map((value) => h("option", { value }))),
  h("div", { class: "fields" }, field("Data set", dataset), field("Split", split), field("Queries", limit), field("Name", name), button),
  h("details", {}, h("summary", {}, "Knobs"), h("div", { class: "fields" }, controls.map(({ node }) => node))),
  place);
}

/** One control a knob, from the gateway's description; what is left alone keeps its default. */
function knobControls(knobs) {
  return Object.entries(knobs.properties || {}).map(([knob, schema]) => {
    const label = knob.replaceAll("_", " ");
    const kind = schema.type || schema.anyOf?.find(({ type }) => type !== "null")?.type;
    const shown = Array.isArray(schema.default) ? schema.default.join(",") : String(schema.default ?? "");
    if (kind === "boolean" || schema.enum) {
      const values = schema.enum || [true, false];
      const control = h("select", {}, h("option", { value: "" }, `default${shown ? `: ${shown}` : ""}`), values.map((value) => h("option", { value: String(value) }, String(value))));
      return { knob, node: field(label, control, schema.description), read: () => (control.value === "" ? undefined : kind === "boolean" ? control.value === "true" : control.value) };
    }
    const numeric = kind === "integer" || kind === "number";
    const control = h("input", { type: numeric ? "number" : "text", step: kind === "number" ? "any" : null, min: schema.minimum, max: schema.maximum, placeholder: shown });
    const read = () => {
      const given = control.value.trim();
      if (!given) return undefined;
      if (numeric) return Number(given);
      return kind === "array" ? given.split(",").map((part) => part.trim()).filter(Boolean) : given;
    };
    return { knob, node: field(label, control, schema.description), read };
  });
}
