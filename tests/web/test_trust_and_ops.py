"""Trust material for services, and what monitoring asks."""

import json

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
    assert json.loads(answer.text) == {"ready": True, "checks": {"storage": "ok", "ca": "ok"}}


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
