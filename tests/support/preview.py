"""Every page and fragment, rendered from sample facts as the web front door hands them over.

python -m tests.support.preview FOLDER      writes one HTML file for each sample
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2

from certbob import words
from certbob.audit import Action
from certbob.config import DEFAULT_PROFILE
from certbob.delivery import Sent
from certbob.devices import Device, Platform
from certbob.errors import (
    CAUnavailable,
    GrantExpired,
    GrantUsed,
    MailRefused,
    MailUncertain,
    NameTaken,
    NoSuchPage,
    NotAllowed,
    NotEntitled,
    NotSignedIn,
    ProviderUnavailable,
    SignInBlocked,
    SignInFailed,
    SignInRefused,
)
from certbob.identity import Door, Identity
from certbob.ports import (
    THE_SERVICE,
    Actor,
    AuditEntry,
    Certificate,
    Entry,
    LinkRequest,
    Numbers,
    Origin,
    Paused,
)
from certbob.presented import Presented, State
from certbob.profiles import Profile, Usage
from certbob.revocation import Outcome, Reason
from certbob.web.static import StaticFiles

ROOT = Path(__file__).resolve().parents[2]
STATIC = StaticFiles(ROOT / "static")
NOW = datetime(2026, 11, 24, 14, 30, tzinfo=UTC)
PASSPHRASE = "k7mq-2rtx-9hvc-e4wd-pz6n"
TOKEN = "header.payload.signature"
HOSTILE = """<script>alert(1)</script>"'><b onmouseover=x>&amp;"""

ADA = Identity("3f1c", "Ada Lovelace", "ada@example.org", (), Door.LOCAL, "ada")
VPN = Profile(
    id="vpn",
    label="VPN",
    usages=(Usage.CLIENT_AUTH,),
    validity=timedelta(days=30),
    max_validity=timedelta(days=30),
    key_types=DEFAULT_PROFILE.key_types,
)
GLOBALS = {
    "static": STATIC.url,
    "htmx_integrity": STATIC.integrity("htmx-2.0.11.min.js"),
    "version": "0.1.0",
    "organization": "Example Org",
    "contact": "help@example.org",
    "can_test": True,
}
SIGNED_OUT = {"identity": None, "is_admin": False, "signed_in": False, "form_token": ""}
SIGNED_IN = {"identity": ADA, "is_admin": False, "signed_in": True, "form_token": "5e55104"}
PROVIDER = {"label": "Example Sign-on"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A template and the facts of one case; `changed` makes another case of it."""

    template: str
    facts: Mapping[str, Any]

    def changed(self, **facts: Any) -> "Sample":
        return Sample(self.template, {**self.facts, **facts})

    def render(self, base: str = "shell.html", **facts: Any) -> str:
        return environment().get_template(self.template).render({**self.facts, "base": base, **facts})

    @property
    def is_page(self) -> bool:
        return self.template.endswith(".html") and not self.template.startswith("_")


def environment() -> jinja2.Environment:
    """As the web front door sets it up."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "partials"),
        undefined=jinja2.StrictUndefined,
        autoescape=lambda name: name is None or not name.endswith(".txt"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(words.FILTERS)
    found.globals.update(GLOBALS)
    return found


LOGIN = Sample(
    "login.html",
    {
        **SIGNED_OUT,
        "problem": None,
        "reference": None,
        "username": "",
        "next": "/new",
        "single_sign_on": None,
        "is_away": False,
        "local": True,
        "signed_out": False,
    },
)
SINGLE_SIGN_ON = LOGIN.changed(single_sign_on=PROVIDER)
STOPPED = Paused(NOW, "grace", "We are moving to a new server until 14:00.")
NEW = Sample(
    "new.html",
    {
        **SIGNED_IN,
        "values": {
            "platform": "windows",
            "device": "Ada's Windows PC",
            "profile": "client",
            "validity": "90d",
            "older": False,
            "delivery": "download",
            "replaces": "",
            "old": "",
        },
        "errors": {},
        "platforms": tuple(Platform),
        "profiles": (DEFAULT_PROFILE,),
        "validities": [
            ("30d", "30 days (until 24 December 2026)"),
            ("90d", "90 days (until 22 February 2027)"),
        ],
        "deliveries": (("download", "Download it here"),),
        "ask_older": True,
        "device_is_suggested": True,
        "link_sent": False,
        "paused": None,
        "existing": None,
    },
)
TAKE = Sample(
    "take.html",
    {
        **SIGNED_IN,
        "state": "new",
        "by_mail": False,
        "recipient": ADA.email,
        "sent": None,
        "problem": None,
        "token": TOKEN,
        "passphrase": PASSPHRASE,
        "autostart": True,
        "name": ADA.name,
        "device": Device(Platform.WINDOWS, "Work laptop", older=False),
        "older": False,
        "profile_label": "Client certificate",
        "valid_until": NOW + timedelta(days=90),
        "until": NOW + timedelta(minutes=5),
        "repeat_until": None,
        "filename": "user_cert.pfx",
        "encoding": "modern",
        "ask_older": True,
    },
)
MAIL = TAKE.changed(by_mail=True)
ERROR = Sample(
    "error.html",
    {
        **SIGNED_OUT,
        "problem": CAUnavailable(),
        "status": 503,
        "reference": "8F3A-22",
        "again": {"token": TOKEN, "by_mail": False},
        "passphrase": None,
        "start": "/",
    },
)
CERTIFICATE = Certificate(
    entry=1,
    serial=0xA4994CC011F4E45CFB5D3E71E0D39631,
    subject=ADA.subject,
    name=ADA.name,
    profile_id="client",
    platform=Platform.WINDOWS,
    device="Work laptop",
    door=Door.MATTERMOST,
    delivered=True,
    fingerprint="8af03c71" * 8,
    not_before=NOW,
    not_after=NOW + timedelta(days=90),
    revoked_at=None,
)
CERTIFICATES = Sample(
    "certificates.html",
    {
        **SIGNED_IN,
        "certificates": [
            replace(CERTIFICATE, device="Ada's iPhone", not_after=NOW + timedelta(days=12)),
            CERTIFICATE,
            replace(CERTIFICATE, device="Old laptop", revoked_at=NOW),
        ],
        "labels": {"client": "Client certificate"},
        "now": NOW,
        "number": 1,
        "has_more": False,
        "links_accounts": False,
        "reminded": None,
        "reminder_days": None,
    },
)
OUR_LIST = {
    "has_list": True,
    "list_address": None,
    "list_longest": timedelta(days=7),
    "list_is_off": False,
}
UNSEEN_LIST = OUR_LIST | {
    "has_list": False,
    "list_address": "https://ca.example.org:9000/1.0/crl",
    "list_longest": None,
}
THEIR_LIST = UNSEEN_LIST | {
    "list_address": "http://ca.example.org/crl",
    "list_longest": timedelta(days=1),
}
NO_LIST = UNSEEN_LIST | {"list_address": None, "list_is_off": True}
REVOKE = Sample(
    "revoke.html",
    {
        **SIGNED_IN,
        "certificate": CERTIFICATE,
        **OUR_LIST,
        "is_over": False,
        "reasons": tuple(Reason),
        "errors": {},
        "token": None,
    },
)
ADMIN = Sample(
    "admin.html",
    {
        **SIGNED_IN,
        "is_admin": True,
        "words": "",
        "numbers": Numbers(212, 3, {"mattermost": 17, "oidc": 41}),
        "paused": None,
        "questions": 0,
        "certificates": CERTIFICATES.facts["certificates"],
        "labels": {"client": "Client certificate"},
        "now": NOW,
        "number": 1,
        "has_more": False,
    },
)
EXPIRING = Sample(
    "expiring.html",
    {
        **SIGNED_IN,
        "is_admin": True,
        "certificates": CERTIFICATES.facts["certificates"][:1],
        "labels": {"client": "Client certificate"},
        "now": NOW,
        "number": 1,
        "has_more": False,
    },
)
PAUSE = Sample("pause.html", {**SIGNED_IN, "is_admin": True, "paused": None, "note": "", "errors": {}})
QUESTIONS = Sample(
    "questions.html",
    {
        **SIGNED_IN,
        "is_admin": True,
        "questions": [
            Entry(
                number=7,
                subject=ADA.subject,
                name=ADA.name,
                actor=Actor(Door.OIDC, "ada", "ada", Origin("192.0.2.7", "8F3A-22")),
                profile_id="client",
                device="Work laptop",
                created_at=NOW,
                validity=timedelta(days=90),
                csr_sha256="8af03c71" * 8,
                note="no answer within 15 s",
            )
        ],
        "count": 1,
    },
)
AUDIT = Sample(
    "audit.html",
    {
        **SIGNED_IN,
        "is_admin": True,
        "sent": {"q": "ada & co", "action": "revoked", "since": "2026-11-01", "until": ""},
        "errors": {},
        "actions": tuple(Action),
        "labels": {action.value: action.label for action in Action},
        "entries": [
            AuditEntry(
                number=2,
                at=NOW,
                action="revoked",
                actor=Actor(Door.LOCAL, "grace", "grace", Origin("192.0.2.7", "8F3A-22")),
                subject=ADA.subject,
                name=ADA.name,
                serial="a4994cc011f4e45cfb5d3e71e0d39631",
                note="Work laptop: lost",
                hash="8af03c71" * 8,
            ),
            AuditEntry(1, NOW, "revoked", THE_SERVICE, None, None, None, "", "8af03c71" * 8),
        ],
        "number": 1,
        "has_more": True,
    },
)
PERSON = Sample(
    "person.html",
    {
        **SIGNED_IN,
        "is_admin": True,
        "name": ADA.name,
        "subject": ADA.subject,
        "active": [CERTIFICATE],
        "reasons": tuple(Reason),
        "errors": {},
        "outcome": None,
    },
)
LINK = Sample(
    "chat_link.html",
    {
        **SIGNED_IN,
        "wanted": LinkRequest("eqaw", "ada.lovelace", NOW + timedelta(minutes=10)),
        "token": TOKEN,
        "links": (),
    },
)
CA = Sample(
    "ca.html",
    {
        **SIGNED_OUT,
        "root_subject": "CN=CertBob Root,O=Example Org",
        "fingerprint": ":".join(["8A", "F0", "3C", "71"] * 8),
        "not_after": NOW + timedelta(days=3650),
        "intermediates": ["CN=CertBob Intermediate,O=Example Org"],
        **OUR_LIST,
    },
)

PRESENTED = Presented(
    State.GOOD,
    ADA.name,
    "Example Org Issuing CA",
    CERTIFICATE.not_before,
    CERTIFICATE.not_after,
    CERTIFICATE,
)
TEST = Sample(
    "test.html",
    {
        **SIGNED_OUT,
        "state": "begin",
        "presented": None,
        "labels": {"client": "Client certificate"},
        "test_origin": "https://cert.example.org:8443",
    },
)

SAMPLES: dict[str, Sample] = {
    "sign-in": LOGIN,
    "sign-in-refused": LOGIN.changed(problem=SignInRefused(), username="ada"),
    "sign-in-blocked": LOGIN.changed(problem=SignInBlocked(NOW), username="ada"),
    "sign-in-again": LOGIN.changed(problem=NotSignedIn()),
    "sign-in-elsewhere": SINGLE_SIGN_ON.changed(local=False),
    "sign-in-both-ways": SINGLE_SIGN_ON,
    "sign-in-both-ways-refused": SINGLE_SIGN_ON.changed(problem=SignInRefused(), username="ada"),
    "sign-in-away": SINGLE_SIGN_ON.changed(is_away=True),
    "sign-in-unavailable": SINGLE_SIGN_ON.changed(
        problem=ProviderUnavailable(PROVIDER["label"], ""), reference="8F3A-22"
    ),
    "sign-in-failed": SINGLE_SIGN_ON.changed(problem=SignInFailed(""), reference="8F3A-22"),
    "sign-in-not-allowed": SINGLE_SIGN_ON.changed(problem=NotAllowed("", ("staff",)), reference="8F3A-22"),
    "signed-out-here": SINGLE_SIGN_ON.changed(signed_out=True),
    "options": NEW,
    "options-paused": NEW.changed(paused=STOPPED),
    "options-as-administrator": NEW.changed(is_admin=True),
    "options-many": NEW.changed(
        profiles=(DEFAULT_PROFILE, VPN),
        deliveries=(("download", "Download it here"), ("mail", "By mail to a…@example.org")),
    ),
    "options-one-validity": NEW.changed(validities=[("1d", "1 day (until 25 November 2026)")]),
    "options-nothing": NEW.changed(profiles=(), validities=[], values=NEW.facts["values"] | {"profile": ""}),
    "options-wrong": NEW.changed(
        values=NEW.facts["values"] | {"device": "Laptop, mine", "older": True},
        errors={
            "device": "The name of the device may hold letters, digits, spaces and . _ ' @ - but not ‘,’.",
            "platform": "Choose where you will use it.",
            "validity": "Choose how long ‘VPN’ is to last: at most 30 days.",
        },
        device_is_suggested=False,
    ),
    "options-replace": NEW.changed(existing=CERTIFICATE),
    "options-fragment": Sample("_options.html", NEW.facts),
    **{
        f"take-{platform.value}": TAKE.changed(device=Device(platform, "Work laptop", older=False))
        for platform in Platform
    },
    "take-again": TAKE.changed(state="repeat", autostart=False, repeat_until=NOW + timedelta(minutes=2)),
    "take-older": TAKE.changed(autostart=False, older=True),
    "take-compatible": TAKE.changed(
        encoding="compatible", older=True, device=Device(Platform.ANDROID, "Tablet", older=True)
    ),
    "take-fixed-encoding": TAKE.changed(ask_older=False),
    "take-from-chat": TAKE.changed(passphrase=None),
    "mail": MAIL,
    "mail-later": MAIL.changed(autostart=False, older=True),
    "mail-sent": MAIL.changed(
        autostart=False,
        state="repeat",
        sent=Sent("ada@example.org", NOW),
        repeat_until=NOW + timedelta(minutes=2),
    ),
    "mail-refused": MAIL.changed(
        autostart=False, problem=MailRefused("", "It says: ‘550 No such user here’.")
    ),
    "mail-uncertain": MAIL.changed(
        autostart=False, state="repeat", problem=MailUncertain(), repeat_until=NOW + timedelta(minutes=2)
    ),
    "options-link-sent": NEW.changed(link_sent=True),
    "error": ERROR,
    "error-not-entitled": ERROR.changed(
        **SIGNED_IN, problem=NotEntitled("VPN", ("vpn-users",)), status=403, again=None
    ),
    "error-name-taken": ERROR.changed(**SIGNED_IN, problem=NameTaken("ada"), status=403, again=None),
    "error-no-page": ERROR.changed(problem=NoSuchPage(), status=404, again=None),
    "error-used": ERROR.changed(problem=GrantUsed(NOW), status=409, again=None),
    "error-used-by-holder": ERROR.changed(
        problem=GrantUsed(NOW, by_holder=True), status=409, again=None, passphrase=PASSPHRASE
    ),
    "error-expired": ERROR.changed(problem=GrantExpired(), status=410, again=None),
    "alert": Sample("_alert.html", ERROR.facts),
    "error-text": Sample("error.txt", ERROR.facts),
    "certificates": CERTIFICATES,
    "certificates-reminders": CERTIFICATES.changed(reminded=True, reminder_days="30, 14 and 3 days"),
    "certificates-no-reminders": CERTIFICATES.changed(reminded=False, reminder_days="1 day"),
    "certificates-none": CERTIFICATES.changed(certificates=[]),
    "certificates-more": CERTIFICATES.changed(number=2, has_more=True, links_accounts=True),
    "revoke": REVOKE,
    "revoke-from-chat": REVOKE.changed(**SIGNED_OUT, token=TOKEN),
    "revoke-without-reason": REVOKE.changed(errors={"reason": "Choose why."}),
    "revoke-done": REVOKE.changed(certificate=replace(CERTIFICATE, revoked_at=NOW)),
    "revoke-done-elsewhere": REVOKE.changed(certificate=replace(CERTIFICATE, revoked_at=NOW), **UNSEEN_LIST),
    "revoke-without-list": REVOKE.changed(**NO_LIST),
    "revoke-done-without-list": REVOKE.changed(certificate=replace(CERTIFICATE, revoked_at=NOW), **NO_LIST),
    "revoke-over": REVOKE.changed(is_over=True),
    "admin": ADMIN,
    "admin-none": ADMIN.changed(words="nobody & co", certificates=[]),
    "admin-more": ADMIN.changed(words="nobody & co", number=2, has_more=True),
    "admin-paused": ADMIN.changed(paused=STOPPED, questions=2),
    "expiring": EXPIRING,
    "expiring-none": EXPIRING.changed(certificates=[]),
    "pause": PAUSE,
    "pause-with-mistake": PAUSE.changed(note="x" * 200, errors={"note": "At most 200 characters."}),
    "paused": PAUSE.changed(paused=STOPPED),
    "questions": QUESTIONS,
    "questions-none": QUESTIONS.changed(questions=[], count=0),
    "questions-many": QUESTIONS.changed(count=130),
    "audit": AUDIT,
    "audit-none": AUDIT.changed(entries=[], has_more=False),
    "audit-with-mistake": AUDIT.changed(entries=[], has_more=False, errors={"since": "Enter a day."}),
    "person": PERSON,
    "person-without-reason": PERSON.changed(errors={"reason": "Choose why."}),
    "person-done": PERSON.changed(active=[], outcome=Outcome(3, 0)),
    "person-half-done": PERSON.changed(outcome=Outcome(2, 1)),
    "link": LINK,
    "link-none": LINK.changed(wanted=None, token=None),
    "link-list": LINK.changed(wanted=None, token=None, links=(("eqaw", "ada.lovelace"),)),
    "ca": CA,
    "ca-with-list-elsewhere": CA.changed(**THEIR_LIST),
    "ca-with-list-unseen": CA.changed(**UNSEEN_LIST),
    "ca-without-list": CA.changed(**NO_LIST),
    "test": TEST,
    "test-impossible": TEST.changed(**SIGNED_IN, test_origin=None, can_test=False),
    "test-none": TEST.changed(state="none"),
    "test-none-by-proxy": TEST.changed(**SIGNED_IN, state="none", test_origin=None),
    "test-unreadable": TEST.changed(state="unreadable", test_origin=None),
    **{
        f"test-{state}": TEST.changed(state=state, presented=replace(PRESENTED, state=state))
        for state in (State.GOOD, State.EXPIRED, State.EARLY)
    },
    **{
        f"test-{state}": TEST.changed(
            state=state, presented=replace(PRESENTED, known=replace(CERTIFICATE, revoked_at=NOW))
        )
        for state in (State.REVOKED, State.REPLACED)
    },
    **{
        f"test-{state}": TEST.changed(state=state, presented=replace(PRESENTED, known=None))
        for state in (State.UNKNOWN, State.FOREIGN)
    },
    "test-being-replaced": TEST.changed(
        state=State.GOOD,
        presented=replace(PRESENTED, known=replace(CERTIFICATE, revoke_at=NOW + timedelta(days=7))),
    ),
    "test-old-authority": TEST.changed(state=State.FOREIGN, presented=PRESENTED),
}


def pages() -> Iterator[tuple[str, Sample]]:
    return ((name, sample) for name, sample in SAMPLES.items() if sample.is_page)


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, sample in pages():
        (folder / f"{name}.html").write_text(sample.render())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
