"""The commands."""

import asyncio
import json
import os
import pwd
import re
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding as Serialization

from certbob import __version__, grammars, server
from certbob.audit import Action
from certbob.auth.local import MAX_PASSWORD_BYTES
from certbob.auth.local import hash_password as hash_of
from certbob.bootstrap import build_services
from certbob.chat.server import ChatServer, ServerProblem
from certbob.chat.setup import SetUp, set_up_command
from certbob.config import ConfigProblems, Settings, find_config, load, redacted
from certbob.devices import Device, Platform
from certbob.doctor import examine
from certbob.errors import CannotStart, InvalidInput, Problem
from certbob.identity import Door, Identity, fit_device_name, fit_email, fit_name
from certbob.logs import set_up_logging
from certbob.ports import Actor, Certificate, Issued, Trust
from certbob.private_files import write_private
from certbob.profiles import Profile
from certbob.revocation import Outcome, Reason
from certbob.services import Chat, Finding, Services, Verdict
from certbob.snippets import SERVICES, snippet

T = TypeVar("T")

USAGE_ERROR = 2
MAX_LISTED = 1000
FAILURE = 1

LoadSettings = Callable[[], Settings]


def main() -> None:
    """Run a command; a problem is told in words, without a traceback."""
    os.umask(0o077)
    try:
        cli.main(prog_name="certbob", standalone_mode=True)
    except ConfigProblems as problems:
        _fail(str(problems), USAGE_ERROR)
    except Problem as problem:
        _fail(_for_operators(problem), FAILURE)


def _for_operators(problem: Problem) -> str:
    """What happened, with the detail that pages keep from people; the mend only where it fits a terminal."""
    parts = [f"{problem.title}.", problem.text]
    if isinstance(problem, CannotStart):
        parts.append(problem.mend)
    elif problem.detail not in ("", problem.text):
        parts.append(f"({problem.detail[:500]})")
    return " ".join(parts)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"certbob: {message}", err=True)
    sys.exit(status)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="The configuration file; otherwise CERTBOB_CONFIG, ./config.toml, or the defaults.",
)
@click.pass_context
def cli(context: click.Context, config_file: Path | None) -> None:
    """Personal X.509 certificates, handed out by themselves. Without a command: serve."""
    context.obj = lambda: load(find_config(config_file, os.environ), os.environ)
    if context.invoked_subcommand is None:
        context.invoke(serve)


@cli.command()
@click.pass_obj
def serve(load_settings: LoadSettings) -> None:
    """Serve the web pages until SIGTERM or Ctrl-C."""
    settings = load_settings()
    set_up_logging(settings.log.level, settings.log.format)
    asyncio.run(server.serve(settings))


def _with_services(settings: Settings, work: Callable[[Services], Coroutine[Any, Any, T]]) -> T:
    """Run one piece of work with everything wired, and close it again."""
    set_up_logging("error", settings.log.format, audit="error")

    async def run() -> T:
        services = await build_services(settings)
        try:
            return await work(services)
        finally:
            await services.close()

    return asyncio.run(run())


@cli.command()
@click.argument("name")
@click.option("--email", help="An address for the certificate; you vouch for it.")
@click.option("--profile", "profile_id", help="The profile; otherwise the first one.")
@click.option("--device", default="Terminal", show_default=True, help="What the certificate is for.")
@click.option("--older", is_flag=True, help="A file for older devices.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option("--json", "as_json", is_flag=True, help="Tell the result as JSON, passphrase included.")
@click.pass_obj
def issue(
    load_settings: LoadSettings,
    name: str,
    email: str | None,
    profile_id: str | None,
    device: str,
    older: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Issue a certificate for NAME; the passphrase goes to the terminal."""
    settings = load_settings()
    if not (as_json or sys.stdout.isatty() or sys.stderr.isatty()):
        _fail("there is no terminal to show the passphrase on; add --json.", USAGE_ERROR)
    profile = _profile(settings, profile_id)
    person, address = fit_name(name), fit_email(email) if email else None
    wanted = Device(Platform.OTHER, fit_device_name(device), older)

    async def work(services: Services) -> tuple[Issued, str, Path]:
        subject = await services.people.subject_for(Door.TERMINAL, person)
        # Whoever may run this command decides who is a member of what.
        identity = Identity(subject, person, address, profile.groups, Door.TERMINAL, person)
        validity = profile.default_validity(await services.ca.longest_validity())
        token = await services.grants.mint(identity, profile.id, wanted, validity)
        path = output or Path(services.issuance.file_name(await services.grants.inspect(token)))
        _write_new_file(path, b"")  # before anything is signed: it can be written and replaces nothing
        try:
            issued = await services.issuance.issue(token, operator=_operator().account)
            path.write_bytes(issued.content)
        except BaseException:
            path.unlink()
            raise
        return issued, services.grants.passphrase(token), path

    issued, passphrase, path = _with_services(settings, work)
    end = issued.leaf.not_valid_after_utc
    if as_json:
        facts = {
            "file": str(path),
            "passphrase": passphrase,
            "name": person,
            "email": address,
            "profile": profile.id,
            "serial": f"{issued.leaf.serial_number:x}",
            "not_after": end.isoformat(),
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(f"Wrote {path}, valid until {end.astimezone():%Y-%m-%d}.", err=True)
    click.echo(f"Passphrase: {passphrase}", err=not sys.stdout.isatty())


def _operator() -> Actor:
    """Whoever runs the command, by the name that the system has, not the environment."""
    number = os.getuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:
        user = str(number)
    return Actor(Door.TERMINAL, user, user)


def _profile(settings: Settings, wanted: str | None) -> Profile:
    for profile in settings.profiles:
        if wanted in (None, profile.id):
            return profile
    known = ", ".join(profile.id for profile in settings.profiles)
    _fail(f"there is no profile {wanted!r}; there are: {known}.", USAGE_ERROR)


def _write_new_file(path: Path, content: bytes) -> None:
    try:
        write_private(path, content)
    except FileExistsError:
        _fail(f"{path} exists already; name another file with --output.", FAILURE)
    except OSError as error:
        _fail(f"{path} cannot be written: {error.strerror}; name another file with --output.", FAILURE)


@cli.command("list")
@click.argument("words", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def list_certificates(load_settings: LoadSettings, words: tuple[str, ...], as_json: bool) -> None:
    """Certificates with WORDS in their name, address, device or serial number, the newest first."""

    async def work(services: Services) -> tuple[list[Certificate], datetime]:
        found = await services.ledger.search(" ".join(words), limit=MAX_LISTED + 1)
        return found, services.clock.now()

    found, now = _with_services(_installed(load_settings()), work)
    if len(found) > MAX_LISTED:
        click.echo(
            f"certbob: only the newest {MAX_LISTED} are listed; say more of what you look for.", err=True
        )
        found = found[:MAX_LISTED]
    if as_json:
        click.echo(json.dumps([_facts(each, now) for each in found], ensure_ascii=False))
        return
    for each in found:
        end = f"{each.not_after.astimezone():%Y-%m-%d}"
        click.echo(f"{each.serial:x}  {end}  {each.status(now)}  {each.name}, {each.device}")


def _facts(certificate: Certificate, now: datetime) -> dict[str, str | None]:
    """For scripts; `status` is for people and may be worded anew."""
    revoked_at = certificate.revoked_at
    return {
        "serial": f"{certificate.serial:x}",
        "name": certificate.name,
        "device": certificate.device,
        "profile": certificate.profile_id,
        "door": certificate.door,
        "status": certificate.status(now),
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "revoked_at": None if revoked_at is None else revoked_at.isoformat(),
    }


@cli.command()
@click.argument("serial")
@click.option("--everything", is_flag=True, help="All that the person of this certificate could still use.")
@click.option(
    "--reason", type=click.Choice([reason.value for reason in Reason]), default="other", show_default=True
)
@click.pass_obj
def revoke(load_settings: LoadSettings, serial: str, everything: bool, reason: str) -> None:
    """Revoke the certificate with this SERIAL number, as `certbob list` shows it."""
    if re.fullmatch(r"[0-9a-f]{1,40}", serial.lower()) is None:
        _fail(f"{serial!r} is no serial number; `certbob list` shows them.", USAGE_ERROR)

    async def work(services: Services) -> Outcome | None:
        found = await services.ledger.find_any(int(serial, 16))
        if found is None:
            return None
        if everything:
            return await services.revocation.revoke_all(found.subject, Reason(reason), _operator())
        was_active = found.is_active(services.clock.now())
        await services.revocation.revoke(found, Reason(reason), _operator())
        return Outcome(revoked=int(was_active), failed=0)

    outcome = _with_services(_installed(load_settings()), work)
    if outcome is None:
        _fail(f"there is no certificate {serial}.", FAILURE)
    click.echo(f"{outcome.revoked} revoked.")
    if outcome.failed:
        _fail(f"{outcome.failed} could not be revoked; try again.", FAILURE)


@cli.command()
@click.option("--note", default="", help="Why, for everybody who asks for a certificate.")
@click.pass_obj
def pause(load_settings: LoadSettings, note: str) -> None:
    """Stop issuing, at every door, until `certbob resume`."""
    settings = _installed(load_settings())
    try:
        changed = _with_services(settings, lambda services: services.pause.pause(_operator(), note))
    except InvalidInput as problem:
        _fail(f"--note: {problem.fields['note']}", USAGE_ERROR)
    click.echo("Issuing is stopped." if changed else "Issuing is stopped already.")


@cli.command()
@click.pass_obj
def resume(load_settings: LoadSettings) -> None:
    """Issue certificates again."""
    changed = _with_services(_installed(load_settings()), lambda services: services.pause.resume(_operator()))
    click.echo("Issuing goes on." if changed else "Issuing is not stopped.")


@cli.group("audit")
def audit_log() -> None:
    """Who did what, when and from where."""


@audit_log.command("verify")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def audit_verify(load_settings: LoadSettings, as_json: bool) -> None:
    """Compute every hash of the audit log anew; exit status 1 if an entry was changed or is missing."""
    found = _with_services(_installed(load_settings()), lambda services: services.audit.verify())
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        which = "All" if found.broken is None else "The first"
        last = found.last_hash or "-"
        click.echo(f"{which} {found.entries} entries are as they were written; the last hash is {last}.")
    if found.broken is not None:
        _fail(f"the audit log is broken: {found.broken}.", FAILURE)


@cli.command()
def hash_password() -> None:
    """Ask for a password and print its hash for [local] users or LOCAL_USERS.

    Without a terminal the password is read from standard input.
    """
    password = _read_secret("Password", again="Again")
    if not 1 <= len(password.encode("utf-8", "surrogatepass")) <= MAX_PASSWORD_BYTES:
        _fail(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes.", USAGE_ERROR)
    click.echo(hash_of(password))


def _read_secret(what: str, *, again: str | bool = False) -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt(what, hide_input=True, confirmation_prompt=again, err=True)
        return typed
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        _fail(f"the {what.lower()} is not UTF-8 text.", USAGE_ERROR)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def doctor(load_settings: LoadSettings, as_json: bool) -> None:
    """Look at everything that CertBob depends on; exit status 1 if something is wrong."""

    settings = load_settings()

    async def work(services: Services) -> list[Finding]:
        found = []
        async for finding in examine(services, settings):
            found.append(finding)
            if not as_json:
                click.echo(f"{finding.verdict:8} {finding.subject}: {finding.text}")
                if finding.mend:
                    click.echo(f"{'':8} -> {finding.mend}")
        return found

    found = _with_services(_installed(settings), work)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], ensure_ascii=False))
    if any(finding.verdict is Verdict.FAILED for finding in found):
        sys.exit(FAILURE)


@cli.group()
def mattermost() -> None:
    """The slash command of Mattermost."""


@mattermost.command("setup")
@click.option("--team", required=True, help="The team, by its name in addresses.")
@click.option("--trigger", default="cert", show_default=True, help="What people write after the slash.")
@click.option("--new-token", is_flag=True, help="Give the command a new token; the old one ends at once.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def mattermost_setup(
    load_settings: LoadSettings, team: str, trigger: str, new_token: bool, as_json: bool
) -> None:
    """Make the slash command, and print what to configure.

    Asks for the access token of somebody who may manage slash commands there; without a terminal it is read
    from standard input.
    """
    settings, trigger = load_settings(), trigger.lower()
    if settings.mattermost.url is None:
        _fail("[mattermost] url is not set, so nobody knows where Mattermost is.", USAGE_ERROR)
    url, request_url = settings.mattermost.url, f"{settings.server.public_url}/request"
    try:
        typed = _read_secret("Access token of an administrator of the team")
        admin_token = grammars.access_token(typed.strip())
    except ValueError as error:
        _fail(f"expected {error}.", USAGE_ERROR)

    async def run() -> SetUp:
        server = ChatServer(url, None)
        try:
            return await set_up_command(
                server,
                admin_token,
                team=team,
                trigger=trigger,
                request_url=request_url,
                new_token=new_token,
            )
        finally:
            await server.close()

    try:
        done = asyncio.run(run())
    except ServerProblem as problem:
        _fail(f"the slash command was not set up: {problem}.", FAILURE)
    if as_json:
        click.echo(json.dumps({"team": done.team_id, "token": done.token.reveal()}))
        return
    click.echo(f"{done.did[0].upper()}{done.did[1:]}. For [mattermost] in the configuration:", err=True)
    click.echo(f'token = [{{ team = "{done.team_id}", token = "{done.token.reveal()}" }}]')


@mattermost.command("accept-key")
@click.pass_obj
def mattermost_accept_key(load_settings: LoadSettings) -> None:
    """Believe the key that Mattermost signs with now."""

    async def work(services: Services) -> str:
        key = await _chat(services).accept_key()
        await services.audit.record(Action.KEY_ACCEPTED, _operator(), note=key)
        return key

    click.echo(_with_services(_installed(load_settings()), work))


@mattermost.command("forget")
@click.argument("user_id", metavar="ID")
@click.pass_obj
def mattermost_forget(load_settings: LoadSettings, user_id: str) -> None:
    """Forget what a chat account was first seen with, and whom it is linked to."""

    async def work(services: Services) -> bool:
        known = await _chat(services).forget(user_id)
        if known:
            await services.audit.record(Action.FORGOTTEN, _operator(), note=user_id)
        return known

    if not _with_services(_installed(load_settings()), work):
        _fail(f"nothing is known of the chat account {user_id}.", FAILURE)


def _installed(settings: Settings) -> Settings:
    """Looking must not make an installation in whatever folder this runs. Raises CannotStart."""
    if not (settings.server.data_dir / "certbob.sqlite3").exists():
        raise CannotStart(
            f"There is nothing in {settings.server.data_dir} yet.",
            "Start CertBob once, or look for its data folder.",
        )
    return settings


def _chat(services: Services) -> Chat:
    if services.chat is None:
        _fail("[mattermost] token is not set, so there is no chat.", USAGE_ERROR)
    return services.chat


@cli.group()
def ca() -> None:
    """The certificates that services trust."""


@ca.command("show")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def ca_show(load_settings: LoadSettings, as_json: bool) -> None:
    """Name, fingerprint and end of root and intermediates."""
    trust = _trust(load_settings())
    facts = [_certificate_facts(certificate) for certificate in (trust.root, *trust.intermediates)]
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    for fact in facts:
        click.echo(f"{fact['subject']}\n  SHA-256      {fact['sha256']}\n  valid until  {fact['not_after']}")


def _trust(settings: Settings) -> Trust:
    """Asking must not found an authority in whatever folder this runs."""
    if settings.ca.backend == "builtin" and not (settings.server.data_dir / "ca").exists():
        raise CannotStart(
            f"There is no authority in {settings.server.data_dir} yet.",
            "Start CertBob once, or look for its data folder.",
        )
    return _with_services(settings, lambda services: services.ca.trust())


def _certificate_facts(certificate: x509.Certificate) -> dict[str, str]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }


@ca.command("export")
@click.option("--chain", is_flag=True, help="The intermediates, too.")
@click.option("--der", is_flag=True, help="The root in binary form.")
@click.option("--output", type=click.File("wb"), default="-", help="A file instead of standard output.")
@click.pass_obj
def ca_export(load_settings: LoadSettings, chain: bool, der: bool, output: IO[bytes]) -> None:
    """The root certificate, as PEM."""
    if chain and der:
        _fail("--der holds one certificate only; leave out --chain.", USAGE_ERROR)
    trust = _trust(load_settings())
    form = Serialization.DER if der else Serialization.PEM
    for certificate in (*(trust.intermediates if chain else ()), trust.root):
        output.write(certificate.public_bytes(form))


@ca.command("snippet")
@click.argument("service", type=click.Choice(SERVICES), metavar="SERVICE")
@click.pass_obj
def ca_snippet(load_settings: LoadSettings, service: str) -> None:
    """Print the configuration of a service that lets in people with our certificates.

    SERVICE is apache, caddy, envoy, freeradius, haproxy, nginx or openvpn. Comments say where each part goes;
    a script and a timer fetch the lists of revoked certificates.
    """
    settings = load_settings()
    has_list = settings.ca.backend == "builtin"
    click.echo(snippet(service, site=settings.server.public_url, has_list=has_list))


@cli.command()
@click.pass_obj
def config(load_settings: LoadSettings) -> None:
    """Print the configuration in force, as TOML, without secrets."""
    click.echo(redacted(load_settings()), nl=False)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def version(as_json: bool) -> None:
    """Print the version."""
    click.echo(json.dumps({"version": __version__}) if as_json else f"certbob {__version__}")
