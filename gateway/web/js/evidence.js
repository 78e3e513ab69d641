// Why an image is where it is: propositions and their answers, captions, ranks in every list.

import { h } from "./dom.js";
import { picture } from "./picture.js";

const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);

/** Whether an answer is the expected one: true, false, or null where nobody answered. */
export function fits(answer, expected) {
  return answer === null || answer === undefined || Number.isNaN(answer) ? null : answer >= 0.5 === expected;
}

export function mark(fine) {
  const [sign, word] = fine === null ? ["·", "not answered"] : fine ? ["✔", "as expected"] : ["✘", "not as expected"];
  return h("span", { class: `mark ${fine === null ? "open" : fine ? "yes" : "no"}`, title: word, role: "img", "aria-label": word }, sign);
}

/** One dot a proposition: how much of it image and caption satisfy. */
export function marks(hit, propositions) {
  if (!hit.image_answers && !hit.caption_answers) return null;
  return h("span", { class: "marks" }, propositions.map(({ expected }, place) => {
    const both = [hit.image_answers?.[place], hit.caption_answers?.[place]].map((answer) => fits(answer, expected)).filter((one) => one !== null);
    return mark(both.length ? both.filter(Boolean).length * 2 >= both.length : null);
  }));
}

function answer(value, expected) {
  const fine = fits(value, expected);
  return h("td", {}, mark(fine), " ", h("span", { class: "figure" }, fine === null ? "" : percent(value)));
}

function propositions(evidence, hit) {
  if (!evidence.propositions.length) return h("p", { class: "note" }, "No question was asked about this change.");
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Propositions" }, h("table", {},
    h("caption", { class: "hidden" }, "Propositions: the answer expected and the probability of yes"),
    h("thead", {}, h("tr", {}, ["asked", "expected", "image", "caption"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, evidence.propositions.map(({ question, expected }, place) => h("tr", {},
      h("th", { scope: "row", class: "words" }, question),
      h("td", {}, expected ? "yes" : "no"),
      answer(hit.image_answers?.[place], expected),
      answer(hit.caption_answers?.[place], expected))))));
}

const LISTS = {
  v1: "imagined from text", v2: "imagined from pixels", aug: "both imaginations", text: "the words themselves",
  image_only: "reference image only", text_only: "words only", image_text_sum: "image + words",
};

export function listName(name) {
  const [set, kind] = name.split(".");
  return LISTS[set] ? LISTS[set] + (kind && kind !== "hybrid" ? `, ${kind}` : "") : name;
}

function ranks(evidence, hit) {
  const rows = [
    ...evidence.lists.map(({ name, weight }) => [listName(name), hit.ranks[name], weight]),
    ["fused", hit.coarse_rank, null],
    [evidence.stage, hit.rank, null],
  ];
  return h("ul", { class: "places" }, rows.map(([name, rank, weight]) => h("li", { class: weight === 0 ? "unused" : null },
    h("span", {}, name), h("b", {}, rank ?? "–"))));
}

function scores(hit) {
  const shown = [
    ["coarse score", hit.coarse_score], ["by image", hit.image_score], ["by caption", hit.caption_score],
    ["final score", hit.final_score], ["compared, P(yes)", hit.comparison],
  ].filter(([, value]) => value !== null && value !== undefined);
  return h("dl", { class: "setup" }, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value.toFixed(4))]));
}

const EDITS = {
  add: (edit) => `add ${edit.subject}`,
  remove: (edit) => `remove ${edit.subject}`,
  retain: (edit) => `keep ${edit.subject}`,
};

/** What the agents imagined: edits, what must and must not be there, target captions. */
export function imagination({ imagination: imagined, fallbacks }) {
  const { text, image } = imagined;
  return h("div", { class: "imagined" },
    imagined.reference_caption ? [h("h3", {}, "The reference in words"), h("p", {}, imagined.reference_caption)] : null,
    text ? [
      h("h3", {}, "Imagined from the text"),
      h("ul", { class: "edits" }, text.edits.map((edit) => h("li", {}, (EDITS[edit.kind] || (() => `${edit.subject} → ${edit.change}`))(edit)))),
      h("ol", { class: "captions" }, text.captions.map((caption) => h("li", {}, caption)))] : null,
    image ? [
      h("h3", {}, "Imagined from the picture"),
      h("p", {}, image.caption),
      image.existent.length ? h("p", { class: "note" }, `there: ${image.existent.join("; ")}`) : null,
      image.nonexistent.length ? h("p", { class: "note" }, `not there: ${image.nonexistent.join("; ")}`) : null] : null,
    fallbacks.length ? h("p", { class: "warning" }, `No usable answer from: ${fallbacks.join(", ")}. The words themselves stood in.`) : null);
}

/** A sheet at the side of the page about one hit. `actions` are buttons below its picture. */
export function openEvidence(evidence, hit, { reference, actions = [], target = null } = {}) {
  document.querySelector("dialog.sheet")?.remove();
  const failures = evidence.failures.filter(({ image_id }) => image_id === hit.image_id);
  const dialog = h("dialog", { class: "sheet", "aria-labelledby": "sheet-title", onclose: () => dialog.remove() },
    h("header", {},
      h("h2", { id: "sheet-title" }, `Rank ${hit.rank}`, target ? h("small", { class: "good" }, " the target") : null),
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close")),
    h("div", { class: "pair" },
      reference ? h("figure", { class: "picture" }, reference(), h("figcaption", {}, "reference")) : null,
      h("figure", { class: "picture" }, picture(evidence.gallery, hit.image_id, { width: 640, lazy: false }), h("figcaption", {}, hit.image_id))),
    actions.length ? h("div", { class: "actions" }, actions.map(([label, act]) => h("button", { type: "button", onclick: () => { dialog.close(); act(); } }, label))) : null,
    h("section", {}, h("h3", {}, "What was asked of it"), propositions(evidence, hit)),
    failures.map(({ skill, reason }) => h("p", { class: "warning" }, `${skill}: ${reason}`)),
    hit.caption ? h("section", {}, h("h3", {}, "Its caption"), h("p", {}, hit.caption)) : null,
    h("section", {}, h("h3", {}, "Its rank in every list"), ranks(evidence, hit)),
    h("section", {}, h("h3", {}, "Scores"), scores(hit)),
    h("details", {}, h("summary", {}, "What was imagined"), imagination(evidence)));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
}
