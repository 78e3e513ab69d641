"""A modification in the making: which groups are touched, the edits, and the clauses so far."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.demo_world.edits import REMOVE, Edit
from shared.demo_world.language import phrase
from shared.demo_world.referring import Reference, refer
from shared.demo_world.scene import POSITIONS, Group, Scene
from shared.demo_world.wordings import TEMPLATES


@dataclass(slots=True)
class Draft:
    """Grows by operations; indices are those of the reference scene's groups.

    `touched` maps a touched group to its new partial (None: removed). `background` is None
    while unchanged. Every clause in `clauses` is of one `style`.
    """

    scene: Scene
    rng: random.Random
    style: str
    touched: dict[int, Group | None] = field(default_factory=dict)
    added: list[Group] = field(default_factory=list)
    background: str | None = None
    edits: list[Edit] = field(default_factory=list)
    core: list[str] = field(default_factory=list)
    enhanced: list[str] = field(default_factory=list)
    absent_core: list[str] = field(default_factory=list)
    absent_enhanced: list[str] = field(default_factory=list)
    clauses: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)

    def pick(self, wanted: Callable[[Group], bool] | None = None) -> int | None:
        """A random untouched group (that is wanted), None where there is none."""
        groups = self.scene.groups
        free = [
            index
            for index in range(len(groups))
            if index not in self.touched and (wanted is None or wanted(groups[index]))
        ]
        return self.rng.choice(free) if free else None

    def new_groups(self) -> list[Group]:
        """The partials that changed or are new so far."""
        return [group for group in self.touched.values() if group is not None] + self.added

    def alive(self) -> int:
        """How many groups the target has so far."""
        return len(self.scene.groups) - list(self.touched.values()).count(None) + len(self.added)

    def free_cells(self) -> list[str]:
        """The cells that neither the reference nor the target so far uses."""
        used = {group.position for group in (*self.scene.groups, *self.new_groups())}
        return [cell for cell in POSITIONS if cell not in used]

    def refer(self, index: int, *, plain: bool = False) -> Reference:
        """A unique expression for an untouched group, before and after the edits so far.

        `plain` ones do not name the count and take no pronoun or "only".
        """
        groups = self.scene.groups
        others = [group for i, group in enumerate(groups) if i != index] + self.new_groups()
        return refer(groups[index], others, self.rng, plain=plain)

    def alter(self, index: int, new: Group, named: Group, kind: str) -> None:
        """Records that a group becomes `new`, of which the text names `named`."""
        self.touched[index] = new
        self.edits.append(Edit(kind, phrase(self.scene.groups[index]), phrase(new)))
        self.core.append(phrase(named))
        self.enhanced.append(phrase(new))

    def drop(self, index: int, named: Group) -> None:
        """Records that a group goes, of which the text names `named`."""
        self.touched[index] = None
        group = self.scene.groups[index]
        self.edits.append(Edit(REMOVE, phrase(group), "gone"))
        self.absent_core.append(phrase(named))
        self.absent_enhanced.append(phrase(group.with_value("count", None)))

    def say(
        self, wording: str, reference: Reference | None, fields: dict[str, str], *,
        new: Group | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        """Adds a clause from the templates of `wording`; `new` is what the field `np` shows."""
        fields = dict(fields)
        if new is not None:
            several = (new.count or 1) > 1
            fields |= {"are_np": "are" if several else "is", "has_np": "have" if several else "has",
                       "takes": "take" if several else "takes"}  # fmt: skip
        if reference is not None:
            fields |= agreement(reference)
        template = self.rng.choice(TEMPLATES[wording][self.style])
        self.clauses.append(template.format_map(fields))
        self.operations.append(name or wording)


def agreement(reference: Reference) -> dict[str, str]:
    """The template fields that depend on a referring expression alone."""
    plural = reference.plural
    return {
        "r": reference.text,
        "s": "they" if reference.text == "them" else reference.text,
        "is": "are" if plural else "is",
        "was": "were" if plural else "was",
        "has": "have" if plural else "has",
        "sits": "sit" if plural else "sits",
        "stays": "stay" if plural else "stays",
        "remains": "remain" if plural else "remains",
        "it_is": "they are" if plural else "it is",
        "bare": reference.bare(),
        "bare1": reference.noun.text(plural=False),
        "bares": reference.noun.text(plural=True),
    }
