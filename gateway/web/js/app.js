// The page's frame: which view an address shows, the theme, the API key.

import { apiKey, keepApiKey } from "./api.js";
import { field, h, replace, say, trouble } from "./dom.js";
import * as benchmarks from "./benchmarks.js";
import * as compare from "./compare.js";
import * as query from "./query.js";
import * as run from "./run.js";
import * as search from "./search.js";
import * as system from "./system.js";

const ROUTES = [
  [/^\/search$/, search, "Search", "#/search"],
  [/^\/benchmarks$/, benchmarks, "Benchmarks", "#/benchmarks"],
  [/^\/runs\/([^/]+)$/, run, "Run", "#/benchmarks"],
  [/^\/runs\/([^/]+)\/queries\/([^/]+)$/, query, "Query", "#/benchmarks"],
  [/^\/compare$/, compare, "Compare", "#/compare"],
  [/^\/system$/, system, "System", "#/system"],
];

const main = document.getElementById("main");
let leave = null;

/** A view is `open(place, parts, parameters, signal)`; the signal says that it is left. */
async function show(moved = true) {
  const [path, parameters] = location.hash.replace(/^#/, "").split("?");
  const found = ROUTES.find(([pattern]) => pattern.test(path));
  if (!found) {
    location.replace("#/search");
    return;
  }
  const [pattern, view, title, menu] = found;
  leave?.abort();
  leave = new AbortController();
  document.title = `${title} · XR`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === menu) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const place = h("div", { class: "view" });
  replace(main, place);
  if (moved) main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  const { signal } = leave;
  try {
    await view.open(place, path.match(pattern).slice(1).map(decodeURIComponent), new URLSearchParams(parameters), signal);
  } catch (error) {
    if (signal.aborted) return;
    replace(place, h("h1", {}, title), trouble(error, () => show()));
  }
}

const THEMES = ["system", "light", "dark"];

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("xr-theme", name);
  const button = document.getElementById("theme");
  button.textContent = { system: "Auto", light: "Light", dark: "Dark" }[name];
  button.setAttribute("aria-label", `Theme: ${button.textContent}. Change it`);
}

function askForKey() {
  if (document.querySelector("dialog.key")) return;
  const control = h("input", { type: "password", autocomplete: "off", value: apiKey() });
  const dialog = h(
    "dialog", { class: "key", "aria-label": "API key", onclose: () => dialog.remove() },
    h("form", { method: "dialog", onsubmit: () => { keepApiKey(control.value.trim()); show(); } },
      h("h2", {}, "API key"),
      field("Key", control, "Kept until this tab is closed. A gateway without keys needs none."),
      h("div", { class: "actions" },
        h("button", { class: "primary" }, "Use it"),
        h("button", { type: "button", onclick: () => dialog.close() }, "Close"))),
  );
  document.body.append(dialog);
  dialog.showModal();
}

document.getElementById("theme").addEventListener("click", () => {
  const now = localStorage.getItem("xr-theme") || "system";
  theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  say(document.getElementById("theme").getAttribute("aria-label"));
});
document.getElementById("key").addEventListener("click", askForKey);
document.addEventListener("key-needed", askForKey);
window.addEventListener("hashchange", () => show());
theme(localStorage.getItem("xr-theme") || "system");
show(false);
