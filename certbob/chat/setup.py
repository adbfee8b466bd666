"""Makes the slash command in a team of Mattermost, or puts the one that is there in order."""

from dataclasses import dataclass

from certbob.chat.server import ChatServer, ServerProblem
from certbob.secret import Secret

HINT = "[download|email|list|revoke|help]"


@dataclass(frozen=True, slots=True)
class SetUp:
    """`did`: in words, for the terminal. `token`: what the command's requests carry."""

    did: str
    team_id: str
    token: Secret


async def set_up_command(
    server: ChatServer, admin_token: Secret, *, team: str, trigger: str, request_url: str, new_token: bool
) -> SetUp:
    """`team`: its name in addresses. `new_token`: the old one is over at once. Raises ServerProblem."""
    team_id = await server.team_id(team, admin_token)
    wanted = {
        "team_id": team_id,
        "trigger": trigger,
        "method": "P",
        "url": request_url,
        "display_name": "Certificates",
        "description": "Personal certificates for your devices",
        "auto_complete": True,
        "auto_complete_desc": "Get a personal certificate, list yours, or revoke one",
        "auto_complete_hint": HINT,
    }
    found = [each for each in await server.commands(team_id, admin_token) if each.trigger == trigger]
    if not found:
        command = await server.create_command(wanted, admin_token)
        return SetUp(f"made /{trigger} in team {team}", team_id, command.token)
    command, did = found[0], f"/{trigger} in team {team} was in order"
    if (command.url, command.method) != (request_url, "P"):
        command = await server.update_command(command, wanted, admin_token)
        if (command.url, command.method) != (request_url, "P"):
            raise ServerProblem("it keeps the command as it was")
        did = f"/{trigger} in team {team} leads to {request_url} now"
    token = await server.new_token(command.id, admin_token) if new_token else command.token
    return SetUp(f"{did}, and has a new token" if new_token else did, team_id, token)
