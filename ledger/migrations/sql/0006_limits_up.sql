-- Velocity limits: how much, and how often, an account may move in a window of time.

-- So that an account without limits costs its transfers nothing.
ALTER TABLE ledger_account
    ADD COLUMN has_velocity_limits boolean NOT NULL DEFAULT false;

CREATE TABLE ledger_velocity_limit (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    direction text NOT NULL,
    period text NOT NULL,
    max_amount bigint,
    max_count bigint,
    CONSTRAINT ledger_velocity_limit_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT velocity_limit_unique_per_window
        UNIQUE (ledger_id, account_id, direction, period),
    CONSTRAINT velocity_limit_belongs_to_account
        FOREIGN KEY (ledger_id, account_id) REFERENCES ledger_account (ledger_id, id),
    CONSTRAINT velocity_limit_direction_is_known CHECK (direction IN ('in', 'out')),
    CONSTRAINT velocity_limit_period_is_known CHECK (
        period IN ('rolling_day', 'day', 'month')),
    CONSTRAINT velocity_limit_limits_something CHECK (
        max_amount IS NOT NULL OR max_count IS NOT NULL),
    CONSTRAINT velocity_limit_is_in_range CHECK (
        max_amount >= 0 AND max_amount <= 9007199254740991 AND max_count >= 0)
);

-- Running totals of what counts against an account's velocity limits, written only for
-- accounts that have some: one row for all that happened to it at one instant. What
-- moved in a window is the difference of two rows.
CREATE TABLE ledger_usage (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    account_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    out_amount bigint NOT NULL,
    out_count bigint NOT NULL,
    in_amount bigint NOT NULL,
    in_count bigint NOT NULL,
    CONSTRAINT ledger_usage_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT usage_unique_per_instant UNIQUE (ledger_id, account_id, created_at),
    CONSTRAINT usage_belongs_to_account
        FOREIGN KEY (ledger_id, account_id) REFERENCES ledger_account (ledger_id, id),
    CONSTRAINT usage_not_negative CHECK (
        out_amount >= 0 AND out_count >= 0 AND in_amount >= 0 AND in_count >= 0)
);

CREATE TRIGGER usage_is_never_deleted
    BEFORE DELETE OR TRUNCATE ON ledger_usage
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('usage_is_never_deleted');
ALTER TABLE ledger_usage ENABLE ALWAYS TRIGGER usage_is_never_deleted;
