DROP TRIGGER hold_event_comes_with_its_task ON ledger_hold_event;
DROP FUNCTION ledger_check_new_hold_events();
ALTER TABLE outbox_task DROP CONSTRAINT task_tells_of_hold_event;
