"""What can go wrong, as facts: a stable code and words for people. No HTTP numbers, no rendering.

Problem
├── BadRequest              the request itself makes no sense
├── NoSuchPage, WrongMethod, TooLarge
├── InvalidInput            a form with wrong values: one text for each field
├── ForeignRequest          a form sent from another site, or from a page too old
├── NotSignedIn
├── SignInRefused           user name or password is not right
├── SignInBlocked           too many tries
├── SignInFailed            single sign-on did not work
├── ProviderUnavailable     the sign-in service does not answer
├── NotAllowed              somebody who is known, but not let in
├── AccountGone             somebody whose account was taken away meanwhile
├── NotEntitled             this person may not have this profile
├── IssuingPaused           an administrator has stopped issuing
├── TooManyCertificates     the hourly limit of a person
├── TooManyActive           as many certificates of a profile as one person may have
├── UnfitName               a name that must not stand in a certificate
├── NotYours                a link that was mailed to somebody else
├── NotFromChat             a slash command that Mattermost did not send
├── ChatProblem
│   ├── TooManyCommands     the limit of a minute
│   ├── ChatAccountRefused  a bot, a guest, or somebody who was deactivated
│   ├── ChatNameChanged     not what the account was called when it was first seen
│   ├── ChatUnavailable     Mattermost does not answer
│   ├── NotLinked           nobody has said by signing in here whose account it is
│   └── LinkOver            a link for that which cannot be used again
├── NameTaken               a name under which somebody else has certificates
├── GrantProblem
│   ├── GrantMalformed      not a link of ours
│   ├── GrantInvalid        looks like one, but we did not sign it
│   ├── GrantExpired
│   │   └── GrantReplaced   a newer link in the same chat took its place
│   ├── TakeOver            the page of a file that cannot be had again
│   └── GrantUsed
├── NotRevoked              the authority did not take a certificate back
├── Busy                    more work than the machine can do right now
├── StorageProblem          the database cannot write
│   └── Duplicate
├── CannotStart             told at the terminal
├── NoKey                   told there, too: a chat server's key is not to be had
├── MailProblem
│   ├── NoMailbox           nobody knows a verified address of this person
│   ├── TooManyMails        the hourly limit of a person
│   ├── MailUnavailable     the mail server cannot be reached: surely nothing was sent
│   ├── MailRefused         it said no: surely nothing was sent
│   └── MailUncertain       it did not say what became of the message
└── CAProblem
    ├── CAUnavailable       surely nothing was signed
    │   ├── CAUntrusted     somebody else answers in the place of the authority
    │   └── BadProvisionerPassword
    ├── CARefused           the authority said no: surely nothing was signed
    ├── CAUncertain         nobody knows whether something was signed
    └── CABadAnswer         signed, but not what was asked for

Every problem is built from `detail` (for the operator's log, never shown to people) and the
facts that its words name.
"""

from asyncio import Future
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from certbob.words import at_time, day_and_time


class Problem(Exception):
    """Something went wrong that people are told about.

    `code` is stable and documented; `title` says what happened, `text` what it means, `mend` what to do.
    """

    code: ClassVar[str] = "internal"
    title: str = "Something went wrong here"
    text: str = "This is our fault, not yours."
    mend: str = "Try again in a moment. If it happens again, send us the reference below."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail


class BadRequest(Problem):
    code = "bad_request"
    title = "This request cannot be read"
    text = "The browser or program sent something that does not fit."
    mend = "Go back, reload the page and try again."


class NoSuchPage(Problem):
    code = "no_such_page"
    title = "This page does not exist"
    text = "The address is wrong, or the page has moved."
    mend = "Start at the first page."


class WrongMethod(Problem):
    code = "wrong_method"
    title = "This address does not work like that"
    text = "It was called in a way it does not offer."
    mend = "Start at the first page."


class TooLarge(Problem):
    code = "too_large"
    title = "That was too much at once"
    text = "The form was larger than anything we ask for."
    mend = "Go back, reload the page and try again."


class InvalidInput(Problem):
    """A form with wrong values; `fields` maps the field's name to what is wrong with it."""

    code = "invalid_input"
    title = "Please check what you entered"
    mend = "Correct it and send it again."

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(", ".join(fields))
        self.fields = dict(fields)
        self.text = " ".join(fields.values())


class ForeignRequest(Problem):
    code = "foreign_request"
    title = "This form did not come from here"
    text = "It was sent by another site, or from a page that was open for too long. Nothing was changed."
    mend = "Open the page again and repeat the step."


class NotSignedIn(Problem):
    code = "not_signed_in"
    title = "Please sign in again"
    text = "You were away for a while. Nothing was lost."
    mend = "Sign in and go on."


class SignInRefused(Problem):
    code = "sign_in_refused"
    title = "User name or password is not right"
    text = "Nobody was signed in."
    mend = "Check both and try again."


class SignInBlocked(Problem):
    code = "sign_in_blocked"
    title = "Too many tries"
    mend = "Wait until then. Your account is not changed."

    def __init__(self, until: datetime, detail: str = "") -> None:
        super().__init__(detail)
        self.until = until
        self.text = f"Try again at {at_time(until)}."


class SignInFailed(Problem):
    """Single sign-on came back without somebody to let in. `wanted`: where it was to lead, a path of ours."""

    code = "sign_in_failed"
    title = "The sign-in did not work"
    mend = "Start the sign-in again."

    def __init__(
        self, detail: str, text: str = "Nobody was signed in.", *, mend: str = mend, wanted: str = ""
    ) -> None:
        super().__init__(detail)
        self.text = text
        self.mend = mend
        self.wanted = wanted


class ProviderUnavailable(Problem):
    """`label`: what people call the sign-in service."""

    code = "provider_unavailable"
    text = "Nobody can sign in with it until it does."
    mend = "Try again in a minute."

    def __init__(self, label: str, detail: str) -> None:
        super().__init__(detail)
        self.title = f"{label} does not answer right now"


class NotAllowed(SignInFailed):
    code = "not_allowed"
    title = "You cannot use this service"

    def __init__(self, detail: str, groups: tuple[str, ...]) -> None:
        super().__init__(
            detail,
            f"It is for members of {' or '.join(groups)}.",
            mend="Ask the people who run this service, or sign in as somebody else.",
        )


class AccountGone(Problem):
    code = "account_gone"
    title = "This account is no longer known here"
    text = "Nothing was issued."
    mend = "Ask the people who run this service."


class NotEntitled(Problem):
    code = "not_entitled"
    title = "You cannot get this certificate"
    mend = "Ask the people who run this service."

    def __init__(self, label: str, groups: tuple[str, ...] = ()) -> None:
        super().__init__(label)
        self.text = (
            f"‘{label}’ is for members of {' or '.join(groups)}." if groups else f"‘{label}’ is not offered."
        )


class TooManyCertificates(Problem):
    code = "too_many_certificates"
    title = "Those were many certificates at once"
    mend = "The certificates you have already made keep working."

    def __init__(self, limit: int, until: datetime) -> None:
        super().__init__()
        self.until = until
        self.text = f"One person can make {limit} in an hour. Try again at {at_time(until)}."


class IssuingPaused(Problem):
    """`note`: why, as the administrator wrote it."""

    code = "issuing_paused"
    title = "Issuing is stopped"
    mend = "Try again later, or ask the people who run this service."

    def __init__(self, note: str) -> None:
        super().__init__()
        self.text = f"Nothing was issued. {note}".strip()


class TooManyActive(Problem):
    code = "too_many_active"
    title = "You have as many certificates as you can"
    mend = "Replace one of them, or revoke one that you no longer use."

    def __init__(self, label: str, limit: int) -> None:
        super().__init__(label)
        self.text = f"One person can have {limit} of ‘{label}’ at a time. Nothing was issued."


class UnfitName(Problem):
    """A name outside the grammar of `certbob.identity`; `text` says what is wrong with it."""

    code = "unfit_name"
    title = "This name cannot stand in a certificate"
    mend = "Ask the people who run this service to correct the name of your account."

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class NotYours(Problem):
    """A mailed link, opened by somebody else. `name`: who is signed in."""

    code = "not_yours"
    title = "This link is for somebody else"
    mend = "Sign out, and sign in as the person whom the mail was sent to."

    def __init__(self, name: str) -> None:
        super().__init__()
        self.text = f"You are signed in as {name}. Nothing was changed."


class NameTaken(Problem):
    """One name is one person: whoever has it in a certificate could pose as the other."""

    code = "name_taken"
    title = "This name belongs to somebody else here"
    mend = "Ask the people who run this service."

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.text = f"Another account has the name ‘{name}’. Nothing was issued."


class NotFromChat(Problem):
    """One text for every reason; the reason stands in the log only."""

    code = "not_from_chat"
    title = "This did not come from Mattermost"
    text = "Its token or its signature is not right."
    mend = "Tell the people who run this service."


class ChatProblem(Problem):
    """Told to somebody in a chat, as an answer to their command."""


class TooManyCommands(ChatProblem):
    code = "too_many_commands"
    title = "Those were many commands at once"
    mend = "Nothing was changed by this one."

    def __init__(self, until: datetime) -> None:
        super().__init__()
        self.until = until
        self.text = f"Try again at {at_time(until)}."


class ChatAccountRefused(ChatProblem):
    """`text`: why."""

    code = "chat_account_refused"
    title = "This account cannot get certificates"
    mend = "Ask the people who run this service."

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class ChatNameChanged(ChatProblem):
    """`what`: name or address."""

    code = "chat_name_changed"
    mend = "Ask the people who run this service to confirm that it is you."

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.title = f"Your {what} in this chat has changed"
        self.text = "It is not the one that you were first seen with. For safety nothing was done."


class ChatUnavailable(ChatProblem):
    code = "chat_unavailable"
    title = "Mattermost did not say who you are"
    text = "Nothing was done."
    mend = "Try again in a minute."


class NotLinked(ChatProblem):
    code = "not_linked"
    title = "This chat account is not linked yet"
    text = "Nobody has signed in here as its owner."
    mend = "Link it, and run the command again."


class LinkOver(ChatProblem):
    code = "link_over"
    title = "This link is over"
    text = "It works once, for ten minutes."
    mend = "Run the command in your chat again."


class GrantProblem(Problem):
    pass


class GrantMalformed(GrantProblem):
    code = "grant_malformed"
    title = "This link is not complete"
    text = "Part of it is missing, so we cannot tell what it is for."
    mend = "Copy the whole link, or start again."


class GrantInvalid(GrantProblem):
    code = "grant_invalid"
    title = "This link is not valid"
    text = "It was not made by this service, or somebody changed it."
    mend = "Start again."


class GrantExpired(GrantProblem):
    code = "grant_expired"
    title = "This link has expired"
    text = "Links work for a short time only."
    mend = "Start again to get a fresh one."


class GrantReplaced(GrantExpired):
    code = "grant_replaced"
    title = "A newer link has taken the place of this one"
    text = "Of the links in your chat only the newest one works."
    mend = "Use that one, or ask for a new one."


class TakeOver(GrantProblem):
    code = "take_over"
    title = "This page is over"
    text = "Its file could be had for two minutes."
    mend = "Start again to get a new one."


class GrantUsed(GrantProblem):
    """Already redeemed. Only the time is told: whoever holds the link may not be the owner.

    `by_holder`: the same browser redeemed it, so it may still see the passphrase.
    """

    code = "grant_used"
    title = "This link was already used"
    mend = "If that was not you, tell the people who run this service. Need another? Start again."

    def __init__(self, claimed_at: datetime, *, by_holder: bool = False) -> None:
        super().__init__()
        self.claimed_at = claimed_at
        self.by_holder = by_holder
        self.text = f"It was used on {day_and_time(claimed_at)}, and works once."


class NotRevoked(Problem):
    code = "not_revoked"
    title = "The certificate could not be revoked"
    text = "The certificate service did not do it, so the certificate still works."
    mend = "Try again soon. If it is urgent, tell the people who run this service."


class Busy(Problem):
    code = "busy"
    title = "Too many people want something at this moment"
    text = "Nothing was changed, and nothing was lost."
    mend = "Try again in a few seconds."


class StorageProblem(Problem):
    code = "storage"
    title = "The service cannot write its records"
    text = "Without a record we do not issue. Nothing was issued."
    mend = "Try again soon. If it stays like this, tell the people who run this service."


class Duplicate(StorageProblem):
    """Something that must be unique is recorded already: a serial number, a grant's certificate."""


class MailProblem(Problem):
    """A file was not given to the mail server, or nobody knows. It can still be downloaded."""


class NoMailbox(MailProblem):
    code = "no_mailbox"
    title = "No mailbox of yours is known here"
    text = "Mail goes to verified addresses only. Nothing was sent."
    mend = "Download the file instead."


class MailUnavailable(MailProblem):
    code = "mail_unavailable"
    title = "The mail server cannot be used right now"
    text = "Nothing was sent."
    mend = "Try again in a minute, or download the file instead."


class MailRefused(MailProblem):
    """`words`: why, for people."""

    code = "mail_refused"
    title = "The mail server refused the message"
    mend = "Try again in a few minutes, or download the file instead."

    def __init__(self, detail: str, words: str) -> None:
        super().__init__(detail)
        self.text = f"Nothing was sent. {words}"


class TooManyMails(MailProblem):
    code = "too_many_mails"
    title = "Those were many mails at once"
    mend = "Download the file instead."

    def __init__(self, until: datetime) -> None:
        super().__init__()
        self.until = until
        self.text = f"Nothing was sent. Try again at {at_time(until)}."


class MailUncertain(MailProblem):
    code = "mail_uncertain"
    title = "We do not know whether the mail was sent"
    text = "The mail server did not say what became of the message."
    mend = "Look into your mailbox. Nothing there after a minute? Send it again, or download the file."


class CannotStart(Problem):
    """For the operator at a terminal: what is wrong with the place CertBob is started in."""

    code = "cannot_start"
    title = "CertBob cannot start"

    def __init__(self, text: str, mend: str) -> None:
        super().__init__(text)
        self.text = text
        self.mend = mend


class NoKey(Problem):
    """For the operator at a terminal."""

    code = "no_key"
    title = "The key of Mattermost is not known"
    mend = "Check [mattermost] url and verify_trigger."

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class CAProblem(Problem):
    """The authority did not give a certificate. `surely_unsigned`: the grant may be used again."""

    surely_unsigned: ClassVar[bool] = False


class CAUnavailable(CAProblem):
    code = "ca_unavailable"
    title = "The certificate service does not answer"
    text = "Nothing was issued; your link still works."
    mend = "Try again soon."
    surely_unsigned = True


class CAUntrusted(CAUnavailable):
    code = "ca_untrusted"


class BadProvisionerPassword(CAUnavailable):
    code = "ca_provisioner_password"


class CARefused(CAProblem):
    """The authority said no. `status` and `message` are for the log only."""

    code = "ca_refused"
    title = "The certificate service refused"
    text = "Its rules do not allow this certificate. Nothing was issued; your link still works."
    mend = "Tell the people who run this service."
    surely_unsigned = True

    def __init__(self, detail: str = "", *, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


class CAUncertain(CAProblem):
    """`late`: the exchange that goes on in the background; its result is a Chain (`certbob.ports`)."""

    code = "ca_uncertain"
    title = "We do not know whether the certificate was made"
    text = "The certificate service did not answer in time. If it made one, nobody has its key."
    mend = "Get a new certificate."

    def __init__(self, detail: str = "", late: Future[Any] | None = None) -> None:
        super().__init__(detail)
        self.late = late


class CABadAnswer(CAProblem):
    """The authority signed something else than was asked for.

    `certificate` is its DER form when there is one, for the ledger.
    """

    code = "ca_bad_answer"
    title = "The certificate service answered wrongly"
    text = "It made something else than was asked for, so we threw it away."
    mend = "Tell the people who run this service, and send them the reference below."

    def __init__(self, detail: str, certificate: bytes | None = None) -> None:
        super().__init__(detail)
        self.certificate = certificate
