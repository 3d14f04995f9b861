-- The books. Every invariant that a row can show by itself is a CHECK here; the ones
-- that need several rows are the triggers of 0002.

CREATE TABLE ledger_ledger (
    id uuid NOT NULL CONSTRAINT ledger_ledger_pkey PRIMARY KEY,
    slug text COLLATE "C" NOT NULL CONSTRAINT ledger_slug_unique UNIQUE,
    name text NOT NULL,
    time_zone text NOT NULL DEFAULT 'UTC',
    settings jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ledger_slug_is_well_formed
        CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$')
);

CREATE TABLE ledger_api_client (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ledger_api_client_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT api_client_name_unique_in_ledger UNIQUE (ledger_id, name),
    CONSTRAINT api_client_belongs_to_ledger
        FOREIGN KEY (ledger_id) REFERENCES ledger_ledger (id)
);

CREATE TABLE ledger_api_key (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    client_id uuid NOT NULL,
    secret_hash bytea NOT NULL,
    hint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT ledger_api_key_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT api_key_belongs_to_client
        FOREIGN KEY (ledger_id, client_id) REFERENCES ledger_api_client (ledger_id, id),
    CONSTRAINT api_key_hash_is_sha256 CHECK (length(secret_hash) = 32)
);

CREATE TABLE ledger_account (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    -- The C collation lets the unique index serve searches by prefix too.
    reference text COLLATE "C",
    owner_name text NOT NULL DEFAULT '',
    kind text NOT NULL DEFAULT 'liability',
    code text NOT NULL DEFAULT '',
    currency text NOT NULL,
    status text NOT NULL DEFAULT 'open',
    min_balance bigint DEFAULT 0,
    metadata jsonb NOT NULL DEFAULT '{}',
    payout_destination text,
    version bigint NOT NULL DEFAULT 0,
    debits_posted bigint NOT NULL DEFAULT 0,
    credits_posted bigint NOT NULL DEFAULT 0,
    debits_pending bigint NOT NULL DEFAULT 0,
    credits_pending bigint NOT NULL DEFAULT 0,
    last_entry_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ledger_account_pkey PRIMARY KEY (ledger_id, id),
    -- Entries refer to (ledger_id, id, currency): no entry can state another currency.
    CONSTRAINT account_currency_of_entries UNIQUE (ledger_id, id, currency),
    CONSTRAINT account_belongs_to_ledger
        FOREIGN KEY (ledger_id) REFERENCES ledger_ledger (id),
    CONSTRAINT account_kind_is_known
        CHECK (kind IN ('asset', 'liability', 'equity', 'income', 'expense')),
    CONSTRAINT account_status_is_known
        CHECK (status IN ('open', 'frozen_out', 'frozen', 'closed')),
    CONSTRAINT account_currency_is_well_formed
        CHECK (currency ~ '^[A-Z][A-Z0-9]{2,11}$'),
    CONSTRAINT account_counters_not_negative CHECK (
        version >= 0 AND debits_posted >= 0 AND credits_posted >= 0
        AND debits_pending >= 0 AND credits_pending >= 0),
    CONSTRAINT account_counters_do_not_overflow CHECK (
        debits_posted <= 9000000000000000000 AND credits_posted <= 9000000000000000000
        AND debits_pending <= 9000000000000000000
        AND credits_pending <= 9000000000000000000),
    -- Beyond 2^53 - 1 a JSON client rounds money.
    CONSTRAINT account_balance_fits_json CHECK (
        abs(credits_posted - debits_posted) <= 9007199254740991),
    CONSTRAINT account_floor_fits_json CHECK (abs(min_balance) <= 9007199254740991),
    CONSTRAINT account_payout_is_liability CHECK (
        payout_destination IS NULL OR (kind = 'liability' AND payout_destination <> '')),
    -- With a higher floor a payout that the bank has made could never be settled.
    CONSTRAINT account_payout_floor_is_zero CHECK (
        payout_destination IS NULL OR min_balance IS NOT DISTINCT FROM 0)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX account_reference_unique_in_ledger
    ON ledger_account (ledger_id, reference) WHERE reference IS NOT NULL;
-- Partial, so that no look-up by id can ever be planned over it: on nearly empty books
-- it would cost as little as the primary key, and such plans are kept.
CREATE INDEX account_owner_name
    ON ledger_account (ledger_id uuid_ops, owner_name text_pattern_ops)
    WHERE owner_name <> '';

CREATE TABLE ledger_transfer (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    kind text NOT NULL,
    posting_count integer NOT NULL,
    reference text COLLATE "C",
    description text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    effective_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    actor text NOT NULL,
    client_id uuid,
    key_id uuid,
    request_id text NOT NULL DEFAULT '',
    idempotency_key text,
    reverses_transfer_id uuid,
    CONSTRAINT ledger_transfer_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT transfer_reverses_transfer FOREIGN KEY (ledger_id, reverses_transfer_id)
        REFERENCES ledger_transfer (ledger_id, id),
    CONSTRAINT transfer_kind_is_known CHECK (
        kind IN ('transfer', 'opening_balance', 'settlement', 'payout_reversal')),
    CONSTRAINT transfer_has_postings CHECK (posting_count > 0),
    CONSTRAINT transfer_not_effective_after_recording
        CHECK (effective_at <= created_at),
    CONSTRAINT transfer_payout_reversal_names_transfer CHECK (
        (kind = 'payout_reversal') <= (reverses_transfer_id IS NOT NULL))
);

CREATE UNIQUE INDEX transfer_reference_unique_in_ledger
    ON ledger_transfer (ledger_id, reference) WHERE reference IS NOT NULL;
CREATE INDEX transfer_reverses
    ON ledger_transfer (ledger_id, reverses_transfer_id)
    WHERE reverses_transfer_id IS NOT NULL;

CREATE TABLE ledger_entry (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    transfer_id uuid NOT NULL,
    account_id uuid NOT NULL,
    amount bigint NOT NULL,
    account_version bigint NOT NULL,
    debits_after bigint NOT NULL,
    credits_after bigint NOT NULL,
    effective_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    posting_number integer NOT NULL,
    direction text NOT NULL,
    currency text NOT NULL,
    CONSTRAINT ledger_entry_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT entry_unique_per_posting_side
        UNIQUE (ledger_id, transfer_id, posting_number, direction),
    CONSTRAINT entry_versions_unique_per_account
        UNIQUE (ledger_id, account_id, account_version),
    CONSTRAINT entry_belongs_to_transfer
        FOREIGN KEY (ledger_id, transfer_id) REFERENCES ledger_transfer (ledger_id, id),
    CONSTRAINT entry_belongs_to_account_of_currency
        FOREIGN KEY (ledger_id, account_id, currency)
        REFERENCES ledger_account (ledger_id, id, currency),
    CONSTRAINT entry_direction_is_known CHECK (direction IN ('debit', 'credit')),
    CONSTRAINT entry_amount_is_positive CHECK (amount > 0),
    CONSTRAINT entry_amount_fits_json CHECK (amount <= 9007199254740991),
    CONSTRAINT entry_version_is_positive CHECK (account_version > 0),
    CONSTRAINT entry_totals_not_negative
        CHECK (debits_after >= 0 AND credits_after >= 0),
    CONSTRAINT entry_not_effective_after_recording CHECK (effective_at <= created_at)
);

CREATE TABLE ledger_change (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    account_id uuid,
    fields jsonb NOT NULL,
    old jsonb,
    new jsonb,
    actor text NOT NULL,
    client_id uuid,
    key_id uuid,
    request_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    erased_at timestamptz,
    CONSTRAINT ledger_change_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT change_belongs_to_ledger
        FOREIGN KEY (ledger_id) REFERENCES ledger_ledger (id),
    CONSTRAINT change_belongs_to_account
        FOREIGN KEY (ledger_id, account_id) REFERENCES ledger_account (ledger_id, id),
    CONSTRAINT change_values_until_erased CHECK (
        (erased_at IS NULL) = (old IS NOT NULL)
        AND (erased_at IS NULL) = (new IS NOT NULL))
);
CREATE INDEX ledger_change_account ON ledger_change (ledger_id, account_id, id);

CREATE TABLE ledger_audit_run (
    id uuid NOT NULL CONSTRAINT ledger_audit_run_pkey PRIMARY KEY,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    is_sound boolean NOT NULL,
    difference numeric(40, 0) NOT NULL,
    counts jsonb NOT NULL,
    findings jsonb NOT NULL,
    CONSTRAINT audit_run_difference_not_negative CHECK (difference >= 0)
);

CREATE TABLE ledger_integrity_status (
    id smallint NOT NULL CONSTRAINT ledger_integrity_status_pkey PRIMARY KEY,
    integrity_sum numeric(40, 0) NOT NULL,
    computed_at timestamptz NOT NULL,
    CONSTRAINT integrity_status_is_one_row CHECK (id = 1)
);
