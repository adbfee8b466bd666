"""The options page: what is preselected, what is refused, and that nothing typed is lost."""

import pytest

from certbob.config import Limits
from tests.support.web import ADA, BERT, Site, StillClock, open_site

AGENTS = {
    "windows": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/130.0.0.0 Safari/537.36",
    "mac": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605 Version/18.1 Safari/605",
    "ios": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605 Version/18.1 Safari/604",
    "android": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/130.0.0.0 Mobile Safari/537.36",
    "chromeos": "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 Chrome/130.0.0.0 Safari/537.36",
    "linux": "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "other": "Something/1.0",
}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "Laptop, mine",
    "Lap\u202etop",
    "Lap\u200btop",
    "Lap\ntop",
    "Lap\x00top",
    "{{7*7}}",
    "x" * 300,
    "",
    "   ",
    "-laptop",
    "L\u0430ptop",
)


@pytest.mark.parametrize(("platform", "agent"), AGENTS.items())
async def test_the_browser_tells_the_platform(site: Site, platform: str, agent: str) -> None:
    browser = site.browser(User_Agent=agent)
    await browser.sign_in(ADA)

    fields = (await browser.get("/new")).page.form("/new").fields

    assert fields["platform"] == platform
    assert fields["device"].startswith("Ada's ")
    assert "older" not in fields


OLD_AGENTS = (
    "Mozilla/5.0 (Windows NT 6.1; Win64; x64) Chrome/109.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605 Version/16.6 Mobile Safari/604",
    "Mozilla/5.0 (Linux; Android 8.0.0; SM-G930F) AppleWebKit/537.36 Chrome/130.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605 Version/16.1 Safari/605",
)


@pytest.mark.parametrize("agent", OLD_AGENTS)
async def test_an_old_browser_ticks_the_box(site: Site, agent: str) -> None:
    browser = site.browser(User_Agent=agent)
    await browser.sign_in(ADA)

    assert (await browser.get("/new")).page.form("/new").fields["older"] == "1"


async def test_the_choice_leads_to_a_link_that_works(site: Site) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")

    answer = await browser.submit(form, device="Work laptop", validity="30d")

    assert answer.status == 303
    page = (await browser.get(answer.headers["Location"])).page
    assert page.text("h1") == "Your certificate for Work laptop"
    assert "24 December 2026" in page.text()


async def test_htmx_gets_the_next_step_as_a_fragment(site: Site) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")

    answer = await browser.as_htmx().submit(form, device="Phone")

    assert answer.status == 200
    assert answer.headers["HX-Push-Url"] == "/issue"
    assert not answer.page.all("html")
    assert answer.page.text("h1") == "Your certificate for Phone"
    assert answer.page.passphrase


@pytest.mark.parametrize(
    ("profile", "offered"),
    [
        ("client", ["1d", "7d", "30d", "90d", "180d", "365d"]),
        ("vpn", ["1d", "7d", "30d"]),
    ],
)
async def test_each_profile_offers_its_own_lengths_with_the_day_they_end(
    site: Site, profile: str, offered: list[str]
) -> None:
    ada = await site.signed_in()

    page = (await ada.get(f"/new?profile={profile}")).page

    assert page.form("/new").fields["profile"] == profile
    assert [option.get("value") for option in page.all("select[@name='validity']/option")] == offered
    assert "30 days (until 24 December 2026)" in page.text("select[@name='validity']")


async def test_what_is_in_the_address_stays_chosen(site: Site) -> None:
    ada = await site.signed_in()

    page = (await ada.get("/new?platform=ios&device=Grandma%27s+iPad&validity=7d&older=1")).page

    fields = page.form("/new").fields
    assert (fields["platform"], fields["device"], fields["validity"], fields["older"]) == (
        "ios",
        "Grandma's iPad",
        "7d",
        "1",
    )


@pytest.mark.parametrize("device", HOSTILE)
async def test_a_name_that_does_not_fit_is_told_at_the_field_and_kept(site: Site, device: str) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")

    for client in (browser, browser.as_htmx()):
        answer = await client.submit(form, device=device)
        assert answer.status == 422
        assert "name" in answer.page.error_at("device")
        assert "<script>alert" not in answer.text
        assert not answer.page.all("img[@src='x']")
        kept = answer.page.form("/new").fields["device"]
        assert kept == device


async def test_phones_may_type_their_apostrophes(site: Site) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")

    answer = await browser.submit(form, device="Ada’s  iPhone")

    page = (await browser.get(answer.headers["Location"])).page
    assert page.text("h1") == "Your certificate for Ada's iPhone"


@pytest.mark.parametrize(
    ("field", "value"), [("platform", "amiga"), ("validity", "9999d"), ("validity", ""), ("delivery", "fax")]
)
async def test_a_value_that_is_not_offered_is_refused(site: Site, field: str, value: str) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")

    answer = await browser.submit(form, **{field: value})

    assert answer.status == 422
    assert answer.page.text("h1") == "Get a certificate"


async def test_a_profile_of_others_is_neither_shown_nor_given(site: Site) -> None:
    bert = await site.signed_in(BERT)
    page = (await bert.get("/new")).page

    assert "VPN" not in page.text()
    answer = await bert.submit(page.form("/new"), profile="vpn")
    assert answer.status == 403
    assert "vpn-users" in answer.text
    assert (await bert.submit(page.form("/new"), profile="../../etc")).status == 403


async def test_the_dependent_fields_follow_the_profile(site: Site) -> None:
    ada = await site.signed_in()

    answer = await ada.as_htmx().get("/new?profile=vpn&platform=mac", {"HX-Target": "options"})

    assert answer.status == 200
    assert not answer.page.all("h1")
    assert answer.page.one("input[@name='device']").get("value") == "Ada's Mac"
    assert "365d" not in answer.text


async def test_beyond_the_limit_the_form_says_until_when(site: Site, clock: StillClock) -> None:
    async with open_site(
        site.settings.server.data_dir, clock, limits=Limits(certificates_per_hour=1)
    ) as strict:
        browser = await strict.signed_in()
        form = (await browser.get("/new")).page.form("/new")
        link = (await browser.submit(form)).headers["Location"]
        await strict.program().get(link)

        answer = await browser.submit(form, old="keep")

        assert answer.status == 429
        assert answer.headers["Retry-After"] == "3600"
