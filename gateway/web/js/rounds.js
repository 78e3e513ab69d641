// The rounds of a search: what was said so far, and what else should change.

import { h } from "./dom.js";
import { picture } from "./picture.js";

/**
 * One round: its text, the texts said before it, the description the round before gave, and the
 * image of that round that was marked as the target. `answer` is there once it is complete.
 */
export const firstRound = (text) => ({ text, said: [], description: "", marked: null, answer: null });

/** The next round: the texts so far are kept, the target is what the last answer made of them. */
export const refined = (round, text) => ({ text, said: [...round.said, round.text], description: round.answer.description, marked: null, answer: null });

/** The same round again, nearer to an image it has found. */
export const nearer = (round, image) => ({ ...round, marked: image, answer: null });

export const request = ({ text, said, description, marked }) => ({
  modification_text: text,
  ...(said.length ? { earlier: { texts: said, description } } : {}),
  ...(marked ? { target_feedback: { image_id: marked } } : {}),
});

/** The rounds so far, the one that is shown marked; `back(place)` goes to one. */
export function history(rounds, shown, gallery, back) {
  if (rounds.length < 2) return null;
  return h("ol", { class: "rounds", "aria-label": "Rounds of this search" }, rounds.map((round, place) => h("li", {},
    h("button", { type: "button", "aria-current": place === shown ? "step" : null, disabled: !round.answer && place !== shown, onclick: () => back(place) },
      h("b", {}, place + 1), " ",
      round.marked ? [picture(gallery, round.marked, { width: 80, alt: "" }), h("span", {}, `like ${round.marked}`)] : h("span", {}, round.text)))));
}

/** A line to say what else should change. */
export function further(said) {
  const words = h("input", { id: "further", maxlength: 10000, required: true, placeholder: "and two of them" });
  return h("form", { class: "further", onsubmit: (event) => { event.preventDefault(); said(words.value.trim()); } },
    h("label", { for: "further" }, "And what else?"), words, h("button", {}, "Refine"));
}
