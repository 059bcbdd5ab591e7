"""The player page and its files, as a browser asks for them."""

import re
from pathlib import Path

import pytest

from edge.outputs.player import FOLDER, find_hls
from tests.integration.test_edge_viewer import running


async def test_the_page_is_the_same_for_every_name_and_allows_no_foreign_script(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as edge:
        pages = set()
        for name in ("live", "live+%41lice", "other"):
            async with edge.client.get(f"{edge.url}/{name}.html") as response:
                assert response.status == 200
                policy = response.headers["Content-Security-Policy"]
                pages.add(await response.text())
        assert len(pages) == 1
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        hostile = "%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E"
        async with edge.client.get(f"{edge.url}/a+{hostile}.html") as response:
            assert response.status == 400
            assert "<img" not in await response.text()


async def test_every_file_that_the_page_names_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as edge:
        page = await (await edge.client.get(f"{edge.url}/live.html")).text()
        script = await (await edge.client.get(f"{edge.url}/player.js")).text()
        found = re.findall(r'(?:href|src)="(/[^"]+)"', page)
        found += [f"/{name}" for name in re.findall(r"from '\./([^']+)'", script)]
        assert len(found) >= 6
        for path in found:
            async with edge.client.get(f"{edge.url}{path}") as response:
                assert response.status == 200, path
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                tag = response.headers["ETag"]
            seen = {"If-None-Match": tag}
            async with edge.client.get(f"{edge.url}{path}", headers=seen) as response:
                assert response.status == 304
        async with edge.client.get(f"{edge.url}/player/..%2fviewer.py") as response:
            assert response.status == 404


async def test_hls_js_is_served_where_it_is_installed_and_missed_politely(tmp_path: Path) -> None:
    library = tmp_path / "lib" / "dist" / "hls.min.js"
    library.parent.mkdir(parents=True)
    library.write_text("var Hls;")
    expected = {str(tmp_path / "lib"): (200, "var Hls;"), str(tmp_path / "nowhere"): (404, None)}
    for place, (status, text) in expected.items():
        async with running(tmp_path / "pages", hls_js=place) as edge:
            response = await edge.client.get(f"{edge.url}/hls.js")
            assert response.status == status
            assert text in (None, await response.text())


def test_hls_js_is_found_by_file_too(tmp_path: Path) -> None:
    path = tmp_path / "my-hls.js"
    path.write_text("")
    assert find_hls(str(path)) == path
    assert find_hls(str(tmp_path / "none.js")) is None


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_the_script_never_makes_markup_of_text(path: Path) -> None:
    text = path.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
