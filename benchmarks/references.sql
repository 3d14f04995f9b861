-- The references: the least SQL that leaves the rows that the API leaves, in the same
-- tables with all their constraints and triggers. benchmarks/references.py makes the
-- functions in the database of a benchmark, and compares the rows.
--
-- $ledger$, $client$ and $key$ stand for ids, and $actor$ for a text.

CREATE SCHEMA benchmark;
GRANT USAGE ON SCHEMA benchmark TO PUBLIC;

-- What the API stored with the key of one transfer and of one batch.
CREATE TABLE benchmark.answer (
    operation text PRIMARY KEY,
    digests jsonb NOT NULL,
    status smallint NOT NULL,
    resource_type text NOT NULL,
    response_headers jsonb NOT NULL,
    response_body bytea NOT NULL
);
GRANT SELECT ON benchmark.answer TO PUBLIC;

-- The accounts by number, from 1.
CREATE TABLE benchmark.account (number int PRIMARY KEY, id uuid NOT NULL);
GRANT SELECT ON benchmark.account TO PUBLIC;

-- One transfer. The accounts are found by their references, which costs what finding
-- them by their ids does. With a key the answer is stored with it.
CREATE FUNCTION benchmark.transfer(
    from_number int, to_number int, wanted_amount bigint, with_key boolean
) RETURNS void
LANGUAGE plpgsql AS $function$
DECLARE
    from_reference text := 'books-account-' || lpad(from_number::text, 9, '0');
    to_reference text := 'books-account-' || lpad(to_number::text, 9, '0');
    account record;
    payer record;
    payee record;
    new_transfer_id uuid := uuidv7();
    new_request_id text := gen_random_uuid()::text;
    new_key text := gen_random_uuid()::text;
BEGIN
    FOR account IN
        SELECT a.id, a.reference, a.currency, a.version, a.debits_posted,
            a.credits_posted, a.last_entry_at
        FROM ledger_account a
        WHERE a.ledger_id = $ledger$
          AND a.reference IN (from_reference, to_reference)
        ORDER BY a.id FOR NO KEY UPDATE
    LOOP
        IF account.reference = from_reference THEN
            payer := account;
        ELSE
            payee := account;
        END IF;
    END LOOP;

    WITH clock AS MATERIALIZED (
        SELECT greatest(clock_timestamp(), payer.last_entry_at, payee.last_entry_at)
            AS at
    ), transfers AS (
        INSERT INTO ledger_transfer (
            ledger_id, id, kind, posting_count, effective_at, created_at, actor,
            client_id, key_id, request_id, idempotency_key)
        SELECT $ledger$, new_transfer_id, 'transfer', 1, clock.at, clock.at, $actor$,
            $client$, $key$, new_request_id, new_key
        FROM clock
    ), entries AS (
        INSERT INTO ledger_entry (
            ledger_id, id, transfer_id, posting_number, direction, account_id,
            currency, amount, account_version, debits_after, credits_after,
            effective_at, created_at)
        SELECT $ledger$, uuidv7(), new_transfer_id, 1, s.direction, s.account_id,
            s.currency, wanted_amount, s.version, s.debits, s.credits, clock.at,
            clock.at
        FROM clock, (VALUES
            ('debit', payer.id, payer.currency, payer.version + 1,
                payer.debits_posted + wanted_amount, payer.credits_posted),
            ('credit', payee.id, payee.currency, payee.version + 1,
                payee.debits_posted, payee.credits_posted + wanted_amount)
        ) AS s (direction, account_id, currency, version, debits, credits)
    ), accounts AS (
        UPDATE ledger_account a
        SET version = a.version + 1, last_entry_at = clock.at,
            debits_posted = a.debits_posted
                + CASE a.id WHEN payer.id THEN wanted_amount ELSE 0 END,
            credits_posted = a.credits_posted
                + CASE a.id WHEN payee.id THEN wanted_amount ELSE 0 END
        FROM clock
        WHERE a.ledger_id = $ledger$ AND a.id IN (payer.id, payee.id)
    )
    INSERT INTO outbox_task (
        ledger_id, id, kind, transfer_id, due_at, created_at, request_id)
    SELECT $ledger$, uuidv7(), 'transfer.posted', new_transfer_id, clock.at, clock.at,
        new_request_id
    FROM clock;

    IF with_key THEN
        INSERT INTO idempotency_key (
            ledger_id, id, client_id, key, operation, digests, status, resource_type,
            resource_id, response_headers, response_body)
        SELECT $ledger$, uuidv7(), $client$, new_key, w.operation, w.digests,
            w.status, w.resource_type, new_transfer_id, w.response_headers,
            w.response_body
        FROM benchmark.answer w WHERE w.operation = 'transfer.create';
    END IF;
END
$function$;

-- A batch of random transfers among the accounts number first_number to last_number.
-- The answer is made longer by a few bytes, so that PostgreSQL has to compress it anew,
-- as it has to do with one that comes from outside.
CREATE FUNCTION benchmark.batch(
    first_number int, last_number int, transfer_count int, with_key boolean
) RETURNS void
LANGUAGE plpgsql AS $function$
DECLARE
    from_numbers int[];
    to_numbers int[];
    amounts bigint[];
    transfer_ids uuid[];
    numbers int[];
    account_ids uuid[];
    currencies text[];
    versions bigint[];
    old_debits bigint[];
    old_credits bigint[];
    last_at timestamptz;
    breadth int := last_number - first_number + 1;
    new_request_id text := gen_random_uuid()::text;
    new_key text := gen_random_uuid()::text;
BEGIN
    SELECT array_agg(first_number + f), array_agg(first_number + (f + step) % breadth),
        array_agg(amount), array_agg(uuidv7())
    INTO from_numbers, to_numbers, amounts, transfer_ids
    FROM (
        SELECT random(0, breadth - 1) AS f, random(1, breadth - 1) AS step,
            random(1, 100)::bigint AS amount
        FROM generate_series(1, transfer_count)) AS drawn;

    SELECT array_agg(l.number), array_agg(l.id), array_agg(l.currency),
        array_agg(l.version), array_agg(l.debits_posted), array_agg(l.credits_posted),
        max(l.last_entry_at)
    INTO numbers, account_ids, currencies, versions, old_debits, old_credits, last_at
    FROM (
        SELECT n.number, a.id, a.currency, a.version, a.debits_posted, a.credits_posted,
            a.last_entry_at
        FROM benchmark.account n
        JOIN ledger_account a ON a.ledger_id = $ledger$ AND a.id = n.id
        WHERE n.number = ANY (from_numbers || to_numbers)
        ORDER BY a.id FOR NO KEY UPDATE OF a) AS l;

    WITH clock AS MATERIALIZED (
        SELECT greatest(clock_timestamp(), last_at) AS at
    ), side AS MATERIALIZED (
        SELECT s.number, s.transfer_id, s.direction, s.amount, a.id AS account_id,
            a.currency, a.version + row_number() OVER w AS version,
            a.debits + sum(CASE s.direction WHEN 'debit' THEN s.amount ELSE 0 END)
                OVER w AS debits,
            a.credits + sum(CASE s.direction WHEN 'credit' THEN s.amount ELSE 0 END)
                OVER w AS credits
        FROM (
            SELECT p.number, p.transfer_id, 'debit' AS direction, p.amount,
                p.from_number AS account_number
            FROM unnest(transfer_ids, from_numbers, amounts)
                WITH ORDINALITY AS p (transfer_id, from_number, amount, number)
            UNION ALL
            SELECT p.number, p.transfer_id, 'credit', p.amount, p.to_number
            FROM unnest(transfer_ids, to_numbers, amounts)
                WITH ORDINALITY AS p (transfer_id, to_number, amount, number)
        ) AS s
        JOIN unnest(numbers, account_ids, currencies, versions, old_debits,
                old_credits)
            AS a (number, id, currency, version, debits, credits)
            ON a.number = s.account_number
        WINDOW w AS (PARTITION BY a.id ORDER BY s.number ROWS UNBOUNDED PRECEDING)
    ), transfers AS (
        INSERT INTO ledger_transfer (
            ledger_id, id, kind, posting_count, effective_at, created_at, actor,
            client_id, key_id, request_id, idempotency_key)
        SELECT $ledger$, t.id, 'transfer', 1, clock.at, clock.at, $actor$, $client$,
            $key$, new_request_id, new_key
        FROM clock, unnest(transfer_ids) AS t (id)
    ), entries AS (
        INSERT INTO ledger_entry (
            ledger_id, id, transfer_id, posting_number, direction, account_id,
            currency, amount, account_version, debits_after, credits_after,
            effective_at, created_at)
        SELECT $ledger$, uuidv7(), s.transfer_id, 1, s.direction, s.account_id,
            s.currency, s.amount, s.version, s.debits, s.credits, clock.at, clock.at
        FROM clock, side s
    ), accounts AS (
        UPDATE ledger_account a
        SET version = s.version, debits_posted = s.debits, credits_posted = s.credits,
            last_entry_at = clock.at
        FROM clock, (
            SELECT account_id, max(version) AS version, max(debits) AS debits,
                max(credits) AS credits
            FROM side GROUP BY account_id) AS s
        WHERE a.ledger_id = $ledger$ AND a.id = s.account_id
    )
    INSERT INTO outbox_task (
        ledger_id, id, kind, transfer_id, due_at, created_at, request_id)
    SELECT $ledger$, uuidv7(), 'transfer.posted', t.id, clock.at, clock.at,
        new_request_id
    FROM clock, unnest(transfer_ids) AS t (id);

    IF with_key THEN
        INSERT INTO idempotency_key (
            ledger_id, id, client_id, key, operation, digests, status, resource_type,
            response_headers, response_body)
        SELECT $ledger$, uuidv7(), $client$, new_key, w.operation, w.digests,
            w.status, w.resource_type, w.response_headers,
            w.response_body || new_key::bytea
        FROM benchmark.answer w WHERE w.operation = 'transfer.batch';
    END IF;
END
$function$;
