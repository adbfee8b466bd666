"""What a browser makes of a page, as far as tests ask: elements, text, and what a form would send."""

from dataclasses import dataclass
from html.parser import HTMLParser
from xml.etree.ElementTree import Element


@dataclass(frozen=True, slots=True)
class Form:
    action: str
    method: str
    fields: dict[str, str]
    attributes: dict[str, str]


class Page:
    """A whole page or a fragment."""

    def __init__(self, text: str) -> None:
        self.root = _parse(text)

    def all(self, path: str) -> list[Element]:
        """In the path language of ElementTree: `h1`, `input[@name='device']`."""
        return self.root.findall(f".//{path}")

    def one(self, path: str) -> Element:
        (element,) = self.all(path)
        return element

    def text(self, path: str = "*") -> str:
        return " ".join(" ".join(self.root.itertext() if path == "*" else self.one(path).itertext()).split())

    @property
    def title(self) -> str:
        return self.text("title")

    @property
    def passphrase(self) -> str | None:
        found = self.all("*[@id='passphrase']")
        return "".join("".join(found[0].itertext()).split()) if found else None

    def forms(self, action: str) -> list[Form]:
        return [
            Form(action, form.get("method", "get").lower(), _fields(form), dict(form.attrib))
            for form in self.all(f"form[@action='{action}']")
        ]

    def form(self, action: str) -> Form:
        """The first one with this action."""
        return self.forms(action)[0]

    def error_at(self, name: str) -> str:
        """The words that a field is described by."""
        field_element = next(
            element
            for element in self.root.iter()
            if element.get("aria-invalid") == "true" and name in (element.get("name"), element.get("id"))
        )
        described = field_element.get("aria-describedby", "").split()
        return " ".join(self.text(f"*[@id='{identifier}']") for identifier in described)


_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)


class _TreeParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if any(element.tag == tag for element in self.open[1:]):
            while self.open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        parent = self.open[-1]
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + data
        else:
            parent.text = (parent.text or "") + data


def _parse(text: str) -> Element:
    parser = _TreeParser()
    parser.feed(text)
    parser.close()
    return parser.open[0]


def _fields(form: Element) -> dict[str, str]:
    """The successful controls (HTML, 4.10.21.4 Constructing the entry list), buttons left out."""
    found: dict[str, str] = {}
    for element in form.iter():
        name, kind = element.get("name", ""), element.get("type", "text")
        if element.tag == "input":
            if kind not in ("radio", "checkbox") or "checked" in element.attrib:
                found[name] = element.get("value", "")
        elif element.tag == "select":
            options = element.findall(".//option")
            chosen = [option for option in options if "selected" in option.attrib] or options[:1]
            found[name] = chosen[0].get("value", "")
    return found
