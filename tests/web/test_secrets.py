"""What a person alone may know is in no log and on no page of somebody else, faults of ours included."""

import logging
from pathlib import Path

import pytest

from certbob.logs import JsonFormatter, TextFormatter
from tests.support.web import ADA, FakeCA, Person, StillClock, open_site

WRONG = Person(ADA.username, "canary-wrong-password", "")


async def test_no_secret_is_logged_and_none_lies_in_the_data_folder(
    data_dir: Path, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ca = FakeCA(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca) as site:
        secrets = {ADA.password, WRONG.password}
        await site.browser().sign_in(WRONG)
        browser = await site.signed_in()
        for is_broken in (False, True):
            form = (await browser.get("/new")).page.form("/new")
            link = (await browser.submit(form, old="keep")).headers["Location"]
            page = (await browser.follow(link)).page
            token = link.partition("token=")[2]
            secrets |= {token, token.rpartition(".")[2], page.passphrase or "", form.fields["form_token"]}
            secrets |= set(browser.cookies.values())
            if is_broken:
                ca.signing_problem = RuntimeError(f"a fault of ours that tells {token} and {page.passphrase}")
            await browser.submit(page.form("/issue"))
            strangers = [
                await client.send(method, path)
                for client in (site.program(), site.browser())
                for method, path in (("GET", link), ("GET", f"{link}x"), ("PUT", link), ("GET", f"/no{link}"))
            ]
            assert not [secret for secret in secrets for answer in strangers if secret in answer.text]

    files = b"".join(path.read_bytes() for path in data_dir.rglob("*") if path.is_file())
    for formatter in (TextFormatter(), JsonFormatter()):
        log = "\n".join(map(formatter.format, caplog.records))
        assert "a fault of ours" in log
        assert not [secret for secret in secrets if secret in log]
    assert not [secret for secret in secrets if secret.encode() in files]
