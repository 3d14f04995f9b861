"""API clients and their keys.

A key is ``pf_`` and 86 characters of base64url: the ledger's id, the key's id and 256
random bits. So the row is found by its primary key, inside one ledger, and a plain
SHA-256 of the secret is enough: nothing can be guessed about 256 random bits.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from ledger.enums import Permission
from ledger.models import ApiClient, ApiKey
from ledger.services.accounts import change_record
from ledger.types import Principal
from payflow.actors import Actor
from payflow.db import give_back_connection, require_transaction
from payflow.ids import new_id
from payflow.statements import run_prepared

PREFIX = "pf_"
#: The field under which the ledger's history has a client's permissions.
_HISTORY = "client_permissions"
_SECRET_BYTES = 32
_TOKEN_BYTES = 16 + 16 + _SECRET_BYTES
_KEY = """
SELECT k.client_id, c.name, c.permissions, k.secret_hash, k.expires_at
FROM ledger_api_key k
JOIN ledger_api_client c ON c.ledger_id = k.ledger_id AND c.id = k.client_id
WHERE k.ledger_id = $1 AND k.id = $2 AND k.revoked_at IS NULL AND c.is_active
"""
#: The most keys whose principals a process keeps.
MAX_KNOWN_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    """What PostgreSQL said of a valid key, and when it was asked."""

    principal: Principal
    expires_at: datetime | None
    asked_at: datetime


class KnownKeys:
    """The valid keys that this process has seen in the last moments.

    Each answer is believed for ``API_KEY_CACHE_SECONDS``, so a key that another process
    revokes works here for up to that long. Only valid keys are kept, and of those only
    the SHA-256 of the token.

    In the second half of that time one request asks anew, and the others need not: so
    a busy key's requests do not all ask at the same moment.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self._asked_anew: set[bytes] = set()
        self._lock = threading.Lock()
        #: How often all were forgotten.
        self.generation = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, digest: bytes, *, now: datetime) -> Principal | None:
        """The principal of a valid key; ``None``: this request has to ask."""
        known = self._known.get(digest)
        if known is None:
            return None
        age = (now - known.asked_at).total_seconds()
        if not 0 <= age < settings.API_KEY_CACHE_SECONDS:
            return None
        if known.expires_at is not None and known.expires_at <= now:
            return None
        if age > settings.API_KEY_CACHE_SECONDS / 2 and digest not in self._asked_anew:
            self._asked_anew.add(digest)
            return None
        return known.principal

    def keep(self, digest: bytes, known: _Known, *, generation: int) -> None:
        """Keeps a valid key, unless all were forgotten while PostgreSQL was asked.

        Args:
            digest: of the token.
            known: what PostgreSQL said.
            generation: as it was before PostgreSQL was asked.
        """
        with self._lock:
            self._asked_anew.discard(digest)
            if generation != self.generation:
                return
            self._known.pop(digest, None)
            if len(self._known) >= MAX_KNOWN_KEYS:
                del self._known[next(iter(self._known))]
            self._known[digest] = known

    def drop(self, digest: bytes) -> None:
        """Forgets a key that turned out not to be valid, if it was known."""
        with self._lock:
            self._asked_anew.discard(digest)
            self._known.pop(digest, None)

    def forget(self) -> None:
        """Forgets all keys: what is known of one of them has changed."""
        with self._lock:
            self.generation += 1
            self._known.clear()
            self._asked_anew.clear()


known_keys = KnownKeys()


def client_get_or_create(*, ledger_id: UUID, name: str) -> ApiClient:
    """The ledger's client of this name, made if there is none.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    rows = ApiClient.objects.filter(ledger_id=ledger_id, name=name)
    found = rows.first()
    if found is None:
        ApiClient.objects.bulk_create(
            [ApiClient(id=new_id(), ledger_id=ledger_id, name=name, created_at=Now())],
            ignore_conflicts=True,
        )
        found = rows.get()
    return found


def client_set_permissions(
    *, ledger_id: UUID, client_id: UUID, permissions: Iterable[str], actor: Actor
) -> ApiClient:
    """Gives a client these permissions and no others; the history keeps each change.

    They take effect with the client's next request, whichever of its keys it uses; in
    other processes within ``API_KEY_CACHE_SECONDS``.

    Raises:
        RuntimeError: no transaction is open.
        ValueError: there is no such permission.
    """
    require_transaction()
    wanted = sorted({str(Permission(permission)) for permission in permissions})
    rows = ApiClient.objects.filter(ledger_id=ledger_id, id=client_id)
    client = rows.select_for_update(of=("self",), no_key=True).get()
    if sorted(client.permissions) != wanted:
        rows.update(permissions=wanted)
        # Now for the rest of this transaction, then for whoever asked meanwhile.
        known_keys.forget()
        transaction.on_commit(known_keys.forget)
        change_record(
            ledger_id=ledger_id,
            account_id=None,
            old={_HISTORY: {"client": client.name, "permissions": client.permissions}},
            new={_HISTORY: {"client": client.name, "permissions": wanted}},
            actor=actor,
        )
        client.permissions = wanted
    return client


def api_key_create(*, client: ApiClient, lifetime: timedelta | None = None) -> str:
    """Makes a key of a client; its only appearance in clear text is what is returned.

    Args:
        client: who the key is for.
        lifetime: after which it stops working; ``None`` means never.

    Returns:
        The key, to be sent as ``Authorization: Bearer <key>``.

    Raises:
        RuntimeError: no transaction is open.
    """
    require_transaction()
    key_id, secret = new_id(), secrets.token_bytes(_SECRET_BYTES)
    raw = client.ledger_id.bytes + key_id.bytes + secret
    token = PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")
    ApiKey.objects.create(
        id=key_id,
        ledger_id=client.ledger_id,
        client_id=client.id,
        secret_hash=hashlib.sha256(secret).digest(),
        hint=token[-4:],
        created_at=Now(),
        expires_at=Now() + lifetime if lifetime else None,
    )
    return token


def principal_of_token(*, token: str, now: datetime) -> Principal | None:
    """Who a key stands for, or ``None`` if it is unknown, revoked or expired.

    A valid key is looked up once in ``API_KEY_CACHE_SECONDS``; see :class:`KnownKeys`.

    Args:
        token: the key as it was sent.
        now: the interface's clock.
    """
    digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
    principal = known_keys.find(digest, now=now)
    if principal is not None:
        return principal
    generation = known_keys.generation
    known = _principal_in_database(token=token, now=now)
    give_back_connection()
    if known is None:
        known_keys.drop(digest)
        return None
    known_keys.keep(digest, known, generation=generation)
    return known.principal


def _principal_in_database(*, token: str, now: datetime) -> _Known | None:
    try:
        encoded = token.removeprefix(PREFIX).encode("ascii")
        raw = base64.b64decode(
            encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True
        )
    except (ValueError, binascii.Error):
        return None
    if not token.startswith(PREFIX) or len(raw) != _TOKEN_BYTES:
        return None
    ledger_id, key_id = UUID(bytes=raw[:16]), UUID(bytes=raw[16:32])
    rows = run_prepared(_KEY, [ledger_id, key_id])
    if not rows:
        return None
    ((client_id, client_name, permissions, stored_hash, expires_at),) = rows
    secret_hash = hashlib.sha256(raw[32:]).digest()
    if not hmac.compare_digest(secret_hash, stored_hash):
        return None
    if expires_at is not None and expires_at <= now:
        return None
    principal = Principal(
        ledger_id=ledger_id,
        client_id=client_id,
        client_name=client_name,
        key_id=key_id,
        permissions=frozenset(permissions),
    )
    return _Known(principal, expires_at=expires_at, asked_at=now)


def principal_of_client(*, ledger_slug: str, name: str) -> Principal | None:
    """The principal of a client by names, for the demo stack; ``None`` if absent."""
    row = ApiClient.objects.filter(
        ledger__slug=ledger_slug, name=name, is_active=True
    ).first()
    if row is None:
        return None
    return Principal(
        row.ledger_id,
        row.id,
        row.name,
        key_id=None,
        permissions=frozenset(row.permissions),
    )
