"""Who may use the console: an ASGI layer around everything that it serves.

Every request must name the console as its host, or another site's name that was made to point here would
reach it; whatever a page of another origin sends is refused, the websocket's handshake first of all, for a
cookie goes with it as well. With a token, nobody gets further than a form that asks for it.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from muster.console.settings import ConsoleSettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "muster_console"
SESSION_S = 12 * 3600.0
_SESSIONS_MAX = 1_000
_FORM_BYTES_MAX = 4_096
_WRONG_PAUSE_S = 0.5

# NiceGUI and Vue write styles and scripts into the page, and compile templates; nothing comes from elsewhere.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
        " style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:;"
        " frame-src 'self'; frame-ancestors 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

_FORM = """<!doctype html>
<html lang="en-GB"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Muster console</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 24rem; margin: 4rem auto; padding: 0 1rem }}
label, input, button {{ display: block; width: 100%; box-sizing: border-box; font: inherit }}
input, button {{ padding: .6rem; margin: .4rem 0 1rem }}
</style></head><body><main><h1>Muster console</h1>{problem}
<form method="post" action="/login"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Open the console</button></form></main></body></html>"""


class Sessions:
    """Browsers that showed the token. clock: seconds, monotonic."""

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._until_s: dict[str, float] = {}

    def open(self, token: str) -> str | None:
        """A new session's key; None where the token is another."""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        now_s = self._clock()
        self._until_s = {key: until_s for key, until_s in self._until_s.items() if until_s > now_s}
        while len(self._until_s) >= _SESSIONS_MAX:
            self._until_s.pop(next(iter(self._until_s)))
        key = secrets.token_urlsafe(32)
        self._until_s[key] = now_s + SESSION_S
        return key

    def holds(self, key: str) -> bool:
        """Whether the session is still good."""
        return self._until_s.get(key, 0.0) > self._clock()


class Access:
    """The layer. Anything but http and websocket is passed on."""

    def __init__(self, app: App, settings: ConsoleSettings, port: Callable[[], int]) -> None:
        self._app = app
        self._settings = settings
        self._port = port
        self._sessions = Sessions(settings.token) if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._foreign(scope, headers)
        if problem:
            await _refuse(scope, send, 403, problem)
            return
        if self._sessions is not None and not self._sessions.holds(_cookie(headers)):
            await self._ask_token(scope, receive, send, headers)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                have = {name for name, _ in message.get("headers", ())}
                more = [
                    (name.encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.encode() not in have
                ]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _hosts(self) -> set[str]:
        port = self._port()
        return {
            f"127.0.0.1:{port}",
            f"localhost:{port}",
            f"[::1]:{port}",
            *self._settings.names,
            *(f"{name}:{port}" for name in self._settings.names if ":" not in name),
        }

    def _foreign(self, scope: Scope, headers: dict[str, str]) -> str:
        host = headers.get("host", "").lower()
        if host not in self._hosts():
            return f"This console is not known as {host!r}; start it with --name for a further name."
        origin = headers.get("origin")
        safe = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and not _is_live(scope)
        if origin is not None:
            if urlsplit(origin).netloc.lower() != host:
                return "A page of another site cannot use this console."
        elif not safe and headers.get("sec-fetch-site") != "same-origin":
            # Browsers name the origin of all but reads; of the live connection's polls they say this instead.
            return "The request does not say which page it comes from."
        return ""

    async def _ask_token(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        assert self._sessions is not None
        if scope["type"] == "websocket":
            await _refuse(scope, send, 403, "")
            return
        problem = ""
        if scope["method"] == "POST" and scope["path"] == "/login":
            key = self._sessions.open(await _posted_token(receive))
            if key is not None:
                secure = "; Secure" if headers.get("x-forwarded-proto") == "https" else ""
                cookie = (
                    f"{COOKIE}={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age={int(SESSION_S)}{secure}"
                )
                await _respond(send, 303, "", {"location": "/", "set-cookie": cookie})
                return
            await asyncio.sleep(_WRONG_PAUSE_S)
            problem = '<p role="alert">This is not the token. It is what the console was started with.</p>'
        await _respond(send, 401, _FORM.format(problem=problem), {"content-type": "text/html; charset=utf-8"})


def _is_live(scope: Scope) -> bool:
    """Whether it belongs to the live connection, by which pages send what their users do."""
    return "/socket.io" in str(scope["path"])


def _cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


async def _posted_token(receive: Receive) -> str:
    body = b""
    more = True
    while more and len(body) <= _FORM_BYTES_MAX:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > _FORM_BYTES_MAX:
        return ""
    return (parse_qs(body.decode("utf-8", "replace")).get("token") or [""])[0]


async def _refuse(scope: Scope, send: Send, code: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await _respond(send, code, text + "\n", {"content-type": "text/plain; charset=utf-8"})


async def _respond(send: Send, code: int, text: str, headers: dict[str, str]) -> None:
    told = {**HEADERS, **headers}
    await send(
        {
            "type": "http.response.start",
            "status": code,
            "headers": [(name.encode(), value.encode()) for name, value in told.items()],
        }
    )
    await send({"type": "http.response.body", "body": text.encode()})
