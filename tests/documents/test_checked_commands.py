"""Every command of every document names programs, options, targets and files that there are."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib

import pytest

from tests.documents.checks import WrongCommandError, check_command
from tests.documents.fences import PYTHON, ROOT, SHELL, TOML, Block, blocks_of, commands_of, pages
from tests.documents.not_run import NOT_RUN

BLOCKS = [block for page in pages() for block in blocks_of(page)]
COMMANDS = [(b, command) for b in BLOCKS if b.language == SHELL for command in commands_of(b)]


@pytest.mark.parametrize("page", pages())
def test_a_page_s_commands_could_be_run(page: str) -> None:
    for block, command in COMMANDS:
        if block.page == page:
            try:
                check_command(command)
            except WrongCommandError as error:
                raise AssertionError(f"{block.where}: {command}: {error}") from None


def test_commands_stand_in_blocks_that_say_so() -> None:
    for block in BLOCKS:
        assert block.language in {SHELL, PYTHON, TOML, "json", "acl", ""}, block.where
        if not block.language:
            assert not re.search(r"^(xr|make|curl|docker) ", block.text, re.MULTILINE), block.where


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == PYTHON], ids=lambda block: block.where
)
def test_python_compiles_and_imports_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.where}: {node.module}.{alias.name}"


def test_json_and_toml_are_well_formed() -> None:
    for block in BLOCKS:
        if block.language == "json":
            for line in block.text.splitlines():
                json.loads(line)
        elif block.language == TOML:
            tomllib.loads(block.text)


def test_links_lead_somewhere() -> None:
    for page in pages():
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.exists(), f"{page}: {target}"
            if anchor and path.suffix == ".md":
                headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
                assert anchor in {_anchor(heading) for heading in headings}, f"{page}: {target}"


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    for pattern in NOT_RUN:
        found = any(re.search(pattern, command) for _, command in COMMANDS)
        assert found, f"no document has a command like {pattern}"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("xr bensch --dataset demo", "xr bensch"),
        ("xr bench --dataset demo --top-q 3", "--top-q"),
        ("xr bench --dataset demo --top-k many", "many"),
        ("XR_PROFILE=x xr runs shwo ID", "runs shwo"),
        ("make nothing-like-it", "nothing-like-it"),
        ("docker compose -f compose.gone.yaml up", "compose.gone.yaml"),
        ("curl -s http://127.0.0.1:8000/v1/nothing", "/v1/nothing"),
        ("curl -s http://127.0.0.1:8000/v1/runs | python -m no.such", "no.such"),
        ("rm -rf x", "rm"),
    ],
)
def test_a_wrong_command_is_found(command: str, told: str) -> None:
    with pytest.raises(WrongCommandError, match=re.escape(told)):
        check_command(command)
