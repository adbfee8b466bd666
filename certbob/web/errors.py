"""The one table from a fact to its HTTP status, and how it is shown: page, fragment or plain text."""

import logging
import math

from quart import Quart, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from certbob import errors
from certbob.errors import Problem
from certbob.web.context import is_htmx, names_html, reference, services
from certbob.web.pages import page, plain

log = logging.getLogger(__name__)

STATUS: dict[type[Problem], int] = {
    errors.BadRequest: 400,
    errors.GrantMalformed: 400,
    errors.GrantInvalid: 401,
    errors.NotFromChat: 401,
    errors.SignInFailed: 400,
    errors.NotSignedIn: 401,
    errors.ForeignRequest: 403,
    errors.NotAllowed: 403,
    errors.AccountGone: 403,
    errors.NotEntitled: 403,
    errors.UnfitName: 403,
    errors.NotYours: 403,
    errors.NameTaken: 403,
    errors.ChatAccountRefused: 403,
    errors.ChatNameChanged: 403,
    errors.NotLinked: 403,
    errors.NoSuchPage: 404,
    errors.WrongMethod: 405,
    errors.GrantUsed: 409,
    errors.TooManyActive: 409,
    errors.GrantExpired: 410,
    errors.TakeOver: 410,
    errors.LinkOver: 410,
    errors.TooLarge: 413,
    errors.InvalidInput: 422,
    errors.NoMailbox: 422,
    errors.SignInRefused: 422,
    errors.SignInBlocked: 429,
    errors.TooManyCertificates: 429,
    errors.TooManyCommands: 429,
    errors.TooManyMails: 429,
    errors.CABadAnswer: 502,
    errors.MailRefused: 502,
    errors.CARefused: 502,
    errors.Busy: 503,
    errors.IssuingPaused: 503,
    errors.CAUnavailable: 503,
    errors.ChatUnavailable: 503,
    errors.NotRevoked: 503,
    errors.ProviderUnavailable: 503,
    errors.MailUnavailable: 503,
    errors.StorageProblem: 503,
    errors.CAUncertain: 504,
    errors.MailUncertain: 504,
}
RETRY_SECONDS = {
    errors.Busy: 2,
    errors.CAUnavailable: 10,
    errors.StorageProblem: 10,
    errors.MailUnavailable: 60,
    errors.ChatUnavailable: 60,
    errors.ProviderUnavailable: 60,
}
# htmx puts these in the place of the form; all others go to the alert above it, and the form stays.
SWAPPED_IN_PLACE = (409, 410, 422, 429)

MAX_DETAIL = 500  # some of it is a stranger's text

_HTTP = {404: errors.NoSuchPage, 405: errors.WrongMethod, 413: errors.TooLarge}


def status_of(problem: Problem) -> int:
    return next((STATUS[kind] for kind in type(problem).__mro__ if kind in STATUS), 500)


def gives_back(problem: Problem) -> bool:
    """Whether the grant is still good after this."""
    return isinstance(problem, errors.Busy | errors.IssuingPaused | errors.StorageProblem) or (
        isinstance(problem, errors.CAProblem) and problem.surely_unsigned
    )


async def show(
    problem: Problem,
    *,
    token: str | None = None,
    passphrase: str | None = None,
    by_mail: bool = False,
    page_stays: bool = False,
) -> Response:
    """The problem as the client can read it.

    `token`: of a grant that can be tried again, `by_mail` if it was to be mailed. `page_stays`: htmx is to
    leave the page as it is, whatever the status.
    """
    status = status_of(problem)
    facts = {"problem": problem, "reference": reference()}
    if is_htmx() and (page_stays or status not in SWAPPED_IN_PLACE):
        response = await page("_alert.html", status, **facts)
        response.headers.update({"HX-Retarget": "#alert", "HX-Reswap": "innerHTML"} if page_stays else {})
    elif is_htmx() or names_html():
        can_go_on = token is not None and gives_back(problem)
        again = {"token": token, "by_mail": by_mail} if can_go_on else None
        start = "/certificates" if isinstance(problem, errors.TooManyActive) else "/"
        response = await page(
            "error.html", status, **facts, status=status, again=again, passphrase=passphrase, start=start
        )
    else:
        response = await plain("error.txt", status, **facts)
    response.headers.update(retry_after(problem))
    return response


def retry_after(problem: Problem) -> dict[str, str]:
    """The Retry-After header, in seconds, where waiting helps."""
    until = getattr(problem, "until", None)
    if until is not None:
        seconds = math.ceil((until - services().clock.now()).total_seconds())
        return {"Retry-After": str(max(seconds, 1))}
    for kind, wait in RETRY_SECONDS.items():
        if isinstance(problem, kind):
            return {"Retry-After": str(wait)}
    return {}


def log_problem(problem: Problem) -> None:
    level = logging.ERROR if status_of(problem) >= 500 else logging.INFO
    if isinstance(problem, errors.NotFromChat):
        level = logging.WARNING  # a wrong token somewhere, or somebody who tries
    detail = (problem.detail or problem.text)[:MAX_DETAIL]
    log.log(level, "%s %s: %s", reference(), problem.code, detail)


def set_up_errors(app: Quart) -> None:
    @app.errorhandler(Problem)
    async def on_problem(problem: Problem) -> Response:
        log_problem(problem)
        return await show(problem)

    @app.errorhandler(HTTPException)
    async def on_http_exception(error: HTTPException) -> Response:
        if error.code is not None and error.code >= 500:
            log.error("%s %r", reference(), error)
            return await show(Problem())
        response = await show(_HTTP.get(error.code or 400, errors.BadRequest)())
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(error.valid_methods or ())
        return response

    @app.errorhandler(Exception)
    async def on_exception(error: Exception) -> Response:
        log.exception("%s unexpected", reference(), exc_info=error)
        return await show(Problem())
