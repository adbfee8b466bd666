"""Reading a form strictly: what is not plain urlencoded text is refused, never guessed."""

import asyncio
from urllib.parse import parse_qsl

from quart import current_app, g, request

from certbob.errors import BadRequest, TooLarge

MAX_FIELDS = 50


async def read_form() -> dict[str, str]:
    """The fields of the request's form; of a repeated field the last one counts, as with tick boxes.

    Raises BadRequest for another content type, bad UTF-8, or more than 50 fields; TooLarge.
    """
    return dict(await _read_pairs())


async def read_first_fields() -> dict[str, str]:
    """The same, but of a repeated field the first one counts. Raises as `read_form`."""
    return dict(reversed(await _read_pairs()))


async def _read_pairs() -> list[tuple[str, str]]:
    if "form" not in g:
        body = await _read_body()
        if body and request.mimetype != "application/x-www-form-urlencoded":
            raise BadRequest(f"content type {request.mimetype!r}")
        try:
            g.form = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        except ValueError as error:
            raise BadRequest(type(error).__name__) from error
    pairs: list[tuple[str, str]] = g.form
    return pairs


async def _read_body() -> bytes:
    """Piece by piece: Quart 0.23 keeps a body that does not tell its length until its end comes."""
    body = bytearray()
    try:
        async with asyncio.timeout(current_app.config["BODY_TIMEOUT"]):
            async for piece in request.body:
                body += piece
                if len(body) > current_app.config["MAX_CONTENT_LENGTH"]:
                    raise TooLarge
    except TimeoutError as error:
        raise BadRequest("the body came too slowly") from error
    return bytes(body)
