-- How long the sum over all accounts took, so that it is made less often where it is long.
ALTER TABLE ledger_integrity_status ADD COLUMN took interval NOT NULL DEFAULT '0';
