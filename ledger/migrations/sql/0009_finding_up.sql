-- Searches by metadata: containment of names and values. Rows without any cost nothing.

CREATE INDEX account_metadata ON ledger_account
    USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
CREATE INDEX transfer_metadata ON ledger_transfer
    USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
CREATE INDEX hold_metadata ON ledger_hold
    USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
CREATE INDEX scheduled_metadata ON ledger_scheduled_transfer
    USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
