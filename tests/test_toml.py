"""TOML with the lines of its keys, and back to text."""

import tomllib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbob import toml

TEXT = '''\
# [log]
server.contact = """
[log]
level = 1 \\"""
"""
"log"."level" = "loud"
[pkcs12]   # a "comment" with [brackets
filename = 'a]"b'
encoding = "a # b"
[local]
users = [
    { username = "ada", groups = ["["] },
]

[[profiles]]
id = "a"  # {
label = \'\'\'
[[profiles]]
\'\'\'
usages = [
    "clientAuth",
    "codeSigning",
]
[[profiles]]
id = "b"
'''


def test_the_lines_are_right_whatever_stands_between() -> None:
    document, lines = toml.parse(TEXT)

    assert document == tomllib.loads(TEXT)
    assert lines == {
        ("server",): 2,
        ("server", "contact"): 2,
        ("log",): 6,
        ("log", "level"): 6,
        ("pkcs12",): 7,
        ("pkcs12", "filename"): 8,
        ("pkcs12", "encoding"): 9,
        ("local",): 10,
        ("local", "users"): 11,
        ("profiles",): 15,
        ("profiles", 0): 15,
        ("profiles", 0, "id"): 16,
        ("profiles", 0, "label"): 17,
        ("profiles", 0, "usages"): 20,
        ("profiles", 1): 24,
        ("profiles", 1, "id"): 25,
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[log]\nlevel =\n", 2),
        ('[log]\nlevel = "info"\nlevel = "info"', 3),
        ("[log]\n[ca]\n[log]\n", 3),
        ('[log]\nlevel = "info\n', 2),
        ('[log]\nlevel = """info\n\n\n', 2),
        ("[log]\nlevel = '''info\n\n\n", 2),
        ("[log]\n[server]\ntrusted_proxies = [\n1,\n\n", 3),
        (f"[log]\nlevel = {'[' * 5000}", 2),
        (f'[log]\nformat = {"9" * 5000}\nlevel = "info"\n', 2),
        ("\x00", 1),
    ],
)
def test_a_mistake_has_its_line(text: str, line: int) -> None:
    with pytest.raises(toml.NotTOML) as refused:
        toml.parse(text)

    assert refused.value.line == line


@given(
    pieces=st.lists(
        st.sampled_from(
            [
                *"[]{}=,#\"' \n",
                '"""',
                "'''",
                "\\",
                "a",
                "b.c",
                "[a]\n",
                "[[d]]\n",
                'e = "["\n',
                "f = [\n#]\n]\n",
                "g = {h = ']'}\n",
            ]
        )
    )
)
def test_whatever_is_toml_is_read_and_every_key_has_a_line(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    document, lines = toml.parse(text)

    assert document == expected
    assert {(key,) for key in document} <= lines.keys()


def test_a_long_document_takes_no_longer_than_its_length() -> None:
    """Each statement is looked at once, however many there are and however long they are."""
    rows = "\n".join(f'{{ username = "user{n}", groups = ["a", "b"] }},' for n in range(2000))
    tables = "\n".join(f'[[profiles]]\nid = "{n}"' for n in range(2000))
    _, lines = toml.parse(f"users = [\n{rows}\n]\n{tables}")

    assert lines["profiles", 1999, "id"] == 2 + 2000 + 4000


@given(
    value=st.text()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.lists(st.text(), max_size=3)
    | st.lists(st.fixed_dictionaries({"id": st.text(), "groups": st.lists(st.text())}), max_size=3)
)
def test_what_is_written_reads_as_the_same(value: object) -> None:
    document = {"section": {"key": value}}

    assert tomllib.loads("\n".join(toml.dump(document))) == document


def test_durations_are_written_as_people_write_them_and_unset_keys_not_at_all() -> None:
    assert list(toml.dump({"a": timedelta(hours=36), "b": None})) == ['a = "36h"']
