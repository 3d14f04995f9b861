DROP TABLE ledger_scheduled_transfer;
DROP FUNCTION ledger_check_scheduled_update();
DROP TRIGGER transfer_effective_in_open_period ON ledger_transfer;
DROP FUNCTION ledger_check_transfer_periods();
DROP TRIGGER ledger_update_is_legal ON ledger_ledger;
DROP FUNCTION ledger_check_ledger_update();
ALTER TABLE ledger_ledger DROP COLUMN closed_before;
