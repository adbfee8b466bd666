"""The templates by themselves: structure, words, and that nothing from outside becomes markup."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from certbob.devices import Device, Platform
from certbob.errors import NotEntitled, SignInRefused
from certbob.profiles import Profile
from tests.support.html import Page
from tests.support.preview import (
    ADA,
    CA,
    CERTIFICATE,
    ERROR,
    HOSTILE,
    LOGIN,
    NEW,
    PASSPHRASE,
    ROOT,
    SAMPLES,
    TAKE,
    TEST,
    TOKEN,
    VPN,
    Sample,
    environment,
    pages,
)

every_page = pytest.mark.parametrize("sample", [pytest.param(sample, id=name) for name, sample in pages()])
every_markup = pytest.mark.parametrize(
    "sample",
    [pytest.param(sample, id=name) for name, sample in SAMPLES.items() if sample.template.endswith(".html")],
)

# Exactly as it was tried in a browser: with other settings htmx keeps pages with passphrases, breaks the
# Content-Security-Policy, or drops the words of an error.
HTMX_CONFIG = {
    "includeIndicatorStyles": False,
    "allowEval": False,
    "allowScriptTags": False,
    "selfRequestsOnly": True,
    "historyCacheSize": 0,
    "refreshOnHistoryMiss": True,
    "historyRestoreAsHxRequest": False,
    "reportValidityOfForms": True,
    "responseHandling": [
        {"code": "204", "swap": False},
        {"code": "[23]..", "swap": True},
        {"code": "4(09|10|22|29)", "swap": True, "error": False},
        {"code": "[45]..", "swap": True, "error": True, "target": "#alert"},
    ],
}


def shown(sample: Sample, base: str = "shell.html") -> Page:
    return Page(sample.render(base))


def buttons(page: Page, action: str) -> list[str]:
    """The words on the buttons of the forms with this action."""
    return [
        "".join(button.itertext())
        for form in page.all(f"form[@action='{action}']")
        for button in form.iter("button")
    ]


def visible(page: Page) -> str:
    """The page's words, without what is folded away."""

    def text(element: Element) -> str:
        folded = element.tag == "details" and "open" not in element.attrib
        inner = "" if folded else (element.text or "") + "".join(map(text, element))
        return inner + (element.tail or "")

    return " ".join(text(page.one("main")).split())


@every_page
def test_a_page_is_whole_and_has_one_heading(sample: Sample) -> None:
    page = shown(sample)

    assert page.one("html").get("lang") == "en"
    assert page.title == f"{page.text('h1')} · CertBob"
    assert [len(page.all(tag)) for tag in ("main", "header", "footer")] == [1, 1, 1]
    levels = [int(element.tag[1]) for element in page.root.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert all(deeper - level <= 1 for level, deeper in zip([0, *levels], levels, strict=False))


@every_page
def test_the_places_for_announcements_are_there_and_empty(sample: Sample) -> None:
    page = shown(sample)

    for name, role in (("alert", "alert"), ("status", "status")):
        place = page.one(f"*[@id='{name}']")
        assert (place.get("role"), place.text, len(place)) == (role, None, 0)


@every_page
def test_a_fragment_has_the_same_title_and_takes_the_focus(sample: Sample) -> None:
    page, fragment = shown(sample), shown(sample, "_fragment.html")

    assert fragment.title == page.title
    assert fragment.text("h1") == page.text("h1")
    assert fragment.one("h1").attrib == {"tabindex": "-1", "autofocus": ""}
    assert fragment.all("html") == fragment.all("script") == []


@every_page
def test_a_fragment_takes_back_what_was_wrong_before(sample: Sample) -> None:
    alert = shown(sample, "_fragment.html").one("*[@id='alert']")

    assert alert.get("hx-swap-oob") == "innerHTML"
    assert not "".join(alert.itertext())


def test_an_alert_changes_neither_title_nor_headings() -> None:
    page = shown(SAMPLES["alert"])

    assert page.all("title") == page.all("h1") == []
    assert "The certificate service does not answer. Nothing was issued" in page.text()
    assert "8F3A-22" in page.text()


@every_markup
def test_every_field_has_a_label(sample: Sample) -> None:
    page = shown(sample)
    named = {label.get("for") for label in page.all("label")}
    wrapped = {id(field) for label in page.all("label") for field in label.iter("input")}

    fields = [
        field for tag in ("input", "select") for field in page.all(tag) if field.get("type") != "hidden"
    ]
    for field in fields:
        assert field.get("id") in named or id(field) in wrapped, field.attrib
    for button in page.all("button"):
        assert "".join(button.itertext()).strip()


@every_markup
def test_ids_are_unique_and_what_is_referred_to_exists(sample: Sample) -> None:
    page = shown(sample)
    ids = Counter(found for element in page.root.iter() if (found := element.get("id")))

    assert [name for name, count in ids.items() if count > 1] == []
    for element in page.root.iter():
        wanted = element.get("aria-describedby", "").split() + element.get("data-copy", "").split()
        if element.tag == "label" and "for" in element.attrib:
            wanted.append(element.attrib["for"])
        if element.get("href", "").startswith("#"):
            wanted.append(element.attrib["href"][1:])
        assert set(wanted) <= set(ids), element.attrib


@every_markup
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(sample: Sample) -> None:
    """What `script-src 'self'; style-src 'self'` would refuse, and what would call other hosts."""
    page = shown(sample)

    assert page.all("style") == []
    for script in page.all("script"):
        assert script.get("src", "").startswith("/static/")
        assert "".join(script.itertext()).strip() == ""
    for element in page.root.iter():
        for name, value in element.attrib.items():
            assert name != "style"
            assert not name.startswith(("on", "hx-on", "hx-vals", "hx-headers"))
            assert not value.strip().lower().startswith(("javascript:", "js:", "data:"))
            if name in ("src", "action", "hx-get", "hx-post") or (element.tag == "link" and name == "href"):
                assert re.match(r"/(?!/)", value), (name, value)


@every_markup
def test_what_htmx_sends_works_without_it(sample: Sample) -> None:
    """Every `hx-post` is on a form that goes to the same place; downloads and signing out never use htmx."""
    for element in shown(sample).root.iter():
        if "hx-post" in element.attrib:
            assert element.tag == "form"
            assert (element.get("method"), element.get("action")) == ("post", element.get("hx-post"))
        mails = any(field.get("name") == "delivery" for field in element.iter("input"))
        if element.get("action") in ("/issue", "/logout") and not mails:
            assert not any(name.startswith("hx-") for name in element.attrib)
        assert "hx-boost" not in element.attrib


@every_markup
def test_links_lead_to_pages_that_exist(sample: Sample) -> None:
    ours = {"/", "/new", "/login/oidc", "/login/oidc/logout", "/ca", "/ca/root.pem", "/ca/root.crt"}
    one = f"/certificates/{CERTIFICATE.serial:x}"
    mine = {"/certificates", "/link", f"{one}/revoke", f"{one}/replace", f"{one}/calendar.ics"}
    lists = {"/ca/crls.pem", "/ca/crl", "/ca/root-crl"}
    others = {f"/admin/people/{ADA.subject}", "/admin/questions"}
    others |= {"/admin", "/admin/expiring", "/admin/audit", "/admin/pause"}
    tests = {"/test", f"{TEST.facts['test_origin']}/test"}
    elsewhere = {"http://ca.example.org/crl", "https://ca.example.org:9000/1.0/crl"}
    known = ours | mine | others | lists | tests | elsewhere
    known |= {"/ca/chain.pem", "mailto:help@example.org"}

    for link in shown(sample).all("a"):
        address = link.get("href", "").partition("?")[0]
        assert address.startswith("#") or address in known


def test_htmx_is_set_as_it_was_tried() -> None:
    page = shown(LOGIN)

    assert json.loads(page.one("meta[@name='htmx-config']").get("content", "")) == HTMX_CONFIG


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_plain_words(name: str) -> None:
    """No exclamation marks, and the trade's abbreviations only where something is folded away."""
    sample = SAMPLES[name]
    if sample.template.endswith(".txt"):
        assert "!" not in sample.render()
        return
    page = Page(f"<main>{sample.render('_fragment.html')}</main>")

    assert "!" not in page.text()
    if sample.template != "ca.html":
        assert not re.search(r"PKCS|PEM|CSR|X\.509|TLS|subject", visible(page))


def _hostile(sample: Sample) -> Sample:
    """Everything that somebody outside could have chosen, as markup."""
    changes: dict[str, Mapping[str, Any]] = {
        "login.html": {"username": HOSTILE, "next": f"/new?device={HOSTILE}", "problem": SignInRefused()},
        "new.html": {
            "values": NEW.facts["values"] | {"device": HOSTILE, "platform": HOSTILE},
            "errors": {"device": HOSTILE, "platform": HOSTILE, "validity": HOSTILE},
            "profiles": (
                VPN,
                Profile(HOSTILE, HOSTILE, VPN.usages, VPN.validity, VPN.validity, VPN.key_types),
            ),
        },
        "take.html": {
            "device": Device(Platform.LINUX, HOSTILE, older=False),
            **dict.fromkeys(("name", "token", "filename", "profile_label"), HOSTILE),
        },
        "error.html": {
            "problem": NotEntitled(HOSTILE),
            "reference": HOSTILE,
            "again": {"token": HOSTILE, "by_mail": True},
        },
        "ca.html": {"root_subject": HOSTILE, "intermediates": [HOSTILE]},
        "test.html": {"presented": replace(sample.facts["presented"], name=HOSTILE, issuer=HOSTILE)}
        if sample.facts.get("presented")
        else {},
    }
    return sample.changed(
        organization=HOSTILE,
        contact=HOSTILE,
        identity=type(ADA)("1", HOSTILE, None, (), ADA.door, HOSTILE),
        **changes[sample.template],
    )


@pytest.mark.parametrize(
    "sample", [LOGIN, NEW, TAKE, ERROR, CA, SAMPLES["test-foreign"]], ids=lambda sample: sample.template
)
@pytest.mark.parametrize("base", ["shell.html", "_fragment.html"])
def test_hostile_text_stays_text(sample: Sample, base: str) -> None:
    hostile = _hostile(sample)
    page, harmless = shown(hostile, base), shown(sample, base)

    values = [value for element in page.root.iter() for value in element.attrib.values()]
    assert HOSTILE in "".join(page.root.itertext()) or HOSTILE in values
    assert len(page.all("script")) == len(harmless.all("script"))
    for element in page.root.iter():
        assert "onmouseover" not in element.attrib
        assert all(re.fullmatch("[a-z-]+", name) for name in element.attrib)


def test_plain_text_is_not_escaped() -> None:
    text = SAMPLES["error-text"].changed(problem=NotEntitled("R&D <VPN>")).render()

    assert "‘R&D <VPN>’ is not offered." in text
    assert "8F3A-22" in text


@pytest.mark.parametrize(
    ("contact", "address"),
    [
        ("help@example.org", "mailto:help@example.org"),
        ("https://help.example.org/it", "https://help.example.org/it"),
    ],
)
def test_help_is_an_address_or_a_page(contact: str, address: str) -> None:
    page = shown(LOGIN.changed(contact=contact))

    assert address in [link.get("href") for link in page.all("footer//a")]


def test_a_contact_can_be_absent() -> None:
    for sample in (LOGIN, NEW.changed(profiles=()), ERROR):
        assert "Help" not in shown(sample.changed(contact=None, organization=None)).text("footer")


def test_the_frame_knows_who_is_signed_in() -> None:
    inside, outside = shown(NEW), shown(LOGIN)

    assert inside.form("/logout").method == "post"
    assert inside.form("/logout").fields == {"form_token": NEW.facts["form_token"]}
    assert "Signed in as Ada Lovelace" in inside.text("header")
    assert [link.get("href") for link in inside.all("nav//a")] == ["/new", "/certificates"]
    assert outside.forms("/logout") == []
    assert outside.all("nav") == []


def test_a_refused_sign_in_says_why_at_the_fields_and_keeps_the_name() -> None:
    page = shown(SAMPLES["sign-in-refused"])

    assert page.form("/login").fields == {"next": "/new", "username": "ada", "password": ""}
    assert page.error_at("username").startswith("User name or password is not right.")
    assert "autofocus" in page.one("h1").attrib


def test_a_mistake_is_told_on_top_and_at_the_field_and_nothing_typed_is_lost() -> None:
    page = shown(SAMPLES["options-wrong"])

    assert "autofocus" in page.one("h1").attrib
    assert "Please check what you entered" in page.text("div[@class='notice bad']")
    for field in ("platform", "device", "validity"):
        assert SAMPLES["options-wrong"].facts["errors"][field] in page.error_at(field)
        assert page.all(f"a[@href='#{field}']")
    assert page.form("/new").fields["device"] == "Laptop, mine"
    assert page.form("/new").fields["older"] == "1"


def test_a_form_that_is_right_complains_of_nothing() -> None:
    page = shown(NEW)

    assert "autofocus" not in page.one("h1").attrib
    assert page.all("*[@aria-invalid]") == []


def test_questions_with_one_answer_are_not_asked() -> None:
    few, many = shown(SAMPLES["options-one-validity"]), shown(SAMPLES["options-many"])

    assert [legend.text for legend in few.all("legend")] == ["Where will you use it?"]
    assert few.all("select") == []
    assert [legend.text for legend in many.all("legend")] == [
        "Where will you use it?",
        "What for?",
        "How do you want to get it?",
    ]
    expected = {"platform", "device", "profile", "validity", "delivery", "form_token"}
    assert few.form("/new").fields.keys() == many.form("/new").fields.keys() == expected


def test_age_is_asked_only_where_it_decides() -> None:
    for sample in (NEW, TAKE):
        assert shown(sample).all("input[@type='checkbox']")
        assert not shown(sample.changed(ask_older=False)).all("input[@type='checkbox']")


def test_whoever_may_have_nothing_is_told_whom_to_ask() -> None:
    page = shown(SAMPLES["options-nothing"])

    assert page.forms("/new") == []
    assert "Ask help@example.org" in page.text("main")


def test_a_typed_name_stays_and_a_suggested_one_follows_the_platform() -> None:
    """htmx leaves an element with `hx-preserve` as it is, whatever the answer says."""
    for suggested in (True, False):
        page = shown(SAMPLES["options-fragment"].changed(device_is_suggested=suggested))
        field = page.one("*[@id='device-field']")
        assert ("hx-preserve" in field.attrib) is not suggested


def test_the_part_that_depends_stands_where_the_answer_goes() -> None:
    page = shown(NEW)
    asking = page.one("*[@hx-get]")
    options = page.one("*[@id='options']")

    assert (asking.get("hx-get"), asking.get("hx-target")) == ("/new", "#options")
    assert asking.get("hx-params") == "not form_token"
    assert {field.get("name") for field in asking.iter("input")} == {"platform", "profile"}
    assert [field.get("name") for field in options.iter() if "name" in field.attrib] == ["device", "validity"]


def test_the_passphrase_is_whole_and_can_be_copied_by_hand() -> None:
    page = shown(TAKE)

    assert (page.one("*[@id='passphrase']").text, len(page.one("*[@id='passphrase']"))) == (PASSPHRASE, 0)
    assert all("hidden" in button.attrib for button in page.all("*[@data-copy]") + page.all("*[@data-print]"))
    assert page.one("*[@hx-history='false']") is not None


def test_who_comes_from_the_chat_has_the_passphrase_there() -> None:
    page = shown(SAMPLES["take-from-chat"])

    assert page.passphrase is None
    assert "The passphrase is in the message that brought you here." in page.text("main")


def test_the_file_is_taken_by_a_form_that_may_start_by_itself() -> None:
    form = shown(TAKE).form("/issue")

    assert form.method == "post"
    assert form.fields == {"token": TOKEN, "older": "0"}
    assert {"data-once", "data-autostart"} <= form.attributes.keys()
    assert "data-autostart" not in shown(TAKE.changed(autostart=False)).form("/issue").attributes


def test_an_old_system_is_told_why_the_box_is_ticked() -> None:
    page = shown(SAMPLES["take-older"])

    assert page.form("/issue").fields["older"] == "1"
    assert "so we ticked the box" in visible(page)


def test_the_file_can_be_had_again_as_it_was() -> None:
    page = shown(SAMPLES["take-again"])

    assert page.form("/issue").fields == {"token": TOKEN}
    assert buttons(page, "/issue")[0] == "Download again"
    assert "You can download it again until" in page.text("main")


@pytest.mark.parametrize(
    ("name", "button", "older"),
    [
        ("take-windows", "Make a file for older devices", "1"),
        ("take-compatible", "Make a file for current devices", "0"),
    ],
)
def test_the_other_encoding_is_one_button_away(name: str, button: str, older: str) -> None:
    page = shown(SAMPLES[name])

    assert buttons(page, "/issue")[1] == button
    assert page.forms("/issue")[1].fields == {"token": TOKEN, "older": older}


def test_a_fixed_encoding_offers_no_other() -> None:
    page = shown(SAMPLES["take-fixed-encoding"])

    assert buttons(page, "/issue") == ["Create and download", "Download as PEM"]
    assert page.forms("/issue")[-1].fields == {"token": TOKEN, "format": "pem"}


@pytest.mark.parametrize("platform", Platform)
def test_the_steps_for_the_chosen_device_are_open_and_all_others_folded(platform: Platform) -> None:
    page = shown(SAMPLES[f"take-{platform}"])
    guides = page.all("details[@class='guide']")

    assert len(guides) == len(Platform) == len(list((ROOT / "partials/install").iterdir()))
    assert ["open" in guide.attrib for guide in guides] == [True] + [False] * (len(guides) - 1)
    steps = environment().get_template(f"install/_{platform}.html").render(filename="user_cert.pfx")
    assert Page(steps).text() in " ".join(" ".join(guides[0].itertext()).split())


def test_an_error_says_what_it_means_and_what_to_do() -> None:
    page = shown(ERROR)

    for words in (
        "does not answer",
        "your link still works",
        "Try again soon",
        "8F3A-22",
        "help@example.org",
    ):
        assert words in page.text("main")
    assert page.form("/issue").fields == {"token": TOKEN}
    assert buttons(page, "/issue") == ["Try again"]


def test_an_error_without_a_second_chance_offers_the_start() -> None:
    page = shown(SAMPLES["error-expired"])

    assert page.forms("/issue") == []
    assert page.one("main//a[@class='button']").get("href") == "/"


def test_whoever_has_the_file_still_sees_its_passphrase() -> None:
    page = shown(SAMPLES["error-used-by-holder"])

    assert page.passphrase == PASSPHRASE
    assert "Your file is in the first download" in page.text("main")
    assert shown(SAMPLES["error-used"]).passphrase is None


def test_the_root_is_there_in_every_form_that_services_ask_for() -> None:
    page = shown(CA)

    links = {link.get("href") for link in page.all("main//a")}
    assert {"/ca/root.pem", "/ca/root.crt", "/ca/chain.pem"} <= links
    assert page.text("*[@id='fingerprint']") == CA.facts["fingerprint"]
    assert CA.facts["fingerprint"].replace(":", "").lower() in page.text("main")
    assert "You do not need this for your own certificate." in page.text("main")


def test_services_are_told_of_the_lists_of_revoked_certificates_where_there_are_any() -> None:
    lists = {"/ca/crls.pem", "/ca/crl", "/ca/root-crl"}
    directives = ("ssl_crl /etc/nginx/certbob/crls.pem;", "SSLCARevocationCheck chain")
    with_lists, without = shown(CA), shown(SAMPLES["ca-without-list"])

    assert lists <= {link.get("href") for link in with_lists.all("main//a")}
    assert not lists & {link.get("href") for link in without.all("main//a")}
    for directive in directives:
        assert directive in with_lists.text("main")
        assert directive not in without.text("main")
    assert "ssl_verify_client on;" in without.text("main")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "partials").glob("**/*.html")))
def test_no_template_marks_anything_as_safe(name: str) -> None:
    (path,) = (ROOT / "partials").glob(f"**/{name}")

    assert not re.search(r"\|\s*safe\b|autoescape|Markup", path.read_text())
