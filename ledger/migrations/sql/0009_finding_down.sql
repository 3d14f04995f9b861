DROP FUNCTION ledger_ids_by_metadata;
DROP INDEX account_metadata, transfer_metadata, hold_metadata, scheduled_metadata,
    scheduled_reference, change_of_period;
