DROP FUNCTION ledger_backdated_totals(uuid, uuid, timestamptz, timestamptz);
DROP INDEX entry_backdated;
CREATE INDEX entry_backdated ON ledger_entry
    USING gist (ledger_id, account_id, tstzrange(effective_at, created_at))
    WHERE effective_at < created_at;
