// Search: a gallery, a reference, a change; coarse results at once, verified ones settle, further rounds.

import { get, stream } from "./api.js";
import { empty, field, h, replace, trouble } from "./dom.js";
import { imagination, marks, openEvidence } from "./evidence.js";
import { Filter } from "./filter.js";
import { picture } from "./picture.js";
import { ReferenceSlot, draggable } from "./reference.js";
import { firstRound, further, history, nearer, refined, request } from "./rounds.js";

const PAGE = 48;
const WEIGHTS = [
  ["v1", "Imagined from the text", 1], ["v2", "Imagined from the picture", 1], ["aug", "Both together", 1],
  ["text", "The words themselves", 0], ["reference", "Likeness to the reference", 0],
  ["negative", "What there is less of", 1], ["feedback", "Likeness to the marked target", 1],
];
const WITHOUT_COMPARING = "coarse,verify";

export async function open(place, _parts, parameters, signal) {
  const { galleries } = await get("/v1/galleries", { signal });
  const ready = galleries.filter(({ state }) => state === "ready");
  if (!ready.length) {
    replace(place, h("h1", {}, "Search"), empty(
      "There is no gallery to search yet.",
      h("p", {}, "Run a benchmark, which indexes its gallery, or index a folder of your own: "),
      h("pre", {}, "xr index build folder:/path/to/pictures"),
      h("p", {}, h("a", { href: "#/benchmarks" }, "Start a benchmark"))));
    return;
  }
  new Search(place, ready, parameters, signal);
}

class Search {
  constructor(place, galleries, parameters, signal) {
    this.galleries = galleries;
    this.gallery = galleries.find(({ key, name }) => [key, name].includes(parameters.get("gallery"))) || galleries[0];
    this.signal = signal;
    this.rounds = [];
    this.results = h("div", { class: "results" });
    this.filter = new Filter();
    this.build(place);
    this.pick(this.gallery.key);
    if (parameters.get("reference")) this.choose(parameters.get("reference"));
  }

  build(place) {
    const picker = h("select", { onchange: () => this.pick(picker.value) },
      this.galleries.map((one) => h("option", { value: one.key, selected: one === this.gallery }, title(one))));
    this.words = h("textarea", { rows: 2, maxlength: 10000, required: true, placeholder: "the same, but at night and without the dog",
      onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); this.form.requestSubmit(); } } });
    this.less = h("input", { maxlength: 10000, placeholder: "what it should not show", oninput: () => this.fit() });
    this.count = h("input", { type: "number", min: 1, max: 200, value: 24, required: true });
    this.depth = h("input", { type: "number", min: 1, max: 1000, value: 30, required: true });
    this.stages = h("select", {}, [[WITHOUT_COMPARING, "rank, then verify"], ["coarse,verify,compare", "rank, verify, compare"], ["coarse", "rank only"]]
      .map(([value, label]) => h("option", { value }, label)));
    this.weights = Object.fromEntries(WEIGHTS.map(([name, , value]) =>
      [name, h("input", { type: "range", min: 0, max: 3, step: 0.25, value })]));
    this.button = h("button", { class: "primary" }, "Search");
    this.slot = new ReferenceSlot(() => this.fit());
    this.form = h("form", { class: "ask", onsubmit: (event) => { event.preventDefault(); this.begin(); } },
      h("h1", {}, "Search"),
      this.galleries.length > 1 ? field("Gallery", picker) : null,
      this.slot.node,
      field("What should change?", this.words),
      field("Less of", this.less),
      this.filter.node,
      h("details", {}, h("summary", {}, "More"),
        h("div", { class: "halves" },
          field("Results", this.count),
          field("Candidates to verify", this.depth)),
        field("Stages", this.stages),
        h("fieldset", { class: "weights" }, h("legend", {}, "Weights"), h("p", { class: "note" }, "How much each way to rank counts; 0 leaves it out."),
          WEIGHTS.map(([name, label]) => slider(label, this.weights[name])))),
      this.button);
    this.fit();
    this.receiveFrom(place);
    replace(place, h("div", { class: "searching" }, this.form, this.results));
  }

  /** Pictures may be dropped anywhere on the page, and pasted. */
  receiveFrom(place) {
    const receive = async (event, transfer) => {
      event.preventDefault();
      await this.slot.receive(this.gallery.key, transfer);
      if (this.slot.chosen) this.words.focus();
    };
    place.addEventListener("dragover", (event) => { event.preventDefault(); this.slot.node.classList.add("over"); });
    place.addEventListener("dragleave", () => this.slot.node.classList.remove("over"));
    place.addEventListener("drop", (event) => { this.slot.node.classList.remove("over"); receive(event, event.dataTransfer); });
    document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) receive(event, event.clipboardData); }, { signal: this.signal });
  }

  /** What this search has no use for cannot be set. */
  fit() {
    if (!this.weights) return;
    const compare = this.stages.options[1];
    compare.disabled = this.slot?.outside ?? false;
    if (compare.disabled && compare.selected) this.stages.value = WITHOUT_COMPARING;
    this.weights.reference.disabled = !this.slot?.chosen?.id || this.slot.outside;
    this.weights.negative.disabled = !this.less.value.trim();
  }

  pick(key) {
    this.running?.abort();
    this.button.disabled = false;
    this.gallery = this.galleries.find((one) => one.key === key);
    if (this.slot.chosen?.id) this.slot.forget();
    this.filter.load(key, this.signal).catch((error) => { if (!this.signal.aborted) this.filter.node.before(trouble(error)); });
    this.browse();
  }

  choose(id) {
    this.slot.choose(this.gallery.key, id);
    this.words.focus();
  }

  /** The gallery's pictures, to choose a reference from. */
  async browse(token = "") {
    const list = token ? this.results.querySelector(".grid") : h("ul", { class: "grid small", "aria-label": "Pictures of the gallery" });
    if (!token) replace(this.results, h("h2", {}, title(this.gallery)), list);
    this.results.querySelector(".more")?.remove();
    try {
      const page = await get(`/v1/galleries/${this.gallery.key}/images?page_size=${PAGE}&page_token=${encodeURIComponent(token)}`, { signal: this.signal });
      list.append(...page.images.filter(({ failure }) => !failure).map(({ image_id: id, caption }) => h("li", {},
        h("button", { type: "button", class: "tile", title: caption, onclick: () => this.choose(id), ...draggable(id) },
          picture(this.gallery.key, id, { alt: caption || `image ${id}` })))));
      if (page.next_page_token) this.results.append(h("button", { type: "button", class: "more", onclick: () => this.browse(page.next_page_token) }, "More pictures"));
    } catch (error) {
      if (!this.signal.aborted) this.results.append(trouble(error, () => this.browse(token)));
    }
  }

  options() {
    return {
      gallery: this.gallery.key,
      ...this.slot.request(),
      negative_text: this.less.value.trim(),
      k: Number(this.count.value),
      depth: Number(this.depth.value),
      filter: this.filter.value(),
      knobs: { stages: this.stages.value.split(",") },
    };
  }

  /** The weights that were moved, of what this round is ranked by. */
  weighed(round) {
    const used = WEIGHTS.filter(([name]) => !this.weights[name].disabled && (name !== "feedback" || round.marked));
    return Object.fromEntries(used.map(([name, , value]) => [name, Number(this.weights[name].value), value]).filter(([, chosen, value]) => chosen !== value));
  }

  begin() {
    this.rounds = [];
    this.run(firstRound(this.words.value.trim()), this.options());
  }

  /** The next round after the one that is shown; those after that one are given up. */
  goOn(round) {
    this.rounds.length = this.shown + 1;
    this.run(round, this.options());
  }

  async run(round, options) {
    this.running?.abort();
    const mine = (this.running = new AbortController());
    this.signal.addEventListener("abort", () => mine.abort(), { once: true });
    this.shown = this.rounds.length;
    this.reference = this.slot.shown();
    this.state = h("p", { class: "state", "aria-live": "polite" }, h("span", { class: "pulse" }), "Imagining the target…");
    this.list = h("ol", { class: "grid", "aria-label": "Results" });
    this.head = h("div", {}, history([...this.rounds, round], this.shown, this.gallery.key, (place) => this.back(place)));
    this.foot = h("div");
    this.why = h("div");
    replace(this.results, this.head, this.state, this.foot, this.list, this.why);
    this.results.dataset.stage = "asked";
    this.button.disabled = true;
    try {
      const body = { ...options, weights: this.weighed(round), ...request(round) };
      await stream("/v1/search/stream", { method: "POST", body, signal: mine.signal }, (name, data) => {
        if (name === "error" || name === "problem") throw Object.assign(new Error(data.detail), { title: data.title });
        if (data.complete) this.rounds[this.shown] = Object.assign(round, { answer: data });
        this.show(round, data);
      });
      if (!round.answer) throw new Error("The search ended without an answer.");
    } catch (error) {
      if (!mine.signal.aborted) replace(this.results, this.head, trouble(error, () => this.run(round, options)));
    } finally {
      if (this.running === mine) this.button.disabled = false;
    }
  }

  /** An earlier round again, as it was answered. */
  back(place) {
    this.running?.abort();
    this.button.disabled = false;
    this.shown = place;
    replace(this.results, this.head, this.state, this.foot, this.list, this.why);
    replace(this.list);
    this.show(this.rounds[place], this.rounds[place].answer);
  }

  show(round, answer) {
    const before = new Map([...this.list.children].map((item) => [item.dataset.image, item.getBoundingClientRect()]));
    replace(this.list, answer.hits.map((hit) => this.card(round, answer, hit)));
    for (const item of this.list.children) settle(item, before);
    const words = answer.complete ? (answer.stage === "coarse" ? "Ranked" : answer.stage === "compared" ? "Verified and compared" : "Verified") : "Ranked; checking candidates…";
    const few = answer.hits.length < Number(this.count.value) ? ` · ${answer.hits.length} found` : "";
    replace(this.state, answer.complete ? null : h("span", { class: "pulse" }), `${words} · ${answer.seconds.toFixed(2)} s${few}`,
      answer.complete ? h("button", { type: "button", class: "quiet", onclick: () => this.browse() }, "Back to the gallery") : null);
    this.results.dataset.stage = answer.complete ? "complete" : "coarse";
    if (answer.complete) {
      replace(this.head, history(this.rounds, this.shown, answer.gallery, (place) => this.back(place)));
      replace(this.foot, further((text) => this.goOn(refined(round, text))));
    }
    const timings = Object.entries(answer.timings).map(([step, seconds]) => `${step.replaceAll("_", " ")} ${seconds.toFixed(2)} s`);
    replace(this.why, h("details", { class: "why" }, h("summary", {}, "What was imagined"), imagination(answer),
      timings.length ? h("p", { class: "note" }, timings.join(" · ")) : null));
  }

  card(round, answer, hit) {
    const moved = answer.complete && hit.coarse_rank ? hit.coarse_rank - hit.rank : 0;
    const actions = [["Search from this one", () => this.choose(hit.image_id)]];
    if (answer.complete) actions.push(["This one is it: find more like it", () => this.goOn(nearer(round, hit.image_id))]);
    const about = `rank ${hit.rank}: ${hit.caption || hit.image_id}`;
    return h("li", { "data-image": hit.image_id },
      h("button", { type: "button", class: "tile", title: hit.caption, "aria-label": about, ...draggable(hit.image_id), onclick: () => openEvidence(answer, hit, { reference: this.reference, actions }) },
        picture(answer.gallery, hit.image_id, { alt: "" }),
        h("span", { class: "label" }, h("b", {}, hit.rank),
          moved ? h("span", { class: moved > 0 ? "up" : "down" }, `${moved > 0 ? "↑" : "↓"}${Math.abs(moved)}`) : null,
          marks(hit, answer.propositions))));
  }
}

function title({ name, datasets, key, images }) {
  return `${name || datasets[0] || key.slice(0, 8)} · ${images.toLocaleString()} pictures`;
}

/** A range with its value beside its label. */
function slider(label, control) {
  const value = h("output", {}, control.value);
  control.addEventListener("input", () => { value.textContent = control.value; });
  const made = field(label, control);
  made.querySelector("label").append(value);
  return made;
}

/** Move a result from where it was to where it is now. */
function settle(item, before) {
  const was = before.get(item.dataset.image);
  if (!before.size || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const now = item.getBoundingClientRect();
  const steps = was
    ? [{ transform: `translate(${was.left - now.left}px, ${was.top - now.top}px)` }, { transform: "none" }]
    : [{ opacity: 0 }, { opacity: 1 }];
  item.animate(steps, { duration: 450, easing: "cubic-bezier(.2, .7, .2, 1)" });
}
