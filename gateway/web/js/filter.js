// Conditions on what is known of the pictures: one control a field, as the gallery has them.

import { get } from "./api.js";
import { field, h, replace } from "./dom.js";

const CHECKED = 8; // so many values are boxes to check, more are one to type

export class Filter {
  constructor() {
    this.summary = h("summary", {}, "Filter");
    this.fields = h("div");
    this.node = h("details", { class: "filter", oninput: () => this.count() }, this.summary, this.fields);
    this.clear();
  }

  clear() {
    this.controls = [];
    this.node.hidden = true;
    replace(this.fields);
    this.count();
  }

  async load(gallery, signal) {
    this.clear();
    const { fields } = await get(`/v1/galleries/${encodeURIComponent(gallery)}/fields`, { signal });
    this.controls = fields.flatMap((one) => [
      ...(one.values.length ? [one.values.length > CHECKED || one.more_values ? typed(one) : checked(one)] : []),
      ...(one.low === null ? [] : [bounds(one)]),
    ]);
    this.node.hidden = !this.controls.length;
    replace(this.fields, this.controls.map(({ node }) => node));
  }

  /** As the search takes it: field -> value, values or bounds; {} = every picture. */
  value() {
    return Object.fromEntries(this.controls.map(({ name, read }) => [name, read()]).filter(([, wanted]) => wanted !== null));
  }

  count() {
    const set = Object.keys(this.value()).length;
    this.summary.textContent = set ? `Filter · ${set} set` : "Filter";
  }
}

function checked({ name, values }) {
  const boxes = values.map((value) => [value, h("input", { type: "checkbox" })]);
  const read = () => {
    const chosen = boxes.filter(([, box]) => box.checked).map(([value]) => value);
    return chosen.length ? chosen : null;
  };
  return { name, read, node: h("fieldset", { class: "choices" }, h("legend", {}, name),
    boxes.map(([value, box]) => h("label", {}, box, " ", shown(value)))) };
}

let lists = 0;

function typed({ name, values }) {
  const known = h("datalist", { id: `values-${++lists}` }, values.map((value) => h("option", { value: shown(value) })));
  const control = h("input", { list: known.id });
  return { name, read: () => control.value.trim() || null, node: h("div", {}, field(name, control), known) };
}

function bounds({ name, low, high }) {
  const control = (label, bound) => h("input", { type: "number", step: "any", placeholder: String(bound), "aria-label": `${name}, ${label}` });
  const [from, to] = [control("at least", low), control("at most", high)];
  const read = () => {
    const wanted = { ...(from.value === "" ? {} : { gte: Number(from.value) }), ...(to.value === "" ? {} : { lte: Number(to.value) }) };
    return Object.keys(wanted).length ? wanted : null;
  };
  return { name, read, node: h("fieldset", { class: "bounds" }, h("legend", {}, name), from, " to ", to) };
}

const shown = (value) => (value === true ? "yes" : value === false ? "no" : value);
