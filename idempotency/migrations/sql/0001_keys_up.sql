CREATE TABLE idempotency_key (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    key text NOT NULL,
    operation text NOT NULL,
    digests jsonb NOT NULL,
    status smallint NOT NULL,
    resource_type text NOT NULL DEFAULT '',
    resource_id uuid,
    response_headers jsonb,
    response_body bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    purged_at timestamptz,
    CONSTRAINT idempotency_key_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT idempotency_key_unique_per_client UNIQUE (ledger_id, client_id, key),
    CONSTRAINT idempotency_key_has_legal_length CHECK (length(key) BETWEEN 1 AND 255),
    CONSTRAINT idempotency_key_body_until_purged CHECK (
        (purged_at IS NULL) = (response_body IS NOT NULL)
        AND (purged_at IS NULL) = (response_headers IS NOT NULL)),
    CONSTRAINT idempotency_key_outcome_is_storable CHECK (
        status BETWEEN 200 AND 299 OR status IN (409, 422))
);

-- Retention walks a ledger's oldest rows; purged ones leave the index.
CREATE INDEX idempotency_key_unpurged ON idempotency_key (ledger_id, created_at)
    WHERE purged_at IS NULL;

CREATE TRIGGER idempotency_key_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON idempotency_key
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('idempotency_key_is_never_deleted');
ALTER TABLE idempotency_key ENABLE ALWAYS TRIGGER idempotency_key_is_never_deleted;

-- The one legal change: the stored response is emptied once.
CREATE FUNCTION idempotency_check_purge() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF OLD.purged_at IS NOT NULL OR NEW.purged_at IS NULL
       OR (NEW.ledger_id, NEW.id, NEW.client_id, NEW.key, NEW.operation, NEW.digests,
           NEW.status, NEW.resource_type, NEW.resource_id, NEW.created_at)
          IS DISTINCT FROM
          (OLD.ledger_id, OLD.id, OLD.client_id, OLD.key, OLD.operation, OLD.digests,
           OLD.status, OLD.resource_type, OLD.resource_id, OLD.created_at)
    THEN
        RAISE EXCEPTION 'an idempotency key changes only when its response is purged'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'idempotency_key_changes_only_by_purge';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER idempotency_key_changes_only_by_purge AFTER UPDATE ON idempotency_key
    FOR EACH ROW EXECUTE FUNCTION idempotency_check_purge();
ALTER TABLE idempotency_key ENABLE ALWAYS TRIGGER idempotency_key_changes_only_by_purge;
