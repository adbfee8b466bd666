"""Trust material for services, and what monitoring asks."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from certbob.errors import CAUnavailable
from tests.support.web import FakeCA, Site, StillClock, open_site


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
