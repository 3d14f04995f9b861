-- Closed periods and scheduled transfers.

-- 1. Closed periods ----------------------------------------------------------------

-- Nothing may become effective before this instant any more.
ALTER TABLE ledger_ledger ADD COLUMN closed_before timestamptz;

-- Only a period that ended an hour ago can be closed: transfers that are effective now
-- then need no lock, because none of them can still be under way.
CREATE FUNCTION ledger_check_ledger_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF NEW.closed_before IS DISTINCT FROM OLD.closed_before
       AND NEW.closed_before > clock_timestamp() - interval '1 hour'
    THEN
        RAISE EXCEPTION 'a period is closed an hour after its end at the earliest'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'period_closes_an_hour_after_its_end';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_update_is_legal AFTER INSERT OR UPDATE ON ledger_ledger
    FOR EACH ROW EXECUTE FUNCTION ledger_check_ledger_update();
ALTER TABLE ledger_ledger ENABLE ALWAYS TRIGGER ledger_update_is_legal;

-- The lock makes a closing wait for backdated transfers under way, and the other way
-- round. The row that it returns is the latest, also if the closing committed meanwhile.
CREATE FUNCTION ledger_check_transfer_periods() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    backdated record;
    closed timestamptz;
BEGIN
    FOR backdated IN
        SELECT t.ledger_id, min(t.effective_at) AS effective_at FROM new_transfers t
        WHERE t.effective_at < t.created_at - interval '30 minutes'
        GROUP BY t.ledger_id
    LOOP
        SELECT l.closed_before INTO closed FROM ONLY ledger_ledger l
        WHERE l.id = backdated.ledger_id FOR SHARE;
        IF backdated.effective_at < closed THEN
            RAISE EXCEPTION 'a transfer would be effective in a closed period'
                USING ERRCODE = 'integrity_constraint_violation',
                      CONSTRAINT = 'transfer_effective_in_open_period';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_effective_in_open_period AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS new_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_transfer_periods();
ALTER TABLE ledger_transfer ENABLE ALWAYS TRIGGER transfer_effective_in_open_period;

-- 2. Scheduled transfers -----------------------------------------------------------

CREATE TABLE ledger_scheduled_transfer (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    status text NOT NULL DEFAULT 'scheduled',
    due_at timestamptz NOT NULL,
    postings jsonb NOT NULL,
    reference text COLLATE "C",
    description text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    -- A refusal before this instant is tried again; null: the first one is final.
    retry_until timestamptz,
    next_attempt_at timestamptz NOT NULL,
    attempt_count integer NOT NULL DEFAULT 0,
    last_problem jsonb,
    transfer_id uuid,
    end_reason text NOT NULL DEFAULT '',
    actor text NOT NULL,
    client_id uuid,
    key_id uuid,
    request_id text NOT NULL DEFAULT '',
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CONSTRAINT ledger_scheduled_transfer_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT scheduled_belongs_to_ledger
        FOREIGN KEY (ledger_id) REFERENCES ledger_ledger (id),
    CONSTRAINT scheduled_posts_transfer
        FOREIGN KEY (ledger_id, transfer_id) REFERENCES ledger_transfer (ledger_id, id),
    CONSTRAINT scheduled_status_is_known CHECK (
        status IN ('scheduled', 'posted', 'refused', 'cancelled')),
    CONSTRAINT scheduled_has_postings CHECK (
        jsonb_typeof(postings) = 'array' AND jsonb_array_length(postings) > 0),
    CONSTRAINT scheduled_posted_has_transfer CHECK (
        (status = 'posted') = (transfer_id IS NOT NULL)),
    CONSTRAINT scheduled_refused_has_problem CHECK (
        status <> 'refused' OR last_problem IS NOT NULL),
    CONSTRAINT scheduled_end_has_time CHECK (
        (status = 'scheduled') = (ended_at IS NULL)),
    CONSTRAINT scheduled_attempts_not_negative CHECK (attempt_count >= 0)
) WITH (fillfactor = 80);

CREATE INDEX scheduled_due ON ledger_scheduled_transfer (ledger_id, next_attempt_at)
    WHERE status = 'scheduled';
-- One scheduled transfer posts one transfer, and no transfer is posted by two.
CREATE UNIQUE INDEX scheduled_transfer_posted_once
    ON ledger_scheduled_transfer (ledger_id, transfer_id)
    WHERE transfer_id IS NOT NULL;

CREATE TRIGGER scheduled_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_scheduled_transfer
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('scheduled_is_never_deleted');
ALTER TABLE ledger_scheduled_transfer ENABLE ALWAYS TRIGGER scheduled_is_never_deleted;

CREATE FUNCTION ledger_check_scheduled_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF OLD.status <> 'scheduled' THEN
        RAISE EXCEPTION 'scheduled transfer % is % and stays so', OLD.id, OLD.status
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'scheduled_end_is_final';
    END IF;
    IF (NEW.ledger_id, NEW.id, NEW.due_at, NEW.postings, NEW.reference,
        NEW.description, NEW.metadata, NEW.retry_until, NEW.actor, NEW.client_id,
        NEW.key_id, NEW.request_id, NEW.idempotency_key, NEW.created_at)
       IS DISTINCT FROM
       (OLD.ledger_id, OLD.id, OLD.due_at, OLD.postings, OLD.reference,
        OLD.description, OLD.metadata, OLD.retry_until, OLD.actor, OLD.client_id,
        OLD.key_id, OLD.request_id, OLD.idempotency_key, OLD.created_at)
    THEN
        RAISE EXCEPTION 'the content of scheduled transfer % never changes', OLD.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'scheduled_content_never_changes';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER scheduled_update_is_legal AFTER UPDATE ON ledger_scheduled_transfer
    FOR EACH ROW EXECUTE FUNCTION ledger_check_scheduled_update();
ALTER TABLE ledger_scheduled_transfer ENABLE ALWAYS TRIGGER scheduled_update_is_legal;
