"""The web page's files: all of them are served, under a policy, and nothing beside them."""

from __future__ import annotations

import re

import pytest

from gateway.routes.page import POLICY
from gateway.web import FOLDER
from tests.unit.gateway.fakes import Api

FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*")
               if path.suffix in (".html", ".css", ".js", ".svg"))  # fmt: skip


async def test_every_file_is_served_with_its_type_and_the_policy(api: Api) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    assert len(FILES) > 15
    for name in FILES:
        answer = await api.http.get(f"/web/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content == (FOLDER / name).read_bytes()


async def test_the_start_page_names_only_files_that_are_there(api: Api) -> None:
    page = (await api.http.get("/")).text
    for source in re.findall(r'(?:src|href)="(/web/[^"]+)"', page):
        assert (await api.http.get(source)).status_code == 200


def test_modules_import_only_what_is_there_and_nothing_from_outside() -> None:
    for path in FOLDER.rglob("*.js"):
        text = path.read_text()
        for imported in re.findall(r'from "([^"]+)"', text):
            assert imported.startswith("./"), f"{path.name} imports {imported}"
            assert (path.parent / imported).is_file(), f"{path.name} imports {imported}"
        assert "innerHTML" not in text
        assert "eval(" not in text
    for path in (*FOLDER.rglob("*.css"), *FOLDER.rglob("*.js"), *FOLDER.rglob("*.html")):
        # a page without internet: no address but the names of XML vocabularies
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_every_name_that_is_imported_is_exported() -> None:
    declared = re.compile(r"export (?:async )?(?:const|function|class) (\w+)")
    exported = {path.name: set(declared.findall(path.read_text())) for path in FOLDER.rglob("*.js")}
    for path in FOLDER.rglob("*.js"):
        for names, source in re.findall(r'import \{([^}]+)\} from "\./([^"]+)"', path.read_text()):
            wanted = {name.strip().partition(" as ")[0] for name in names.split(",")} - {""}
            assert wanted <= exported[source], f"{path.name}: {wanted - exported[source]}"


async def test_an_unchanged_file_is_not_sent_again(api: Api) -> None:
    first = await api.http.get("/web/app.css")
    again = await api.http.get("/web/app.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == POLICY
    other = await api.http.get("/web/app.css", headers={"If-None-Match": '"older"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "name",
    ["", "nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py", "js", "__init__.py",
     "/etc/passwd", "js/../../server.py", "app.css/", "app.css%00.js"],
)  # fmt: skip
async def test_what_is_no_file_of_the_page_is_not_found(api: Api, name: str) -> None:
    answer = await api.http.get(f"/web/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("application/problem+json")
