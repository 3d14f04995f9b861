DROP TABLE outbox_attempt_outcome;
DROP TABLE outbox_attempt;
DROP TABLE outbox_task;
DROP FUNCTION outbox_check_task_update();
