"""Looks at everything that CertBob depends on, and says what is wrong and how to mend it."""

from collections.abc import AsyncIterator

from certbob.services import Finding, Services, Verdict


async def examine(services: Services) -> AsyncIterator[Finding]:
    """One thing after the other, as they are known."""
    yield _judged("database", await services.storage_health(), "Look at disk space and rights of data_dir.")
    yield _judged("authority", await services.ca.health(), "Start it, and check [ca] and its section.")
    if services.single_sign_on is not None:
        yield _judged("sign-in service", await services.single_sign_on.examine(), "Check [oidc].")
    if services.mail is not None:
        yield _judged("mail server", await services.mail.examine(), "Check [smtp].")
    if services.chat is not None:
        async for finding in services.chat.examine():
            yield finding


def _judged(subject: str, trouble: str | None, mend: str) -> Finding:
    if trouble is None:
        return Finding(subject, Verdict.OK, "in order")
    return Finding(subject, Verdict.FAILED, trouble, mend)
