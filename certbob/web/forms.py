"""Reading a form strictly: what is not plain urlencoded text is refused, never guessed."""

from typing import cast
from urllib.parse import parse_qsl

from quart import g, request

from certbob.errors import BadRequest

MAX_FIELDS = 50


async def read_form() -> dict[str, str]:
    """The fields of the request's form; of a repeated field the last one counts, as with tick boxes.

    Raises BadRequest for another content type, bad UTF-8, or more than 50 fields.
    """
    if "form" not in g:
        body = cast(bytes, await request.get_data(as_text=False))
        if body and request.mimetype != "application/x-www-form-urlencoded":
            raise BadRequest(f"content type {request.mimetype!r}")
        try:
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        except ValueError as error:
            raise BadRequest(type(error).__name__) from error
        g.form = dict(pairs)
    form: dict[str, str] = g.form
    return form
