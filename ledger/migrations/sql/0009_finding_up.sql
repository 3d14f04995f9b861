-- Searches by metadata: containment of names and values. Rows without any cost nothing.
-- The path of each value starts with the ledger's id, so that a search meets no rows of
-- other ledgers, whatever they have in common.

CREATE INDEX account_metadata ON ledger_account
    USING gin (jsonb_set('{}', ARRAY[ledger_id::text], metadata) jsonb_path_ops)
    WHERE metadata <> '{}';
CREATE INDEX transfer_metadata ON ledger_transfer
    USING gin (jsonb_set('{}', ARRAY[ledger_id::text], metadata) jsonb_path_ops)
    WHERE metadata <> '{}';
CREATE INDEX hold_metadata ON ledger_hold
    USING gin (jsonb_set('{}', ARRAY[ledger_id::text], metadata) jsonb_path_ops)
    WHERE metadata <> '{}';
CREATE INDEX scheduled_metadata ON ledger_scheduled_transfer
    USING gin (jsonb_set('{}', ARRAY[ledger_id::text], metadata) jsonb_path_ops)
    WHERE metadata <> '{}';

CREATE INDEX scheduled_reference ON ledger_scheduled_transfer (ledger_id, reference)
    WHERE reference IS NOT NULL;
-- Closings and reopenings of periods, among all the changes of a ledger.
CREATE INDEX change_of_period ON ledger_change (ledger_id, id)
    WHERE account_id IS NULL AND fields @> '["closed_before"]';

-- Ids of up to at_most rows whose metadata contain one of the wanted objects. However
-- common a value is, the planner must not take to reading the table: its statistics know
-- nothing of rare values. IS NOT DISTINCT FROM, because an equality would let it read all
-- of a ledger by the primary key.
CREATE FUNCTION ledger_ids_by_metadata(
    of_table regclass, of_ledger uuid, wanted jsonb[], at_most integer
) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        $sql$
        SELECT id FROM ONLY %s
        WHERE metadata <> '{}'
            AND jsonb_set('{}', ARRAY[ledger_id::text], metadata) @> ANY ($1)
            AND ledger_id IS NOT DISTINCT FROM $2
        LIMIT $3
        $sql$, of_table)
    USING ARRAY(SELECT jsonb_build_object(of_ledger::text, w) FROM unnest(wanted) w),
        of_ledger, at_most;
END
$$;
