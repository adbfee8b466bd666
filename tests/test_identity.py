"""What may stand in a certificate as a name or an address, and that it stands there as exactly that."""

import unicodedata
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certbob.ca.builtin import sign_leaf
from certbob.errors import UnfitName
from certbob.identity import MAX_NAME_BYTES, fit_device_name, fit_email, fit_name
from tests.support import der, pki

ISSUER = pki.below(pki.root())

GOOD_NAMES = [
    "Ada Lovelace",
    "Jean-Luc O'Neill 3rd",
    "j.r_smith@home",
    "3M Company",
    "Zoë Ångström",
    "Иван Петров",
    "Νίκος",
    "佐々木 さくら",
    "山田 Taro",
    "김철수",
    "𠮷田",
    "นางสาวคำ",
    "हिन्दी",
    "a" * 64,
    "é" * 32,
]
HOSTILE_NAMES = {
    "empty": "",
    "blanks only": "   ",
    "another attribute": "alice,O=Evil",
    "an attribute in one RDN": "alice+O=Evil",
    "slash of the OpenSSL form": "alice/O=Evil",
    "backslash": "alice\\",
    "quote": 'alice"',
    "semicolon": "alice;",
    "equals sign": "CN=alice",
    "markup": "<script>alert(1)</script>",
    "percent": "alice%0a",
    "template": "{{7*7}}",
    "NUL": "alice\0",
    "newline": "alice\nbob",
    "carriage return": "alice\r",
    "tab": "alice\tbob",
    "escape sequence": "alice\x1b[31m",
    "C1 control": "alice\x85",
    "no-break space": "Ada\u00a0Lovelace",
    "ideographic space": "Ada\u3000Lovelace",
    "right-to-left override": "alice\u202eecila",
    "right-to-left mark": "alice\u200f",
    "isolate": "\u2066alice\u2069",
    "zero-width space": "ali\u200bce",
    "zero-width joiner": "ali\u200dce",
    "byte order mark": "\ufeffalice",
    "soft hyphen": "ali\u00adce",
    "combining grapheme joiner": "ali\u034fce",
    "variation selector": "alice\ufe0f",
    "ideographic variation selector": "葛\U000e0100城",
    "Hangul filler": "김\u3164",
    "tag character": "alice\U000e0041",
    "line separator": "alice\u2028",
    "lone surrogate": "alice\ud800",
    "private use": "alice\ue000",
    "not assigned": "alice\U000e0fff",
    "emoji": "alice 🦊",
    "typographic quotes": "“alice”",
    "Cyrillic letter among Latin ones": "p\u0430ypal",
    "Greek letter among Latin ones": "\u0391lice",
    "Latin letter among Cyrillic ones": "Ив\u0061н",
    "mathematical letters": "𝐀𝐝𝐚",
    "full-width letters": "Ａｄａ",
    "full-width digits": "Ada \uff11",
    "Arabic digits": "Ada ١",
    "superscript letters": "ᴬᵈᵃ",
    "punctuation first": "-alice",
    "mark first": "\u0301alice",
    "65 bytes": "a" * 65,
    "65 bytes in 33 letters": "é" * 32 + "a",
    "300 characters": "a" * 300,
}

# Letters of one script, so that many are accepted; and anything at all, so that nothing is taken on trust.
SCRIPTS = ("AdaLovelceZoëÅß", "ИванПетров", "Νίκος", "山田さくらカ々김철수Ada", "คำสวย", "e\u0301o\u0308u")
LIKE_NAMES = st.one_of(*(st.text(st.sampled_from(f"{script} -._'@07"), max_size=40) for script in SCRIPTS))
ANY_TEXT = st.text(st.characters(), max_size=70)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_of_all_the_world_are_taken(name: str) -> None:
    assert fit_name(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(UnfitName):
        fit_name(name)


def test_a_name_is_normalised_and_freed_of_blanks_around() -> None:
    assert fit_name("  Zoe\u0308  ") == "Zo\u00eb"


@pytest.mark.parametrize("name", ["alice\nbob", "ali\u200bce", "alice\u202e", "alice\ufe0f", "alice\0"])
def test_words_of_a_refusal_name_what_is_not_seen(name: str) -> None:
    with pytest.raises(UnfitName, match=r"not U\+[0-9A-F]{4}\.$") as refusal:
        fit_name(name)

    assert refusal.value.text.isprintable()


@settings(deadline=None)
@given(st.one_of(LIKE_NAMES, ANY_TEXT))
@example("Ada Lovelace")
@example("𠮷田 々")
def test_an_accepted_name_stands_in_the_certificate_as_exactly_that(text: str) -> None:
    try:
        name = fit_name(text)
    except UnfitName:
        return
    leaf = issue(common_name=name, organization="Example Org")

    assert rdns(leaf) == [
        [(NameOID.COMMON_NAME.dotted_string, der.UTF8, name)],
        [(NameOID.ORGANIZATION_NAME.dotted_string, der.UTF8, "Example Org")],
    ]
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert name == unicodedata.normalize("NFC", name)
    assert name.isprintable()


@settings(deadline=None)
@given(st.one_of(LIKE_NAMES, ANY_TEXT))
def test_what_was_accepted_once_is_accepted_again_unchanged(text: str) -> None:
    try:
        name = fit_name(text)
    except UnfitName:
        return

    assert fit_name(name) == name


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("Work laptop", "Work laptop"),
        ("  Ada's   iPhone ", "Ada's iPhone"),
        ("Ada’s iPhone – new", "Ada's iPhone - new"),
        ("x" * 40, "x" * 40),
        ("さくらのパソコン", "さくらのパソコン"),
    ],
)
def test_a_device_name_is_taken_as_people_type_it(typed: str, taken: str) -> None:
    assert fit_device_name(typed) == taken


@pytest.mark.parametrize(
    "name", ["", "   ", "x" * 41, "<b>", "a\nb", "lap\u202etop", "l\u0430ptop", "🦊", "'"]
)
def test_a_hostile_device_name_is_refused(name: str) -> None:
    with pytest.raises(UnfitName):
        fit_device_name(name)


GOOD_EMAILS = {
    "ada@example.org": "ada@example.org",
    "Ada.Lovelace+cert@Example.ORG": "Ada.Lovelace+cert@Example.ORG",
    "o'neill!#$%&*/?=^_`{|}~-@a-b.co": "o'neill!#$%&*/?=^_`{|}~-@a-b.co",
    "zoë@example.org": "zoë@example.org",
    "zoe\u0308.1@example.org": "zoë.1@example.org",
    "用户@例え.jp": "用户@xn--r8jz45g.jp",
    "ada@bücher.example": "ada@xn--bcher-kva.example",
    "ada@BÜCHER.example": "ada@xn--bcher-kva.example",
    "ada@bu\u0308cher.example": "ada@xn--bcher-kva.example",
    "ada@例え.jp": "ada@xn--r8jz45g.jp",
    "ada@xn--strae-oqa.example": "ada@xn--strae-oqa.example",
    f"{'a' * 64}@example.org": f"{'a' * 64}@example.org",
}
HOSTILE_EMAILS = {
    "empty": "",
    "no at sign": "ada",
    "two addresses": "a@b.c,e@v.il",
    "two addresses with a blank": "a@b.c, e@v.il",
    "two at signs": "a@b@c.org",
    "display name": "Alice <a@b.org>",
    "angle brackets": "<a@b.org>",
    "no local part": "@b.c",
    "no domain": "ada@",
    "one label": "a@b",
    "quoted local part": '"a b"@c.org',
    "comment": "a(comment)@b.org",
    "dot first": ".a@b.org",
    "dot last": "a.@b.org",
    "two dots": "a..b@c.org",
    "empty label": "a@b..org",
    "dot at the end": "a@b.org.",
    "hyphen first": "a@-b.org",
    "hyphen last": "a@b-.org",
    "underscore in the domain": "a@b_c.org",
    "address literal": "a@[192.0.2.1]",
    "header injection": "a@b.org\r\nBcc: e@v.il",
    "newline at the end": "a@b.org\n",
    "NUL": "a\0@b.org",
    "blank": "a b@c.org",
    "blanks around": " a@b.org ",
    "an encoded word": "=?utf-8?q?e=40v.il?=@example.org",
    "two scripts": "\u0430da@example.org",
    "a picture": "🔑@example.org",
    "zero-width in front": "a\u200bda@example.org",
    "right-to-left override in front": "\u202eada@example.org",
    "33 letters of two bytes before the at sign": f"{'ü' * 33}@example.org",
    "zero-width in the domain": "a@exam\u200bple.org",
    "soft hyphen in the domain": "a@exam\u00adple.org",
    "right-to-left override": "a@\u202egro.elpmaxe",
    "full-width dot": "a@example．org",
    "ß, which the codec would turn into ss": "a@straße.example",
    "lone surrogate": "a@b\ud800.org",
    "65 letters before the at sign": f"{'a' * 65}@example.org",
    "a label of 64": f"a@{'b' * 64}.org",
    "a non-ASCII label too long": f"a@{'ü' * 60}.org",
    "255 characters": f"a@{'b.' * 125}org",
    "a million": "ü@" * 500_000,
}


@pytest.mark.parametrize(("typed", "taken"), GOOD_EMAILS.items())
def test_a_plain_address_is_taken_with_its_domain_in_ascii(typed: str, taken: str) -> None:
    assert fit_email(typed) == taken


@pytest.mark.parametrize("email", HOSTILE_EMAILS.values(), ids=HOSTILE_EMAILS.keys())
def test_a_hostile_address_is_refused(email: str) -> None:
    with pytest.raises(UnfitName):
        fit_email(email)


@settings(deadline=None)
@given(st.one_of(st.emails(), st.text(st.sampled_from('ab.@-_,<> "ü\n1'), max_size=20)))
def test_an_accepted_address_is_the_one_alternative_name(text: str) -> None:
    try:
        email = fit_email(text)
    except UnfitName:
        return
    assert email.count("@") == 1
    assert fit_email(email) == email
    if email.isascii():
        leaf = issue(email=email)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.RFC822Name(email)]


def issue(**changes: Any) -> x509.Certificate:
    request = pki.signing_request(**changes)
    content = sign_leaf(request, now=pki.NOW, issuer=ISSUER.der, issuer_key=ISSUER.key_der)
    return x509.load_der_x509_certificate(content)


def rdns(certificate: x509.Certificate) -> list[list[tuple[str, int, str]]]:
    """The subject as it stands in the bytes: RDN by RDN the attributes, each with its kind of string."""
    subject = der.parse(certificate.subject.public_bytes())
    return [
        [(attribute[0].oid, attribute[1].tag, attribute[1].content.decode()) for attribute in rdn.children]
        for rdn in subject.children
    ]
