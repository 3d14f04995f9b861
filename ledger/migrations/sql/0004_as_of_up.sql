-- Reading the books as of an instant, by index, whatever an account's history.

-- Gives the backdated entries' index its equality on uuid. It comes with PostgreSQL, and
-- the owner of a database may create it.
CREATE EXTENSION IF NOT EXISTS btree_gist;

-- An entry that was recorded later than it happened is missing from the running totals
-- between the two instants; this index finds those that are missing at one instant.
CREATE INDEX entry_backdated ON ledger_entry
    USING gist (ledger_id, account_id, tstzrange(effective_at, created_at))
    WHERE effective_at < created_at;

-- The number of an account's last entry that was recorded at the instant or before; 0 if
-- there is none. Recording times do not decrease along an account's versions, so bisecting
-- the unique index on versions finds it: 27 probes for 100 million entries, and the
-- hottest table needs no index on time.
CREATE FUNCTION ledger_version_at(
    of_ledger uuid, of_account uuid, at_instant timestamptz
) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
    recorded_at timestamptz;
BEGIN
    SELECT e.account_version, e.created_at INTO high, recorded_at
    FROM ONLY ledger_entry e
    WHERE e.ledger_id = of_ledger AND e.account_id = of_account
    ORDER BY e.account_version DESC LIMIT 1;
    IF high IS NULL THEN
        RETURN 0;
    ELSIF recorded_at <= at_instant THEN
        RETURN high;
    END IF;
    -- Version low was recorded in time (0 stands for none), version high was not.
    WHILE high - low > 1 LOOP
        middle := (low + high) / 2;
        SELECT e.created_at INTO STRICT recorded_at
        FROM ONLY ledger_entry e
        WHERE e.ledger_id = of_ledger AND e.account_id = of_account
          AND e.account_version = middle;
        IF recorded_at <= at_instant THEN
            low := middle;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
