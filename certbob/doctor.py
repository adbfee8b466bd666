"""Looks at everything that CertBob depends on, and says what is wrong and how to mend it."""

import ipaddress
import ssl
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from certbob.config import Settings
from certbob.errors import CABadAnswer, CAProblem, StorageProblem
from certbob.ports import CrlSource, PublishedCrl
from certbob.revocation_list import RevocationList
from certbob.services import Finding, Services, Verdict
from certbob.words import day, day_and_time

AUTHORITY_WARNING = timedelta(days=30)
TLS_WARNING = timedelta(days=14)

LIST = "revocation list"
TLS = "TLS certificate"


async def examine(services: Services, settings: Settings) -> AsyncIterator[Finding]:
    """One thing after the other, as they are known."""
    yield _judged("database", await services.storage_health(), "Look at disk space and rights of data_dir.")
    yield _judged("authority", await services.ca.health(), "Start it, and check [ca] and its section.")
    async for finding in _authority(services):
        yield finding
    if services.revocation_list is not None:
        yield await _own_list(services.revocation_list, services.clock.now())
    paused = await services.pause.state()
    if paused is not None:
        text = f"{paused.who} stopped it on {day_and_time(paused.since)}. {paused.note}".strip()
        yield Finding("issuing", Verdict.WARNING, text, "certbob resume, or /admin/pause.")
    if settings.server.tls_certificate and settings.server.tls_key:
        host = urlsplit(settings.server.public_url).hostname or ""
        now = services.clock.now()
        yield _tls_certificate(settings.server.tls_certificate, settings.server.tls_key, host, now)
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


async def _authority(services: Services) -> AsyncIterator[Finding]:
    """Its certificates and its own list. Nothing where it cannot be reached: that has been told."""
    try:
        trust = await services.ca.trust()
    except CAProblem:
        return
    now = services.clock.now()
    yield _ends("root certificate", trust.root, now)
    for certificate in trust.intermediates:
        yield _ends("intermediate certificate", certificate, now)
    if isinstance(services.ca, CrlSource):
        yield await _published_list(services.ca, now)


def _ends(subject: str, certificate: x509.Certificate, now: datetime) -> Finding:
    end = certificate.not_valid_after_utc
    mend = "Make a new one in time: no certificate of a person lasts longer, and then nothing can be signed."
    if now >= end:
        return Finding(subject, Verdict.FAILED, f"it ended on {day(end)}", mend)
    if now >= end - AUTHORITY_WARNING:
        return Finding(subject, Verdict.WARNING, f"it ends on {day(end)}", mend)
    return Finding(subject, Verdict.OK, f"valid until {day(end)}")


async def _own_list(own: RevocationList, now: datetime) -> Finding:
    """As the process that serves left it."""
    mend = "Is the service running? Its log says why no list is signed."
    try:
        last = await own.last_signed()
    except StorageProblem as problem:
        return Finding(LIST, Verdict.FAILED, problem.detail)
    if last is None:
        return Finding(LIST, Verdict.WARNING, "none was signed yet", "Start the service.")
    this_update, next_update = last
    if now >= next_update:
        text = (
            f"the last one is over since {day_and_time(next_update)}: services that check it refuse everybody"
        )
        return Finding(LIST, Verdict.FAILED, text, mend)
    if now >= this_update + (next_update - this_update) / 2:
        since, end = day_and_time(this_update), day_and_time(next_update)
        text = f"none was signed since {since}. From {end} on services that check it refuse everybody"
        return Finding(LIST, Verdict.WARNING, text, mend)
    return Finding(LIST, Verdict.OK, f"signed {_ago(now - this_update)}")


async def _published_list(source: CrlSource, now: datetime) -> Finding:
    """The authority is asked now."""
    try:
        crl = await source.fetch_crl()
    except CABadAnswer as problem:
        mend = "Find out who answers there; services that believe this list let in revoked certificates."
        return Finding(LIST, Verdict.FAILED, problem.detail, mend)
    except CAProblem as problem:
        return Finding(LIST, Verdict.WARNING, problem.detail, "Ask again once the authority answers.")
    if crl is None:
        text = "the authority publishes none: services believe a revoked certificate until it ends"
        return Finding(LIST, Verdict.WARNING, text, 'Set "crl" in its ca.json: docs/step-ca.md, section 6.')
    return _judged_list(crl, now)


def _judged_list(crl: PublishedCrl, now: datetime) -> Finding:
    if now >= crl.next_update:
        end = day_and_time(crl.next_update)
        text = f"the authority's is over since {end}: services that check it refuse everybody"
        return Finding(LIST, Verdict.FAILED, text, "Look at the authority and its log.")
    if crl.named not in (None, crl.address):
        text = f"certificates name {crl.named}, but the list is for {crl.address}: OpenSSL refuses everybody"
        return Finding(LIST, Verdict.WARNING, text, "Give crlURL of the template the same text as idpURL.")
    return Finding(LIST, Verdict.OK, f"made {_ago(now - crl.this_update)}, for {crl.address}")


def _ago(length: timedelta) -> str:
    hours = length // timedelta(hours=1)
    if hours < 1:
        return "less than an hour ago"
    return f"{hours} h ago" if hours < 48 else f"{length.days} days ago"


def _tls_certificate(file: Path, key: Path, host: str, now: datetime) -> Finding:
    """The files; the service has them since its start or the last SIGHUP."""
    mend = "Renew it, then send the service a SIGHUP."
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file, key)
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:  # of the files, and of OpenSSL
        text = f"{file} and {key} cannot be used: {error}"
        return Finding(
            TLS, Verdict.FAILED, text, "Check tls_certificate, tls_key, and that they belong together."
        )
    except ValueError:
        return Finding(TLS, Verdict.WARNING, f"{file} cannot be read here, only by OpenSSL")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        return Finding(TLS, Verdict.FAILED, f"it begins on {day_and_time(begin)}", "Check the clock.")
    if now >= end:
        return Finding(TLS, Verdict.FAILED, f"it ended on {day_and_time(end)}", mend)
    if not _is_for(certificate, host):
        text = f"it is not for {host}, the host of public_url"
        return Finding(TLS, Verdict.FAILED, text, "Check tls_certificate and public_url.")
    if now >= end - TLS_WARNING:
        return Finding(TLS, Verdict.WARNING, f"it ends on {day(end)}", mend)
    return Finding(TLS, Verdict.OK, f"valid until {day(end)}")


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    """By its alternative names alone, as browsers judge (RFC 9525 6)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wildcard = f"*.{host.partition('.')[2]}"
        return not {host, wildcard}.isdisjoint(
            name.lower() for name in names.get_values_for_type(x509.DNSName)
        )
