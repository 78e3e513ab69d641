"""What the documents say is there: settings, commands, services, and no private address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
import yaml

from gateway.cli import app
from shared.contracts.skills import AgentName
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"__pycache__", "node_modules", "build", "dist"}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".lock", ".txt", ".conf", ".cfg", ""}


def repository_files() -> Iterator[Path]:
    """What is kept: not caches, environments and runs (hidden folders, but for CI's)."""
    for path in sorted(ROOT.rglob("*")):
        folders = path.relative_to(ROOT).parts[:-1]
        hidden = any(part.startswith(".") and part != ".ci" for part in folders)
        kept = path.name != ".git"  # a file, in a second working tree of one repository
        if kept and not hidden and SKIPPED.isdisjoint(folders) and path.is_file():
            yield path


def subcommands() -> set[str]:
    """Every "name" and "group name" of the xr command."""
    top = typer.main.get_command(app)
    names: set[str] = set()
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        names.add(name)
        names |= {f"{name} {inner}" for inner in getattr(command, "commands", {})}
    return names


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_every_setting_has_its_line_with_the_default(field: str) -> None:
    lines = (ROOT / "docs/settings.md").read_text().splitlines()
    line = next((line for line in lines if line.startswith(f"| `XR_{field.upper()}` |")), None)
    assert line is not None, f"docs/settings.md says nothing of XR_{field.upper()}"
    default = getattr(Settings(), field)
    written = str(default).lower() if isinstance(default, bool) else default
    assert f"| `{written}` |" in line or (default == "" and "| empty |" in line), line


def test_no_setting_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    documented = set(re.findall(r"^\| `XR_([A-Z0-9_]+)` \|", text, re.MULTILINE))
    assert documented <= {field.upper() for field in Settings.__struct_fields__}


def test_the_files_and_functions_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    folders = [ROOT / name for name in ("shared", "agents", "broker", "gateway")]
    modules = [path for folder in folders for path in folder.rglob("*.py")]
    names = {path.name for path in modules}
    for file in re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", text):
        assert file in names, f"docs/architecture.md: there is no {file}"
    source = "\n".join(path.read_text() for path in modules)
    for name in re.findall(r"`(?:await )?([A-Za-z_]\w+)\(", text):
        assert re.search(rf"(?:def|class) {name}\b", source), f"docs/architecture.md: {name}"


@pytest.mark.parametrize(
    "document",
    [
        *("README.md", "docs/settings.md", "docs/image-databases.md"),
        *("docs/from-the-authors-script.md", "docs/deploy-laptop.md", "docs/operations.md"),
        *("docs/deploy-gpu-host.md", "docs/deploy-kubernetes.md"),
    ],
)
def test_the_commands_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    known = subcommands()
    for name in re.findall(r"(?:^|[`\s/])xr ([a-z][a-z-]*)", code):
        assert name in known, f"{document}: `xr {name}` does not exist"
    for target in re.findall(r"(?:^|[`\s])make ([a-z][a-z-]*)", code):
        assert target in make_targets(), f"{document}: `make {target}` does not exist"


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("compose*.yaml"), *ROOT.glob("k8s/**/*.yaml")]), ids=lambda p: p.name
)
def test_manifests_are_yaml_and_their_xr_commands_exist(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        """Knows Compose's tags for taking away and replacing a value of the base file."""

    for tag in ("!reset", "!override"):
        Loader.add_constructor(tag, lambda _loader, _node: None)
    documents = list(yaml.load_all(path.read_text(), Loader))
    assert documents
    for command in commands_in(documents):
        if command[0] == "xr":
            assert command[1] in subcommands()
        if command[:2] == ["xr", "agent"]:
            assert command[2:]
            assert set(command[2:]) <= set(get_args(AgentName))


def commands_in(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        if isinstance(node.get("command"), list):
            yield node["command"]
        for value in node.values():
            yield from commands_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from commands_in(value)


def test_every_agent_is_deployed_in_both_ways() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    deployed = {name for command in commands_in(compose) for name in command[2:]}
    assert set(get_args(AgentName)) <= deployed
    listed = yaml.safe_load((ROOT / "k8s/base/kustomization.yaml").read_text())["resources"]
    assert {f"{agent}.yaml" for agent in get_args(AgentName)} <= set(listed)
    assert {path.name for path in (ROOT / "k8s/base").glob("*.yaml")} == {
        *listed, "kustomization.yaml",
    }  # fmt: skip


def test_the_lock_pins_everything_and_names_no_index() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    for line in lines:
        assert re.match(r"^[a-z0-9._-]+==[^\s;]+( ; .+)?$", line), line
    pins = {line.split(" ")[0] for line in lines}
    assert {"torch==2.13.0", "torchvision==0.28.0", "transformers==5.19.0"} <= pins
    assert "open-clip-torch==3.3.0" in pins


def test_the_repository_names_no_private_host_and_no_path_of_one_machine() -> None:
    machine_path = re.compile(r"(?<![\w.$}{-])/(?:work|root|home/[a-z]+|Users/[A-Za-z]+)/")
    index = re.compile(
        r"--(?:extra-)?index-url|--find-links|/simple/?\b|https?://[^/\s]*pypi", re.I
    )
    for path in repository_files():
        if path.suffix not in TEXT or path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (machine_path, index):
            found = pattern.search(text)
            assert found is None, f"{path.relative_to(ROOT)}: {found.group() if found else ''}"
