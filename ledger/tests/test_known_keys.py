"""What a process remembers of valid keys, for how long, and what makes it forget."""

import base64
import hashlib
import pickle
from datetime import timedelta

import pytest
from django.utils.crypto import get_random_string

from ledger.models import ApiClient, ApiKey
from ledger.services import clients
from ledger.services.clients import (
    PREFIX,
    KnownKeys,
    api_key_create,
    client_set_permissions,
    principal_of_token,
)
from ledger.tests.factories import ACTOR, ApiClientFactory, LedgerFactory
from payflow.clock import now
from payflow.ids import new_id

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def known_keys(monkeypatch: pytest.MonkeyPatch) -> KnownKeys:
    known = KnownKeys()
    monkeypatch.setattr(clients, "known_keys", known)
    return known


@pytest.fixture
def client() -> ApiClient:
    return ApiClientFactory(ledger=LedgerFactory())


def changed(token: str, *, at: int, to: bytes) -> str:
    """The key with other bytes at a place; see ``ledger.services.clients``."""
    raw = bytearray(base64.urlsafe_b64decode(token.removeprefix(PREFIX) + "=="))
    raw[at : at + len(to)] = to
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_a_known_key_is_not_looked_up_again_at_once(client, django_assert_num_queries):
    token, at = api_key_create(client=client), now()

    first = principal_of_token(token=token, now=at)

    assert first is not None
    with django_assert_num_queries(0):
        assert principal_of_token(token=token, now=at + SECOND * 0.5) is first


def test_one_request_asks_anew_before_the_second_is_over_and_the_others_need_not(
    client, django_assert_num_queries
):
    token, at = api_key_create(client=client), now()
    first = principal_of_token(token=token, now=at)
    late = at + SECOND * 0.9
    digest = hashlib.sha256(token.encode()).digest()

    # One is on its way to PostgreSQL.
    assert clients.known_keys.find(digest, now=late) is None
    with django_assert_num_queries(0):
        assert principal_of_token(token=token, now=late) is first

    with django_assert_num_queries(1):
        assert principal_of_token(token=token, now=at + SECOND) == first
    with django_assert_num_queries(0):
        assert principal_of_token(token=token, now=at + SECOND * 1.4) == first


def test_a_key_that_is_found_revoked_is_forgotten(client, known_keys):
    token, at = api_key_create(client=client), now()
    principal_of_token(token=token, now=at)
    ApiKey.objects.filter(ledger_id=client.ledger_id).update(revoked_at=at)

    assert principal_of_token(token=token, now=at + SECOND * 0.9) is None
    assert len(known_keys) == 0


@pytest.mark.parametrize("change", ["revoked", "deactivated"])
def test_a_key_that_another_process_took_away_is_refused_after_the_second(
    client, change
):
    token, at = api_key_create(client=client), now()
    assert principal_of_token(token=token, now=at) is not None

    if change == "revoked":
        ApiKey.objects.filter(client_id=client.id).update(revoked_at=at)
    else:
        ApiClient.objects.filter(id=client.id).update(is_active=False)

    assert principal_of_token(token=token, now=at + SECOND / 2) is not None
    assert principal_of_token(token=token, now=at + SECOND) is None


def test_a_use_does_not_prolong_what_is_known(client):
    token, at = api_key_create(client=client), now()
    principal_of_token(token=token, now=at)
    ApiKey.objects.filter(client_id=client.id).update(revoked_at=at)

    for tenths in range(10):
        principal_of_token(token=token, now=at + SECOND * tenths / 10)

    assert principal_of_token(token=token, now=at + SECOND) is None


def test_a_known_key_expires_at_its_own_instant(client):
    token = api_key_create(client=client, lifetime=timedelta(hours=1))
    end = ApiKey.objects.get(client_id=client.id).expires_at
    assert end is not None

    assert principal_of_token(token=token, now=end - SECOND / 10) is not None
    assert principal_of_token(token=token, now=end) is None


def test_a_clock_that_is_set_back_makes_nothing_known_for_longer(
    client, django_assert_num_queries
):
    token, at = api_key_create(client=client), now()
    principal_of_token(token=token, now=at)

    with django_assert_num_queries(1):
        principal_of_token(token=token, now=at - SECOND / 2)


def test_permissions_that_change_here_count_at_once(
    client, django_capture_on_commit_callbacks
):
    token, at = api_key_create(client=client), now()
    principal_of_token(token=token, now=at)

    with django_capture_on_commit_callbacks() as callbacks:
        client_set_permissions(
            ledger_id=client.ledger_id,
            client_id=client.id,
            permissions=["close_period"],
            actor=ACTOR,
        )
    found = principal_of_token(token=token, now=at)

    assert found is not None
    assert found.permissions == {"close_period"}
    assert len(callbacks) == 1


def test_the_commit_of_a_change_forgets_what_was_asked_before_it(
    client, known_keys, django_capture_on_commit_callbacks
):
    token, at = api_key_create(client=client), now()

    with django_capture_on_commit_callbacks(execute=True):
        client_set_permissions(
            ledger_id=client.ledger_id,
            client_id=client.id,
            permissions=["close_period"],
            actor=ACTOR,
        )
        principal_of_token(token=token, now=at)
        assert len(known_keys) == 1

    assert len(known_keys) == 0


def test_what_changes_while_postgresql_is_asked_is_not_kept(
    client, known_keys, monkeypatch
):
    ask = clients._principal_in_database

    def asked_too_early(**arguments):
        answer = ask(**arguments)
        known_keys.forget()
        return answer

    monkeypatch.setattr(clients, "_principal_in_database", asked_too_early)
    token = api_key_create(client=client)

    assert principal_of_token(token=token, now=now()) is not None
    assert len(known_keys) == 0


def test_only_valid_keys_are_kept_and_none_in_clear(client, known_keys):
    token, at = api_key_create(client=client), now()
    other = LedgerFactory()
    assert principal_of_token(token=token, now=at) is not None
    before = len(known_keys)

    for wrong in (
        changed(token, at=0, to=other.id.bytes),
        changed(token, at=16, to=new_id().bytes),
        changed(token, at=32, to=bytes(32)),
        token[:-1],
        token + "A",
        "nonsense",
        "\udc80",
        get_random_string(5_000),
    ):
        assert principal_of_token(token=wrong, now=at) is None

    assert len(known_keys) == before == 1
    kept = pickle.dumps(known_keys._known)
    raw = base64.urlsafe_b64decode(token.removeprefix(PREFIX) + "==")
    assert token.encode() not in kept
    assert raw[32:] not in kept


def test_a_key_opens_the_books_of_its_own_ledger_only(client):
    at = now()
    other = ApiClientFactory(ledger=LedgerFactory())
    tokens = {c.ledger_id: api_key_create(client=c) for c in (client, other)}

    for _ in range(2):
        for ledger_id, token in tokens.items():
            found = principal_of_token(token=token, now=at)
            assert found is not None
            assert found.ledger_id == ledger_id


def test_the_number_of_known_keys_is_bounded(client, known_keys, monkeypatch):
    monkeypatch.setattr(clients, "MAX_KNOWN_KEYS", 3)
    at = now()
    tokens = [api_key_create(client=client) for _ in range(5)]

    found = [principal_of_token(token=token, now=at) for token in tokens]

    assert len({p.key_id for p in found if p}) == 5
    assert len(known_keys) == 3
    # Of them all, the one that was asked for first goes first.
    assert [k.principal for k in known_keys._known.values()] == found[2:]


def test_with_zero_seconds_every_request_asks(
    client, settings, django_assert_num_queries
):
    settings.API_KEY_CACHE_SECONDS = 0
    token, at = api_key_create(client=client), now()

    with django_assert_num_queries(2):
        principal_of_token(token=token, now=at)
        principal_of_token(token=token, now=at)
