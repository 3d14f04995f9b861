DROP INDEX account_metadata, transfer_metadata, hold_metadata, scheduled_metadata;
