"""The admin's list pages, as a logged-in administrator asks for them."""

import re
from http.cookiejar import CookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

from benchmarks.stack import ADMIN_NAME, BenchmarkError, Stack

_LISTS = {
    "transfers": "/admin/ledger/transfer/",
    "entries": "/admin/ledger/entry/",
    "accounts": "/admin/ledger/account/",
    "holds": "/admin/ledger/hold/",
    "tasks": "/admin/outbox/outboxtask/",
    "keys": "/admin/idempotency/idempotencykey/",
}


def admin_paths(name: str) -> list[str]:
    """The paths of a list's first page."""
    return [_LISTS[name]]


def admin_session(stack: Stack) -> str:
    """Logs in by the form, and returns the ``Cookie`` header's value.

    Raises:
        BenchmarkError: it does not work.
    """
    cookies = CookieJar()
    opener = build_opener(HTTPCookieProcessor(cookies))
    url = f"http://{stack.web_address}/admin/login/?next=/admin/"
    form = opener.open(url, timeout=30).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
    if token is None:
        raise BenchmarkError("The admin's login page has no form.")
    fields = {
        "csrfmiddlewaretoken": token[1],
        "username": ADMIN_NAME,
        "password": stack.known.admin_password,
        "next": "/admin/",
    }
    page = opener.open(url, urlencode(fields).encode(), timeout=30)
    if page.url.endswith("/login/") or "sessionid" not in {c.name for c in cookies}:
        raise BenchmarkError("The admin does not let the benchmark in.")
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in cookies)
