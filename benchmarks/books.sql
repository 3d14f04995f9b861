-- Big books, written by the database itself: the functions that benchmarks/books.py calls
-- in one transaction of the tables' owner. They live in pg_temp and vanish with it.
--
-- Account 0 is the equity account that pays the opening balances; 1 to account_count are
-- the others, of which the first few are hot and the next few mostly backdated.

-- A UUIDv7 of an instant, with 74 bits that the given numbers determine.
CREATE FUNCTION pg_temp.books_id(at timestamptz, number bigint, seed bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT encode(
        int8send(((extract(epoch FROM at) * 1000)::bigint << 16) | 28672
            | (number & 4095))
        || int8send((hashint8extended(number, seed) & 4611686018427387903)
            | (-9223372036854775808)), 'hex')::uuid
$$;

-- A number from 0 to below, drawn for a transfer's number.
CREATE FUNCTION pg_temp.books_draw(number bigint, seed bigint, below bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashint8extended(number, seed) & 4611686018427387903) % below
$$;

-- Takes down what checks each row, and remembers how to put it up again. The indexes of
-- the entries go as well: it is faster to build them over all rows.
CREATE FUNCTION pg_temp.books_disarm(tables regclass[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    guard record;
BEGIN
    CREATE TEMP TABLE books_guards ON COMMIT DROP AS
    SELECT 3 AS step, format('ALTER TABLE %s DISABLE TRIGGER %I', t.tgrelid::regclass,
            t.tgname) AS down,
        format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.tgrelid::regclass,
            t.tgname) AS up
    FROM pg_trigger t WHERE t.tgrelid = ANY (tables) AND NOT t.tgisinternal
    UNION ALL
    SELECT 2, format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass,
            c.conname),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.conrelid::regclass, c.conname,
            pg_get_constraintdef(c.oid))
    FROM pg_constraint c WHERE c.conrelid = ANY (tables) AND c.contype = 'f'
    UNION ALL
    SELECT 1, CASE WHEN c.oid IS NULL THEN format('DROP INDEX %s', i.indexrelid::regclass)
            ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', i.indrelid::regclass,
                c.conname) END,
        pg_get_indexdef(i.indexrelid) || CASE WHEN c.oid IS NULL THEN ''
            ELSE format('; ALTER TABLE %s ADD CONSTRAINT %I %s USING INDEX %I',
                i.indrelid::regclass, c.conname,
                CASE c.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, c.conname)
            END
    FROM pg_index i
    LEFT JOIN pg_constraint c
        ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u')
    WHERE i.indrelid = 'ledger_entry'::regclass;
    FOR guard IN SELECT down FROM books_guards ORDER BY step DESC LOOP
        EXECUTE guard.down;
    END LOOP;
END
$$;

-- Puts it up again; PostgreSQL checks every foreign key over all rows.
CREATE FUNCTION pg_temp.books_arm() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    guard record;
BEGIN
    FOR guard IN SELECT up FROM books_guards ORDER BY step LOOP
        EXECUTE guard.up;
    END LOOP;
END
$$;

-- Makes the accounts, empty, and notes in books_account how far each has come.
CREATE FUNCTION pg_temp.books_begin(
    of_ledger uuid, account_count bigint, hot_count bigint, began timestamptz, seed bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE books_account ON COMMIT DROP AS
    SELECT n AS number, pg_temp.books_id(began, n, seed) AS id, 0::bigint AS version,
        0::bigint AS debits, 0::bigint AS credits, NULL::timestamptz AS last_at
    FROM generate_series(0, account_count) n;
    ANALYZE books_account;
    INSERT INTO ledger_account (
        ledger_id, id, reference, owner_name, kind, currency, min_balance, metadata,
        created_at)
    SELECT of_ledger, a.id,
        CASE a.number WHEN 0 THEN 'books-opening-balances'
            ELSE 'books-account-' || lpad(a.number::text, 9, '0') END,
        'Owner ' || a.number, CASE a.number WHEN 0 THEN 'equity' ELSE 'liability' END,
        'USD', CASE WHEN a.number > hot_count THEN 0 END,
        CASE WHEN a.number % 100 = 1 THEN jsonb_build_object('branch', a.number / 100)
            ELSE '{}' END,
        began
    FROM books_account a;
END
$$;

-- Writes transfers number first to last: the first account_count ones are the opening
-- balances, the others are drawn. Of every 20 drawn ones 4 go to or from the first hot
-- account, 2 to or from another, and 1 to an account whose every second is backdated.
CREATE FUNCTION pg_temp.books_slice(
    of_ledger uuid, account_count bigint, hot_count bigint, backdated_count bigint,
    opening_balance bigint, first bigint, last bigint, began timestamptz,
    pace interval, seed bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE books_transfer ON COMMIT DROP AS
    SELECT d.number, pg_temp.books_id(d.created_at, d.number, seed + 1) AS id,
        d.created_at, CASE WHEN d.days_back > 0
            THEN d.created_at - make_interval(days => d.days_back)
            ELSE d.created_at END AS effective_at,
        CASE WHEN d.number <= account_count THEN 0 ELSE d.from_number END AS from_number,
        CASE WHEN d.number <= account_count THEN d.number
            -- Never to itself: the next one takes it instead.
            WHEN d.to_number = d.from_number THEN d.to_number % account_count + 1
            ELSE d.to_number END AS to_number,
        CASE WHEN d.number <= account_count THEN opening_balance
            ELSE 1 + pg_temp.books_draw(d.number, seed + 2, 10000) END AS amount
    FROM (
        SELECT n AS number, began + n * pace AS created_at,
            CASE WHEN lot IN (0, 1) THEN 1
                WHEN lot = 4 THEN 2 + pg_temp.books_draw(n, seed + 4, hot_count - 1)
                ELSE 1 + pg_temp.books_draw(n, seed + 5, account_count)
                END AS from_number,
            CASE WHEN lot IN (2, 3) THEN 1
                WHEN lot = 5 THEN 2 + pg_temp.books_draw(n, seed + 4, hot_count - 1)
                WHEN lot = 6
                    THEN 1 + hot_count + pg_temp.books_draw(n, seed + 4, backdated_count)
                ELSE 1 + pg_temp.books_draw(n, seed + 6, account_count)
                END AS to_number,
            CASE WHEN n <= account_count THEN 0
                WHEN lot = 6 AND n % 2 = 0 OR lot = 7 AND n % 5 = 0
                    THEN 1 + pg_temp.books_draw(n, seed + 7, 100)
                ELSE 0 END::int AS days_back
        FROM generate_series(first, last) n
        CROSS JOIN LATERAL (
            SELECT pg_temp.books_draw(n, seed + 3, 20) AS lot OFFSET 0) AS drawn
    ) AS d;
    ANALYZE books_transfer;

    INSERT INTO ledger_transfer (
        ledger_id, id, kind, posting_count, reference, description, metadata,
        effective_at, created_at, actor)
    SELECT of_ledger, t.id,
        CASE WHEN t.number <= account_count THEN 'opening_balance' ELSE 'transfer' END,
        1, 'books-transfer-' || lpad(t.number::text, 9, '0'),
        (ARRAY['Groceries', 'Invoice', 'Refund', 'Rent', 'Salary', 'Subscription'])
            [1 + t.number % 6],
        CASE WHEN t.number % 100 = 1
            THEN jsonb_build_object('order', t.number / 100, 'channel', 'web')
            ELSE '{}' END,
        t.effective_at, t.created_at, 'benchmarks.books'
    FROM books_transfer t;

    CREATE TEMP TABLE books_entry ON COMMIT DROP AS
    SELECT s.number, t.id AS transfer_id, s.account_number, s.direction, s.amount,
        t.effective_at, t.created_at, a.id AS account_id,
        a.version + row_number() OVER w AS version,
        a.debits + coalesce((sum(s.amount) FILTER (WHERE s.direction = 'debit') OVER w
            )::bigint, 0) AS debits,
        a.credits + coalesce((sum(s.amount) FILTER (WHERE s.direction = 'credit') OVER w
            )::bigint, 0) AS credits
    FROM books_transfer t
    CROSS JOIN LATERAL (VALUES
        (t.number, t.from_number, 'debit', t.amount),
        (t.number, t.to_number, 'credit', t.amount)
    ) AS s (number, account_number, direction, amount)
    JOIN books_account a ON a.number = s.account_number
    WINDOW w AS (PARTITION BY s.account_number ORDER BY s.number
        ROWS UNBOUNDED PRECEDING);

    -- In the order of time, as the engine would have written them.
    INSERT INTO ledger_entry (
        ledger_id, id, transfer_id, posting_number, direction, account_id, currency,
        amount, account_version, debits_after, credits_after, effective_at, created_at)
    SELECT of_ledger,
        pg_temp.books_id(e.created_at, 2 * e.number + (e.direction = 'credit')::int,
            seed + 8),
        e.transfer_id, 1, e.direction, e.account_id, 'USD', e.amount, e.version,
        e.debits, e.credits, e.effective_at, e.created_at
    FROM books_entry e
    ORDER BY e.number, e.direction DESC;

    INSERT INTO outbox_task (
        ledger_id, id, kind, transfer_id, state, due_at, created_at, finished_at)
    SELECT of_ledger, pg_temp.books_id(t.created_at, t.number, seed + 9),
        'transfer.posted', t.id, 'done', t.created_at, t.created_at, t.created_at
    FROM books_transfer t;

    -- A new table instead of an update, whose dead rows nobody could clear away yet.
    CREATE TEMP TABLE books_account_after ON COMMIT DROP AS
    SELECT a.number, a.id, coalesce(e.version, a.version) AS version,
        coalesce(e.debits, a.debits) AS debits,
        coalesce(e.credits, a.credits) AS credits,
        coalesce(e.created_at, a.last_at) AS last_at
    FROM books_account a
    LEFT JOIN (
        SELECT account_number, max(version) AS version, max(debits) AS debits,
            max(credits) AS credits, max(created_at) AS created_at
        FROM books_entry GROUP BY account_number) AS e ON e.account_number = a.number;
    DROP TABLE books_transfer, books_entry, books_account;
    ALTER TABLE books_account_after RENAME TO books_account;
    ANALYZE books_account;
END
$$;

-- Writes holds number 1 to hold_count, all made at one instant: every hundredth is
-- active, the others were voided a second later.
CREATE FUNCTION pg_temp.books_holds(
    of_ledger uuid, account_count bigint, hold_count bigint, made_at timestamptz,
    seed bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE books_hold ON COMMIT DROP AS
    SELECT h.number, pg_temp.books_id(made_at, h.number, seed + 10) AS id,
        h.is_active, CASE WHEN h.is_active THEN 'active' ELSE 'voided' END AS status,
        made_at + interval '30 days' AS expires_at,
        CASE WHEN NOT h.is_active THEN made_at + interval '1 second' END AS ended_at,
        f.id AS from_id, f.number AS from_number, t.id AS to_id, t.number AS to_number,
        h.amount
    FROM (
        SELECT n AS number, n % 100 = 0 AS is_active,
            pg_temp.books_draw(n, seed + 11, account_count) AS from_index,
            pg_temp.books_draw(n, seed + 12, account_count - 1) AS step,
            1 + pg_temp.books_draw(n, seed + 13, 1000) AS amount
        FROM generate_series(1, hold_count) n
    ) AS h
    JOIN books_account f ON f.number = 1 + h.from_index
    JOIN books_account t
        ON t.number = 1 + (h.from_index + 1 + h.step) % account_count;

    INSERT INTO ledger_hold (
        ledger_id, id, status, posting_count, reference, expires_at, created_at,
        ended_at, actor)
    SELECT of_ledger, h.id, h.status, 1, 'books-hold-' || lpad(h.number::text, 9, '0'),
        h.expires_at, made_at, h.ended_at, 'benchmarks.books'
    FROM books_hold h;

    INSERT INTO ledger_hold_posting (
        ledger_id, id, hold_id, number, from_account_id, to_account_id, currency,
        amount, capture_limit, released, expires_at, created_at)
    SELECT of_ledger, pg_temp.books_id(made_at, h.number, seed + 14), h.id, 1,
        h.from_id, h.to_id, 'USD', h.amount, h.amount,
        CASE WHEN h.is_active THEN 0 ELSE h.amount END, h.expires_at, made_at
    FROM books_hold h;

    CREATE TEMP TABLE books_hold_event ON COMMIT DROP AS
    SELECT pg_temp.books_id(v.at, 2 * h.number + v.step, seed + 15) AS id,
        pg_temp.books_id(v.at, 2 * h.number + v.step, seed + 16) AS task_id,
        h.id AS hold_id, v.kind, v.released, v.expires_at, v.at
    FROM books_hold h
    CROSS JOIN LATERAL (VALUES
        (0, 'placed', 0, h.expires_at, made_at),
        (1, 'voided', h.amount, NULL, h.ended_at)
    ) AS v (step, kind, released, expires_at, at)
    WHERE v.at IS NOT NULL;

    INSERT INTO ledger_hold_event (
        ledger_id, id, hold_id, kind, released, expires_at, actor, created_at)
    SELECT of_ledger, v.id, v.hold_id, v.kind, v.released, v.expires_at,
        'benchmarks.books', v.at
    FROM books_hold_event v;

    INSERT INTO outbox_task (
        ledger_id, id, kind, hold_event_id, state, due_at, created_at, finished_at)
    SELECT of_ledger, v.task_id, 'hold.' || v.kind, v.id, 'done', v.at, v.at, v.at
    FROM books_hold_event v;
END
$$;

-- Gives the accounts what their entries and holds came to; their guard, which finds the
-- last entries by index, checks it.
CREATE FUNCTION pg_temp.books_end(of_ledger uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger_account a
    SET version = b.version, debits_posted = b.debits, credits_posted = b.credits,
        last_entry_at = b.last_at, debits_pending = coalesce(f.held, 0),
        credits_pending = coalesce(t.held, 0)
    FROM books_account b
    LEFT JOIN (
        SELECT from_number AS number, sum(amount)::bigint AS held FROM books_hold
        WHERE is_active GROUP BY from_number) AS f ON f.number = b.number
    LEFT JOIN (
        SELECT to_number AS number, sum(amount)::bigint AS held FROM books_hold
        WHERE is_active GROUP BY to_number) AS t ON t.number = b.number
    WHERE a.ledger_id = of_ledger AND a.id = b.id;
END
$$;
