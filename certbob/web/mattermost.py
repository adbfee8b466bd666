"""Mattermost's slash command. Each word of a person is answered with 200: of anything else they see nothing.

Measured on Mattermost 6.7 and read in 11.2: only a 200 of application/json with text in it is shown, a
redirect loses the form, and nothing is tried again. Nothing here waits for the authority or a mail server.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from quart import Blueprint, Response, g, request

from certbob.delivery import MailDelivery
from certbob.devices import Device, Platform, suggested_name
from certbob.errors import (
    InvalidInput,
    NoMailbox,
    NoSuchPage,
    NotFromChat,
    NotLinked,
    Problem,
    SignInBlocked,
    UnfitName,
    WrongMethod,
)
from certbob.identity import Identity, fit_device_name, name_key
from certbob.issuance import FileOptions
from certbob.ports import Certificate, Delivery, Way
from certbob.profiles import Profile
from certbob.services import Chat, SlashCommand
from certbob.web.context import origin, reference, services, settings
from certbob.web.errors import log_problem, show, status_of
from certbob.web.security import from_chat, public

blueprint = Blueprint("mattermost", __name__)
log = logging.getLogger(__name__)

MAX_LISTED = 10
# Each has a token, and a message at most 4000 characters.
MAX_LINKS, MAX_LINKS_LENGTH = 5, 3000
AUTHORITY_SECONDS = 0.05  # what it signs at most is usually at hand


@dataclass(frozen=True, slots=True)
class Message:
    """`goto`: what the person's client is to open."""

    text: str
    goto: str | None = None


@blueprint.post("/request")
@from_chat
async def run_command() -> Response:
    command: SlashCommand = g.command
    try:
        await _chat().verify(command, request.remote_addr or "unknown")
        message = await _answer(command)
    except (NotFromChat, SignInBlocked):
        raise  # not for a person
    except Problem as problem:
        log_problem(problem)
        log.info("%s was asked by chat account %s", reference(), command.user_id)
        message = _apology(command, problem)
    except Exception as error:
        log.exception("%s unexpected", reference(), exc_info=error)
        message = _apology(command, Problem())
    content = {"response_type": "ephemeral", "text": message.text, "skip_slack_parsing": True}
    if message.goto is not None:
        content["goto_location"] = message.goto
    return Response(json.dumps(content), content_type="application/json")


@blueprint.get("/request")
@public
async def explain_method() -> Response:
    """A command of the method GET writes its token into the logs on its way."""
    _chat()
    log.warning(
        "%s a slash command came as GET: set its method to POST in Mattermost, and regenerate its token",
        reference(),
    )
    response = await show(WrongMethod())
    response.headers["Allow"] = "POST"
    return response


@blueprint.after_request
async def close_connection(response: Response) -> Response:
    """So that no connection is cut under the next command: Mattermost sends each only once."""
    response.headers["Connection"] = "close"
    return response


async def _answer(command: SlashCommand) -> Message:
    word = command.words[0].lower() if command.words else "download"
    try:
        return await COMMANDS.get(word, _help)(command)
    except NotLinked:
        return await _offer_link(command)


def _apology(command: SlashCommand, problem: Problem) -> Message:
    return _message(
        "problem", command, problem=problem, reference=reference() if status_of(problem) >= 500 else None
    )


async def _download(command: SlashCommand) -> Message:
    identity = await _chat().identity(command)
    token, profile = await _mint(command, identity, Delivery.DOWNLOAD)
    grant = await services().grants.inspect(token)
    url = _address("/issue", token=token)
    return _message(
        "download",
        command,
        goto=url if _chat().opens_links else None,
        url=url,
        name=identity.name,
        device=grant.device.name,
        profile=profile.label,
        passphrase=services().grants.passphrase(token),
        until=grant.expires_at,
        valid_until=grant.created_at + grant.validity,
    )


async def _email(command: SlashCommand) -> Message:
    identity = await _chat().identity(command)
    mail = services().mail
    if mail is None:
        return _message("no-mail", command)
    if mail.way is Delivery.LINK and not _chat().links_accounts:
        return _message("mail-needs-sign-in", command)
    if identity.email is None:
        raise NoMailbox
    token, _ = await _mint(command, identity, mail.way)
    grant = await services().grants.inspect(token)
    message = _message(
        "email",
        command,
        device=grant.device.name,
        recipient=identity.email,
        passphrase=services().grants.passphrase(token) if mail.way is Delivery.MAIL else None,
        valid_until=grant.created_at + grant.validity,
    )
    # Only now: a mail whose passphrase nobody was told is of no use.
    work = mail.send_link(token) if mail.way is Delivery.LINK else _send_file(mail, token)
    _chat().start(work, command, "mail-failed")
    return message


def _send_file(mail: MailDelivery, token: str) -> Awaitable[object]:
    return mail.send_file(token, holder=None, options=FileOptions(), origin=origin())


async def _list(command: SlashCommand) -> Message:
    identity = await _chat().identity(command)
    found = await services().ledger.certificates_of(identity.subject, limit=MAX_LISTED + 1)
    return _message(
        "list",
        command,
        certificates=found[:MAX_LISTED],
        more=len(found) > MAX_LISTED,
        pages=_chat().links_accounts,
        now=services().clock.now(),
    )


async def _revoke(command: SlashCommand) -> Message:
    """Nothing is revoked here: a command is easily sent by mistake, and a page can ask."""
    identity = await _chat().identity(command)
    wanted = " ".join(command.words[1:])
    found = [
        certificate
        for certificate in await services().ledger.active_of(identity.subject)
        if _is_called(certificate, wanted)
    ]
    links = [(certificate, _revocation_link(certificate)) for certificate in found[:MAX_LINKS]]
    links = links[: max(1, MAX_LINKS_LENGTH // max((len(url) for _, url in links), default=1))]
    return _message("revoke", command, links=links, asked=bool(wanted), more=len(found) > len(links))


async def _reminders(command: SlashCommand) -> Message:
    """Whether there are; changes it when the person says so."""
    identity = await _chat().identity(command)
    reminders = services().reminders
    wanted = None if reminders is None else await reminders.wanted_by(identity)
    if reminders is None or wanted is None:
        return _message("reminders", command, days=None, wanted=False)
    said = command.words[1].lower() if len(command.words) > 1 else ""
    if said in ("on", "off"):
        wanted = said == "on"
        await reminders.set_wanted(identity, wanted)
    return _message("reminders", command, days=reminders.days_in_words, wanted=wanted)


async def _link(command: SlashCommand) -> Message:
    """Also for somebody who is linked: the account may be another one's."""
    if not _chat().links_accounts:
        return _message("no-links", command)
    await _chat().identity(command)
    return await _offer_link(command)


async def _offer_link(command: SlashCommand) -> Message:
    name = await _chat().name(command)
    token = await services().chat_links.request(command.user_id, name)
    return _message("link", command, url=_address("/link", token=token), name=name)


async def _help(command: SlashCommand) -> Message:
    word = command.words[0].lower() if command.words else "help"
    return _message(
        "help",
        command,
        known=word == "help",
        mail=services().mail is not None and _chat().has_addresses,
        reminders=_reminds(),
        links=_chat().links_accounts,
    )


def _reminds() -> bool:
    """Whether people of the chat can be reminded at all."""
    found = services().reminders
    return found is not None and (Way.CHAT in found.ways or _chat().has_addresses)


COMMANDS: dict[str, Callable[[SlashCommand], Awaitable[Message]]] = {
    "download": _download,
    "email": _email,
    "mail": _email,
    "list": _list,
    "status": _list,
    "revoke": _revoke,
    "reminders": _reminders,
    "link": _link,
    "help": _help,
}


async def _mint(command: SlashCommand, identity: Identity, delivery: Delivery) -> tuple[str, Profile]:
    """A grant for the first profile that the person may have."""
    profile = services().profiles.first_for(identity)
    await services().issuance.admit(identity, profile.id)
    validity = profile.default_validity(await _longest_validity())
    device = Device(Platform.OTHER, _device_name(command, identity), older=False)
    return await services().grants.mint(identity, profile.id, device, validity, delivery), profile


def _device_name(command: SlashCommand, identity: Identity) -> str:
    wanted = " ".join(command.words[1:])
    if not wanted:
        return suggested_name(identity.name, Platform.OTHER)
    try:
        return fit_device_name(wanted)
    except UnfitName as problem:
        raise InvalidInput({"device": problem.text}) from problem


async def _longest_validity() -> timedelta | None:
    """None when the authority does not say at once."""
    with suppress(TimeoutError):
        async with asyncio.timeout(AUTHORITY_SECONDS):
            return await services().ca.longest_validity()
    return None


def _is_called(certificate: Certificate, wanted: str) -> bool:
    """Without a name every one is meant."""
    if not wanted:
        return True
    with suppress(UnfitName):
        return name_key(certificate.device) == name_key(fit_device_name(wanted))
    return False


def _revocation_link(certificate: Certificate) -> str:
    token = services().revocation.link_token(certificate)
    return _address(f"/certificates/{certificate.serial:x}/revoke", token=token)


def _address(path: str, **query: str) -> str:
    """From the configuration alone, whatever the request says about hosts."""
    return f"{settings().public_url}{path}?{urlencode(query)}"


def _message(template: str, command: SlashCommand, *, goto: str | None = None, **facts: Any) -> Message:
    return Message(_chat().write(template, command=command.name, **facts), goto)


def _chat() -> Chat:
    found = services().chat
    if found is None:
        raise NoSuchPage
    return found
