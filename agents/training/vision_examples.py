"""Draws training examples of the vision skills, word for word as the agents ask them.

An example is a picture (two for compare) and several independent turns about it: an answer and
what is known about single positions on the way to it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from agents.backends.contract import ImageFile
from agents.prompting import PromptSet
from agents.skill_prompts import (
    caption_prompt,
    compare_prompt,
    imagine_image_prompt,
    verify_image_prompt,
)
from agents.training.optimisation import IGNORED
from agents.training.vocabulary import ASSISTANT, END, IMAGE, IMAGE_END, IMAGE_START, USER
from shared.demo_world.image_edits import existent, nonexistent
from shared.demo_world.language import NUMBER_WORDS, PLURALS, caption
from shared.demo_world.modification import Modification, modify, realise
from shared.demo_world.near_misses import one_attribute_off, undone
from shared.demo_world.propositions import ask, parse_question, propositions, random_question
from shared.demo_world.render import render
from shared.demo_world.scene import (
    BACKGROUNDS,
    POSITION_INDEX,
    POSITIONS,
    SHAPES,
    SLOT_VALUES,
    Group,
    Scene,
    TargetSpec,
    matches,
)
from shared.demo_world.splits import is_held_out, training_rng, training_scene, training_triplet

IMAGE_TOKENS: Final = 9
CAPTION, VERIFY, IMAGINE, COMPARE = range(4)
SKILL_NAMES: Final = ("caption", "verify", "imagine", "compare")
EMPTY, KEPT, CHANGED, GONE, NEW = range(5)
"""What a change does to a cell of the picture."""
_NO_FILE: Final = ImageFile(Path(), "")
_SYNONYMS: Final = {
    "big": Group(size="large"), "huge": Group(size="large"), "little": Group(size="small"),
    "tiny": Group(size="small"), "stripy": Group(texture="striped"),
    "spotted": Group(texture="dotted"), "solid": Group(texture="plain"),
    "unpatterned": Group(texture="plain"), "violet": Group(colour="purple"),
    "disc": Group(shape="circle"), "discs": Group(shape="circle"),
}  # fmt: skip


@dataclass
class Turn:
    """One prompt about the pictures and its answer, as token ids without the pictures'.

    Attributes:
        words: (position in the prompt, per cell 1 if its group has the attribute the word names).
        matches: per cell, 1 if its group is what the question asks for; [] if unknown.
        fates: per cell what the change does to it, then the target's background; [] if unknown.
        pointers: (position in prompt and answer, cell that the token to predict there is about).
        agrees: per cell and for the background, 1 if the candidate is as the change wants; [] if
            unknown.
    """

    skill: int
    prompt: list[int]
    answer: list[int]
    words: list[tuple[int, list[int]]] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    fates: list[int] = field(default_factory=list)
    pointers: list[tuple[int, int]] = field(default_factory=list)
    agrees: list[int] = field(default_factory=list)


@dataclass
class Example:
    """Pictures (144, 144, 3), what they show, the token ids that stand for them, and the turns.

    Attributes:
        differs: of two pictures per cell: is one empty there and the other not, and for each slot
            but the position whether it differs, IGNORED if either is empty; [] for one picture.
    """

    scenes: list[Scene]
    images: list[NDArray[np.uint8]]
    opening: list[int]
    turns: list[Turn]
    differs: list[list[int]] = field(default_factory=list)


class VisionExamples:
    """Draws examples; the same tokenizer, prompts and stream give the same sequence."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet, stream: str, start: int = 0
    ) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._prompts, self._stream, self._index = prompts, stream, start
        pictured = IMAGE_START + IMAGE * IMAGE_TOKENS + IMAGE_END
        self._openings = [self._ids(USER + pictured * number) for number in (1, 2)]
        self._group_of_word = _groups_of_words(tokenizer, _question_words())
        # Punctuation ends a phrase, be it of a caption or of JSON.
        self._breaks = {
            token for word, token in tokenizer.get_vocab().items() if set(word) & set('"[]{},.')
        }
        self._group_of_change_word = _groups_of_words(tokenizer, _change_words())

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def _next(self) -> tuple[random.Random, np.random.Generator]:
        self._index += 1
        rng = training_rng(self._stream, self._index)
        return rng, np.random.default_rng(rng.getrandbits(64))

    def _turn(self, skill: int, prompt: str, answer: str) -> Turn:
        turn = Turn(skill, self._ids(prompt + ASSISTANT), self._ids(answer + END))
        if skill in (CAPTION, IMAGINE):
            turn.pointers = [
                (len(turn.prompt) + index - 1, cell)
                for index, cell in self._cells_of_tokens(turn.answer)
            ]
        return turn

    def _cells_of_tokens(self, answer: list[int]) -> Iterator[tuple[int, int]]:
        """(index in the answer, cell) for the tokens of phrases that name a cell at their end."""
        phrase: list[int] = []
        for index, token in enumerate(answer):
            if token in self._breaks:
                phrase = []
                continue
            phrase.append(index)
            group = self._group_of_word.get(token)
            if group is not None and group.position is not None:
                yield from ((one, POSITION_INDEX[group.position]) for one in phrase)
                phrase = []

    def pictured(self) -> Example:
        """A picture without turns, most of its kind with three or four groups."""
        rng, noise = self._next()
        scene = training_scene(rng, rng.choice((1, 2, 3, 4, 4, 4)))
        return Example([scene], [render(scene, noise)], self._openings[0], [])

    def reference(self, questions: int, caption_share: float) -> Example:
        """A reference: imagine a change of it, answer questions, perhaps describe it."""
        rng, noise = self._next()
        scene, modification, _ = training_triplet(rng)
        turns = [self._imagine(modification, scene)]
        turns += self._questions(scene, modification, rng, questions)
        if rng.random() < caption_share:
            turns.append(self._caption(scene))
        return Example([scene], [render(scene, noise)], self._openings[0], turns)

    def candidate(self, questions: int, caption_share: float) -> Example:
        """A target, a near miss of one, or any scene: answer questions, perhaps describe it."""
        rng, noise = self._next()
        _, modification, scene = training_triplet(rng)
        kind = rng.random()
        if kind < 0.5:
            near = one_attribute_off(scene, rng)
            scene = scene if is_held_out(near) else near
        elif kind < 0.6:
            scene = training_scene(rng)
        turns = self._questions(scene, modification, rng, questions)
        if rng.random() < caption_share:
            turns.append(self._caption(scene))
        return Example([scene], [render(scene, noise)], self._openings[0], turns)

    def compared(self) -> Example:
        """A reference and a candidate: is the candidate as the change wants, or nearly so?"""
        rng, noise = self._next()
        scene, modification, target = training_triplet(rng)
        candidate = target
        if rng.random() < 0.5:
            candidate = _wrong_candidate(scene, modification, target, rng)
        right = modification.target.satisfied_by(candidate)
        text = compare_prompt(self._prompts, _NO_FILE, _NO_FILE, modification.text).text
        turn = self._turn(COMPARE, text, "Yes" if right else "No")
        turn.fates = cell_fates(scene, modification.target)
        turn.agrees = cell_agreement(modification.target, candidate)
        images = [render(scene, noise), render(candidate, noise)]
        turn.words = self._words_of_change(turn.prompt, scene)
        differs = cell_differences(scene, candidate)
        return Example([scene, candidate], images, self._openings[1], [turn], differs)

    def _caption(self, scene: Scene) -> Turn:
        return self._turn(CAPTION, caption_prompt(self._prompts, _NO_FILE).text, caption(scene))

    def _imagine(self, modification: Modification, scene: Scene) -> Turn:
        text = imagine_image_prompt(self._prompts, modification.text, _NO_FILE).text
        turn = self._turn(IMAGINE, text, image_imagination_json(modification))
        turn.fates = cell_fates(scene, modification.target)
        turn.words = self._words_of_change(turn.prompt, scene)
        return turn

    def _questions(
        self, scene: Scene, modification: Modification, rng: random.Random, number: int
    ) -> list[Turn]:
        proposed = [question for question, _ in propositions(modification)]
        asked = []
        for _ in range(number):
            if proposed and rng.random() < 0.25:
                asked.append(proposed.pop(rng.randrange(len(proposed))))
            else:
                asked.append(random_question(scene, rng)[0])
        return [self._question(question, scene) for question in dict.fromkeys(asked)]

    def _question(self, question: str, scene: Scene) -> Turn:
        text = verify_image_prompt(self._prompts, _NO_FILE, question).text
        turn = self._turn(VERIFY, text, "Yes" if ask(question, scene) else "No")
        partial = parse_question(question)
        if isinstance(partial, Group):
            turn.matches = _cells_matching(partial, scene)
            turn.words = _words(turn.prompt, self._group_of_word, scene)
        return turn

    def _words_of_change(self, prompt: list[int], scene: Scene) -> list[tuple[int, list[int]]]:
        """Which cells have the attribute that a word of a change names, be it the old or new."""
        return _words(prompt, self._group_of_change_word, scene)


def image_imagination_json(modification: Modification) -> str:
    """The answer taught for imagine_image."""
    return json.dumps(
        {
            "existent": list(existent(modification)),
            "nonexistent": list(nonexistent(modification)),
            "caption": modification.comprehensive,
        }
    )


def cell_fates(reference: Scene, target: TargetSpec) -> list[int]:
    """Per cell EMPTY, KEPT, CHANGED, GONE or NEW, then the class of the target's background."""
    before = {group.position: group for group in reference.groups}
    after = {group.position: group for group in target.groups}
    fates = []
    for cell in POSITIONS:
        if cell in before:
            new = after.get(cell)
            fates.append(GONE if new is None else KEPT if new == before[cell] else CHANGED)
        else:
            fates.append(NEW if cell in after else EMPTY)
    return [*fates, BACKGROUNDS.index(target.background or reference.background)]


def cell_agreement(target: TargetSpec, candidate: Scene) -> list[int]:
    """Per cell, then for the background, 1 if the candidate is as the target wants.

    IGNORED where the target leaves the place of a group open.
    """
    wanted = {group.position: group for group in target.groups}
    shown = {group.position: group for group in candidate.groups}
    agrees = []
    for cell in POSITIONS:
        if cell in wanted:
            agrees.append(int(cell in shown and matches(wanted[cell], shown[cell])))
        else:
            agrees.append(IGNORED if None in wanted else int(cell not in shown))
    return [*agrees, int(target.background in (None, candidate.background))]


def cell_differences(one: Scene, other: Scene) -> list[list[int]]:
    """Per cell, where two scenes differ; see `Example.differs`."""
    before = {group.position: group for group in one.groups}
    after = {group.position: group for group in other.groups}
    rows = []
    for cell in POSITIONS:
        a, b = before.get(cell), after.get(cell)
        if a is None or b is None:
            rows.append([int((a is None) != (b is None)), *[IGNORED] * 5])
        else:
            pairs = zip(a.values()[:-1], b.values()[:-1], strict=True)
            rows.append([0, *(int(x != y) for x, y in pairs)])
    return rows


def _wrong_candidate(
    reference: Scene, modification: Modification, target: Scene, rng: random.Random
) -> Scene:
    """Mostly a near miss of the target; may by chance be right after all."""
    kind = rng.random()
    if kind < 0.15:
        return reference
    if kind < 0.35:
        other = realise(modify(reference, rng).target, rng)
        return target if is_held_out(other) else other
    if kind < 0.5:
        options = undone(modification, target)
        if options:
            return rng.choice(options)
    for _ in range(5):
        near = one_attribute_off(target, rng)
        if not is_held_out(near) and not modification.target.satisfied_by(near):
            return near
    return target


def _cells_matching(partial: Group, scene: Scene) -> list[int]:
    cells = [0] * len(POSITIONS)
    for group in scene.groups:
        cells[POSITION_INDEX[group.position]] = int(matches(partial, group))
    return cells


def _words(
    prompt: list[int], group_of_word: dict[int, Group], scene: Scene
) -> list[tuple[int, list[int]]]:
    return [
        (position, _cells_matching(group_of_word[token], scene))
        for position, token in enumerate(prompt)
        if token in group_of_word
    ]


def _change_words() -> dict[str, Group]:
    """Attribute words that stand for themselves in free wording (places and numbers do not)."""
    words = {
        str(value): Group().with_value(slot, value)
        for slot in ("size", "texture", "colour", "shape")
        for value in SLOT_VALUES[slot]
    }
    words |= {PLURALS[shape]: Group(shape=shape) for shape in SHAPES}
    return words | _SYNONYMS


def _question_words() -> dict[str, Group]:
    """The attribute words of canonical questions."""
    words = {
        str(value): Group().with_value(slot, value)
        for slot in ("size", "texture", "colour", "shape", "position")
        for value in SLOT_VALUES[slot]
    }
    words |= {PLURALS[shape]: Group(shape=shape) for shape in SHAPES}
    return words | {NUMBER_WORDS[count]: Group(count=count) for count in (1, 2, 3)}


def _groups_of_words(
    tokenizer: PreTrainedTokenizerFast, words: dict[str, Group]
) -> dict[int, Group]:
    """What each word asks for, by its token; words of several tokens are left out."""
    encoded = {word: tokenizer.backend_tokenizer.encode(f" {word}").ids for word in words}
    return {ids[0]: words[word] for word, ids in encoded.items() if len(ids) == 1}
