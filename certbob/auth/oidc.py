"""Signing in through an OpenID Provider: authorization code flow with PKCE, state and nonce.

A sign-in that has begun is remembered under hashes of its `state` and of a secret in the browser's cookie,
so only the browser that began it can finish it, once. Nonce and code verifier are derived from the state
with a key of the server: they stand in no database, and nobody else can make them.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta

from joserfc.util import urlsafe_b64encode

from certbob.auth.claims import ClaimRules
from certbob.auth.id_token import ClockDiffers, NotAccepted
from certbob.auth.provider import MAX_HINT_LENGTH, Misconfigured, OpenIDProvider, ProviderProblem, Unreachable
from certbob.errors import NotAllowed, ProviderUnavailable, SignInFailed
from certbob.identity import Door, Identity
from certbob.keys import digest
from certbob.ports import ChatStore, Clock, PendingSignIn, People, SignInStore
from certbob.services import SignedIn

MAX_AGE = timedelta(minutes=10)
MAX_PENDING = 5  # a second tab must not break the first
MAX_CODE_LENGTH = 2048

_ASK_OPERATORS = "Tell the people who run this service."
_REFUSALS = {  # RFC 6749 4.1.2.1 and OpenID Connect Core 3.1.2.6: what happened, and what to do
    "access_denied": ("You cancelled it, or your account there may not use this service.", SignInFailed.mend),
    "login_required": ("{label} wants you to sign in there first.", SignInFailed.mend),
    "interaction_required": ("{label} wants something of you first.", SignInFailed.mend),
    "consent_required": ("{label} wants you to agree there first.", SignInFailed.mend),
    "account_selection_required": ("{label} wants you to choose an account first.", SignInFailed.mend),
    "temporarily_unavailable": ("{label} is too busy right now.", "Try again in a minute."),
    "server_error": ("{label} has a fault right now.", "Try again in a minute."),
}
_MISCONFIGURED = "Single sign-on is misconfigured: the sign-in service does not accept CertBob."


class OIDCSignIn:
    """Implements `services.SingleSignOn`. `public_url`: where browsers find CertBob."""

    def __init__(
        self,
        provider: OpenIDProvider,
        *,
        label: str,
        rules: ClaimRules,
        public_url: str,
        store: SignInStore,
        people: People,
        chats: ChatStore,
        clock: Clock,
        key: bytes,
    ) -> None:
        self.label = label
        self._provider = provider
        self._rules = rules
        self._redirect_uri = f"{public_url}/login/oidc/callback"
        self._signed_out_uri = f"{public_url}/login"
        self._store = store
        self._people = people
        self._chats = chats
        self._clock = clock
        self._key = key

    async def close(self) -> None:
        await self._provider.close()

    async def begin(self, browser: str, wanted: str) -> str:
        state = secrets.token_urlsafe(32)
        try:
            url = await self._provider.authorization_url(
                redirect_uri=self._redirect_uri,
                state=state,
                nonce=self._derived("nonce", state),
                verifier=self._derived("code verifier", state),
            )
        except ProviderProblem as problem:
            raise ProviderUnavailable(self.label, str(problem)) from problem
        pending = PendingSignIn(self._key_of(state), digest(browser), wanted, self._clock.now())
        await self._store.add_sign_in(pending, limit=MAX_PENDING)
        return url

    async def finish(self, browser: str | None, answer: Mapping[str, Sequence[str]]) -> SignedIn:
        state = _only(answer, "state")
        pending = (
            await self._store.take_sign_in(self._key_of(state), digest(browser))
            if browser and state
            else None
        )
        if pending is None:
            raise SignInFailed(
                "no sign-in of this browser has this state",
                "It was not begun in this browser, or it has been finished before.",
            )
        try:
            if self._clock.now() - pending.started_at > MAX_AGE:
                raise SignInFailed("it took too long", "It took longer than ten minutes.")
            return await self._signed_in(state, answer, pending.wanted)
        except SignInFailed as problem:
            problem.wanted = pending.wanted
            raise

    def sign_out_url(self, hint: str | None) -> str | None:
        return self._provider.end_session_url(hint, return_to=self._signed_out_uri)

    def trouble(self) -> str | None:
        return self._provider.trouble()

    async def examine(self) -> str | None:
        try:
            await self._provider.reach()
        except ProviderProblem as problem:
            return str(problem)
        return self.trouble()

    def is_away(self) -> bool:
        return self._provider.is_away()

    def still_knows(self, identity: Identity) -> bool:
        """False once another provider is configured, or the person's groups are no longer enough."""
        return self._rules.allow(identity.groups) and self.has(identity.account)

    def has(self, account: str) -> bool:
        """Whether the account is of the provider that is asked now."""
        return account.startswith(f"{self._provider.issuer} ")

    async def _signed_in(self, state: str, answer: Mapping[str, Sequence[str]], wanted: str) -> SignedIn:
        try:
            code = await self._code(answer)
            vouched = await self._provider.redeem(
                code,
                redirect_uri=self._redirect_uri,
                nonce=self._derived("nonce", state),
                verifier=self._derived("code verifier", state),
            )
        except (ProviderProblem, NotAccepted) as problem:
            raise self._in_words(problem) from problem
        name, email = self._rules.name_of(vouched), self._rules.email_of(vouched)
        groups = self._rules.groups_of(vouched)
        # An issuer has no blanks, so no other pair of issuer and subject gives the same text.
        account = f"{self._provider.issuer} {vouched.claims['sub']}"
        # Also of somebody who is no longer let in: that is what must count elsewhere.
        await self._chats.refresh_links(Door.OIDC, account, name=name, email=email, groups=groups)
        if not self._rules.allow(groups):
            raise NotAllowed("in none of the allowed groups", self._rules.allowed_groups)
        identity = Identity(
            subject=await self._people.subject_for(Door.OIDC, account),
            name=name,
            email=email,
            groups=groups,
            door=Door.OIDC,
            account=account,
        )
        has_use = self.sign_out_url(None) is not None and len(vouched.id_token) <= MAX_HINT_LENGTH
        return SignedIn(identity, self._rules.is_admin(groups), wanted, vouched.id_token if has_use else None)

    async def _code(self, answer: Mapping[str, Sequence[str]]) -> str:
        """The authorization code. Raises SignInFailed, ProviderProblem."""
        issuer = _only(answer, "iss")
        if ("iss" in answer or await self._provider.names_issuer()) and issuer != self._provider.issuer:
            raise SignInFailed("the answer does not say that it is of the configured issuer (RFC 9207)")
        if "error" in answer:
            error = _only(answer, "error")
            text, mend = _REFUSALS.get(error, (_MISCONFIGURED, _ASK_OPERATORS))
            description = " ".join(answer.get("error_description", ()))
            raise SignInFailed(
                f"the provider says {error!r:.100}: {description!r:.300}",
                text.format(label=self.label),
                mend=mend,
            )
        code = _only(answer, "code")
        if not 0 < len(code) <= MAX_CODE_LENGTH:
            raise SignInFailed("not one code of a reasonable length")
        return code

    def _in_words(self, problem: ProviderProblem | NotAccepted) -> SignInFailed:
        detail = str(problem)
        match problem:
            case Unreachable():
                return SignInFailed(
                    detail, f"{self.label} does not answer right now.", mend="Try again in a minute."
                )
            case Misconfigured():
                return SignInFailed(detail, _MISCONFIGURED, mend=_ASK_OPERATORS)
            case ClockDiffers(ahead=ahead):
                minutes = max(1, round(abs(ahead.total_seconds()) / 60))
                unit = "minute" if minutes == 1 else "minutes"
                which = "ahead of" if ahead > timedelta(0) else "behind"
                return SignInFailed(
                    detail,
                    f"The clock of {self.label} is about {minutes} {unit} {which} that of this service.",
                    mend=_ASK_OPERATORS,
                )
        return SignInFailed(
            detail, f"{self.label} gave an answer that CertBob does not accept.", mend=_ASK_OPERATORS
        )

    def _key_of(self, state: str) -> str:
        """Of another issuer it is another one: an answer never goes to a provider that was not asked."""
        return digest(f"{self._provider.issuer} {state}")

    def _derived(self, purpose: str, state: str) -> str:
        """43 characters, as many as RFC 7636 4.1 demands of a code verifier."""
        mac = hmac.digest(self._key, f"{purpose}\0{state}".encode(), hashlib.sha256)
        return urlsafe_b64encode(mac).decode()


def _only(answer: Mapping[str, Sequence[str]], name: str) -> str:
    """The parameter's value; empty when it is missing or there is more than one."""
    values = answer.get(name, ())
    return values[0] if len(values) == 1 else ""
