// One query of a run: where its target stands in every stage, and the evidence of every hit.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { imagination, listName, marks, openEvidence } from "./evidence.js";
import { STAGES } from "./figures.js";
import { picture } from "./picture.js";

export async function open(place, [run, id], _parameters, signal) {
  const query = await get(`/v1/benchmarks/${encodeURIComponent(run)}/queries/${encodeURIComponent(id)}`, { signal });
  const targets = new Set(query.targets.map(({ image_id }) => image_id));
  const reference = query.reference_image_id ? () => picture(query.gallery, query.reference_image_id, { width: 640, alt: "the reference" }) : null;
  const names = Object.keys(query.targets[0]?.ranks || {});
  replace(place,
    h("p", { class: "kicker" }, h("a", { href: `#/runs/${encodeURIComponent(run)}?show=queries` }, "Queries of the run"), ` · ${id}`),
    h("h1", {}, query.modification_text || "(no text)"),
    query.earlier_texts.length ? h("p", { class: "note" }, `after: ${query.earlier_texts.join(" → ")}`) : null,
    h("div", { class: "pair large" },
      reference ? h("figure", { class: "picture" }, reference(), h("figcaption", {}, "reference")) : null,
      query.targets.slice(0, 3).map(({ image_id }) => h("figure", { class: "picture target" }, picture(query.gallery, image_id, { width: 640, alt: "the target" }), h("figcaption", {}, "target"))),
      h("div", {}, h("h2", {}, "Rank of the target"),
        h("ul", { class: "places" }, names.map((name) => h("li", { class: STAGES[name] ? null : "unused" },
          h("span", {}, STAGES[name] || listName(name)), h("b", {}, query.targets[0].ranks[name] ?? "–")))))),
    h("h2", {}, `What was found, ${STAGES[query.stage]}`),
    h("ol", { class: "grid", "aria-label": "Results" }, query.hits.map((hit) => h("li", { class: targets.has(hit.image_id) ? "target" : null },
      h("button", { type: "button", class: "tile", "aria-label": `rank ${hit.rank}: ${hit.caption || hit.image_id}${targets.has(hit.image_id) ? ", the target" : ""}`,
        onclick: () => openEvidence(query, hit, { reference, target: targets.has(hit.image_id) }) },
      picture(query.gallery, hit.image_id, { alt: "" }),
      h("span", { class: "label" }, h("b", {}, hit.rank), targets.has(hit.image_id) ? h("span", { class: "up" }, "target") : null, marks(hit, query.propositions)))))),
    h("h2", {}, "What was imagined"),
    imagination(query));
}
