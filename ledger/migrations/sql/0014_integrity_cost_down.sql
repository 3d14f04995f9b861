ALTER TABLE ledger_integrity_status DROP COLUMN took;
