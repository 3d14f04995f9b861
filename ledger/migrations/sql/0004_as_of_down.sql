-- The extension stays: somebody else may use it by now.
DROP FUNCTION ledger_version_at(uuid, uuid, timestamptz);
DROP INDEX entry_backdated;
