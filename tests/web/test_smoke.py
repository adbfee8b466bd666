from tests.support.web import *
async def test_walk(site):
    import time
    ada = await site.signed_in()
    page = (await ada.get("/new")).page
    a = await ada.submit(page.form("/new"), device="Work laptop")
    print(a.status, a.headers, a.text)
    b = await ada.get(a.headers["Location"])
    print(b.text)
    c = await ada.submit(b.page.form("/issue"))
    print(c.status, c.headers)
    print(site.ledger(), encoding_of(c.body))
