-- Holds, and transfers that come from another one: captures and reversals.

-- 1. Columns -----------------------------------------------------------------------

-- What a client may do beyond the ordinary.
ALTER TABLE ledger_api_client
    ADD COLUMN permissions text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT api_client_permissions_are_known CHECK (
        permissions <@ ARRAY['capture_frozen', 'force_reversal', 'close_period',
            'reopen_period', 'manage_accounts']);

ALTER TABLE ledger_transfer
    ADD COLUMN hold_id uuid,
    -- For each posting, the number of the posting that it comes from, of the hold that
    -- is captured or of the transfer that is reversed.
    ADD COLUMN source_postings integer[],
    ADD COLUMN reason text,
    -- The permission without which this transfer would have been refused.
    ADD COLUMN permission text,
    ADD COLUMN exchange_rate numeric(38, 18);

-- Payouts that were reversed before this migration: their tasks know the posting.
ALTER TABLE ledger_transfer DISABLE TRIGGER transfer_is_append_only;
UPDATE ledger_transfer t SET source_postings = ARRAY[k.posting_number]
FROM outbox_task k
WHERE k.ledger_id = t.ledger_id AND k.completion_transfer_id = t.id
    AND t.kind = 'payout_reversal';
ALTER TABLE ledger_transfer ENABLE ALWAYS TRIGGER transfer_is_append_only;

ALTER TABLE ledger_transfer
    DROP CONSTRAINT transfer_kind_is_known,
    DROP CONSTRAINT transfer_payout_reversal_names_transfer;
ALTER TABLE ledger_transfer
    ADD CONSTRAINT transfer_kind_is_known CHECK (
        kind IN ('transfer', 'opening_balance', 'exchange', 'capture', 'reversal',
            'settlement', 'payout_reversal')),
    ADD CONSTRAINT transfer_capture_names_hold CHECK (
        (kind = 'capture') = (hold_id IS NOT NULL)),
    ADD CONSTRAINT transfer_reversal_names_transfer CHECK (
        (kind IN ('reversal', 'payout_reversal')) = (reverses_transfer_id IS NOT NULL)),
    ADD CONSTRAINT transfer_sources_are_of_each_posting CHECK (
        CASE WHEN hold_id IS NULL AND reverses_transfer_id IS NULL
            THEN source_postings IS NULL
            ELSE cardinality(source_postings) IS NOT DISTINCT FROM posting_count END),
    ADD CONSTRAINT transfer_reversal_has_reason CHECK (
        (kind = 'reversal') = (reason IS NOT NULL)),
    ADD CONSTRAINT transfer_reason_is_known CHECK (
        reason IN ('duplicate', 'fraud', 'customer_request', 'error', 'other')),
    ADD CONSTRAINT transfer_permission_is_known CHECK (
        permission IS NULL
        OR (permission = 'capture_frozen' AND kind = 'capture')
        OR (permission = 'force_reversal' AND kind = 'reversal')),
    ADD CONSTRAINT transfer_exchange_has_rate CHECK (
        CASE WHEN kind = 'exchange'
            THEN exchange_rate IS NOT NULL AND exchange_rate > 0
                AND exchange_rate <> 'NaN' AND posting_count = 2
            ELSE exchange_rate IS NULL END);

-- 2. Holds -------------------------------------------------------------------------

CREATE TABLE ledger_hold (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    status text NOT NULL DEFAULT 'active',
    posting_count integer NOT NULL,
    reference text COLLATE "C",
    description text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    actor text NOT NULL,
    client_id uuid,
    key_id uuid,
    request_id text NOT NULL DEFAULT '',
    idempotency_key text,
    CONSTRAINT ledger_hold_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT hold_status_is_known CHECK (
        status IN ('active', 'captured', 'voided', 'expired')),
    CONSTRAINT hold_has_postings CHECK (posting_count > 0),
    CONSTRAINT hold_expires_after_its_beginning CHECK (expires_at > created_at),
    CONSTRAINT hold_lifetime_is_limited CHECK (
        expires_at <= created_at + interval '366 days'),
    CONSTRAINT hold_end_has_time CHECK ((status = 'active') = (ended_at IS NULL))
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX hold_reference_unique_in_ledger
    ON ledger_hold (ledger_id, reference) WHERE reference IS NOT NULL;
CREATE INDEX hold_due ON ledger_hold (ledger_id, expires_at) WHERE status = 'active';

CREATE TABLE ledger_hold_posting (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    hold_id uuid NOT NULL,
    number integer NOT NULL,
    from_account_id uuid NOT NULL,
    to_account_id uuid NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    -- The most that captures may take: the amount and the over-capture allowance of the
    -- day on which the hold was made.
    capture_limit bigint NOT NULL,
    captured bigint NOT NULL DEFAULT 0,
    released bigint NOT NULL DEFAULT 0,
    -- Repeated from the hold, so that an account's lapsed holds are found by index.
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT ledger_hold_posting_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT hold_posting_number_unique UNIQUE (ledger_id, hold_id, number),
    CONSTRAINT hold_posting_belongs_to_hold
        FOREIGN KEY (ledger_id, hold_id) REFERENCES ledger_hold (ledger_id, id),
    CONSTRAINT hold_posting_from_account_of_currency
        FOREIGN KEY (ledger_id, from_account_id, currency)
        REFERENCES ledger_account (ledger_id, id, currency),
    CONSTRAINT hold_posting_to_account_of_currency
        FOREIGN KEY (ledger_id, to_account_id, currency)
        REFERENCES ledger_account (ledger_id, id, currency),
    CONSTRAINT hold_posting_has_two_accounts CHECK (from_account_id <> to_account_id),
    CONSTRAINT hold_posting_number_is_positive CHECK (number > 0),
    CONSTRAINT hold_posting_amount_is_positive CHECK (amount > 0),
    CONSTRAINT hold_posting_amount_fits_json CHECK (
        capture_limit <= 9007199254740991),
    CONSTRAINT hold_posting_limit_covers_amount CHECK (capture_limit >= amount),
    CONSTRAINT hold_captured_within_limit CHECK (
        captured >= 0 AND captured <= capture_limit),
    CONSTRAINT hold_captured_and_released_within_held CHECK (
        released >= 0 AND least(captured, amount) + released <= amount)
) WITH (fillfactor = 80);

-- What an account's open holds are, the next to lapse first.
CREATE INDEX hold_posting_open_from
    ON ledger_hold_posting (ledger_id, from_account_id, expires_at)
    WHERE least(captured, amount) + released < amount;
CREATE INDEX hold_posting_open_to
    ON ledger_hold_posting (ledger_id, to_account_id, expires_at)
    WHERE least(captured, amount) + released < amount;
-- What velocity limits give back is among what was not captured.
CREATE INDEX hold_posting_uncaptured_from
    ON ledger_hold_posting (ledger_id, from_account_id, created_at)
    WHERE captured < amount;
CREATE INDEX hold_posting_uncaptured_to
    ON ledger_hold_posting (ledger_id, to_account_id, created_at)
    WHERE captured < amount;

CREATE TABLE ledger_hold_event (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    hold_id uuid NOT NULL,
    kind text NOT NULL,
    captured bigint NOT NULL DEFAULT 0,
    released bigint NOT NULL DEFAULT 0,
    transfer_id uuid,
    expires_at timestamptz,
    reason text NOT NULL DEFAULT '',
    actor text NOT NULL,
    client_id uuid,
    key_id uuid,
    request_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    CONSTRAINT ledger_hold_event_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT hold_event_belongs_to_hold
        FOREIGN KEY (ledger_id, hold_id) REFERENCES ledger_hold (ledger_id, id),
    CONSTRAINT hold_event_names_transfer
        FOREIGN KEY (ledger_id, transfer_id) REFERENCES ledger_transfer (ledger_id, id),
    CONSTRAINT hold_event_kind_is_known CHECK (
        kind IN ('placed', 'extended', 'captured', 'voided', 'expired')),
    CONSTRAINT hold_event_capture_has_transfer CHECK (
        (kind = 'captured') = (transfer_id IS NOT NULL)),
    CONSTRAINT hold_event_expiry_is_stated CHECK (
        (kind IN ('placed', 'extended')) = (expires_at IS NOT NULL)),
    CONSTRAINT hold_event_amounts_not_negative CHECK (captured >= 0 AND released >= 0)
);
CREATE INDEX hold_event_of_hold ON ledger_hold_event (ledger_id, hold_id, id);

ALTER TABLE ledger_transfer ADD CONSTRAINT transfer_captures_hold
    FOREIGN KEY (ledger_id, hold_id) REFERENCES ledger_hold (ledger_id, id);
CREATE INDEX transfer_captures ON ledger_transfer (ledger_id, hold_id)
    WHERE hold_id IS NOT NULL;

CREATE TRIGGER hold_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_hold
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('hold_is_never_deleted');
ALTER TABLE ledger_hold ENABLE ALWAYS TRIGGER hold_is_never_deleted;

CREATE TRIGGER hold_posting_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_hold_posting
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('hold_posting_is_never_deleted');
ALTER TABLE ledger_hold_posting ENABLE ALWAYS TRIGGER hold_posting_is_never_deleted;

CREATE TRIGGER hold_event_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_hold_event
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('hold_event_is_append_only');
ALTER TABLE ledger_hold_event ENABLE ALWAYS TRIGGER hold_event_is_append_only;

-- A new hold is whole: its postings 1..posting_count, nothing captured, made now.
CREATE FUNCTION ledger_check_new_holds() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT h.id INTO bad
    FROM new_holds h
    CROSS JOIN LATERAL (
        SELECT count(*) AS postings, max(p.number) AS last,
            coalesce(bool_and(p.captured = 0 AND p.released = 0
                AND p.expires_at = h.expires_at AND p.created_at = h.created_at), false)
                AS is_fresh
        FROM ONLY ledger_hold_posting p
        WHERE p.ledger_id = h.ledger_id AND p.hold_id = h.id OFFSET 0) p
    WHERE h.status <> 'active' OR p.postings <> h.posting_count
       OR p.last <> h.posting_count OR NOT p.is_fresh
       OR h.created_at < statement_timestamp()
       OR h.created_at > clock_timestamp() + interval '1 minute'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % does not come whole', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'hold_comes_with_its_postings';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_insert_is_whole AFTER INSERT ON ledger_hold
    REFERENCING NEW TABLE AS new_holds
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_holds();
ALTER TABLE ledger_hold ENABLE ALWAYS TRIGGER hold_insert_is_whole;

-- A hold has all of its numbers from the beginning, so what comes later has one beyond
-- them. It may reserve only what a transfer could move.
CREATE FUNCTION ledger_check_new_hold_postings() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT x.id, x.rule INTO bad
    FROM (
        SELECT p.id, CASE
            WHEN p.number > h.posting_count
                THEN 'hold_comes_with_its_postings'
            WHEN a.status IN ('frozen', 'closed')
              OR (a.status = 'frozen_out'
                  AND s.is_debit = (a.kind NOT IN ('asset', 'expense')))
                THEN 'account_status_allows_hold'
            WHEN s.is_debit AND a.payout_destination IS NOT NULL
                THEN 'payout_account_sends_only_completions'
            END AS rule
        FROM new_postings p
        JOIN ONLY ledger_hold h ON h.ledger_id = p.ledger_id AND h.id = p.hold_id
        CROSS JOIN LATERAL (VALUES (p.from_account_id, true), (p.to_account_id, false))
            AS s (account_id, is_debit)
        JOIN ONLY ledger_account a
            ON a.ledger_id = p.ledger_id AND a.id = s.account_id
    ) x
    WHERE x.rule IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold posting % breaks %', bad.id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_posting_insert_is_legal AFTER INSERT ON ledger_hold_posting
    REFERENCING NEW TABLE AS new_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_hold_postings();
ALTER TABLE ledger_hold_posting ENABLE ALWAYS TRIGGER hold_posting_insert_is_legal;

CREATE FUNCTION ledger_check_hold_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT x.id, x.rule INTO bad
    FROM (
        SELECT o.id, CASE
            WHEN n.id IS NULL
              OR (n.posting_count, n.reference, n.description, n.metadata, n.created_at,
                  n.actor, n.client_id, n.key_id, n.request_id, n.idempotency_key)
                 IS DISTINCT FROM
                 (o.posting_count, o.reference, o.description, o.metadata, o.created_at,
                  o.actor, o.client_id, o.key_id, o.request_id, o.idempotency_key)
                THEN 'hold_identity_never_changes'
            WHEN o.status <> 'active'
                THEN 'hold_end_is_final'
            WHEN n.expires_at <> o.expires_at
              AND (n.status <> 'active' OR o.expires_at <= clock_timestamp()
                   OR n.expires_at < o.expires_at)
                THEN 'hold_is_extended_before_it_lapses'
            WHEN n.status = 'expired' AND n.expires_at > clock_timestamp()
                THEN 'hold_expires_when_it_has_lapsed'
            WHEN n.ended_at < statement_timestamp()
              OR n.ended_at > clock_timestamp() + interval '1 minute'
                THEN 'hold_ends_when_it_is_recorded'
            WHEN (n.status = 'active') IS DISTINCT FROM p.is_open
                THEN 'hold_is_active_while_it_holds'
            WHEN n.status = 'captured' AND NOT p.is_captured
                THEN 'hold_captured_has_captures'
            WHEN NOT p.has_same_expiry
                THEN 'hold_postings_expire_together'
            END AS rule
        FROM old_holds o
        LEFT JOIN new_holds n ON n.ledger_id = o.ledger_id AND n.id = o.id
        LEFT JOIN LATERAL (
            SELECT bool_or(least(p.captured, p.amount) + p.released < p.amount)
                    AS is_open,
                bool_or(p.captured > 0) AS is_captured,
                bool_and(p.expires_at = n.expires_at) AS has_same_expiry
            FROM ONLY ledger_hold_posting p
            WHERE p.ledger_id = o.ledger_id AND p.hold_id = o.id OFFSET 0) p ON true
    ) x
    WHERE x.rule IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the update of hold % breaks %', bad.id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_update_is_legal AFTER UPDATE ON ledger_hold
    REFERENCING OLD TABLE AS old_holds NEW TABLE AS new_holds
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_hold_update();
ALTER TABLE ledger_hold ENABLE ALWAYS TRIGGER hold_update_is_legal;

-- What is captured is what capture transfers moved. A posting that holds nothing is at
-- its end, and so is, with its last one, the hold.
CREATE FUNCTION ledger_check_hold_posting_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT x.id, x.rule INTO bad
    FROM (
        SELECT o.id, CASE
            WHEN n.id IS NULL
              OR (n.hold_id, n.number, n.from_account_id, n.to_account_id, n.currency,
                  n.amount, n.capture_limit, n.created_at)
                 IS DISTINCT FROM
                 (o.hold_id, o.number, o.from_account_id, o.to_account_id, o.currency,
                  o.amount, o.capture_limit, o.created_at)
                THEN 'hold_identity_never_changes'
            WHEN n.captured < o.captured OR n.released < o.released
                THEN 'hold_totals_never_decrease'
            WHEN (n.captured, n.released) <> (o.captured, o.released)
              AND least(o.captured, o.amount) + o.released >= o.amount
                THEN 'hold_end_is_final'
            WHEN (h.status = 'active') <> h.is_open
                THEN 'hold_is_active_while_it_holds'
            WHEN n.expires_at <> h.expires_at
                THEN 'hold_postings_expire_together'
            WHEN n.captured > o.captured AND n.captured <> c.captured
                THEN 'hold_captured_equals_captures'
            END AS rule
        FROM old_postings o
        LEFT JOIN new_postings n ON n.ledger_id = o.ledger_id AND n.id = o.id
        LEFT JOIN LATERAL (
            SELECT h.status, h.expires_at, EXISTS (
                SELECT 1 FROM ONLY ledger_hold_posting p
                WHERE p.ledger_id = h.ledger_id AND p.hold_id = h.id
                  AND least(p.captured, p.amount) + p.released < p.amount) AS is_open
            FROM ONLY ledger_hold h
            WHERE h.ledger_id = o.ledger_id AND h.id = o.hold_id OFFSET 0) h ON true
        LEFT JOIN LATERAL (
            SELECT coalesce(sum(e.amount), 0) AS captured
            FROM ONLY ledger_transfer t
            CROSS JOIN LATERAL (
                SELECT e.amount FROM ONLY ledger_entry e
                WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id
                  AND e.direction = 'debit'
                  AND t.source_postings[e.posting_number] = o.number OFFSET 0) e
            WHERE t.ledger_id = o.ledger_id AND t.hold_id = o.hold_id OFFSET 0
            ) c ON true
    ) x
    WHERE x.rule IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the update of hold posting % breaks %', bad.id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_posting_update_is_legal AFTER UPDATE ON ledger_hold_posting
    REFERENCING OLD TABLE AS old_postings NEW TABLE AS new_postings
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_hold_posting_update();
ALTER TABLE ledger_hold_posting ENABLE ALWAYS TRIGGER hold_posting_update_is_legal;

-- 3. Reversals ---------------------------------------------------------------------

-- How much of a posting is reversed: a row that can be locked and checked, as a
-- transfer's own cannot. It exists from the first reversal on.
CREATE TABLE ledger_reversal_total (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    transfer_id uuid NOT NULL,
    posting_number integer NOT NULL,
    amount bigint NOT NULL,
    reversed bigint NOT NULL,
    CONSTRAINT ledger_reversal_total_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT reversal_total_unique_per_posting
        UNIQUE (ledger_id, transfer_id, posting_number),
    CONSTRAINT reversal_total_belongs_to_transfer
        FOREIGN KEY (ledger_id, transfer_id) REFERENCES ledger_transfer (ledger_id, id),
    CONSTRAINT reversed_within_transferred CHECK (
        reversed > 0 AND reversed <= amount)
) WITH (fillfactor = 80);

INSERT INTO ledger_reversal_total (ledger_id, id, transfer_id, posting_number, amount,
    reversed)
SELECT k.ledger_id, k.id, k.transfer_id, k.posting_number, k.amount, k.amount
FROM outbox_task k
JOIN ledger_transfer t ON t.ledger_id = k.ledger_id AND t.id = k.completion_transfer_id
WHERE t.kind = 'payout_reversal';

CREATE TRIGGER reversal_total_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_reversal_total
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('reversal_total_is_never_deleted');
ALTER TABLE ledger_reversal_total ENABLE ALWAYS TRIGGER reversal_total_is_never_deleted;

CREATE TRIGGER reversal_total_identity_never_changes
    BEFORE UPDATE OF ledger_id, id, transfer_id, posting_number, amount
    ON ledger_reversal_total
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('reversal_total_identity_never_changes');
ALTER TABLE ledger_reversal_total
    ENABLE ALWAYS TRIGGER reversal_total_identity_never_changes;

-- A total says what the reversals of its posting say, of what the posting moved.
CREATE FUNCTION ledger_check_reversal_totals() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT n.id INTO bad
    FROM new_totals n
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(e.amount), 0) AS reversed
        FROM ONLY ledger_transfer t
        JOIN ONLY ledger_entry e ON e.ledger_id = t.ledger_id
            AND e.transfer_id = t.id AND e.direction = 'credit'
        WHERE t.ledger_id = n.ledger_id AND t.reverses_transfer_id = n.transfer_id
          AND t.source_postings[e.posting_number] = n.posting_number OFFSET 0) r
    WHERE n.reversed <> r.reversed OR NOT EXISTS (
        SELECT 1 FROM ONLY ledger_entry e
        WHERE e.ledger_id = n.ledger_id AND e.transfer_id = n.transfer_id
          AND e.posting_number = n.posting_number AND e.direction = 'debit'
          AND e.amount = n.amount)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'reversal total % is not what was reversed', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'reversal_total_equals_reversals';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER reversal_total_insert_is_legal AFTER INSERT ON ledger_reversal_total
    REFERENCING NEW TABLE AS new_totals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_reversal_totals();
ALTER TABLE ledger_reversal_total ENABLE ALWAYS TRIGGER reversal_total_insert_is_legal;
CREATE TRIGGER reversal_total_update_is_legal AFTER UPDATE ON ledger_reversal_total
    REFERENCING NEW TABLE AS new_totals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_reversal_totals();
ALTER TABLE ledger_reversal_total ENABLE ALWAYS TRIGGER reversal_total_update_is_legal;

-- 4. Transfers that come from something --------------------------------------------

-- A capture moves what its hold holds, a reversal moves back what its transfer moved,
-- and both are counted where the limit of what they may move is checked.
CREATE FUNCTION ledger_check_transfer_origins() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
-- From the new transfers on, as written: begun anywhere else, it reads all entries.
SET join_collapse_limit = 1
AS $$
DECLARE
    bad record;
BEGIN
    PERFORM FROM new_transfers t
    WHERE t.hold_id IS NOT NULL OR t.reverses_transfer_id IS NOT NULL LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT x.id, x.rule INTO bad
    FROM (
        SELECT t.id, CASE
            WHEN p.number IS NULL OR p.from_account_id <> d.account_id
              OR p.to_account_id <> c.account_id
                THEN 'capture_moves_what_is_held'
            WHEN t.created_at >= p.expires_at
                THEN 'capture_before_expiry'
            WHEN p.captured <> (
                SELECT sum(e.amount)
                FROM ONLY ledger_transfer s
                JOIN ONLY ledger_entry e ON e.ledger_id = s.ledger_id
                    AND e.transfer_id = s.id AND e.direction = 'debit'
                WHERE s.ledger_id = t.ledger_id AND s.hold_id = t.hold_id
                  AND s.source_postings[e.posting_number] = p.number)
                THEN 'hold_captured_equals_captures'
            END AS rule
        FROM new_transfers t
        JOIN ONLY ledger_entry d ON d.ledger_id = t.ledger_id
            AND d.transfer_id = t.id AND d.direction = 'debit'
        JOIN ONLY ledger_entry c ON c.ledger_id = t.ledger_id
            AND c.transfer_id = t.id AND c.direction = 'credit'
            AND c.posting_number = d.posting_number
        LEFT JOIN ONLY ledger_hold_posting p ON p.ledger_id = t.ledger_id
            AND p.hold_id = t.hold_id AND p.number = t.source_postings[d.posting_number]
        WHERE t.hold_id IS NOT NULL
        UNION ALL
        SELECT t.id, CASE
            WHEN s.kind IN ('reversal', 'payout_reversal', 'settlement')
                THEN 'reversal_is_not_reversed'
            WHEN EXISTS (
                SELECT 1 FROM ONLY ledger_account a
                WHERE a.ledger_id = t.ledger_id AND a.id = c.account_id
                  AND a.payout_destination IS NOT NULL)
                THEN 'reversal_enters_no_payout_account'
            WHEN o.account_id IS NULL OR o.account_id <> c.account_id
              OR (i.account_id IS DISTINCT FROM d.account_id
                  AND (t.permission IS DISTINCT FROM 'force_reversal' OR NOT EXISTS (
                      SELECT 1 FROM ONLY ledger_account a
                      WHERE a.ledger_id = t.ledger_id AND a.id = d.account_id
                        AND a.reference = 'system:receivables:' || d.currency)))
                THEN 'reversal_moves_back_what_was_moved'
            WHEN (t.kind = 'payout_reversal') <> EXISTS (
                SELECT 1 FROM ONLY outbox_task k
                WHERE k.ledger_id = t.ledger_id AND k.transfer_id = s.id
                  AND k.kind = 'payout' AND k.posting_number = o.posting_number)
                THEN 'payout_is_reversed_by_payout_reversal'
            WHEN r.reversed IS NULL OR r.reversed <> (
                SELECT sum(e.amount)
                FROM ONLY ledger_transfer b
                JOIN ONLY ledger_entry e ON e.ledger_id = b.ledger_id
                    AND e.transfer_id = b.id AND e.direction = 'credit'
                WHERE b.ledger_id = t.ledger_id
                  AND b.reverses_transfer_id = t.reverses_transfer_id
                  AND b.source_postings[e.posting_number] = o.posting_number)
                THEN 'reversal_total_equals_reversals'
            WHEN s.kind = 'exchange' AND (
                r.reversed <> r.amount OR NOT t.source_postings @> ARRAY[1, 2])
                THEN 'exchange_is_reversed_whole'
            END AS rule
        FROM new_transfers t
        JOIN ONLY ledger_transfer s ON s.ledger_id = t.ledger_id
            AND s.id = t.reverses_transfer_id
        JOIN ONLY ledger_entry d ON d.ledger_id = t.ledger_id
            AND d.transfer_id = t.id AND d.direction = 'debit'
        JOIN ONLY ledger_entry c ON c.ledger_id = t.ledger_id
            AND c.transfer_id = t.id AND c.direction = 'credit'
            AND c.posting_number = d.posting_number
        LEFT JOIN ONLY ledger_entry o ON o.ledger_id = t.ledger_id
            AND o.transfer_id = s.id AND o.direction = 'debit'
            AND o.posting_number = t.source_postings[d.posting_number]
        LEFT JOIN ONLY ledger_entry i ON i.ledger_id = t.ledger_id
            AND i.transfer_id = s.id AND i.direction = 'credit'
            AND i.posting_number = o.posting_number
        LEFT JOIN ONLY ledger_reversal_total r ON r.ledger_id = t.ledger_id
            AND r.transfer_id = s.id AND r.posting_number = o.posting_number
        WHERE t.reverses_transfer_id IS NOT NULL
    ) x
    WHERE x.rule IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % breaks %', bad.id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_origin_is_legal AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS new_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_transfer_origins();
ALTER TABLE ledger_transfer ENABLE ALWAYS TRIGGER transfer_origin_is_legal;

-- 5. Payout accounts ---------------------------------------------------------------

-- An account becomes a payout account, or ceases to be one, only without holds either:
-- what they are captured for must not change under them.
CREATE FUNCTION ledger_check_payout_role() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF (NEW.payout_destination IS NULL) <> (OLD.payout_destination IS NULL)
       AND (NEW.debits_pending <> 0 OR NEW.credits_pending <> 0)
    THEN
        RAISE EXCEPTION 'account % has holds and keeps its role', NEW.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'account_payout_role_changes_only_empty';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER account_payout_role_changes_only_empty
    AFTER UPDATE OF payout_destination ON ledger_account
    FOR EACH ROW EXECUTE FUNCTION ledger_check_payout_role();
ALTER TABLE ledger_account ENABLE ALWAYS TRIGGER account_payout_role_changes_only_empty;

-- 6. Entries -----------------------------------------------------------------------

-- As in 0002, but that a capture with the permission posts on frozen accounts.
CREATE OR REPLACE FUNCTION ledger_check_new_entries() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    -- A transfer's entries are exactly its postings 1..posting_count, each one debit
    -- and one credit of one amount and currency on two accounts, all in one statement.
    -- (Accounts are compared by hash: equal accounts never pass, and two different
    -- ones are taken for equal once in 2^64.)
    SELECT p.transfer_id INTO bad
    FROM (
        SELECT n.ledger_id, n.transfer_id, n.posting_number,
               count(*) <> 2
               OR count(*) FILTER (WHERE n.direction = 'debit') <> 1
               OR min(n.amount) <> max(n.amount)
               OR min(n.currency) <> max(n.currency)
               OR min(uuid_hash_extended(n.account_id, 0))
                  = max(uuid_hash_extended(n.account_id, 0)) AS is_broken
        FROM new_entries n
        GROUP BY n.ledger_id, n.transfer_id, n.posting_number
    ) p
    GROUP BY p.ledger_id, p.transfer_id
    HAVING bool_or(p.is_broken)
        OR min(p.posting_number) <> 1
        OR max(p.posting_number) <> count(*)
        OR count(*) IS DISTINCT FROM (
            SELECT t.posting_count FROM ONLY ledger_transfer t
            WHERE t.ledger_id = p.ledger_id AND t.id = p.transfer_id)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries of transfer % are not its postings', bad.transfer_id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_entries_are_its_postings';
    END IF;

    SELECT n.id, n.account_id, CASE
        WHEN t.kind IS NULL
            THEN 'entry_belongs_to_transfer'
        WHEN a.currency IS DISTINCT FROM n.currency
            THEN 'entry_belongs_to_account_of_currency'
        WHEN n.created_at <> t.created_at OR n.effective_at <> t.effective_at
            THEN 'entry_repeats_times_of_transfer'
        WHEN n.account_version > 1 AND p.debits_after IS NULL
            THEN 'entry_versions_have_no_gaps'
        WHEN n.debits_after <> coalesce(p.debits_after, 0)
                + CASE n.direction WHEN 'debit' THEN n.amount ELSE 0 END
          OR n.credits_after <> coalesce(p.credits_after, 0)
                + CASE n.direction WHEN 'credit' THEN n.amount ELSE 0 END
            THEN 'entry_totals_follow_previous'
        WHEN n.created_at < p.created_at
            THEN 'entry_time_does_not_decrease'
        WHEN a.version < n.account_version
          OR (a.version = n.account_version
              AND (a.debits_posted, a.credits_posted, a.last_entry_at)
                  IS DISTINCT FROM (n.debits_after, n.credits_after, n.created_at))
            THEN 'account_counters_equal_last_entry'
        WHEN a.status = 'closed'
          OR (t.kind NOT IN ('settlement', 'payout_reversal')
              AND t.permission IS DISTINCT FROM 'capture_frozen'
              AND (a.status = 'frozen'
                   OR (a.status = 'frozen_out'
                       AND (n.direction = 'debit')
                           = (a.kind NOT IN ('asset', 'expense')))))
            THEN 'account_status_allows_entry'
        WHEN n.direction = 'debit' AND a.payout_destination IS NOT NULL
          AND t.kind NOT IN ('settlement', 'payout_reversal')
            THEN 'payout_account_sends_only_completions'
        END AS rule
    INTO bad
    FROM new_entries n
    LEFT JOIN LATERAL (
        SELECT t.kind, t.permission, t.created_at, t.effective_at FROM ONLY ledger_transfer t
        WHERE t.ledger_id = n.ledger_id AND t.id = n.transfer_id OFFSET 0) t ON true
    LEFT JOIN LATERAL (
        SELECT a.version, a.debits_posted, a.credits_posted, a.last_entry_at, a.status,
               a.kind, a.currency, a.payout_destination
        FROM ONLY ledger_account a
        WHERE a.ledger_id = n.ledger_id AND a.id = n.account_id OFFSET 0) a ON true
    LEFT JOIN LATERAL (
        SELECT e.debits_after, e.credits_after, e.created_at FROM ONLY ledger_entry e
        WHERE e.ledger_id = n.ledger_id AND e.account_id = n.account_id
          AND e.account_version = n.account_version - 1 OFFSET 0) p ON true
    WHERE t.kind IS NULL OR a.currency IS DISTINCT FROM n.currency
       OR n.created_at <> t.created_at OR n.effective_at <> t.effective_at
       OR (n.account_version > 1 AND p.debits_after IS NULL)
       OR n.debits_after <> coalesce(p.debits_after, 0)
            + CASE n.direction WHEN 'debit' THEN n.amount ELSE 0 END
       OR n.credits_after <> coalesce(p.credits_after, 0)
            + CASE n.direction WHEN 'credit' THEN n.amount ELSE 0 END
       OR n.created_at < p.created_at
       OR a.version < n.account_version
       OR (a.version = n.account_version
           AND (a.debits_posted, a.credits_posted, a.last_entry_at)
               IS DISTINCT FROM (n.debits_after, n.credits_after, n.created_at))
       OR (a.status <> 'open' AND (
           a.status = 'closed'
           OR (t.kind NOT IN ('settlement', 'payout_reversal')
               AND t.permission IS DISTINCT FROM 'capture_frozen'
               AND (a.status = 'frozen'
                    OR (n.direction = 'debit') = (a.kind NOT IN ('asset', 'expense'))))))
       OR (n.direction = 'debit' AND a.payout_destination IS NOT NULL
           AND t.kind NOT IN ('settlement', 'payout_reversal'))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry % of account % breaks %', bad.id, bad.account_id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
