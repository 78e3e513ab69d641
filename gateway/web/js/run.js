// One run: its progress while it is under way, then its report, its queries and its files.

import { apiKey, blob, get, post, remove, text } from "./api.js";
import { h, replace, trouble } from "./dom.js";
import { STAGES, isOver } from "./figures.js";
import { article, picture } from "./picture.js";
import { badge, follow, phases } from "./progress.js";

const PAGE = 30;

export async function open(place, [id], parameters, signal) {
  const path = `/v1/benchmarks/${encodeURIComponent(id)}`;
  const view = await get(path, { signal });
  if (isOver(view.state)) {
    await over(place, view, path, parameters.get("show"), signal);
    return;
  }
  const state = h("div", { class: "live" });
  const button = h("button", { type: "button", onclick: async () => { button.disabled = true; await remove(path).catch((error) => state.append(trouble(error))); } }, "Cancel this run");
  replace(place, heading(view), state, h("div", { class: "actions" }, button));
  await follow(id, signal, (now) => replace(state, badge(now.state), phases(now)));
  if (!signal.aborted) await open(place, [id], parameters, signal);
}

function heading(view) {
  return [
    h("p", { class: "kicker" }, `${view.dataset} · ${view.split}`),
    h("h1", {}, view.name || "Run"),
    h("p", { class: "id" }, view.id),
  ];
}

async function over(place, view, path, shown, signal) {
  const body = h("div");
  if (view.state !== "finished") {
    const resume = h("button", { type: "button", class: "primary", onclick: async () => {
      resume.disabled = true;
      try {
        await post(`${path}/resume`);
        await open(place, [view.id], new URLSearchParams(), signal);
      } catch (error) {
        body.append(trouble(error));
      }
    } }, "Go on where it stopped");
    replace(place, heading(view), badge(view.state), phases(view), view.error ? h("p", { class: "warning" }, view.error) : null, h("div", { class: "actions" }, resume), body);
    return;
  }
  const tabs = [["report", "Report", () => report(body, path, signal)], ["queries", "Queries", () => queries(body, view, path, signal)], ["files", "Files", () => files(body, view, path, signal)]];
  const bar = h("div", { class: "tabs" }, tabs.map(([name, label]) =>
    h("a", { href: `#/runs/${encodeURIComponent(view.id)}?show=${name}`, "aria-current": name === (shown || "report") ? "page" : null }, label)),
  h("a", { href: `#/compare?first=${encodeURIComponent(view.id)}` }, "Compare with another"));
  replace(place, bar, body);
  await (tabs.find(([name]) => name === shown) || tabs[0])[2]();
}

async function report(body, path, signal) {
  replace(body, h("p", { class: "state" }, h("span", { class: "pulse" }), "Putting the report together…"));
  const markup = await text(`${path}/report?form=article`);
  if (!signal.aborted) replace(body, article(markup));
}

async function queries(body, view, path, signal) {
  const list = h("ol", { class: "query-list" });
  const stage = h("select", { onchange: () => load() });
  const order = h("select", { onchange: () => load() }, [["hardest", "hardest first"], ["", "as in the data set"]].map(([value, label]) => h("option", { value }, label)));
  const foot = h("div");
  replace(body, h("h1", { class: "hidden" }, `Queries of ${view.name || view.id}`), h("div", { class: "fields" },
    h("label", {}, "Stage ", stage), h("label", {}, "Order ", order)), list, foot);
  const load = async (token = "") => {
    if (!token) replace(list);
    replace(foot);
    const asked = new URLSearchParams({ page_size: PAGE, page_token: token, ...(stage.value ? { stage: stage.value } : {}), ...(order.value ? { sort: order.value } : {}) });
    try {
      const page = await get(`${path}/queries?${asked}`, { signal });
      if (!stage.options.length) {
        stage.append(...page.stages.map((name) => h("option", { value: name }, STAGES[name] || name)));
        stage.value = page.stages.at(-1) || "";
      }
      list.append(...page.queries.map((query) => entry(view.id, page, query)));
      if (page.next_page_token) replace(foot, h("button", { type: "button", class: "more", onclick: () => load(page.next_page_token) }, "More queries"));
    } catch (error) {
      if (!signal.aborted) replace(foot, trouble(error, () => load(token)));
    }
  };
  await load();
}

function entry(run, page, query) {
  const link = `#/runs/${encodeURIComponent(run)}/queries/${encodeURIComponent(query.query_id)}`;
  const shown = ["coarse", "verified", "compared"].filter((name) => page.stages.includes(name));
  const image = (id, alt) => h("span", { class: "picture" }, id && page.gallery ? picture(page.gallery, id, { width: 160, alt }) : null);
  return h("li", {}, h("a", { href: link },
    image(query.reference_image_id, "reference"),
    h("span", { class: "change" }, query.modification_text || "(no text)"),
    image(query.target_image_ids[0], "target"),
    h("span", { class: "ranks" }, query.status === "failed"
      ? h("span", { class: "warning" }, query.reason)
      : shown.map((name) => h("span", {}, STAGES[name], " ", h("b", {}, query.ranks[name] ?? "–"), " ")))));
}

async function files(body, view, path, signal) {
  const { submissions } = await get(`${path}/submissions`, { signal });
  const wanted = [
    ["report", "report.html", "The report, with its pictures, as one file"],
    ["predictions", "predictions.jsonl", "The ranking of every query"],
    ["manifest", "manifest.json", "Knobs, models, prompts, versions, seed"],
    ["metrics-table", "metrics.txt", "The metrics for reading"],
    ...submissions.map((name) => [`submissions/${name}`, name, "For the evaluation server"]),
  ];
  replace(body, h("h1", { class: "hidden" }, `Files of ${view.name || view.id}`), h("ul", { class: "files" }, wanted.map(([name, label, about]) =>
    h("li", {}, h("a", { href: `${path}/${name}`, download: label, onclick: (event) => withKey(event, `${path}/${name}`, label) }, label), h("p", { class: "note" }, about)))),
  h("p", { class: "note" }, "On the gateway's machine: ", h("code", {}, view.run_folder)));
}

async function withKey(event, path, name) {
  if (!apiKey()) return;
  event.preventDefault();
  const url = URL.createObjectURL(await blob(path));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
