-- What the application may do in the database, set anew after every migrate.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payflow_app') THEN
        CREATE ROLE payflow_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    -- Roles belong to the whole server: another database's migrate was faster.
    NULL;
END
$$;

-- Nobody needs temporary tables here, and one can bear the name of a real one.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the owner of the database may revoke TEMPORARY from PUBLIC';
END
$$;

GRANT USAGE ON SCHEMA public TO payflow_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO payflow_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO payflow_app;

-- Append-only: read and added to.
REVOKE UPDATE, DELETE, TRUNCATE ON
    ledger_transfer, ledger_entry, ledger_hold_event, ledger_asset, ledger_audit_run,
    outbox_attempt, outbox_attempt_outcome
    FROM payflow_app;

-- Never deleted, and changed only where the design says so.
REVOKE UPDATE, DELETE, TRUNCATE ON
    ledger_ledger, ledger_account, ledger_change, ledger_hold, ledger_hold_posting,
    ledger_reversal_total, ledger_usage, ledger_scheduled_transfer, outbox_task,
    idempotency_key
    FROM payflow_app;
GRANT UPDATE (name, time_zone, settings, closed_before) ON ledger_ledger
    TO payflow_app;
GRANT UPDATE (status, expires_at, ended_at) ON ledger_hold TO payflow_app;
GRANT UPDATE (captured, released, expires_at) ON ledger_hold_posting TO payflow_app;
GRANT UPDATE (reversed) ON ledger_reversal_total TO payflow_app;
GRANT UPDATE (out_amount, out_count, in_amount, in_count) ON ledger_usage
    TO payflow_app;
GRANT UPDATE (status, next_attempt_at, attempt_count, last_problem, transfer_id,
    end_reason, ended_at) ON ledger_scheduled_transfer TO payflow_app;
GRANT UPDATE (owner_name, code, status, min_balance, metadata, payout_destination,
    version, debits_posted, credits_posted, debits_pending, credits_pending,
    last_entry_at, has_velocity_limits) ON ledger_account TO payflow_app;
GRANT UPDATE (old, new, erased_at) ON ledger_change TO payflow_app;
GRANT UPDATE (state, delivery, due_at, lease_token, attempt_count, failure_count,
    provider_reference, last_error, completion_transfer_id, finished_at, retried_at)
    ON outbox_task TO payflow_app;
GRANT UPDATE (response_headers, response_body, purged_at) ON idempotency_key
    TO payflow_app;

-- The schema's history is the owner's.
REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM payflow_app;
