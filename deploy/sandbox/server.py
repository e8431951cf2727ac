"""The sandbox's one web server: every provider, the control API and the inbox on one port."""

from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from deploy.sandbox.control import Control, control_errors
from deploy.sandbox.discord import Discord
from deploy.sandbox.exchange import Sandbox
from deploy.sandbox.faults import FaultBook
from deploy.sandbox.hooks import Hooks
from deploy.sandbox.inbox import Inbox
from deploy.sandbox.journal import Journal
from deploy.sandbox.limits import Limits
from deploy.sandbox.notifications import Notifications
from deploy.sandbox.recorder import DEFAULT_KEEP, DEFAULT_KEEP_BYTES, Recorder
from deploy.sandbox.scoring import Scoring
from deploy.sandbox.ses import Ses
from deploy.sandbox.slack import Slack

MAX_REQUEST_BYTES = 40 * 1024 * 1024
"""SES takes messages of up to 40 MB; 50 entries of 262,144 characters are 13 MB before escaping."""


@dataclass(frozen=True)
class Server:
    """The application, and what it reads at start."""

    app: web.Application
    recorder: Recorder


def build(folder: Path, *, keep: int = DEFAULT_KEEP, keep_bytes: int = DEFAULT_KEEP_BYTES, seed: int | None = None) -> Server:
    """Return the server with the journal of the folder read; JournalError when that cannot be used."""
    journal = Journal(folder)
    box = Sandbox(Recorder(journal, keep, keep_bytes), FaultBook(seed), Limits())
    notifications = Notifications()
    ses, slack, discord, hooks = Ses(box, notifications), Slack(box), Discord(box), Hooks(box)

    def forget(everything: bool) -> None:
        box.recorder.reset()
        slack.reset()
        discord.reset()
        if everything:
            box.faults.clear()
            box.limits.reset()
            hooks.secrets.clear()
            ses.suppressed.clear()

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "messages": box.recorder.last_n, "kept": len(box.recorder.messages)})

    async def close(app: web.Application) -> None:
        await notifications.close()
        journal.close()

    app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[control_errors])
    for part in (ses, slack, discord, hooks, notifications, Scoring(box), Control(box, hooks, forget), Inbox(box.recorder)):
        app.add_routes(part.routes())
    app.add_routes([web.get("/health", health)])
    app.on_cleanup.append(close)
    box.recorder.load()
    return Server(app, box.recorder)
