DROP TABLE ledger_usage, ledger_velocity_limit;
ALTER TABLE ledger_account DROP COLUMN has_velocity_limits;
