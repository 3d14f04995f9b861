-- Tasks and attempts. Physical keys start with ledger_id, see docs/adr.

CREATE TABLE outbox_task (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL,
    transfer_id uuid NOT NULL,
    posting_number integer NOT NULL DEFAULT 0,
    account_id uuid,
    destination text,
    amount bigint,
    currency text,
    state text NOT NULL DEFAULT 'pending',
    delivery text NOT NULL DEFAULT 'unsent',
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_token uuid,
    attempt_count integer NOT NULL DEFAULT 0,
    failure_count integer NOT NULL DEFAULT 0,
    provider_reference text,
    last_error text NOT NULL DEFAULT '',
    completion_transfer_id uuid,
    request_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retried_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT outbox_task_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT task_unique_per_posting
        UNIQUE (ledger_id, transfer_id, kind, posting_number),
    CONSTRAINT task_kind_is_known CHECK (kind IN ('transfer.posted', 'payout')),
    CONSTRAINT task_state_is_known CHECK (
        state IN ('pending', 'leased', 'done', 'cancelled', 'dead', 'needs_attention')),
    CONSTRAINT task_delivery_is_known CHECK (
        delivery IN ('unsent', 'unknown', 'accepted', 'settled', 'rejected')),
    CONSTRAINT task_payout_is_complete CHECK (
        (kind = 'payout' AND posting_number > 0 AND account_id IS NOT NULL
            AND destination IS NOT NULL AND amount > 0 AND currency IS NOT NULL)
        OR (kind <> 'payout' AND posting_number = 0 AND account_id IS NULL
            AND destination IS NULL AND amount IS NULL AND currency IS NULL)),
    CONSTRAINT task_counts_are_not_negative CHECK (
        attempt_count >= 0 AND failure_count >= 0),
    CONSTRAINT task_lease_has_token CHECK (
        (state = 'leased') = (lease_token IS NOT NULL)),
    CONSTRAINT task_end_has_time CHECK (
        (state IN ('pending', 'leased')) = (finished_at IS NULL)),
    CONSTRAINT task_payout_ends_with_transfer CHECK (
        kind <> 'payout'
        OR (state IN ('done', 'cancelled')) = (completion_transfer_id IS NOT NULL)),
    CONSTRAINT task_payout_is_done_when_decided CHECK (
        kind <> 'payout' OR state <> 'done' OR delivery IN ('settled', 'rejected')),
    CONSTRAINT task_cancelled_was_never_sent CHECK (
        state <> 'cancelled' OR (delivery = 'unsent' AND attempt_count = 0))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX outbox_task_due ON outbox_task (ledger_id, kind, due_at, id)
    WHERE state IN ('pending', 'leased');
CREATE INDEX outbox_task_payout_account ON outbox_task (ledger_id, account_id, state)
    WHERE account_id IS NOT NULL;

CREATE INDEX outbox_task_attention ON outbox_task (ledger_id, state, id)
    WHERE state IN ('dead', 'needs_attention');

-- A settlement or a reversal ends one payout, and no second one.
CREATE UNIQUE INDEX task_completion_ends_one_payout
    ON outbox_task (ledger_id, completion_transfer_id)
    WHERE completion_transfer_id IS NOT NULL;

CREATE TABLE outbox_attempt (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    task_id uuid NOT NULL,
    number integer NOT NULL,
    action text NOT NULL,
    lease_token uuid NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT outbox_attempt_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT attempt_unique_per_task UNIQUE (ledger_id, task_id, number),
    CONSTRAINT attempt_belongs_to_task
        FOREIGN KEY (ledger_id, task_id) REFERENCES outbox_task (ledger_id, id),
    CONSTRAINT attempt_number_is_positive CHECK (number > 0),
    CONSTRAINT attempt_action_is_known CHECK (action IN ('send', 'inquire'))
);

CREATE TABLE outbox_attempt_outcome (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    result text NOT NULL,
    detail text NOT NULL DEFAULT '',
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT outbox_attempt_outcome_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT outcome_belongs_to_attempt
        FOREIGN KEY (ledger_id, id) REFERENCES outbox_attempt (ledger_id, id)
);

-- Attempts are evidence: written once.
CREATE TRIGGER attempt_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox_attempt
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('attempt_is_append_only');
ALTER TABLE outbox_attempt ENABLE ALWAYS TRIGGER attempt_is_append_only;

CREATE TRIGGER attempt_outcome_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox_attempt_outcome
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('attempt_outcome_is_append_only');
ALTER TABLE outbox_attempt_outcome
    ENABLE ALWAYS TRIGGER attempt_outcome_is_append_only;

CREATE TRIGGER task_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON outbox_task
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('task_is_never_deleted');
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_is_never_deleted;

-- What a task says never changes, and an end is an end: only a dead or
-- needs_attention task may be taken up again. A provider's decision stands, so that
-- nothing can send a decided payout again; attempts are counted upwards only, so that
-- no attempt can be forgotten and the task cancelled as if it had never been sent.
CREATE FUNCTION outbox_check_task_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF (NEW.ledger_id, NEW.id, NEW.kind, NEW.transfer_id, NEW.posting_number,
        NEW.account_id, NEW.destination, NEW.amount, NEW.currency, NEW.created_at)
       IS DISTINCT FROM
       (OLD.ledger_id, OLD.id, OLD.kind, OLD.transfer_id, OLD.posting_number,
        OLD.account_id, OLD.destination, OLD.amount, OLD.currency, OLD.created_at)
    THEN
        RAISE EXCEPTION 'the content of task % never changes', OLD.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_content_never_changes';
    END IF;
    IF OLD.state IN ('done', 'cancelled') THEN
        RAISE EXCEPTION 'task % is % and stays so', OLD.id, OLD.state
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_end_is_final';
    END IF;
    IF OLD.delivery IN ('settled', 'rejected') AND NEW.delivery <> OLD.delivery THEN
        RAISE EXCEPTION 'payout % was % and stays so', OLD.id, OLD.delivery
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_decision_is_final';
    END IF;
    IF NEW.attempt_count < OLD.attempt_count THEN
        RAISE EXCEPTION 'the attempts of task % are counted upwards', OLD.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_attempts_never_decrease';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER task_update_is_legal AFTER UPDATE ON outbox_task
    FOR EACH ROW EXECUTE FUNCTION outbox_check_task_update();
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_update_is_legal;
