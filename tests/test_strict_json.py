"""What is taken for JSON."""

import pytest

from certbob.strict_json import json_object


def test_an_object_is_read() -> None:
    assert json_object(b'{"a": {"a": [1, "\xc3\xa4\\ud83d\\udd11", null]}}') == {"a": {"a": [1, "ä🔑", None]}}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b"[]",
        b"1",
        b"",
        b'{"a":NaN}',
        b"{}{}",
        b"{} x",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"a":' + b"9" * 5000 + b"}",
        b"{'a':1}",
        b'{"a":["\\ud800"]}',
        b'{"a\\udfff":1}',
    ],
)
def test_json_is_read_strictly(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 the parser's own words
        json_object(text)
