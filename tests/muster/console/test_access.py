"""Who gets through to the console, and who does not."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from muster.console.access import COOKIE, SESSION_S, Access, Sessions
from muster.console.settings import ConsoleSettings, SettingsError, make_settings

TOKEN = "a token of enough characters"
HOME = {"host": "127.0.0.1:8461"}


async def _page(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the console"})


def ask(
    access: Access,
    headers: dict[str, str],
    *,
    method: str = "GET",
    path: str = "/",
    kind: str = "http",
    body: bytes = b"",
) -> tuple[int, str, dict[str, str]]:
    """Status (1008: a closed websocket), body and headers of the answer."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": raw}
    asyncio.run(access(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return sent[0]["code"], "", {}
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], sent[1]["body"].decode(), told


def guard(token: str = "", names: tuple[str, ...] = ()) -> Access:
    settings = ConsoleSettings("127.0.0.1", 8461, ("127.0.0.1:7461",), names=names, token=token)
    return Access(_page, settings, lambda: 8461)


def test_its_own_pages_pass_and_carry_the_policy() -> None:
    status, body, headers = ask(guard(), HOME)
    assert (status, body) == (200, "the console")
    assert "frame-ancestors 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8461", "127.0.0.1:80", ""])
def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    status, body, _ = ask(guard(), {"host": host})
    assert status == 403 and "not known as" in body


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_another_origin_is_refused(kind: str) -> None:
    foreign = {**HOME, "origin": "http://evil.example"}
    assert ask(guard(), foreign, kind=kind, path="/_nicegui_ws/socket.io/")[0] in (403, 1008)
    own = {**HOME, "origin": "http://127.0.0.1:8461"}
    assert ask(guard(), own, kind=kind, path="/_nicegui_ws/socket.io/")[0] == 200


def test_what_changes_something_must_say_where_it_comes_from() -> None:
    live = "/_nicegui_ws/socket.io/"
    assert ask(guard(), HOME, method="POST")[0] == 403
    assert ask(guard(), HOME, path=live)[0] == 403, "polls of the live connection as well"
    assert ask(guard(), HOME, kind="websocket", path=live)[0] == 1008
    assert ask(guard(), {**HOME, "sec-fetch-site": "same-origin"}, path=live)[0] == 200


def test_with_a_token_nobody_passes_without_it() -> None:
    access = guard(TOKEN)
    status, body, _ = ask(access, HOME)
    assert status == 401 and 'name="token"' in body and TOKEN not in body
    own = {**HOME, "origin": "http://127.0.0.1:8461"}
    assert ask(access, own, kind="websocket", path="/_nicegui_ws/socket.io/")[0] == 1008
    wrong = ask(access, own, method="POST", path="/login", body=b"token=wrong")
    assert wrong[0] == 401 and "set-cookie" not in wrong[2]
    status, _, headers = ask(access, own, method="POST", path="/login", body=f"token={TOKEN}".encode())
    assert status == 303
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    assert ask(access, {**HOME, "cookie": cookie.split(";")[0]})[1] == "the console"
    assert ask(access, {**HOME, "cookie": f"{COOKIE}=made-up"})[0] == 401


def test_a_session_ends() -> None:
    now = [0.0]
    sessions = Sessions(TOKEN, clock=lambda: now[0])
    key = sessions.open(TOKEN)
    assert key is not None and sessions.holds(key)
    now[0] = SESSION_S + 1
    assert not sessions.holds(key) and sessions.open("another") is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"listen": "0.0.0.0:8461"}, "--allow-remote"),
        ({"listen": "0.0.0.0:8461", "allow_remote": True}, "MUSTER_CONSOLE_TOKEN"),
        ({"listen": "0.0.0.0:8461", "allow_remote": True, "token": TOKEN}, "--name"),
        ({"token": "short"}, "characters"),
        ({"listen": "8461"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
    ],
)
def test_unsafe_settings_are_refused_with_what_to_do(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        make_settings(**{"listen": "127.0.0.1:8461", "target": "127.0.0.1:7461", **given})


def test_off_loopback_a_token_and_a_name_will_do() -> None:
    made = make_settings(
        listen="0.0.0.0:8461", target="a:7461", token=TOKEN, names=["Ops.example"], allow_remote=True
    )
    assert ask(Access(_page, made, lambda: 8461), {"host": "ops.example:8461"})[0] == 401
