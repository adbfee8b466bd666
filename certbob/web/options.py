"""Choosing what the certificate is for, and minting the grant."""

from dataclasses import dataclass, replace
from datetime import timedelta

from quart import Blueprint, Response, request

from certbob import words
from certbob.devices import Device, Platform, looks_old, platform_of, suggested_name
from certbob.errors import CAUnavailable, InvalidInput, UnfitName
from certbob.identity import Identity, fit_device_name, name_key
from certbob.ports import Certificate, Delivery, Replacement
from certbob.web.context import identity, is_htmx, services, settings, user_agent
from certbob.web.forms import read_form
from certbob.web.issue import take_page
from certbob.web.pages import page
from certbob.web.security import signed_in

blueprint = Blueprint("options", __name__)

# What becomes of the certificate that a person has for the device: how long both work; None: for good.
OLD = {"revoke": timedelta(0), "later": timedelta(days=7), "keep": None}
LINK_SENT = "/new?link_sent=1"


@dataclass(frozen=True, slots=True)
class Values:
    """The form of `/new` as text, as it is shown and sent back."""

    platform: str
    device: str
    profile: str
    validity: str
    older: bool
    delivery: str
    replaces: str  # the serial number of a certificate, hex
    old: str  # what becomes of that one; empty as long as nobody was asked


@blueprint.get("/new")
@signed_in
async def show_options() -> Response:
    """The form; with a query it keeps what was chosen, and htmx asks for the part that depends on it."""
    only_options = is_htmx() and request.headers.get("HX-Target") == "options"
    sent = request.args.to_dict()
    link_sent = sent.pop("link_sent", "") == "1"
    return await _options_page(
        _values(sent), template="_options.html" if only_options else None, link_sent=link_sent
    )


@blueprint.post("/new")
@signed_in
async def choose() -> Response:
    values = _values(await read_form())
    person = identity()
    try:
        profile_id, device, validity = await _parse(values, person)
    except InvalidInput as problem:
        return await _options_page(values, status=422, errors=problem.fields)
    existing = await _existing(values, device.name)
    if existing is not None and values.old not in OLD:
        return await _options_page(values, existing=existing)
    replaces = _replacement(existing, values.old)
    await services().issuance.admit(person, profile_id, replaces)
    mail = services().mail
    delivery = Delivery.DOWNLOAD if mail is None or values.delivery == Delivery.DOWNLOAD else mail.way
    token = await services().grants.mint(person, profile_id, device, validity, delivery, replaces)
    if mail is not None and delivery is Delivery.LINK:
        await mail.send_link(token)
        return await _link_sent()
    if not is_htmx():
        return Response(status=303, headers={"Location": f"/issue?token={token}"})
    return await take_page(token)


async def _link_sent() -> Response:
    """The form again, for the next device, with the news above it."""
    if not is_htmx():
        return Response(status=303, headers={"Location": LINK_SENT})
    response = await _options_page(_values({}), link_sent=True)
    response.headers["HX-Push-Url"] = LINK_SENT
    return response


def _deliveries() -> dict[str, str]:
    """What can be chosen, in words."""
    address = identity().email
    offered = {Delivery.DOWNLOAD.value: "Download it here"}
    if services().mail is not None and address is not None:
        offered[Delivery.MAIL.value] = f"By mail to {words.masked(address)}"
    return offered


def _values(sent: dict[str, str]) -> Values:
    platform = sent.get("platform") or platform_of(user_agent())
    device = sent.get("device")
    suggestions = _suggestions()
    if device is None or device in suggestions.values():
        device = suggestions.get(platform, "")
    return Values(
        platform=platform,
        device=device,
        profile=sent.get("profile", ""),
        validity=sent.get("validity", ""),
        older=sent.get("older") == "1" if sent else looks_old(user_agent()),
        delivery=sent.get("delivery", Delivery.DOWNLOAD),
        replaces=sent.get("replaces", ""),
        old=sent.get("old", ""),
    )


async def _existing(values: Values, device: str = "") -> Certificate | None:
    """The certificate whose place the new one would take: a named one, or one for the same device."""
    mine = await services().ledger.active_of(identity().subject)
    active = [each for each in mine if each.revoke_at is None and each.delivered is not False]
    named = [each for each in active if f"{each.serial:x}" == values.replaces]
    if named:
        return named[0]
    same = [e for e in active if name_key(e.device) == name_key(device) and e.profile_id == values.profile]
    return max(same, key=lambda each: each.not_after, default=None)


def _replacement(existing: Certificate | None, old: str) -> Replacement | None:
    overlap = OLD.get(old)
    return None if existing is None or overlap is None else Replacement(existing.entry, overlap)


def _suggestions() -> dict[str, str]:
    """For each platform a name of the device, such as `Ada's Windows PC`."""
    return {platform: suggested_name(identity().name, platform) for platform in Platform}


async def _parse(values: Values, person: Identity) -> tuple[str, Device, timedelta]:
    """Raises InvalidInput with all mistakes at once, NotEntitled for a profile the person may not have."""
    errors = {}
    try:
        device_name = fit_device_name(values.device)
    except UnfitName as problem:
        errors["device"] = problem.text
    if values.platform not in tuple(Platform):
        errors["platform"] = "Choose where you will use it."
    if values.delivery not in _deliveries():
        errors["delivery"] = "Choose how you want to get it."
    if not values.profile:
        raise InvalidInput({**errors, "profile": "Choose what it is for."})
    profile = services().profiles.entitled(values.profile, person)
    longest = profile.longest_validity(await services().ca.longest_validity())
    if not longest:
        raise CAUnavailable("the authority ends within the hour")
    validity = _duration(values.validity)
    if validity is None or validity > longest:
        errors["validity"] = (
            f"Choose how long ‘{profile.label}’ is to last: at most {words.duration(longest)}."
        )
    if errors or validity is None:
        raise InvalidInput(errors)
    device = Device(Platform(values.platform), device_name, values.older and settings().ask_older)
    return profile.id, device, validity


def _duration(text: str) -> timedelta | None:
    try:
        return words.parse_duration(text)
    except ValueError:
        return None


async def _options_page(
    values: Values,
    status: int = 200,
    *,
    errors: dict[str, str] | None = None,
    template: str | None = None,
    link_sent: bool = False,
    existing: Certificate | None = None,
) -> Response:
    profiles = services().profiles.for_identity(identity())
    profile = next((p for p in profiles if p.id == values.profile), profiles[0] if profiles else None)
    longest = await services().ca.longest_validity()
    offered = (
        {words.format_duration(length): length for length in profile.validities(longest)} if profile else {}
    )
    if profile and values.validity not in offered:
        values = replace(values, validity=words.format_duration(profile.default_validity(longest)))
    return await page(
        template or "new.html",
        status,
        values=replace(values, profile=profile.id if profile else ""),
        errors=errors or {},
        platforms=tuple(Platform),
        profiles=profiles,
        validities=[(value, _until(length)) for value, length in offered.items()],
        deliveries=_deliveries().items(),
        paused=await services().pause.state(),
        existing=existing or (await _existing(values) if values.replaces else None),
        link_sent=link_sent,
        ask_older=settings().ask_older,
        device_is_suggested=values.device in _suggestions().values(),
    )


def _until(length: timedelta) -> str:
    return f"{words.duration(length)} (until {words.day(services().clock.now() + length)})"
