-- The invariants that need more than one row, checked set-wise, once a statement.
--
-- Note on planning. The functions' plans are cached by a connection and reused for
-- statements of any size. So the ones that probe tables by key forbid sequential scans
-- and hash and merge joins (a plan made on empty books must not scan full ones), and
-- the one that joins two transition tables forbids nested loops (a plan made for one
-- row must not be quadratic for ten thousand). Pages are made to cost nothing: on nearly
-- empty books their cost hides the difference between an index that finds one row and
-- one that reads the whole ledger, and the wrong one would be kept.

-- Note on names. A session can make a temporary table called ledger_entry, which would
-- be found before the real one: each function pins its search_path, with pg_temp last,
-- and reads ONLY the table itself, not what somebody let inherit from it.

-- 1. Append-only -------------------------------------------------------------------

CREATE TRIGGER transfer_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('transfer_is_append_only');
ALTER TABLE ledger_transfer ENABLE ALWAYS TRIGGER transfer_is_append_only;

CREATE TRIGGER entry_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('entry_is_append_only');
ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER entry_is_append_only;

CREATE TRIGGER audit_run_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_audit_run
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('audit_run_is_append_only');
ALTER TABLE ledger_audit_run ENABLE ALWAYS TRIGGER audit_run_is_append_only;

CREATE TRIGGER account_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('account_is_never_deleted');
ALTER TABLE ledger_account ENABLE ALWAYS TRIGGER account_is_never_deleted;

CREATE TRIGGER ledger_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('ledger_is_never_deleted');
ALTER TABLE ledger_ledger ENABLE ALWAYS TRIGGER ledger_is_never_deleted;

CREATE TRIGGER change_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_change
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('change_is_never_deleted');
ALTER TABLE ledger_change ENABLE ALWAYS TRIGGER change_is_never_deleted;

-- The one legal change of a history row: its values, which may be personal, are erased.
CREATE FUNCTION ledger_check_change_erasure() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF OLD.erased_at IS NOT NULL OR NEW.erased_at IS NULL
       OR (NEW.ledger_id, NEW.id, NEW.account_id, NEW.fields, NEW.actor, NEW.client_id,
           NEW.key_id, NEW.request_id, NEW.created_at)
          IS DISTINCT FROM
          (OLD.ledger_id, OLD.id, OLD.account_id, OLD.fields, OLD.actor, OLD.client_id,
           OLD.key_id, OLD.request_id, OLD.created_at)
    THEN
        RAISE EXCEPTION 'history changes only when its values are erased'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'change_changes_only_by_erasure';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER change_changes_only_by_erasure AFTER UPDATE ON ledger_change
    FOR EACH ROW EXECUTE FUNCTION ledger_check_change_erasure();
ALTER TABLE ledger_change ENABLE ALWAYS TRIGGER change_changes_only_by_erasure;

-- 2. Entries -----------------------------------------------------------------------

CREATE FUNCTION ledger_check_new_entries() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    -- A transfer's entries are exactly its postings 1..posting_count, each one debit
    -- and one credit of one amount and currency on two accounts, all in one statement.
    -- (Accounts are compared by hash: equal accounts never pass, and two different
    -- ones are taken for equal once in 2^64.)
    SELECT p.transfer_id INTO bad
    FROM (
        SELECT n.ledger_id, n.transfer_id, n.posting_number,
               count(*) <> 2
               OR count(*) FILTER (WHERE n.direction = 'debit') <> 1
               OR min(n.amount) <> max(n.amount)
               OR min(n.currency) <> max(n.currency)
               OR min(uuid_hash_extended(n.account_id, 0))
                  = max(uuid_hash_extended(n.account_id, 0)) AS is_broken
        FROM new_entries n
        GROUP BY n.ledger_id, n.transfer_id, n.posting_number
    ) p
    GROUP BY p.ledger_id, p.transfer_id
    HAVING bool_or(p.is_broken)
        OR min(p.posting_number) <> 1
        OR max(p.posting_number) <> count(*)
        OR count(*) IS DISTINCT FROM (
            SELECT t.posting_count FROM ONLY ledger_transfer t
            WHERE t.ledger_id = p.ledger_id AND t.id = p.transfer_id)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries of transfer % are not its postings', bad.transfer_id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_entries_are_its_postings';
    END IF;

    SELECT n.id, n.account_id, CASE
        WHEN t.kind IS NULL
            THEN 'entry_belongs_to_transfer'
        WHEN a.currency IS DISTINCT FROM n.currency
            THEN 'entry_belongs_to_account_of_currency'
        WHEN n.created_at <> t.created_at OR n.effective_at <> t.effective_at
            THEN 'entry_repeats_times_of_transfer'
        WHEN n.account_version > 1 AND p.debits_after IS NULL
            THEN 'entry_versions_have_no_gaps'
        WHEN n.debits_after <> coalesce(p.debits_after, 0)
                + CASE n.direction WHEN 'debit' THEN n.amount ELSE 0 END
          OR n.credits_after <> coalesce(p.credits_after, 0)
                + CASE n.direction WHEN 'credit' THEN n.amount ELSE 0 END
            THEN 'entry_totals_follow_previous'
        WHEN n.created_at < p.created_at
            THEN 'entry_time_does_not_decrease'
        WHEN a.version < n.account_version
          OR (a.version = n.account_version
              AND (a.debits_posted, a.credits_posted, a.last_entry_at)
                  IS DISTINCT FROM (n.debits_after, n.credits_after, n.created_at))
            THEN 'account_counters_equal_last_entry'
        WHEN a.status = 'closed'
          OR (t.kind NOT IN ('settlement', 'payout_reversal')
              AND (a.status = 'frozen'
                   OR (a.status = 'frozen_out'
                       AND (n.direction = 'debit')
                           = (a.kind NOT IN ('asset', 'expense')))))
            THEN 'account_status_allows_entry'
        WHEN n.direction = 'debit' AND a.payout_destination IS NOT NULL
          AND t.kind NOT IN ('settlement', 'payout_reversal')
            THEN 'payout_account_sends_only_completions'
        END AS rule
    INTO bad
    FROM new_entries n
    LEFT JOIN LATERAL (
        SELECT t.kind, t.created_at, t.effective_at FROM ONLY ledger_transfer t
        WHERE t.ledger_id = n.ledger_id AND t.id = n.transfer_id OFFSET 0) t ON true
    LEFT JOIN LATERAL (
        SELECT a.version, a.debits_posted, a.credits_posted, a.last_entry_at, a.status,
               a.kind, a.currency, a.payout_destination
        FROM ONLY ledger_account a
        WHERE a.ledger_id = n.ledger_id AND a.id = n.account_id OFFSET 0) a ON true
    LEFT JOIN LATERAL (
        SELECT e.debits_after, e.credits_after, e.created_at FROM ONLY ledger_entry e
        WHERE e.ledger_id = n.ledger_id AND e.account_id = n.account_id
          AND e.account_version = n.account_version - 1 OFFSET 0) p ON true
    WHERE t.kind IS NULL OR a.currency IS DISTINCT FROM n.currency
       OR n.created_at <> t.created_at OR n.effective_at <> t.effective_at
       OR (n.account_version > 1 AND p.debits_after IS NULL)
       OR n.debits_after <> coalesce(p.debits_after, 0)
            + CASE n.direction WHEN 'debit' THEN n.amount ELSE 0 END
       OR n.credits_after <> coalesce(p.credits_after, 0)
            + CASE n.direction WHEN 'credit' THEN n.amount ELSE 0 END
       OR n.created_at < p.created_at
       OR a.version < n.account_version
       OR (a.version = n.account_version
           AND (a.debits_posted, a.credits_posted, a.last_entry_at)
               IS DISTINCT FROM (n.debits_after, n.credits_after, n.created_at))
       OR (a.status <> 'open' AND (
           a.status = 'closed'
           OR (t.kind NOT IN ('settlement', 'payout_reversal')
               AND (a.status = 'frozen'
                    OR (n.direction = 'debit') = (a.kind NOT IN ('asset', 'expense'))))))
       OR (n.direction = 'debit' AND a.payout_destination IS NOT NULL
           AND t.kind NOT IN ('settlement', 'payout_reversal'))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entry % of account % breaks %', bad.id, bad.account_id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER entry_insert_is_legal AFTER INSERT ON ledger_entry
    REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_entries();
ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER entry_insert_is_legal;

-- 3. Accounts ----------------------------------------------------------------------

CREATE FUNCTION ledger_check_new_accounts() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    bad record;
BEGIN
    SELECT n.id INTO bad FROM new_accounts n
    WHERE n.version <> 0 OR n.debits_posted <> 0 OR n.credits_posted <> 0
       OR n.debits_pending <> 0 OR n.credits_pending <> 0
       OR n.last_entry_at IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'account % does not start empty', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'account_starts_empty';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER account_starts_empty AFTER INSERT ON ledger_account
    REFERENCING NEW TABLE AS new_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_accounts();
ALTER TABLE ledger_account ENABLE ALWAYS TRIGGER account_starts_empty;

CREATE FUNCTION ledger_check_account_update() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT x.id, x.rule INTO bad
    FROM (
        SELECT coalesce(n.id, o.id) AS id, CASE
            WHEN n.id IS NULL OR o.id IS NULL OR n.kind <> o.kind
              OR n.currency <> o.currency OR n.created_at <> o.created_at
                THEN 'account_identity_never_changes'
            WHEN (n.version, n.debits_posted, n.credits_posted, n.last_entry_at)
                 IS DISTINCT FROM
                 (o.version, o.debits_posted, o.credits_posted, o.last_entry_at)
              AND NOT EXISTS (
                SELECT 1 FROM ONLY ledger_entry e
                WHERE e.ledger_id = n.ledger_id AND e.account_id = n.id
                  AND e.account_version = n.version
                  AND e.debits_after = n.debits_posted
                  AND e.credits_after = n.credits_posted
                  AND e.created_at = n.last_entry_at
                  AND n.version > o.version)
                THEN 'account_counters_equal_last_entry'
            WHEN n.available < o.available AND n.available < n.min_balance
                THEN 'account_available_not_below_floor'
            WHEN n.status = 'closed' AND o.status <> 'closed'
              AND (n.posted <> 0 OR n.debits_pending <> 0 OR n.credits_pending <> 0)
                THEN 'account_closes_only_empty'
            WHEN (n.payout_destination IS NULL) <> (o.payout_destination IS NULL)
              AND n.posted <> 0
                THEN 'account_payout_role_changes_only_empty'
            END AS rule
        FROM (
            SELECT o.*, o.posted - o.pending_out AS available
            FROM (
                SELECT r.*,
                    CASE WHEN r.kind IN ('asset', 'expense')
                        THEN r.debits_posted - r.credits_posted
                        ELSE r.credits_posted - r.debits_posted END AS posted,
                    CASE WHEN r.kind IN ('asset', 'expense')
                        THEN r.credits_pending ELSE r.debits_pending END AS pending_out
                FROM old_accounts r) o
        ) o
        FULL JOIN (
            SELECT n.*, n.posted - n.pending_out AS available
            FROM (
                SELECT r.*,
                    CASE WHEN r.kind IN ('asset', 'expense')
                        THEN r.debits_posted - r.credits_posted
                        ELSE r.credits_posted - r.debits_posted END AS posted,
                    CASE WHEN r.kind IN ('asset', 'expense')
                        THEN r.credits_pending ELSE r.debits_pending END AS pending_out
                FROM new_accounts r) n
        ) n ON n.ledger_id = o.ledger_id AND n.id = o.id
    ) x
    WHERE x.rule IS NOT NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the update of account % breaks %', bad.id, bad.rule
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = bad.rule;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER account_update_is_legal AFTER UPDATE ON ledger_account
    REFERENCING OLD TABLE AS old_accounts NEW TABLE AS new_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_account_update();
ALTER TABLE ledger_account ENABLE ALWAYS TRIGGER account_update_is_legal;

-- 4. Transfers and their tasks -----------------------------------------------------

ALTER TABLE outbox_task ADD CONSTRAINT task_belongs_to_transfer
    FOREIGN KEY (ledger_id, transfer_id) REFERENCES ledger_transfer (ledger_id, id);
ALTER TABLE outbox_task ADD CONSTRAINT task_payout_belongs_to_account
    FOREIGN KEY (ledger_id, account_id) REFERENCES ledger_account (ledger_id, id);
ALTER TABLE outbox_task ADD CONSTRAINT task_completion_is_transfer
    FOREIGN KEY (ledger_id, completion_transfer_id)
    REFERENCES ledger_transfer (ledger_id, id);

CREATE FUNCTION ledger_check_new_transfers() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    -- An account's recording times never decrease, so one time far ahead would spread
    -- to every account that it meets.
    SELECT t.id INTO bad FROM new_transfers t
    WHERE t.created_at > clock_timestamp() + interval '1 minute'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % would be recorded in the future', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_not_recorded_in_future';
    END IF;

    SELECT t.id, e.entries <> 2 * t.posting_count AS lacks_entries INTO bad
    FROM new_transfers t
    CROSS JOIN LATERAL (
        SELECT count(*) AS entries,
               count(*) FILTER (WHERE e.direction = 'credit'
                                AND a.payout_destination IS NOT NULL) AS payouts
        FROM ONLY ledger_entry e
        JOIN ONLY ledger_account a ON a.ledger_id = e.ledger_id AND a.id = e.account_id
        WHERE e.ledger_id = t.ledger_id AND e.transfer_id = t.id OFFSET 0) e
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE k.kind = 'transfer.posted') AS posted,
               count(*) FILTER (WHERE k.kind = 'payout') AS payouts
        FROM ONLY outbox_task k
        WHERE k.ledger_id = t.ledger_id AND k.transfer_id = t.id OFFSET 0) k
    WHERE e.entries <> 2 * t.posting_count OR k.posted <> 1 OR k.payouts <> e.payouts
    LIMIT 1;
    IF FOUND AND bad.lacks_entries THEN
        RAISE EXCEPTION 'transfer % comes without its entries', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_comes_with_its_entries';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'transfer % comes without its outbox tasks', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'transfer_comes_with_its_tasks';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_insert_is_whole AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS new_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_transfers();
ALTER TABLE ledger_transfer ENABLE ALWAYS TRIGGER transfer_insert_is_whole;

CREATE FUNCTION ledger_check_new_tasks() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    -- A task is born in the statement that writes its transfer: whoever could add one to
    -- an old posting could have the bank pay for it again.
    SELECT k.id INTO bad
    FROM new_tasks k
    JOIN ONLY ledger_transfer t ON t.ledger_id = k.ledger_id AND t.id = k.transfer_id
    WHERE t.created_at < statement_timestamp()
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'task % comes after its transfer', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_comes_with_its_transfer';
    END IF;

    SELECT k.id INTO bad
    FROM new_tasks k
    WHERE k.kind = 'payout' AND NOT EXISTS (
        SELECT 1
        FROM ONLY ledger_entry e
        JOIN ONLY ledger_account a ON a.ledger_id = e.ledger_id AND a.id = e.account_id
        WHERE e.ledger_id = k.ledger_id AND e.transfer_id = k.transfer_id
          AND e.posting_number = k.posting_number AND e.direction = 'credit'
          AND e.account_id = k.account_id AND e.amount = k.amount
          AND e.currency = k.currency AND a.payout_destination = k.destination)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'payout task % is not of a posting into its account', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_payout_matches_its_posting';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER task_payout_matches_its_posting AFTER INSERT ON outbox_task
    REFERENCING NEW TABLE AS new_tasks
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_new_tasks();
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_payout_matches_its_posting;

CREATE FUNCTION ledger_check_ended_tasks() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET random_page_cost = 0.001
AS $$
DECLARE
    bad record;
BEGIN
    SELECT k.id INTO bad
    FROM new_tasks k
    WHERE k.kind = 'payout' AND k.state IN ('done', 'cancelled') AND NOT EXISTS (
        SELECT 1
        FROM ONLY ledger_transfer t
        JOIN ONLY ledger_entry e ON e.ledger_id = t.ledger_id AND e.transfer_id = t.id
        WHERE t.ledger_id = k.ledger_id AND t.id = k.completion_transfer_id
          AND e.direction = 'debit' AND e.account_id = k.account_id
          AND e.amount = k.amount
          AND CASE WHEN k.delivery = 'settled' THEN t.kind = 'settlement'
              ELSE t.kind = 'payout_reversal' AND t.reverses_transfer_id = k.transfer_id
              END)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'payout task % ends without its settlement or reversal', bad.id
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'task_payout_ends_with_its_completion';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER task_payout_ends_with_its_completion AFTER UPDATE ON outbox_task
    REFERENCING NEW TABLE AS new_tasks
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_ended_tasks();
ALTER TABLE outbox_task ENABLE ALWAYS TRIGGER task_payout_ends_with_its_completion;
