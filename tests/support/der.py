"""DER (X.690) read and written in a few lines.

The tests hold what `cryptography` writes against it, and write with it what `cryptography` refuses to write.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

BOOLEAN, INTEGER, BITS, OCTETS, NULL, OID, UTF8 = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C
PRINTABLE, IA5, UTC_TIME, GENERALIZED_TIME, BMP, SEQUENCE, SET = 0x13, 0x16, 0x17, 0x18, 0x1E, 0x30, 0x31


@dataclass(frozen=True, slots=True)
class Node:
    """One value: its tag and its content; constructed ones have children."""

    tag: int
    content: bytes

    @property
    def children(self) -> tuple["Node", ...]:
        return tuple(_nodes(self.content))

    def __getitem__(self, index: int) -> "Node":
        return self.children[index]

    @property
    def encoded(self) -> bytes:
        return encode(self.tag, self.content)

    def only(self, tag: int) -> bytes:
        """The content, if the tag is the expected one."""
        assert self.tag == tag, f"tag {self.tag:#x}, not {tag:#x}"
        return self.content

    @property
    def integer(self) -> int:
        return int.from_bytes(self.only(INTEGER), signed=True)

    @property
    def oid(self) -> str:
        first, *rest = self.only(OID)
        arcs, arc = [min(first // 40, 2)], 0
        arcs.append(first - 40 * arcs[0])
        for byte in rest:
            arc = arc << 7 | byte & 0x7F
            if byte < 0x80:
                arcs.append(arc)
                arc = 0
        return ".".join(map(str, arcs))


def parse(data: bytes) -> Node:
    """The one value these bytes are."""
    (node,) = _nodes(data)
    return node


def encode(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    return encode(SEQUENCE, b"".join(parts))


def tagged(number: int, *parts: bytes) -> bytes:
    """[number] EXPLICIT"""
    return encode(0xA0 | number, b"".join(parts))


def integer(value: int) -> bytes:
    # One bit more for the sign; of a negative number its magnitude less one counts.
    bits = (value if value >= 0 else ~value).bit_length() + 1
    return encode(INTEGER, value.to_bytes((bits + 7) // 8, signed=True))


def oid(dotted: str) -> bytes:
    first, second, *arcs = map(int, dotted.split("."))
    content = bytearray([40 * first + second])
    for arc in arcs:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return encode(OID, bytes(content))


def time(moment: datetime) -> bytes:
    """As RFC 5280 4.1.2.5 has it: two digits of the year until 2049."""
    if moment.year < 2050:
        return encode(UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())
    return encode(GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())


def _nodes(data: bytes) -> Iterator[Node]:
    while data:
        tag, size, start = data[0], data[1], 2
        if size >= 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start])
        content, rest = data[start : start + size], data[start + size :]
        assert data == encode(tag, content) + rest, "not DER, or cut short"
        yield Node(tag, content)
        data = rest
