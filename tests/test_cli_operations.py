"""`certbob pause`, `certbob resume` and `certbob audit verify`."""

import json
import os
import pwd
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.commands import certbob
from tests.test_cli_certificates import issue, run


def test_issuing_is_stopped_and_goes_on(tmp_path: Path) -> None:
    issue(tmp_path, "Ada Lovelace", "Laptop")
    assert run(tmp_path, "resume").stdout == "Issuing is not stopped.\n"
    assert run(tmp_path, "pause", "--note", "Moving until two.").stdout == "Issuing is stopped.\n"
    assert run(tmp_path, "pause").stdout == "Issuing is stopped already.\n"

    told = certbob(tmp_path, "issue", "Bert", "--json")
    assert told.returncode == 1
    assert "Issuing is stopped. Nothing was issued. Moving until two." in told.stderr
    assert not list(tmp_path.glob("*ert*.pfx"))[1:]

    assert run(tmp_path, "resume").stdout == "Issuing goes on.\n"
    issue(tmp_path, "Bert", "Laptop")


def test_the_audit_log_is_proved(tmp_path: Path) -> None:
    serial = issue(tmp_path, "Ada Lovelace", "Laptop")
    run(tmp_path, "revoke", serial)
    assert certbob(tmp_path, "pause", LOGNAME="somebody else", USER="somebody else").returncode == 0

    told = run(tmp_path, "audit", "verify").stdout
    facts = json.loads(run(tmp_path, "audit", "verify", "--json").stdout)
    assert told == f"All 3 entries are as they were written; the last hash is {facts['last_hash']}.\n"
    assert facts == {"entries": 3, "last_hash": facts["last_hash"], "broken": None}

    with closing(sqlite3.connect(tmp_path / "data" / "certbob.sqlite3")) as database:
        rows = database.execute("SELECT action, door, account, name FROM audit ORDER BY number").fetchall()
        user = pwd.getpwuid(os.getuid()).pw_name
        ada = "Ada Lovelace"
        assert rows == [
            ("issued", "terminal", user, ada),
            ("revoked", "terminal", user, ada),
            ("paused", "terminal", user, None),
        ]
        database.execute("UPDATE audit SET account = 'somebody else' WHERE number = 2")
        database.commit()

    for options in ([], ["--json"]):
        refused = run(tmp_path, "audit", "verify", *options, expect=1)
        assert "entry 2 was changed" in refused.stderr
        assert options or refused.stdout.startswith("The first 1 entries are as they were written")
    assert json.loads(refused.stdout)["broken"] == "entry 2 was changed"


def test_a_note_that_is_none_is_told(tmp_path: Path) -> None:
    issue(tmp_path, "Ada Lovelace", "Laptop")
    for note in ("x" * 201, "a\u202eb", "a\x1bb"):
        assert "--note: At most 200 characters" in run(tmp_path, "pause", "--note", note, expect=2).stderr
    assert run(tmp_path, "resume").stdout == "Issuing is not stopped.\n"


def test_looking_founds_nothing(tmp_path: Path) -> None:
    for command in (["pause"], ["resume"], ["audit", "verify"]):
        run(tmp_path, *command, expect=1)
    assert list(tmp_path.iterdir()) == []
