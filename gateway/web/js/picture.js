// Pictures of a gallery. With an API key an <img> cannot ask for itself: the page asks for it.

import { apiKey, blob, pictureUrl } from "./api.js";
import { h } from "./dom.js";

export function picture(gallery, image, { width = 320, alt = `image ${image}`, lazy = true } = {}) {
  return show(h("img", { alt, loading: lazy ? "lazy" : "eager", decoding: "async" }), pictureUrl(gallery, image, width));
}

export function show(node, url) {
  node.addEventListener("error", () => node.classList.add("missing"), { once: true });
  if (!apiKey()) {
    node.src = url;
  } else {
    blob(url).then(
      (content) => {
        node.src = URL.createObjectURL(content);
        node.addEventListener("load", () => URL.revokeObjectURL(node.src), { once: true });
      },
      () => node.classList.add("missing"),
    );
  }
  return node;
}

/** An article the gateway has rendered, with its pictures asked for like all others. */
export function article(markup) {
  const parsed = new DOMParser().parseFromString(markup, "text/html");
  const node = document.adoptNode(parsed.body.firstElementChild);
  for (const image of node.querySelectorAll("img")) {
    const url = image.getAttribute("src");
    image.removeAttribute("src");
    show(image, url);
  }
  return node;
}
