"""What handlers reach for: the services and settings of the running application, and facts of the request."""

import re
import secrets
from dataclasses import dataclass
from typing import Any

from quart import current_app, g, request

from certbob.errors import NotSignedIn
from certbob.identity import Identity
from certbob.ports import Actor, Origin, Session
from certbob.secret import Secret
from certbob.services import Services

MAX_USER_AGENT = 256
_NUMBER = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the pages need to know of the configuration."""

    public_url: str
    contact: str | None
    organization: str | None
    direct_download: bool
    ask_older: bool
    metrics_token: Secret | None = None
    test_origin: str | None = None  # where a browser is asked for its certificate
    proxy_tells_certificate: bool = False

    @property
    def can_test(self) -> bool:
        """Whether anybody sees which certificate a browser presents."""
        return self.test_origin is not None or self.proxy_tells_certificate

    @property
    def https(self) -> bool:
        return self.public_url.startswith("https://")


def services() -> Services:
    found: Services = current_app.extensions["certbob"]
    return found


def settings() -> WebSettings:
    found: WebSettings = current_app.extensions["certbob-settings"]
    return found


def session() -> Session | None:
    found: Session | None = g.get("session")
    return found


def identity() -> Identity:
    """Of the person who is signed in. Raises NotSignedIn."""
    current = session()
    if current is None:
        raise NotSignedIn
    return current.identity


def page_number(largest: int) -> int:
    """Which part of a list is asked for, from 1; nonsense is the first."""
    text = request.args.get("page", "1")
    number = int(text) if _NUMBER.fullmatch(text) else 1
    return number if number <= largest else 1


def is_admin() -> bool:
    current = session()
    return current is not None and current.is_admin


def list_facts() -> dict[str, Any]:
    """What pages say about the list of revoked certificates.

    `has_list`: it is ours. `list_address`: where the authority's is, or would be. `list_longest`: how long
    services may believe one; None: not known. `list_is_off`: the authority makes none.
    """
    ours, published = services().revocation_list, services().published_list
    known = published.known if published else None
    longest = ours.lifetime if ours else known.next_update - known.this_update if known else None
    return {
        "has_list": ours is not None,
        "list_address": published.address if published and not published.is_off else None,
        "list_longest": longest,
        "list_is_off": published is not None and published.is_off,
    }


def reference() -> str:
    """Names this request in the log and on an error page, such as `8F3A-22`."""
    if "reference" not in g:
        text = secrets.token_hex(3).upper()
        g.reference = f"{text[:4]}-{text[4:]}"
    found: str = g.reference
    return found


def origin() -> Origin:
    return Origin(request.remote_addr or "-", reference())


def actor() -> Actor:
    """The person who is signed in. Raises NotSignedIn."""
    return Actor.of(identity(), origin())


def is_htmx() -> bool:
    """Whether a fragment is asked for. After "Back" htmx asks for a whole page."""
    headers = request.headers
    return headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in headers


def names_html() -> bool:
    """Whether the client says that it shows pages; curl and scripts do not."""
    return "text/html" in ",".join(request.headers.getlist("Accept")).lower()


def user_agent() -> str:
    """Cut, because it is searched with patterns and may be as long as all headers together."""
    return request.headers.get("User-Agent", "")[:MAX_USER_AGENT]
