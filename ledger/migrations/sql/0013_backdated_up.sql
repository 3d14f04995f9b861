-- Backdated entries are found by their own index, whatever the planner believes.

-- The account stands in it by a hash, which no other index has. By its id the planner
-- would also find it in the index on versions: with statistics from before the account's
-- first entry it took that one, and read all of the account's entries.
DROP INDEX entry_backdated;
CREATE INDEX entry_backdated ON ledger_entry USING gist (
    uuid_hash_extended(account_id, uuid_hash_extended(ledger_id, 0)),
    tstzrange(effective_at, created_at))
    WHERE effective_at < created_at;

-- What an account's entries come to that were recorded after an instant, and up to
-- another one, for a time at or before the first. Accounts of equal hashes are told apart
-- by IS NOT DISTINCT FROM, because an equality would bring the other indexes back in.
CREATE FUNCTION ledger_backdated_totals(
    of_ledger uuid, of_account uuid, at_instant timestamptz, recorded_by timestamptz,
    OUT debits numeric, OUT credits numeric, OUT entry_count bigint
)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off
AS $$
BEGIN
    SELECT coalesce(sum(e.amount) FILTER (WHERE e.direction = 'debit'), 0),
        coalesce(sum(e.amount) FILTER (WHERE e.direction = 'credit'), 0), count(*)
    INTO debits, credits, entry_count
    FROM ONLY ledger_entry e
    WHERE uuid_hash_extended(e.account_id, uuid_hash_extended(e.ledger_id, 0))
            = uuid_hash_extended(of_account, uuid_hash_extended(of_ledger, 0))
        AND e.effective_at < e.created_at
        AND tstzrange(e.effective_at, e.created_at) @> at_instant
        AND e.created_at <= recorded_by
        AND e.account_id IS NOT DISTINCT FROM of_account
        AND e.ledger_id IS NOT DISTINCT FROM of_ledger;
END
$$;
