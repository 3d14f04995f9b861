-- Each event of a hold has its one task, written in the same statement.

ALTER TABLE outbox_task ADD CONSTRAINT task_tells_of_hold_event
    FOREIGN KEY (ledger_id, hold_event_id) REFERENCES ledger_hold_event (ledger_id, id);

CREATE FUNCTION ledger_check_new_hold_events() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT n.id INTO bad FROM new_events n
    WHERE NOT EXISTS (
        SELECT 1 FROM ONLY outbox_task k
        WHERE k.ledger_id = n.ledger_id AND k.hold_event_id = n.id
          AND k.kind = 'hold.' || n.kind)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold event % comes without its outbox task', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'hold_event_comes_with_its_task';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_event_comes_with_its_task AFTER INSERT ON ledger_hold_event
    REFERENCING NEW TABLE AS new_events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_hold_events();
ALTER TABLE ledger_hold_event ENABLE ALWAYS TRIGGER hold_event_comes_with_its_task;
