"""Who asks, and the strict grammar of names and addresses that may stand in a certificate.

`cryptography` takes newlines, NUL and right-to-left overrides in a common name and `a@b.c,e@v.il` as an
e-mail address, so the check is ours and stands at the door.
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from certbob.errors import UnfitName

MAX_NAME_BYTES = 64  # X.520 ub-common-name, counted in bytes because some readers do
MAX_DEVICE_NAME = 40
MAX_LOCAL_BYTES = 64  # RFC 5321 4.5.3.1.1
MAX_EMAIL_LENGTH = 254  # RFC 5321 4.5.3.1.3: a path is 256 octets with its angle brackets

_PUNCTUATION = " ._'@-"
# Letters and marks that nobody sees (Unicode: Default_Ignorable_Code_Point).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_CJK = frozenset({"CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})
# Scripts that share look-alike letters must not meet in one name; the ideographic ones cannot be
# mistaken for Latin (Unicode TS 39, "highly restrictive").
_ALLOWED_MIXES = (_CJK | {"LATIN"},)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>{_LABEL}(?:\.{_LABEL})+)")


class Door(StrEnum):
    """Which door vouched for somebody."""

    OIDC = "oidc"
    LOCAL = "local"
    MATTERMOST = "mattermost"
    TERMINAL = "terminal"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who is known.

    `subject` is our own stable id (a UUID as text) and never shown. `name` is as the door tells it, and held
    against `fit_name` before it stands in a certificate. `email` was checked by `fit_email` and is there only
    when the door has verified it. `account` is the door's own key for the person: the user name of a local
    account, issuer and subject of single sign-on, the id of a Mattermost account.
    """

    subject: str
    name: str
    email: str | None
    groups: tuple[str, ...]
    door: Door
    account: str


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0]


def _is_fit(character: str) -> bool:
    category = unicodedata.category(character)
    if category[0] != "L" and category not in ("Mn", "Mc"):
        return character in _PUNCTUATION or character in "0123456789"
    # <font>, <wide>, <super> and the like are other letters in disguise; Thai needs a <compat> one.
    form = unicodedata.decomposition(character).partition(">")[0]
    return not _INVISIBLE.match(character) and (not form.startswith("<") or form == "<compat")


def _is_of_one_script(text: str) -> bool:
    scripts = {_script(character) for character in text if unicodedata.category(character)[0] == "L"}
    return len(scripts) <= 1 or any(scripts <= mix for mix in _ALLOWED_MIXES)


def _fit_text(text: str, what: str) -> str:
    text = unicodedata.normalize("NFC", text)
    for character in text:
        if not _is_fit(character):
            visible = character.isprintable() and not _INVISIBLE.match(character)
            shown = f"‘{character}’" if visible else f"U+{ord(character):04X}"
            raise UnfitName(f"{what} may hold letters, digits, spaces and . _ ' @ - but not {shown}.")
    if not _is_of_one_script(text):
        raise UnfitName(f"{what} mixes letters of different scripts that look alike.")
    if not text:
        raise UnfitName(f"{what} is empty.")
    if unicodedata.category(text[0])[0] not in "LN":
        raise UnfitName(f"{what} must begin with a letter or a digit.")
    return text


def fit_name(text: str) -> str:
    """A person's name, normalised (NFC, no blanks around), fit for a common name.

    Raises UnfitName when it has anything but letters of one script, digits, blanks and `._'@-`, or more
    than 64 bytes.
    """
    name = _fit_text(text.strip(" "), "The name")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UnfitName(f"The name is longer than {MAX_NAME_BYTES} bytes.")
    return name


def name_key(name: str) -> str:
    """One spelling for all names that people and services could take for the same."""
    return re.sub(" +", " ", unicodedata.normalize("NFKC", name).casefold())


def fit_device_name(text: str) -> str:
    """A device's name: the grammar of `fit_name`, 1 to 40 characters.

    Phones type ’ and – where people mean ' and -, so these two are taken as such.
    """
    plain = re.sub(" +", " ", text.replace("’", "'").replace("–", "-")).strip(" ")
    if not plain:
        raise UnfitName("Give the device a name.")
    name = _fit_text(plain, "The name of the device")
    if len(name) > MAX_DEVICE_NAME:
        raise UnfitName(f"The name of the device is longer than {MAX_DEVICE_NAME} characters.")
    return name


def fit_email(text: str) -> str:
    """Exactly one address (RFC 5321 Mailbox without quoting), its domain in ASCII form.

    Raises UnfitName. The part before the @ may have letters of one other script (RFC 6531); such an address
    gets mail, but stands in no certificate: an rfc822Name cannot hold it (RFC 5280 4.2.1.6).
    """
    if len(text) > MAX_EMAIL_LENGTH:
        raise UnfitName(f"The e-mail address is longer than {MAX_EMAIL_LENGTH} characters.")
    local, at, domain = unicodedata.normalize("NFC", text).rpartition("@")
    domain = _ascii_domain(domain)
    address = f"{local}{at}{domain}"
    match = _EMAIL.fullmatch(address)
    # Mail programs decode =?utf-8?q?...?= wherever they see it, to anything at all (RFC 2047).
    if (
        match is None
        or "=?" in address
        or not _is_fit_local(match["local"])
        or len(address) > MAX_EMAIL_LENGTH
    ):
        raise UnfitName("The e-mail address is not a plain one such as ada@example.org.")
    return address


def _is_fit_local(local: str) -> bool:
    foreign = [character for character in local if not character.isascii()]
    return (
        len(local.encode()) <= MAX_LOCAL_BYTES
        and all(_is_fit(character) for character in foreign)
        and _is_of_one_script(local)
    )


def _ascii_domain(domain: str) -> str:
    if domain.isascii():
        return domain
    try:
        encoded = domain.encode("idna")
        # The codec is of IDNA 2003: it makes ss of ß and drops what is invisible, which is another domain.
        if encoded.decode("idna") != unicodedata.normalize("NFC", domain.lower()):
            raise UnicodeError("does not survive IDNA 2003")
    except UnicodeError as error:
        raise UnfitName("The domain of the e-mail address is not valid.") from error
    return encoded.decode("ascii")
