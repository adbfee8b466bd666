"""Trust material for services, and what monitoring asks."""

import json
import sqlite3
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from certbob.errors import CAUnavailable
from certbob.ports import THE_SERVICE
from certbob.revocation import Reason
from certbob.revocation_list import RevocationList
from tests.support.served import serve
from tests.support.web import Answer, FakeCA, Site, StillClock, open_site

LISTS = {
    "/ca/crl": ("application/pkix-crl", "crl"),
    "/ca/root-crl": ("application/pkix-crl", "root-crl"),
    "/ca/crls.pem": ("application/x-pem-file", "crls.pem"),
}
every_list = pytest.mark.parametrize("path", LISTS)


async def test_the_root_is_offered_in_both_forms_and_with_its_fingerprint(site: Site) -> None:
    program = site.program()
    pem = x509.load_pem_x509_certificate((await program.get("/ca/root.pem")).body)
    der = x509.load_der_x509_certificate((await program.get("/ca/root.crt")).body)
    chain = x509.load_pem_x509_certificates((await program.get("/ca/chain.pem")).body)

    assert pem == der == chain[-1]
    chain[0].verify_directly_issued_by(pem)
    page = (await site.browser().get("/ca")).page
    assert pem.fingerprint(hashes.SHA256()).hex(":").upper() in page.text()


async def test_a_ready_service_says_so(site: Site) -> None:
    answer = await site.program().get("/readyz")

    assert answer.status == 200
    assert json.loads(answer.text) == {"ready": True, "checks": {"storage": "ok", "ca": "ok", "crl": "ok"}}


async def test_what_is_missing_is_named_while_the_process_lives(site: Site, clock: StillClock) -> None:
    ca = FakeCA(site.settings.server.data_dir, clock)
    ca.broken = "the authority is on holiday"
    async with open_site(site.settings.server.data_dir, clock, ca=ca) as broken:
        answer = await broken.program().get("/readyz")

        assert answer.status == 503
        assert json.loads(answer.text)["checks"]["ca"] == "the authority is on holiday"
        assert (await broken.program().get("/healthz")).status == 200


async def test_without_the_authority_its_page_says_so(site: Site, clock: StillClock) -> None:
    ca = FakeCA(site.settings.server.data_dir, clock)
    ca.problem = CAUnavailable("no route to host")
    async with open_site(site.settings.server.data_dir, clock, ca=ca) as broken:
        answer = await broken.browser().get("/ca")

    assert answer.status == 503
    assert "does not answer" in answer.text
    assert "no route" not in answer.text


async def test_without_its_records_the_service_is_not_ready_and_issues_nothing(
    site: Site, data_dir: Path, clock: StillClock
) -> None:
    token = await site.mint()
    browser = site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    with closing(sqlite3.connect(data_dir / "certbob.sqlite3", isolation_level=None)) as other:
        other.execute("ALTER TABLE grants RENAME TO stolen")

        refused = await browser.submit(form)

        assert refused.status == 503
        assert refused.headers["Retry-After"] == "10"
        assert "stolen" not in refused.text
        assert "grants" not in refused.text
        other.execute("ALTER TABLE stolen RENAME TO grants")
    assert (await browser.submit(form)).status == 200


async def test_a_database_that_is_gone_is_named(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock) as site:
        pass  # closes the database

    answer = await site.program().get("/readyz")

    assert answer.status == 503
    assert json.loads(answer.text)["checks"]["storage"] != "ok"
    assert (await site.program().get("/healthz")).status == 200


# Lists of revoked certificates


def crls(answer: Answer) -> list[x509.CertificateRevocationList]:
    assert answer.status == 200, answer
    if answer.headers["Content-Type"] == "application/pkix-crl":
        return [x509.load_der_x509_crl(answer.body)]
    end = b"-----END X509 CRL-----\n"
    *blocks, rest = answer.body.split(end)
    assert rest == b""
    return [x509.load_pem_x509_crl(block + end) for block in blocks]


def serials(answer: Answer) -> set[int]:
    return {entry.serial_number for crl in crls(answer) for entry in crl}


def revocation_list(site: Site) -> RevocationList:
    assert site.services.revocation_list is not None
    return site.services.revocation_list


async def revoke_one(site: Site) -> int:
    """The serial number of a certificate that was issued and taken back."""
    browser = site.browser()
    form = (await browser.get(f"/issue?token={await site.mint()}")).page.form("/issue")
    assert (await browser.submit(form)).status == 200
    serial, subject = site.ledger("serial, subject")[-1]
    certificate = await site.services.ledger.find(int(serial, 16), subject)
    assert certificate is not None
    await site.services.revocation.revoke(certificate, Reason.LOST, THE_SERVICE)
    return certificate.serial


@every_list
async def test_lists_are_files_that_caches_ask_about(site: Site, clock: StillClock, path: str) -> None:
    answer = await site.program().get(path)
    media_type, name = LISTS[path]
    current = await revocation_list(site).current()

    assert answer.status == 200
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["Content-Disposition"] == f"attachment; filename={name}"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["ETag"] == f'"{current.number:x}"'
    assert parsedate_to_datetime(answer.headers["Last-Modified"]) <= clock.now()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers
    for crl in crls(answer):
        assert crl.last_update_utc < clock.now() < (crl.next_update_utc or clock.now())


async def test_every_authority_signs_its_own_list(site: Site) -> None:
    program = site.program()
    chain = x509.load_pem_x509_certificates((await program.get("/ca/chain.pem")).body)
    [of_issuing], [of_root] = [crls(await program.get(path)) for path in ("/ca/crl", "/ca/root-crl")]

    for crl, issuer in zip((of_issuing, of_root), chain, strict=True):
        key = issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(key)
        assert crl.issuer == issuer.subject
    assert crls(await program.get("/ca/crls.pem")) == [of_issuing, of_root]


@every_list
async def test_asking_for_the_head_of_a_list_tells_the_same(site: Site, path: str) -> None:
    whole, head = await site.program().get(path), await site.program().head(path)

    assert head.status == 200
    assert dict(head.headers) == dict(whole.headers)
    assert int(head.headers["Content-Length"]) == len(whole.body)


async def test_without_a_body_nothing_follows_the_headers(data_dir: Path, clock: StillClock) -> None:
    async with serve(data_dir, clock) as served:
        rest = b" /ca/crl HTTP/1.1\r\nHost: " + served.host + b"\r\nConnection: close\r\n"
        head = await served.exchange(b"HEAD" + rest + b"\r\n")
        unchanged = await served.exchange(b"GET" + rest + b"If-None-Match: *\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert unchanged.startswith(b"HTTP/1.1 304 ")
    assert b"content-length" not in unchanged.lower()  # RFC 9110 8.6: it would be the list's
    for answer in (head, unchanged):
        assert answer.partition(b"\r\n\r\n")[2] == b""


@every_list
@pytest.mark.parametrize("tag", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_the_list_gets_it_no_second_time(site: Site, path: str, tag: str) -> None:
    program = site.program()
    whole = await program.get(path)
    condition = {"If-None-Match": tag.format(whole.headers["ETag"])}

    for answer in (await program.get(path, condition), await program.head(path, condition)):
        assert (answer.status, answer.body) == (304, b"")
        for header in ("ETag", "Cache-Control", "Last-Modified"):
            assert answer.headers[header] == whole.headers[header]


@every_list
async def test_who_asks_by_time_gets_the_whole_list(site: Site, clock: StillClock, path: str) -> None:
    """Curl's -z sends the time of the download, and there may be two lists in one second."""
    program = site.program()
    await program.get(path)
    now = f"{clock.now():%a, %d %b %Y %H:%M:%S GMT}"

    for moment in (now, (await program.get(path)).headers["Last-Modified"]):
        serial = await revoke_one(site)
        after = await program.get(path, {"If-Modified-Since": moment})
        assert after.status == 200
        assert path == "/ca/root-crl" or serial in serials(after)


@pytest.mark.parametrize("path", ["/ca/crl", "/ca/crls.pem"])
async def test_after_a_revocation_everybody_gets_the_new_list(
    site: Site, clock: StillClock, path: str
) -> None:
    program = site.program()
    before = await program.get(path)
    clock.advance(minutes=1)
    serial = await revoke_one(site)

    after = await program.get(path, {"If-None-Match": before.headers["ETag"]})

    assert after.status == 200
    assert (serials(before), serials(after)) == (set(), {serial})
    assert after.headers["ETag"] != before.headers["ETag"]


@every_list
async def test_no_list_is_over(site: Site, clock: StillClock, path: str) -> None:
    program = site.program()
    before = await program.get(path)
    clock.advance(days=30)

    after = await program.get(path, {"If-None-Match": before.headers["ETag"]})

    for crl in crls(after):
        assert crl.next_update_utc is not None
        assert crl.next_update_utc > clock.now()


@every_list
async def test_a_list_that_cannot_be_made_is_no_list(site: Site, clock: StillClock, path: str) -> None:
    program = site.program()
    before = await program.get(path)
    await site.services.close()
    assert (await program.get(path)).body == before.body
    clock.advance(days=7)

    answer = await program.get(path, {"If-None-Match": before.headers["ETag"]})

    assert answer.status == 503
    assert answer.headers["Cache-Control"] == "no-store"


async def test_without_the_roots_key_there_is_one_list(site: Site, data_dir: Path, clock: StillClock) -> None:
    (data_dir / "ca" / "root.key").unlink()
    async with open_site(data_dir, clock) as other:
        statuses = {path: (await other.program().get(path)).status for path in LISTS}

    assert statuses == {"/ca/crl": 200, "/ca/root-crl": 404, "/ca/crls.pem": 404}


@every_list
async def test_an_authority_that_makes_its_own_list_has_none_here(
    site: Site, clock: StillClock, path: str
) -> None:
    ca = FakeCA(site.settings.server.data_dir, clock)
    async with open_site(site.settings.server.data_dir, clock, ca=ca) as other:
        answer = await other.program().get(path)
        ready = json.loads((await other.program().get("/readyz")).text)

    assert answer.status == 404
    assert "crl" not in ready["checks"]


@every_list
async def test_a_list_is_only_read(site: Site, path: str) -> None:
    assert (await site.program().post(path)).status in (403, 405)


async def test_a_list_that_was_not_renewed_is_named_in_time(site: Site, clock: StillClock) -> None:
    """From half of its seven days on: time enough to mend what is wrong."""
    program = site.program()
    clock.advance(days=3.4)
    assert json.loads((await program.get("/readyz")).text)["checks"]["crl"] == "ok"
    clock.advance(days=0.6)

    answer = await program.get("/readyz")

    assert answer.status == 503
    body = json.loads(answer.text)
    assert body["ready"] is False
    assert body["checks"]["crl"] == "the list of revoked certificates was not renewed, and ends in 71 h"
    await revocation_list(site).refresh()
    assert (await program.get("/readyz")).status == 200


async def test_a_clock_that_is_set_back_leaves_no_list_of_the_future(site: Site, clock: StillClock) -> None:
    clock.advance(days=365)
    await revocation_list(site).refresh()
    clock.advance(days=-365)

    await revocation_list(site).refresh()

    assert (await revocation_list(site).current()).this_update <= clock.now()
