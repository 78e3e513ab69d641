// The reference of a search: a picture of the gallery, or one chosen, dropped or pasted; or a part of it.

import { post } from "./api.js";
import { Crop } from "./crop.js";
import { h, replace, say, trouble } from "./dom.js";
import { picture } from "./picture.js";

const DRAGGED = "text/x-image-id";

/** What makes a picture of the gallery one that can be dragged to the slot. */
export const draggable = (id) => ({ draggable: "true", ondragstart: (event) => event.dataTransfer.setData(DRAGGED, id) });

export class ReferenceSlot {
  /** `onchange()` is called when there is another reference, none, or another part of it is meant. */
  constructor(onchange) {
    this.node = h("div", { class: "slot" });
    this.onchange = onchange;
    this.forget();
  }

  /** Whether it is no picture of the gallery as it is. */
  get outside() {
    return Boolean(this.chosen?.upload || this.part);
  }

  forget() {
    this.take(null);
  }

  choose(gallery, id) {
    this.take({ id, label: id, show: () => picture(gallery, id, { width: 640, alt: `the reference, image ${id}`, lazy: false }) });
    say(`Reference: image ${id}`);
  }

  async upload(file) {
    if (!file) return;
    const url = URL.createObjectURL(file);
    this.node.classList.add("busy");
    try {
      const kept = await post("/v1/uploads", file, { headers: { "Content-Type": file.type || "application/octet-stream" } });
      this.take({ upload: kept.id, label: `${file.name}, ${kept.width} × ${kept.height}`, show: () => h("img", { src: url, alt: `the reference, ${file.name}` }) });
      say(`Reference: ${file.name}`);
    } catch (error) {
      this.draw();
      this.node.append(trouble(error));
    } finally {
      this.node.classList.remove("busy");
    }
  }

  /** What lies in a drop or a paste: a picture of the gallery, or a file. */
  async receive(gallery, transfer) {
    const id = transfer.getData(DRAGGED);
    if (id) this.choose(gallery, id);
    else await this.upload(transfer.files[0]);
  }

  request() {
    return {
      reference_image_id: this.chosen?.id ?? null,
      reference_upload: this.chosen?.upload ?? null,
      crop: this.part,
    };
  }

  /** A function that gives the reference as it is now, cut to its part; null without one. */
  shown() {
    if (!this.chosen) return null;
    const { chosen, part } = this;
    return () => {
      const image = chosen.show();
      if (part) {
        const [x, y, width, height] = part.map((value) => 100 * value);
        image.style.objectViewBox = `inset(${y}% ${100 - x - width}% ${100 - y - height}% ${x}%)`;
      }
      return image;
    };
  }

  take(chosen) {
    this.chosen = chosen;
    this.part = null;
    this.draw();
    this.onchange();
  }

  draw() {
    const file = h("input", { type: "file", accept: "image/*", class: "hidden", id: "file", onchange: () => this.upload(file.files[0]) });
    const label = h("label", { for: "file", class: "button" }, this.chosen ? "Another file" : "Choose a file");
    this.node.classList.toggle("filled", Boolean(this.chosen));
    if (!this.chosen) {
      replace(this.node,
        h("p", { class: "lead" }, "Click a picture, or drop one here"),
        h("p", { class: "note" }, "A copied picture can be pasted. Without one, the words alone say what is looked for."),
        h("div", { class: "actions" }, file, label));
      return;
    }
    const button = h("button", { type: "button", onclick: () => crop.toggle() }, "Use a part");
    const crop = new Crop(this.chosen.show(), (part) => {
      this.part = part;
      button.textContent = part ? "Use all of it" : "Use a part";
      this.onchange();
    });
    replace(this.node,
      h("figure", { class: "picture" }, crop.node, h("figcaption", {}, this.chosen.label)),
      h("p", { class: "note" }, "Drag over the picture to mean only a part of it."),
      h("div", { class: "actions" }, button, file, label, h("button", { type: "button", onclick: () => this.forget() }, "Remove")));
  }
}
