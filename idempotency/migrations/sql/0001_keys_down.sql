DROP TABLE idempotency_key;
DROP FUNCTION idempotency_check_purge();
