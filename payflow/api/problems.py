"""The registry of problem codes: the only place that knows HTTP statuses.

Each code is stable. ``docs/problems.md`` is written from this module, and
``/problems/<code>`` serves what it says (RFC 9457, section 3.1.1: a type URI that
people can look up).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProblemType:
    """What every occurrence of a code has in common.

    Attributes:
        status: the HTTP status.
        title: a short summary that never changes.
        remedy: what the caller should do next.
        retryable: the identical request may succeed later without any change.
    """

    status: int
    title: str
    remedy: str
    retryable: bool = False


PROBLEMS: dict[str, ProblemType] = {
    # 400: the request is not understood; nothing is stored, the key stays free.
    "malformed_json": ProblemType(
        400,
        "The body is not strict JSON",
        "Send one JSON object in UTF-8; `reason` names what is wrong with it.",
    ),
    "invalid_request": ProblemType(
        400,
        "A field is missing, unknown or of the wrong form",
        "Correct the fields that `errors` lists, and send the request again.",
    ),
    "invalid_cursor": ProblemType(
        400,
        "The cursor is not one of ours",
        "Pass `next_cursor` back exactly as it was given, or leave it out.",
    ),
    "idempotency_key_missing": ProblemType(
        400,
        "This request moves money and needs an idempotency key",
        "Send an `Idempotency-Key` header with a new random value for each operation, "
        "and the same value for each retry of it.",
    ),
    "idempotency_key_invalid": ProblemType(
        400,
        "The idempotency key is not valid",
        "Send one key of 1 to 255 printable ASCII characters.",
    ),
    # 401, 403, 404, 405, 413, 415
    "unauthenticated": ProblemType(
        401,
        "The API key is missing or not valid",
        "Send `Authorization: Bearer <key>`; `manage.py create_api_key` makes one.",
    ),
    "permission_denied": ProblemType(
        403,
        "This client may not do that",
        "Ask for the permission, or use another key.",
    ),
    "not_found": ProblemType(
        404, "There is no such resource in this ledger", "Check the id and the path."
    ),
    "account_not_found": ProblemType(
        404,
        "There is no such account in this ledger",
        "Check `account_id`; the key decides which ledger is looked at.",
    ),
    "transfer_not_found": ProblemType(
        404, "There is no such transfer in this ledger", "Check the id."
    ),
    "hold_not_found": ProblemType(
        404, "There is no such hold in this ledger", "Check the id."
    ),
    "scheduled_not_found": ProblemType(
        404, "There is no such scheduled transfer in this ledger", "Check the id."
    ),
    "method_not_allowed": ProblemType(
        405, "This resource does not know the method", "See the `Allow` header."
    ),
    "not_acceptable": ProblemType(
        406, "Only JSON is spoken here", "Accept `application/json`."
    ),
    "body_too_large": ProblemType(
        413, "The body is too large", "Split the request; `max_bytes` is the limit."
    ),
    "batch_too_large": ProblemType(
        413,
        "The batch has too many transfers or postings",
        "Split the batch; `max_transfers` and `max_postings` are the limits.",
    ),
    "unsupported_media_type": ProblemType(
        415,
        "The body must be JSON",
        "Send `Content-Type: application/json`.",
    ),
    # 409: a conflict with the state of something.
    "idempotency_in_progress": ProblemType(
        409,
        "A request with this idempotency key is running",
        "Wait as `Retry-After` says and send the same request again.",
        retryable=True,
    ),
    "idempotency_outcome_expired": ProblemType(
        409,
        "The refusal that this key once got is no longer stored",
        "The operation did not happen. Use a new key to try it again.",
    ),
    "idempotency_response_expired": ProblemType(
        409,
        "The answer that this key once got is no longer stored",
        "The operation was carried out, once. Look for what it made; do not try again.",
    ),
    "reference_taken": ProblemType(
        409,
        "The reference is in use in this ledger",
        "Use another reference, or look up the resource that has it.",
    ),
    "asset_code_taken": ProblemType(
        409,
        "The ledger has an asset of this code",
        "Use that asset, or choose another code.",
    ),
    "hold_expired": ProblemType(
        409,
        "The hold has lapsed",
        "Nothing was moved and nothing is held any more; place a new hold.",
    ),
    "hold_not_active": ProblemType(
        409,
        "The hold has ended",
        "`hold_status` says how; place a new one if needed.",
    ),
    "scheduled_not_pending": ProblemType(
        409,
        "The scheduled transfer has ended",
        "`scheduled_status` says how; one that was posted can be reversed by its "
        "`transfer_id`.",
    ),
    "period_not_closed": ProblemType(
        409,
        "The ledger is not closed that far",
        "Nothing needs to be reopened there; `closed_before` says how far it is.",
    ),
    "payout_in_progress": ProblemType(
        409,
        "The payout may have reached the bank",
        "Wait until the bank has decided; a rejected payout comes back by itself.",
    ),
    "payout_settled": ProblemType(
        409,
        "The bank has paid the payout",
        "Ask the receiver for the money; the ledger cannot call it back.",
    ),
    "account_not_empty": ProblemType(
        409,
        "The account is not empty",
        "A payout destination is set or removed, and an account closed, only while the "
        "balance is zero.",
    ),
    "account_has_holds": ProblemType(
        409,
        "The account still has open holds",
        "Capture or void them, or wait until they lapse; then close it.",
    ),
    "account_has_payouts": ProblemType(
        409,
        "Payouts of the account are not finished",
        "Wait until the bank has decided: a rejected payout comes back to the account.",
    ),
    "account_status_final": ProblemType(
        409,
        "The account is closed, and stays so",
        "Make a new account.",
    ),
    # 422: understood and refused by a rule of the business.
    "idempotency_key_reused": ProblemType(
        422,
        "This idempotency key was used for another request",
        "Use a new key; `differing_fields` names what is not the same.",
    ),
    "batch_refused": ProblemType(
        422,
        "One transfer of the batch was refused, so none was posted",
        "Correct the transfer at `index`, whose refusal is `problem`; then send the "
        "batch with a new idempotency key.",
    ),
    "same_account": ProblemType(
        422,
        "A posting needs two different accounts",
        "Use different accounts for `from_account_id` and `to_account_id`.",
    ),
    "currency_mismatch": ProblemType(
        422,
        "The two accounts of a posting have different currencies",
        "Move money between accounts of one currency.",
    ),
    "currency_unknown": ProblemType(
        422,
        "The currency is neither in ISO 4217 nor an asset of the ledger",
        "Use a current ISO 4217 code with a minor unit, as `USD`, or make an asset.",
    ),
    "asset_code_is_iso": ProblemType(
        422,
        "ISO 4217 uses this code, or once did",
        "Choose another code, for instance a longer one.",
    ),
    "exchange_same_currency": ProblemType(
        422,
        "An exchange needs two currencies",
        "Move money between accounts of one currency by a transfer.",
    ),
    "exchange_amount_too_small": ProblemType(
        422,
        "The exchange would give less than one minor unit",
        "Exchange a larger amount.",
    ),
    "exchange_amount_mismatch": ProblemType(
        422,
        "`to_amount` is not what the rate gives",
        "Send the `to_amount` that this problem names, or leave it out; check the "
        "rate and the currencies' decimals.",
    ),
    "exchange_to_payout_account": ProblemType(
        422,
        "An exchange cannot pay out",
        "Exchange into an ordinary account, and transfer from there.",
    ),
    "account_closed": ProblemType(
        422, "The account is closed", "Use another account; this one stays closed."
    ),
    "account_frozen": ProblemType(
        422,
        "The account is frozen",
        "Wait until it is unfrozen; then use a new idempotency key.",
    ),
    "payout_account_cannot_send": ProblemType(
        422,
        "A payout account holds money on its way to a bank",
        "Send from the account that the money came from.",
    ),
    "payout_account_takes_no_refund": ProblemType(
        422,
        "What is given back to a payout account would be paid out",
        "Take its `payout_destination` away first; it can be given again later.",
    ),
    "effective_at_in_future": ProblemType(
        422,
        "A transfer cannot be effective in the future",
        "Leave `effective_at` out, or let it lie in the past.",
    ),
    "period_closed": ProblemType(
        422,
        "The period of `effective_at` is closed",
        "Let it be effective after `closed_before`, or have the period reopened.",
    ),
    "period_not_over": ProblemType(
        422,
        "The period has not been over for an hour",
        "Close it from `closable_from` on, with a new idempotency key if you use one.",
    ),
    "due_at_out_of_range": ProblemType(
        422,
        "The transfer cannot be scheduled for that time",
        "Give a `due_at` after `after`, and not later than `latest`.",
    ),
    "retry_until_out_of_range": ProblemType(
        422,
        "The transfer cannot be tried again until that time",
        "Give a `retry_until` after `due_at`, and not later than `latest`.",
    ),
    "limit_exceeded": ProblemType(
        422,
        "A velocity limit of the account would be exceeded",
        "Move at most `headroom`, or wait until the window has passed.",
    ),
    "expires_at_in_past": ProblemType(
        422, "The hold would have lapsed already", "Let `expires_at` lie ahead."
    ),
    "expires_at_not_later": ProblemType(
        422,
        "The hold lapses later than that already",
        "Extend it beyond its `expires_at`; to end it, void it.",
    ),
    "hold_too_long": ProblemType(
        422,
        "The hold would live longer than the ledger allows",
        "Let it lapse by `latest_expires_at`; `manage.py set_ledger` has the limit.",
    ),
    "capture_exceeds_hold": ProblemType(
        422,
        "The capture takes more than the hold allows",
        "Capture at most `capturable` of the posting.",
    ),
    "transfer_not_reversible": ProblemType(
        422,
        "Transfers of this kind cannot be reversed",
        "Reverse the transfer that it belongs to, or post a new one.",
    ),
    "reversal_exceeds_transfer": ProblemType(
        422,
        "More would be reversed than is left of the posting",
        "Reverse at most `amount_reversible`.",
    ),
    "exchange_reversed_whole": ProblemType(
        422,
        "An exchange is reversed whole",
        "Reverse it without amounts, or post another exchange.",
    ),
    "payout_reversed_whole": ProblemType(
        422,
        "A payout is reversed whole and on its own",
        "Reverse `posting_number` alone, with its full amount.",
    ),
    "insufficient_funds": ProblemType(
        422,
        "The account's available balance is too small",
        "Lower the amount or add funds; then use a new idempotency key.",
    ),
    "balance_out_of_range": ProblemType(
        422,
        "The balance would leave the range that JSON carries exactly",
        "Move less; a balance stays within plus and minus 2^53 - 1 minor units.",
    ),
    "reference_reserved": ProblemType(
        422,
        "References that start with `system:` are reserved",
        "Use another reference.",
    ),
    "system_account_protected": ProblemType(
        422,
        "Accounts of the system are not limited, frozen or closed",
        "Leave it as it is: settlements and reversals depend on it.",
    ),
    "payout_account_floor_must_be_zero": ProblemType(
        422,
        "A payout account has a floor of zero",
        "Leave `min_balance` out; what is in flight must always be free to leave.",
    ),
    "payout_account_must_be_liability": ProblemType(
        422,
        "Only a liability account can have a payout destination",
        "Make a liability account for the payouts.",
    ),
    "instant_in_future": ProblemType(
        422,
        "The instant lies in the future",
        "Ask for an instant that has passed by PostgreSQL's clock, which `now` names.",
    ),
    "as_recorded_at_not_final": ProblemType(
        422,
        "What is recorded by then is not final yet",
        "Ask again at `final_at`, or leave `as_recorded_at` out.",
        retryable=True,
    ),
    "report_too_long": ProblemType(
        422,
        "The report has too many rows for this format",
        "Ask for a shorter period or for `format=csv`; `max_rows` is the limit.",
    ),
    # 429 and 5xx: nothing is stored with the key. A commit whose answer was lost may
    # stand all the same; a retry with the same key finds out.
    "rate_limited": ProblemType(
        429, "Too many requests", "Slow down as `Retry-After` says.", retryable=True
    ),
    "internal_error": ProblemType(
        500,
        "Something went wrong on our side",
        "Retry with the same idempotency key; tell the operator the `X-Request-ID`.",
        retryable=True,
    ),
    "ledger_busy": ProblemType(
        503,
        "The accounts are busy",
        "Retry with the same idempotency key after `Retry-After` seconds.",
        retryable=True,
    ),
    "clock_behind": ProblemType(
        503,
        "The database's clock is behind what it has recorded",
        "The operator must set PostgreSQL's clock right; retry with the same key then.",
        retryable=True,
    ),
    "database_unavailable": ProblemType(
        503,
        "The database cannot be reached",
        "Retry with the same idempotency key after `Retry-After` seconds.",
        retryable=True,
    ),
}

#: Statuses of outcomes that commit and are stored with the idempotency key.
STORED_REFUSAL_STATUSES = frozenset({409, 422})
