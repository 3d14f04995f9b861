-- Every task is updated at least once, so what is forbidden is asked where it costs
-- least: what a task says, once for each statement, by the columns that it names; and of
-- each row only whether it breaks a rule, and by the function only which one.

DROP TRIGGER task_update_is_legal ON outbox_task;
DROP TRIGGER task_cause_never_changes ON outbox_task;

CREATE TRIGGER task_content_never_changes
    BEFORE UPDATE OF ledger_id, id, kind, transfer_id, posting_number, hold_event_id,
        account_id, destination, amount, currency, created_at ON outbox_task
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('task_content_never_changes');
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_content_never_changes;

CREATE OR REPLACE FUNCTION outbox_check_task_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
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
    RAISE EXCEPTION 'the attempts of task % are counted upwards', OLD.id
        USING ERRCODE = 'integrity_constraint_violation',
              CONSTRAINT = 'task_attempts_never_decrease';
END
$$;

CREATE TRIGGER task_update_is_legal AFTER UPDATE ON outbox_task
    FOR EACH ROW
    WHEN (OLD.state IN ('done', 'cancelled')
        OR (OLD.delivery IN ('settled', 'rejected') AND NEW.delivery <> OLD.delivery)
        OR NEW.attempt_count < OLD.attempt_count)
    EXECUTE FUNCTION outbox_check_task_update();
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_update_is_legal;
