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
