"""The files of `static/`: what was made elsewhere is unchanged, and our own needs nothing from elsewhere."""

import base64
import hashlib
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.preview import SAMPLES, STATIC

FOLDER = Path(__file__).parents[1] / "static"
OURS = {"VENDORED.md", "certbob.css", "certbob.js", "favicon.ico", "favicon.svg"}
ROW = re.compile(
    r"\| `(?P<file>[^`]+)` \| (?P<package>\S+) \| (?P<version>\S+) \| (?P<source>[^|]+) "
    r"\| \[(?P<licence>\S+)\]\((?P<licence_file>\S+)\) \| `(?P<sha384>[A-Za-z0-9+/]{64})` \|"
)


def vendored() -> list[dict[str, str]]:
    return [row.groupdict() for row in ROW.finditer((FOLDER / "VENDORED.md").read_text())]


def source(name: str) -> str:
    return (FOLDER / name).read_text()


@pytest.mark.parametrize("row", vendored(), ids=lambda row: row["file"])
def test_what_was_made_elsewhere_is_unchanged(row: dict[str, str]) -> None:
    content = (FOLDER / row["file"]).read_bytes()

    assert base64.b64encode(hashlib.sha384(content).digest()).decode() == row["sha384"]
    assert row["version"] in row["file"]
    assert STATIC.integrity(row["file"]) == f"sha384-{row['sha384']}"


def test_every_file_is_ours_or_recorded_with_its_licence() -> None:
    recorded = {row[key] for row in vendored() for key in ("file", "licence_file")}

    assert {path.name for path in FOLDER.iterdir()} == OURS | recorded
    assert len(vendored()) == 1


def test_htmx_is_loaded_with_its_hash() -> None:
    (row,) = vendored()

    assert f'integrity="sha384-{row["sha384"]}"' in SAMPLES["sign-in"].render()


def test_the_style_sheet_loads_nothing() -> None:
    css = source("certbob.css")

    assert not re.search(r"url\(|@import|@font-face|https?:", css)
    assert css.count("{") == css.count("}")


def test_every_colour_of_the_dark_scheme_has_one_in_the_light() -> None:
    light, dark = re.findall(r":root \{([^}]*--page[^}]*)\}", source("certbob.css"))[:2]

    names = [set(re.findall(r"(--[a-z-]+):", block)) for block in (light, dark)]
    assert names[1] == names[0] - {"--gap"}
    assert set(re.findall(r"var\((--[a-z-]+)\)", source("certbob.css"))) == names[0]


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of `#rrggbb` or `#rgb`."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = (int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_everything_can_be_read(scheme: int) -> None:
    """WCAG 2.2: 1.4.3 for text, 1.4.11 for the borders of fields."""
    block = re.findall(r":root \{([^}]*--page[^}]*)\}", source("certbob.css"))[scheme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))

    for ground in ("page", "card", "tint"):
        for text in ("text", "muted", "accent", "error", "ok"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    for ground in ("page", "card"):
        assert contrast(colours["field"], colours[ground]) >= 3, ground


def test_the_script_is_small_and_keeps_nothing() -> None:
    script = source("certbob.js")

    assert len(script.splitlines()) < 80
    assert not re.search(r"eval|Function\(|innerHTML|Storage|cookie|fetch\(|XMLHttp|console", script)


def test_icons_draw_and_do_nothing_else() -> None:
    svg = ElementTree.fromstring(source("favicon.svg"))
    allowed = {"xmlns", "viewBox", "width", "height", "rx", "fill", "d"}
    assert {element.tag.rpartition("}")[2] for element in svg.iter()} <= {"svg", "rect", "path"}
    assert all(set(element.attrib) <= allowed for element in svg.iter())

    reserved, kind, count, width, height = struct.unpack_from("<HHHBB", (FOLDER / "favicon.ico").read_bytes())
    assert (reserved, kind, count, width, height) == (0, 1, 1, 32, 32)
