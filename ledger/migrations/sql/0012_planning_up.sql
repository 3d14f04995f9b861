-- 1. What the planner cannot learn from small tables --------------------------------

-- ANALYZE on nearly empty tables takes every ledger_id for a value of its own, and the
-- planner then looks a row up by its ledger alone: harmless until the plan, which triggers
-- keep, meets a table that has grown. A ledger is never a rare value.
ALTER TABLE ledger_account ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE ledger_transfer ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE ledger_entry ALTER ledger_id SET (n_distinct = 10),
    ALTER direction SET (n_distinct = 2);
ALTER TABLE ledger_hold ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE ledger_hold_posting ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE ledger_hold_event ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE ledger_reversal_total ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE ledger_usage ALTER ledger_id SET (n_distinct = 10);
ALTER TABLE outbox_task ALTER ledger_id SET (n_distinct = 10);

-- 2. Transfers -----------------------------------------------------------------------

-- As in 0002, but that an entry's account is looked up for the entry: joined, the planner
-- may begin at the accounts, and read all of a ledger's for each transfer.
CREATE OR REPLACE FUNCTION ledger_check_new_transfers() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    -- An account's recording times never decrease, so one time far ahead would spread
    -- to every account that it meets.
    SELECT t.id INTO bad FROM new_transfers t
    WHERE t.created_at > clock_timestamp() + interval '1 minute'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % would be recorded in the future', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_not_recorded_in_future';
    END IF;

    SELECT t.id, e.entries <> 2 * t.posting_count AS lacks_entries INTO bad
    FROM new_transfers t
    CROSS JOIN LATERAL (
        SELECT count(*) AS entries,
               count(*) FILTER (WHERE e.direction = 'credit'
                                AND a.payout_destination IS NOT NULL) AS payouts
        FROM ONLY ledger_entry e
        CROSS JOIN LATERAL (
            SELECT a.payout_destination FROM ONLY ledger_account a
            WHERE a.ledger_id = e.ledger_id AND a.id = e.account_id OFFSET 0) a
        WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id OFFSET 0) e
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE k.kind = 'transfer.posted') AS posted,
               count(*) FILTER (WHERE k.kind = 'payout') AS payouts
        FROM ONLY outbox_task k
        WHERE k.ledger_id = t.ledger_id AND k.transfer_id = t.id OFFSET 0) k
    WHERE e.entries <> 2 * t.posting_count OR k.posted <> 1 OR k.payouts <> e.payouts
    LIMIT 1;
    IF FOUND AND bad.lacks_entries THEN
        RAISE EXCEPTION 'transfer % comes without its entries', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_comes_with_its_entries';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'transfer % comes without its outbox tasks', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_comes_with_its_tasks';
    END IF;
    RETURN NULL;
END
$$;
