ALTER TABLE ledger_account ALTER ledger_id RESET (n_distinct);
ALTER TABLE ledger_transfer ALTER ledger_id RESET (n_distinct);
ALTER TABLE ledger_entry ALTER ledger_id RESET (n_distinct),
    ALTER direction RESET (n_distinct);
ALTER TABLE ledger_hold ALTER ledger_id RESET (n_distinct);
ALTER TABLE ledger_hold_posting ALTER ledger_id RESET (n_distinct);
ALTER TABLE ledger_hold_event ALTER ledger_id RESET (n_distinct);
ALTER TABLE ledger_reversal_total ALTER ledger_id RESET (n_distinct);
ALTER TABLE ledger_usage ALTER ledger_id RESET (n_distinct);
ALTER TABLE outbox_task ALTER ledger_id RESET (n_distinct);
