DROP TRIGGER task_update_is_legal ON outbox_task;
DROP TRIGGER task_content_never_changes ON outbox_task;

CREATE TRIGGER task_cause_never_changes
    BEFORE UPDATE OF hold_event_id ON outbox_task
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('task_content_never_changes');
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_cause_never_changes;

CREATE OR REPLACE FUNCTION outbox_check_task_update() RETURNS trigger
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
