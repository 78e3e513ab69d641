// The part of a picture that is meant: drawn with the mouse, moved and sized with the keys.

import { h, say } from "./dom.js";

const STEP = 0.05; // of the picture, a key press
const SMALLEST = 0.05;
const FIRST = [0.2, 0.2, 0.6, 0.6]; // where the keyboard begins
const HEIGHT_REM = 11;

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const round = (value) => Math.round(value * 1000) / 1000;

export class Crop {
  /** `onchange(part)` gets [x, y, width, height] as fractions of the picture, or null for all of it. */
  constructor(image, onchange) {
    this.part = null;
    this.onchange = onchange;
    this.frame = h("div", { class: "frame", tabindex: "0", role: "application", hidden: true, onkeydown: (event) => this.key(event) },
      h("span", { class: "grip", "aria-hidden": "true" }));
    this.node = h("div", { class: "cropper", onpointerdown: (event) => this.press(event) }, image, this.frame);
    image.draggable = false;
    image.addEventListener("load", () => {
      const ratio = image.naturalWidth / image.naturalHeight;
      this.node.style.aspectRatio = String(ratio);
      this.node.style.width = `min(100%, ${HEIGHT_REM * ratio}rem)`;
    });
  }

  /** A frame to begin with, for those who have no mouse; all of the picture again where there is one. */
  toggle() {
    this.set(this.part ? null : FIRST);
    if (this.part) this.frame.focus();
  }

  set(part) {
    this.part = part && part.map(round);
    this.frame.hidden = !part;
    if (part) {
      const [x, y, width, height] = this.part.map((value) => `${100 * value}%`);
      Object.assign(this.frame.style, { left: x, top: y, width, height });
      this.frame.setAttribute("aria-label", `${this.told()}. Arrow keys move it, with Shift they size it, Delete takes it away`);
    }
    this.onchange(this.part);
  }

  told() {
    const [x, y, width, height] = this.part.map((value) => `${Math.round(100 * value)} %`);
    return `The part that is meant: ${width} wide and ${height} high, ${x} from the left, ${y} from the top`;
  }

  key(event) {
    if (event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") {
      event.preventDefault();
      this.set(null);
      say("The whole picture is meant");
      return;
    }
    const move = KEYS[event.key];
    if (!move) return;
    event.preventDefault();
    const [dx, dy] = move.map((direction) => STEP * direction);
    this.set(event.shiftKey ? this.sized(this.part, dx, dy) : this.moved(this.part, dx, dy));
    say(this.told());
  }

  moved([x, y, width, height], dx, dy) {
    return [clamp(x + dx, 0, 1 - width), clamp(y + dy, 0, 1 - height), width, height];
  }

  sized([x, y, width, height], dx, dy) {
    return [x, y, clamp(width + dx, SMALLEST, 1 - x), clamp(height + dy, SMALLEST, 1 - y)];
  }

  /** A drag in the frame moves it, one at its corner sizes it, one beside it draws another. */
  press(event) {
    const inside = this.frame.contains(event.target);
    if (event.button !== 0 || (event.pointerType === "touch" && !inside)) return; // a finger scrolls
    event.preventDefault();
    const before = this.part;
    const [x, y] = this.at(event);
    const sizing = event.target.classList.contains("grip");
    const change = (to) => {
      const [tx, ty] = this.at(to);
      if (sizing) this.set(this.sized(before, tx - x, ty - y));
      else if (inside) this.set(this.moved(before, tx - x, ty - y));
      else if (Math.abs(tx - x) >= SMALLEST && Math.abs(ty - y) >= SMALLEST) this.set([Math.min(x, tx), Math.min(y, ty), Math.abs(tx - x), Math.abs(ty - y)]);
    };
    const stop = () => {
      this.node.removeEventListener("pointermove", change);
      if (this.part) this.frame.focus({ preventScroll: true });
    };
    this.node.setPointerCapture(event.pointerId);
    this.node.addEventListener("pointermove", change);
    this.node.addEventListener("lostpointercapture", stop, { once: true });
  }

  at(event) {
    const box = this.node.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width, 0, 1), clamp((event.clientY - box.top) / box.height, 0, 1)];
  }
}
