DROP TRIGGER task_cause_never_changes ON outbox_task;
ALTER TABLE outbox_task
    DROP CONSTRAINT task_names_its_cause,
    DROP CONSTRAINT task_kind_is_known,
    ADD CONSTRAINT task_kind_is_known CHECK (kind IN ('transfer.posted', 'payout')),
    ALTER COLUMN transfer_id SET NOT NULL,
    DROP COLUMN hold_event_id;
