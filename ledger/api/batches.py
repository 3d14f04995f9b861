"""``POST /v1/transfers/batch``; see ``docs/batches.md``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.http import HttpResponse
from rest_framework.request import Request

from idempotency.batches import BatchClaim, ItemKey
from idempotency.fingerprint import request_digests
from idempotency.keys import MAX_KEY_LENGTH, key_fault
from ledger.api.authentication import actor_of
from ledger.api.resources import read_transfer_fields, transfer_json
from ledger.api.transfers import CREATE, render_transfer
from ledger.api.views import ApiView, idempotency_key_of, render_json
from ledger.services.batches import BatchRefusal, batch_post
from ledger.services.posting import MAX_BATCH_POSTINGS, MAX_TRANSFERS
from ledger.types import PostedTransfer, TransferRequest
from payflow.api.problems import STORED_REFUSAL_STATUSES
from payflow.api.rendering import (
    JsonItems,
    problem_document,
    render_item_problem,
    render_problem,
)
from payflow.api.shapes import Shape
from payflow.clock import now
from payflow.errors import Problem, ProblemError, shape_errors
from payflow.execution import Rendered
from payflow.greenlets import giving_way

#: What the items' own keys have decided, by index; see ``BatchClaim.earlier``.
Earlier = Mapping[int, Rendered | ProblemError]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a body asks for."""

    requests: Sequence[TransferRequest]
    is_atomic: bool


class TransferBatchView(ApiView):
    """POST makes many transfers in one transaction."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("transfer.batch", True)
    }
    body_limit = "BATCH_MAX_BYTES"

    def post(self, request: Request) -> HttpResponse:
        """Posts a batch: all or none of it, or each item alone."""
        body = self.body()
        key = idempotency_key_of(request._request)
        batch = read_batch(body, key=key)
        claim = self._claim(batch, body["transfers"])

        def command() -> Any:
            _require_free_keys(_earlier(claim))
            return batch_post(
                ledger_id=request.user.ledger_id,
                requests=batch.requests,
                is_atomic=batch.is_atomic,
                decided={
                    index: isinstance(found, Rendered) and found.status < 300
                    for index, found in _earlier(claim).items()
                },
                actor=actor_of(request._request),
                now=now(),
                idempotency_key=key,
            )

        def render(outcome: Any) -> Rendered:
            if isinstance(outcome, BatchRefusal):
                return _render_refusal(outcome, _earlier(claim))
            return self._render(batch, outcome, _earlier(claim))

        return self.send(command, render, claim=claim)

    def _claim(self, batch: Batch, items: Sequence[Any]) -> BatchClaim | None:
        if self.claim is None:
            return None
        keys = []
        for index, (wanted, item) in enumerate(zip(batch.requests, items, strict=True)):
            if wanted.idempotency_key is None:
                continue
            body = {k: v for k, v in item.items() if k != "idempotency_key"}
            digests = request_digests(
                operation=CREATE[0], path_parameters={}, body=body
            )
            keys.append(ItemKey(index, wanted.idempotency_key, digests))
        return BatchClaim(self.claim, operation=CREATE[0], items=keys)

    def _render(
        self,
        batch: Batch,
        outcomes: Sequence[PostedTransfer | Problem | None],
        earlier: Earlier,
    ) -> Rendered:
        is_dry_run = self.is_dry_run
        data = JsonItems()
        items: dict[str, Rendered] = {}
        for index, outcome in enumerate(giving_way(outcomes)):
            key = batch.requests[index].idempotency_key
            if key is None and isinstance(outcome, PostedTransfer) and not is_dry_run:
                # Nothing is stored of it, so it needs no response of its own.
                made = transfer_json(outcome)
                data.add(made if batch.is_atomic else {"status": 201, "transfer": made})
                continue
            item = self._render_item(outcome, earlier.get(index))
            data.add_text(_text(item, is_atomic=batch.is_atomic))
            if (
                key is not None
                and index not in earlier
                and (item.status < 300 or item.status in STORED_REFUSAL_STATUSES)
            ):
                items[key] = item
        atomic = b"true" if batch.is_atomic else b"false"
        dry_run = b',"dry_run":true' if is_dry_run else b""
        return Rendered(
            status=201 if batch.is_atomic and not is_dry_run else 200,
            body=b'{"atomic":%b%b,"data":[%b]}' % (atomic, dry_run, data.to_json()),
            headers={"Content-Type": "application/json"},
            resource_type="batch",
            items=items,
        )

    def _render_item(
        self,
        outcome: PostedTransfer | Problem | None,
        found: Rendered | ProblemError | None,
    ) -> Rendered:
        if isinstance(found, Rendered):
            return found
        if isinstance(found, ProblemError):
            return render_item_problem(found.problem)
        if isinstance(outcome, Problem):
            return render_item_problem(outcome)
        assert outcome is not None, "neither decided before nor now"
        if self.is_dry_run:
            return render_json({**transfer_json(outcome), "id": None}, status=201)
        return render_transfer(outcome)


def _require_free_keys(earlier: Earlier) -> None:
    """Gives the batch up where an item's key is in use right now.

    The batch's own key stores what it answers: an item that may be carried out a moment
    later must not be answered for good.

    Raises:
        ProblemError: ``idempotency_in_progress``, with the item's ``index``.
    """
    for index, found in sorted(earlier.items()):
        if isinstance(found, ProblemError) and found.retry_after_seconds is not None:
            raise ProblemError(
                found.problem.code,
                f"transfers[{index}]: {found.problem.detail}",
                retry_after_seconds=found.retry_after_seconds,
                index=index,
            )


def _earlier(claim: BatchClaim | None) -> Earlier:
    return {} if claim is None else claim.earlier


def _text(item: Rendered, *, is_atomic: bool) -> bytes:
    """The item's place in ``data``; its own bytes stand in it as they are."""
    if is_atomic:
        return item.body[:-1] + b',"replayed":true}' if item.is_replay else item.body
    replayed = b'"replayed":true,' if item.is_replay else b""
    name = b"transfer" if item.status < 300 else b"problem"
    return b'{"status":%d,%b"%b":%b}' % (item.status, replayed, name, item.body)


def _render_refusal(refusal: BatchRefusal, earlier: Earlier) -> Rendered:
    """The answer of an atomic batch of which nothing was posted.

    Raises:
        ProblemError: the refusal is none that is stored: an account that is not found,
            or an item's key that cannot be used.
    """
    index, found = refusal.index, earlier.get(refusal.index)
    if isinstance(found, Rendered):
        document = json.loads(found.body)
    else:
        problem = refusal.problem if found is None else found.problem
        assert problem is not None, "neither refused before nor now"
        document = problem_document(problem)
    refused = Problem(
        "batch_refused",
        f"transfers[{index}] was refused, so nothing was posted: {document['detail']}",
        {"index": index, "problem": document},
    )
    if isinstance(found, ProblemError) or (
        document["status"] not in STORED_REFUSAL_STATUSES
    ):
        raise ProblemError.of(refused)
    return render_problem(refused)


def read_batch(body: Any, *, key: str | None) -> Batch:
    """The batch that a body asks for.

    Args:
        body: the parsed JSON.
        key: the request's own idempotency key, which no item may have.

    Raises:
        ProblemError: ``invalid_request`` with the fields that are wrong;
            ``batch_too_large``.
    """
    shape = Shape(body)
    if isinstance(items := body.get("transfers"), list):
        _limit(len(items), of="transfers", maximum=MAX_TRANSFERS)
    is_atomic = shape.boolean("atomic", default=True)
    shape.boolean("dry_run", default=False)
    requests = shape.each("transfers", _read_item, maximum=MAX_TRANSFERS)
    shape.finish()
    _limit(
        sum(len(request.postings) for request in requests),
        of="postings",
        maximum=MAX_BATCH_POSTINGS,
    )
    _refuse_repeated_keys(requests, key)
    return Batch(requests, is_atomic)


def _limit(count: int, *, of: str, maximum: int) -> None:
    if count > maximum:
        raise ProblemError(
            "batch_too_large",
            f"The batch has {count} {of}; at most {maximum} are taken at once.",
            max_transfers=MAX_TRANSFERS,
            max_postings=MAX_BATCH_POSTINGS,
        )


def _read_item(shape: Shape) -> TransferRequest:
    key = shape.text("idempotency_key", maximum=MAX_KEY_LENGTH, empty=False)
    if key and (fault := key_fault(key)) is not None:
        shape.fail("idempotency_key", "not_a_key", fault)
    return read_transfer_fields(shape, idempotency_key=key)


def _refuse_repeated_keys(
    requests: Sequence[TransferRequest], batch_key: str | None
) -> None:
    seen = {batch_key: "The request itself"} if batch_key is not None else {}
    for index, request in enumerate(requests):
        if (key := request.idempotency_key) is None:
            continue
        if key in seen:
            field = f"transfers[{index}].idempotency_key"
            message = f"{seen[key]} has the same key."
            raise shape_errors([(field, "repeated", message)])
        seen[key] = f"transfers[{index}]"
