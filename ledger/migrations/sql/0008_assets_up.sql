-- Assets that a ledger defines beside the currencies of ISO 4217.

CREATE TABLE ledger_asset (
    ledger_id uuid NOT NULL,
    id uuid NOT NULL,
    code text COLLATE "C" NOT NULL,
    name text NOT NULL,
    exponent smallint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ledger_asset_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT asset_code_unique_in_ledger UNIQUE (ledger_id, code),
    CONSTRAINT asset_belongs_to_ledger
        FOREIGN KEY (ledger_id) REFERENCES ledger_ledger (id),
    CONSTRAINT asset_code_is_well_formed CHECK (code ~ '^[A-Z][A-Z0-9]{2,11}$'),
    CONSTRAINT asset_exponent_is_in_range CHECK (exponent BETWEEN 0 AND 8),
    CONSTRAINT asset_has_name CHECK (name <> '')
);

-- Amounts that are in the books already would change their meaning.
CREATE TRIGGER asset_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_asset
    FOR EACH STATEMENT EXECUTE FUNCTION payflow_refuse_change('asset_is_append_only');
ALTER TABLE ledger_asset ENABLE ALWAYS TRIGGER asset_is_append_only;
