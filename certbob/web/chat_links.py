"""Which chat accounts are mine: the page that a link out of the chat leads to."""

from contextlib import suppress

from quart import Blueprint, Response, request

from certbob.chat_links import could_be_token
from certbob.errors import LinkOver, NoSuchPage, NotSignedIn
from certbob.web.context import identity, origin, services, session
from certbob.web.forms import read_form
from certbob.web.login import ask_to_sign_in
from certbob.web.pages import page
from certbob.web.security import public, remember_chat_link, remembered_chat_link, signed_in

blueprint = Blueprint("chat_links", __name__)


@blueprint.get("/link")
@public
async def show_links() -> Response:
    """The question whether an account is mine, or those that are; changes nothing.

    The link's token does not travel through the sign-in: this browser keeps it meanwhile.
    """
    _require_links()
    token = request.args.get("token")
    if session() is None:
        response = await ask_to_sign_in(NotSignedIn())
        if token is not None and could_be_token(token):
            remember_chat_link(response, token)
        return response
    wanted = None if token is None else await services().chat_links.find(token)
    if token is None and (token := remembered_chat_link()) is not None:
        with suppress(LinkOver):  # of an old visit: nobody asks for it now
            wanted = await services().chat_links.find(token)
    return await page(
        "chat_link.html",
        wanted=wanted,
        token=token,
        links=(await services().chat_links.of(identity())).items(),
    )


@blueprint.post("/link")
@signed_in
async def link() -> Response:
    _require_links()
    await services().chat_links.accept((await read_form()).get("token", ""), identity(), origin())
    response = Response(status=303, headers={"Location": "/link"})
    remember_chat_link(response, None)
    return response


@blueprint.post("/link/remove")
@signed_in
async def remove() -> Response:
    _require_links()
    await services().chat_links.remove((await read_form()).get("user_id", ""), identity(), origin())
    return Response(status=303, headers={"Location": "/link"})


def links_accounts() -> bool:
    """Whether people say here which chat accounts are theirs."""
    chat = services().chat
    return chat is not None and chat.links_accounts


def _require_links() -> None:
    if not links_accounts():
        raise NoSuchPage
