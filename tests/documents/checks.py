"""Whether a command could be run: what it names is there. Nothing is run."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
from typing import Any

import typer.main

from gateway.cli import app
from tests.documents.fences import ROOT

PROGRAMS = {
    "cat", "cp", "curl", "docker", "kubectl", "make", "mkdir", "openssl", "python", "xr",
}  # fmt: skip
"""What documents call."""
_ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")
_OPERATORS = {"|", "&&", "||", ";"}


class WrongCommandError(AssertionError):
    """A command that names something there is not."""


def check_command(command: str) -> None:
    """Raises: WrongCommandError: a program nobody expects here, or an argument it doesn't take."""
    for words in _simple_commands(command.partition("\n")[0]):
        program = words[0].rpartition("/")[2]
        if program not in PROGRAMS:
            raise WrongCommandError(f"`{program}` is no program that a document may need")
        if program == "xr":
            check_xr(words[1:])
        elif program == "make":
            _check_make(words[1:])
        elif program == "curl":
            _check_url(words[1:])
        elif program in ("docker", "kubectl"):
            _check_files(words[1:])
        elif program == "python" and words[1:2] == ["-m"]:
            _check_module(words[2])


def check_xr(words: list[str]) -> None:
    """Parse it as the program would, options and their values included.

    Raises: WrongCommandError.
    """
    command: Any = typer.main.get_command(app)
    name = "xr"
    while getattr(command, "commands", None) and words:
        if words[0] not in command.commands:
            raise WrongCommandError(f"`{name} {words[0]}` does not exist")
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    try:
        command.make_context(name, list(words))
    except Exception as error:
        told = getattr(error, "message", "") or getattr(error, "format_message", str)()
        if re.search(r"^(file|directory|path) '.*' does not exist", str(told), re.IGNORECASE):
            return  # a reader's own file
        raise WrongCommandError(f"`{name} {shlex.join(words)}`: {told or error!r}") from error


def _check_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise WrongCommandError(f"there is no module {name}")


def _check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        if not _ASSIGNMENT.match(word) and word not in targets:
            raise WrongCommandError(f"`make {word}` does not exist")


def _check_files(words: list[str]) -> None:
    for option, value in itertools.pairwise(words):
        names_file = option in ("-f", "-k", "--file") and not re.match(r"https?:", value)
        if names_file and not (ROOT / value).exists():
            raise WrongCommandError(f"there is no {value}")


def _check_url(words: list[str]) -> None:
    urls = [word for word in words if word.startswith("http://127.0.0.1:8000")]
    description = json.loads((ROOT / "docs" / "openapi.json").read_text())
    given = words[words.index("-X") + 1] if "-X" in words else "GET"
    for url in urls:
        path = url.removeprefix("http://127.0.0.1:8000").partition("?")[0]
        for known, operations in description["paths"].items():
            form = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(known))
            if re.fullmatch(form, path) and given.lower() in operations:
                break
        else:
            raise WrongCommandError(f"the API has no {given} {path}")


def _simple_commands(command: str) -> list[list[str]]:
    """The words of each program that a command line calls, without variables set for it."""
    inner = re.findall(r"\$\(((?:[^()]|\([^()]*\))*)\)", command)
    for text in inner:
        command = command.replace(f"$({text})", "VALUE")
    parts: list[list[str]] = [[]]
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    lexer.commenters = ""
    for word in lexer:
        if word in _OPERATORS:
            parts.append([])
        elif parts[-1] or not _ASSIGNMENT.match(word):
            parts[-1].append(word)
    found = [part for part in parts if part]
    return [*(words for text in inner for words in _simple_commands(text)), *found]
