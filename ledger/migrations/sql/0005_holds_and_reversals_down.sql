DROP TRIGGER account_payout_role_changes_only_empty ON ledger_account;
DROP FUNCTION ledger_check_payout_role();
DROP TRIGGER transfer_origin_is_legal ON ledger_transfer;
DROP FUNCTION ledger_check_transfer_origins();
DROP TABLE ledger_reversal_total;
DROP FUNCTION ledger_check_reversal_totals();
ALTER TABLE ledger_transfer
    DROP CONSTRAINT transfer_kind_is_known,
    DROP CONSTRAINT transfer_capture_names_hold,
    DROP CONSTRAINT transfer_reversal_names_transfer,
    DROP CONSTRAINT transfer_sources_are_of_each_posting,
    DROP CONSTRAINT transfer_reversal_has_reason,
    DROP CONSTRAINT transfer_reason_is_known,
    DROP CONSTRAINT transfer_permission_is_known,
    DROP CONSTRAINT transfer_exchange_has_rate,
    DROP COLUMN hold_id,
    DROP COLUMN source_postings,
    DROP COLUMN reason,
    DROP COLUMN permission,
    DROP COLUMN exchange_rate;
ALTER TABLE ledger_transfer
    ADD CONSTRAINT transfer_kind_is_known CHECK (
        kind IN ('transfer', 'opening_balance', 'settlement', 'payout_reversal')),
    ADD CONSTRAINT transfer_payout_reversal_names_transfer CHECK (
        (kind = 'payout_reversal') <= (reverses_transfer_id IS NOT NULL));
DROP TABLE ledger_hold_event, ledger_hold_posting, ledger_hold;
DROP FUNCTION ledger_check_new_holds();
DROP FUNCTION ledger_check_new_hold_postings();
DROP FUNCTION ledger_check_hold_update();
DROP FUNCTION ledger_check_hold_posting_update();
ALTER TABLE ledger_api_client DROP COLUMN permissions;

-- As it was in 0002.
CREATE OR REPLACE FUNCTION ledger_check_new_entries() RETURNS trigger
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
