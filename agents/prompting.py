"""Loads a set of prompts (data files, one per skill) and fills them in."""

from __future__ import annotations

import hashlib
import string
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shared.errors import ConfigurationError

SKILLS = (
    "caption",
    "imagine_text",
    "imagine_dialogue",
    "imagine_image",
    "propose",
    "verify_image",
    "verify_caption",
    "compare",
)
JOINT_SKILLS = ("verify_image_jointly", "verify_caption_jointly")
"""Prompts a set may leave out: profiles with `joint = true` need them."""
PROMPTS_FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class PromptTemplate:
    """One skill's prompt.

    Images, where a skill has any, always come before the text, so that engines share the prefix
    between the questions asked about one image.

    Attributes:
        text: `string.Template` text; its placeholders are the skill's fields.
        system: optional system message, constant.
        max_tokens: bound of the generated answer.
        source: the file it was read from, as it is.
    """

    skill: str
    text: str
    system: str
    max_tokens: int
    source: bytes

    def fill(self, **fields: str) -> str:
        """The user message. Raises: KeyError: a placeholder has no field."""
        words = list(self._parts)
        words[1::2] = [fields[name] for name in words[1::2]]
        return "".join(words)

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        """The text cut at its placeholders: literal, name, literal, ..., name, literal.

        Cut once, as a template is filled several hundred times per query.
        """
        template = string.Template(self.text)
        marked = {name: f"\0{name}\0" for name in template.get_identifiers()}
        return tuple(template.substitute(marked).split("\0"))


@dataclass(frozen=True)
class PromptSet:
    """All prompts of one set, and the hash that names exactly these words.

    Attributes:
        digest: sha256 over every file, hex; part of cache keys and of a run's manifest.
    """

    name: str
    templates: dict[str, PromptTemplate]
    digest: str

    def __getitem__(self, skill: str) -> PromptTemplate:
        return self.templates[skill]

    def skill_digest(self, skill: str) -> str:
        """sha256 hex of one skill's prompt."""
        template = self.templates[skill]
        text = f"{template.system}\0{template.text}\0{template.max_tokens}"
        return hashlib.sha256(text.encode()).hexdigest()


def load_prompts(name_or_path: str) -> PromptSet:
    """Read a prompt set by the name of a shipped one ("standard", "compact") or a folder's path.

    Raises: ConfigurationError: no such set, a skill's file is missing or malformed.
    """
    folder = PROMPTS_FOLDER / name_or_path
    if not folder.is_dir():
        folder = Path(name_or_path)
    if not folder.is_dir():
        shipped = ", ".join(sorted(path.name for path in PROMPTS_FOLDER.iterdir() if path.is_dir()))
        raise ConfigurationError(
            f"no prompt set {name_or_path!r}: neither a folder nor one of those shipped ({shipped})"
        )
    skills = [*SKILLS, *(name for name in JOINT_SKILLS if (folder / f"{name}.toml").exists())]
    templates = {skill: _load_template(folder / f"{skill}.toml", skill) for skill in skills}
    digest = hashlib.sha256()
    for skill in skills:
        digest.update(templates[skill].source)
    return PromptSet(folder.name, templates, digest.hexdigest())


def _load_template(path: Path, skill: str) -> PromptTemplate:
    try:
        source = path.read_bytes()
        fields = tomllib.loads(source.decode())
        return PromptTemplate(
            skill=skill,
            text=str(fields["text"]),
            system=str(fields.get("system", "")),
            max_tokens=int(fields["max_tokens"]),
            source=source,
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"prompt file {path} is missing") from error
    except (tomllib.TOMLDecodeError, KeyError, ValueError) as error:
        raise ConfigurationError(f"prompt file {path}: {error}") from error
