// Search: a gallery, a reference image, a change; coarse results at once, verified ones settle.

import { get, post, stream } from "./api.js";
import { empty, field, h, replace, say, trouble } from "./dom.js";
import { imagination, marks, openEvidence } from "./evidence.js";
import { picture } from "./picture.js";

const PAGE = 48;
const WEIGHTS = [
  ["v1", "imagined from the text", 1], ["v2", "imagined from the picture", 1], ["aug", "both together", 1],
  ["text", "the words themselves", 0], ["reference", "likeness to the reference", 0],
];

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
    this.reference = null; // {id | upload, show()}
    this.feedback = null;
    this.token = "";
    this.results = h("div", { class: "results" });
    this.slot = h("div", { class: "slot" });
    this.build(place);
    if (parameters.get("reference")) this.choose(parameters.get("reference"));
    else this.browse();
  }

  build(place) {
    const picker = h("select", { onchange: () => this.pick(picker.value) },
      this.galleries.map((one) => h("option", { value: one.key, selected: one === this.gallery }, title(one))));
    this.words = h("textarea", { rows: 3, maxlength: 10000, required: true, placeholder: "the same, but at night and without the dog",
      onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); this.form.requestSubmit(); } } });
    this.less = h("input", { maxlength: 10000 });
    this.count = h("input", { type: "number", min: 1, max: 200, value: 24 });
    this.depth = h("input", { type: "number", min: 1, max: 1000, value: 30 });
    this.stages = h("select", {}, [["coarse,verify", "rank, then verify"], ["coarse,verify,compare", "rank, verify, compare"], ["coarse", "rank only"]]
      .map(([value, label]) => h("option", { value }, label)));
    this.weights = Object.fromEntries(WEIGHTS.map(([name, , value]) =>
      [name, h("input", { type: "range", min: 0, max: 3, step: 0.25, value })]));
    this.button = h("button", { class: "primary" }, "Search");
    this.form = h("form", { class: "ask", onsubmit: (event) => { event.preventDefault(); this.search(); } },
      h("h1", {}, "Search"),
      this.galleries.length > 1 ? field("Gallery", picker) : null,
      this.slot,
      field("What should change?", this.words),
      h("details", {}, h("summary", {}, "More"),
        field("Less of", this.less, "What the result should not show"),
        field("Results", this.count),
        field("Candidates to verify", this.depth),
        field("Stages", this.stages),
        h("fieldset", {}, h("legend", {}, "Weights"),
          WEIGHTS.map(([name, label]) => field(label, this.weights[name])))),
      this.button);
    this.form.addEventListener("dragover", (event) => { event.preventDefault(); this.slot.classList.add("over"); });
    this.form.addEventListener("dragleave", () => this.slot.classList.remove("over"));
    this.form.addEventListener("drop", (event) => {
      event.preventDefault();
      this.slot.classList.remove("over");
      const id = event.dataTransfer.getData("text/x-image-id");
      if (id) this.choose(id);
      else this.upload(event.dataTransfer.files[0]);
    });
    this.showSlot();
    replace(place, h("div", { class: "searching" }, this.form, this.results));
  }

  pick(key) {
    this.gallery = this.galleries.find((one) => one.key === key);
    if (this.reference?.id) this.reference = null;
    this.showSlot();
    this.browse();
  }

  showSlot() {
    const file = h("input", { type: "file", accept: "image/*", class: "hidden", id: "file", onchange: () => this.upload(file.files[0]) });
    const label = h("label", { for: "file", class: "button" }, this.reference ? "Another file" : "Choose a file");
    replace(this.slot, this.reference
      ? [h("figure", { class: "picture" }, this.reference.show(), h("figcaption", {}, this.reference.label)),
        h("div", { class: "actions" }, file, label,
          h("button", { type: "button", onclick: () => this.forget() }, "Without a reference"))]
      : [h("p", { class: "lead" }, "Click a picture, or drop one here"),
        h("p", { class: "note" }, "Without one, the words alone say what is looked for."),
        h("div", { class: "actions" }, file, label)]);
    this.slot.classList.toggle("filled", Boolean(this.reference));
  }

  forget() {
    this.reference = null;
    this.showSlot();
    this.browse();
  }

  choose(id) {
    this.reference = { id, label: id, show: () => picture(this.gallery.key, id, { width: 640, alt: `the reference, image ${id}` }) };
    this.showSlot();
    say(`Reference: image ${id}`);
    this.words.focus();
  }

  async upload(file) {
    if (!file) return;
    const url = URL.createObjectURL(file);
    const shown = () => h("img", { src: url, alt: `the reference, ${file.name}` });
    this.slot.classList.add("busy");
    try {
      const kept = await post("/v1/uploads", file, { headers: { "Content-Type": file.type || "application/octet-stream" } });
      this.reference = { upload: kept.id, label: `${file.name}, ${kept.width} × ${kept.height}`, show: shown };
      this.showSlot();
      this.words.focus();
    } catch (error) {
      this.showSlot();
      this.slot.append(trouble(error));
    } finally {
      this.slot.classList.remove("busy");
    }
  }

  /** The gallery's pictures, to choose a reference from. */
  async browse(token = "") {
    const list = token ? this.results.querySelector(".grid") : h("ul", { class: "grid small", "aria-label": "Pictures of the gallery" });
    if (!token) replace(this.results, h("h2", {}, title(this.gallery)), list);
    this.results.querySelector(".more")?.remove();
    try {
      const page = await get(`/v1/galleries/${this.gallery.key}/images?page_size=${PAGE}&page_token=${encodeURIComponent(token)}`, { signal: this.signal });
      list.append(...page.images.filter(({ failure }) => !failure).map(({ image_id: id, caption }) => h("li", {},
        h("button", { type: "button", class: "tile", draggable: "true", title: caption, onclick: () => this.choose(id),
          ondragstart: (event) => event.dataTransfer.setData("text/x-image-id", id) },
        picture(this.gallery.key, id, { alt: caption || `image ${id}` })))));
      if (page.next_page_token) this.results.append(h("button", { type: "button", class: "more", onclick: () => this.browse(page.next_page_token) }, "More pictures"));
    } catch (error) {
      if (!this.signal.aborted) this.results.append(trouble(error, () => this.browse(token)));
    }
  }

  request() {
    return {
      gallery: this.gallery.key,
      reference_image_id: this.reference?.id ?? null,
      reference_upload: this.reference?.upload ?? null,
      modification_text: this.words.value.trim(),
      negative_text: this.less.value.trim(),
      k: Number(this.count.value),
      depth: Number(this.depth.value),
      weights: Object.fromEntries(WEIGHTS.map(([name, , value]) => [name, Number(this.weights[name].value), value])
        .filter(([, chosen, value]) => chosen !== value)),
      knobs: { stages: this.stages.value.split(",") },
      ...(this.feedback ? { target_feedback: { image_id: this.feedback } } : {}),
    };
  }

  async search() {
    this.running?.abort();
    const mine = (this.running = new AbortController());
    this.signal.addEventListener("abort", () => mine.abort(), { once: true });
    this.state = h("p", { class: "state", "aria-live": "polite" }, h("span", { class: "pulse" }), "Imagining the target…");
    this.list = h("ol", { class: "grid", "aria-label": "Results" });
    this.why = h("div");
    replace(this.results, this.state, this.list, this.why);
    this.button.disabled = true;
    try {
      await stream("/v1/search/stream", { method: "POST", body: this.request(), signal: mine.signal }, (name, data) => {
        if (name === "error" || name === "problem") throw Object.assign(new Error(data.detail), { title: data.title });
        this.show(data);
      });
      if (!this.list.children.length) throw new Error("The search ended without an answer.");
    } catch (error) {
      if (!mine.signal.aborted) replace(this.results, trouble(error, () => this.search()));
    } finally {
      if (this.running === mine) this.button.disabled = false;
      this.feedback = null;
    }
  }

  show(answer) {
    const before = new Map([...this.list.children].map((item) => [item.dataset.image, item.getBoundingClientRect()]));
    replace(this.list, answer.hits.map((hit) => this.card(answer, hit)));
    for (const item of this.list.children) settle(item, before);
    const words = answer.complete ? (answer.stage === "coarse" ? "Ranked" : answer.stage === "compared" ? "Verified and compared" : "Verified") : "Ranked; checking candidates…";
    replace(this.state, answer.complete ? null : h("span", { class: "pulse" }), `${words} · ${answer.seconds.toFixed(2)} s`);
    this.results.dataset.stage = answer.complete ? "complete" : "coarse";
    const timings = Object.entries(answer.timings).map(([step, seconds]) => `${step.replaceAll("_", " ")} ${seconds.toFixed(2)} s`);
    replace(this.why, h("details", { class: "why" }, h("summary", {}, "What was imagined"), imagination(answer),
      timings.length ? h("p", { class: "note" }, timings.join(" · ")) : null));
  }

  card(answer, hit) {
    const moved = answer.complete && hit.coarse_rank ? hit.coarse_rank - hit.rank : 0;
    const actions = [
      ["Search from this one", () => this.choose(hit.image_id)],
      ["This one is it: find more like it", () => { this.feedback = hit.image_id; this.search(); }],
    ];
    const about = `rank ${hit.rank}: ${hit.caption || hit.image_id}`;
    return h("li", { "data-image": hit.image_id },
      h("button", { type: "button", class: "tile", title: hit.caption, "aria-label": about, onclick: () => openEvidence(answer, hit, { reference: this.reference?.show, actions }) },
        picture(answer.gallery, hit.image_id, { alt: "" }),
        h("span", { class: "label" }, h("b", {}, hit.rank),
          moved ? h("span", { class: moved > 0 ? "up" : "down" }, `${moved > 0 ? "↑" : "↓"}${Math.abs(moved)}`) : null,
          marks(hit, answer.propositions))));
  }
}

function title({ name, datasets, key, images }) {
  return `${name || datasets[0] || key.slice(0, 8)} · ${images.toLocaleString()} pictures`;
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
