-- Tasks that tell of a hold: each of its events has one, as each transfer has.

ALTER TABLE outbox_task
    ADD COLUMN hold_event_id uuid,
    ALTER COLUMN transfer_id DROP NOT NULL,
    DROP CONSTRAINT task_kind_is_known,
    ADD CONSTRAINT task_kind_is_known CHECK (
        kind IN ('transfer.posted', 'payout', 'hold.placed', 'hold.extended',
            'hold.captured', 'hold.voided', 'hold.expired')),
    ADD CONSTRAINT task_names_its_cause CHECK (
        CASE WHEN kind LIKE 'hold.%'
            THEN hold_event_id IS NOT NULL AND transfer_id IS NULL
            ELSE hold_event_id IS NULL AND transfer_id IS NOT NULL END);

CREATE UNIQUE INDEX task_unique_per_hold_event
    ON outbox_task (ledger_id, hold_event_id) WHERE hold_event_id IS NOT NULL;

CREATE TRIGGER task_cause_never_changes
    BEFORE UPDATE OF hold_event_id ON outbox_task
    FOR EACH STATEMENT
    EXECUTE FUNCTION payflow_refuse_change('task_content_never_changes');
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_cause_never_changes;
