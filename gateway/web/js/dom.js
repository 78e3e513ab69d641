// Elements from words: text is always text, never markup.

const SVG = new Set(["svg", "path", "line", "circle"]);

/** An element. Props: "on…" are listeners, true is a bare attribute, null and false are none. */
export function h(name, props = {}, ...children) {
  const node = SVG.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if ("value" in props && name !== "option") node.value = props.value; // after min and max, which would clamp it
  return node;
}

export function replace(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return node;
}

/** Tell something to those who do not see the page. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

let fields = 0;

/** A labelled field; `help` is read out with it. */
export function field(label, control, help = "") {
  const id = control.id || `field-${++fields}`;
  control.id = id;
  const remark = help ? h("small", { id: `${id}-help` }, help) : null;
  if (remark) control.setAttribute("aria-describedby", remark.id);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, remark);
}

export function empty(title, ...more) {
  return h("div", { class: "nothing" }, h("p", { class: "lead" }, title), more);
}

/** What went wrong, in the server's words, with a way to try again. */
export function trouble(error, again) {
  return h(
    "div", { class: "trouble", role: "alert" },
    h("p", { class: "lead" }, error.title || "That did not work"),
    h("p", {}, error.message),
    error.requestId ? h("p", { class: "id" }, `request ${error.requestId}`) : null,
    again ? h("button", { type: "button", onclick: again }, "Try again") : null,
  );
}
