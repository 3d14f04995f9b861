-- Not validated: reasons that were recorded meanwhile stay where they are.
ALTER TABLE ledger_transfer
    DROP CONSTRAINT transfer_reversal_has_reason,
    ADD CONSTRAINT transfer_reversal_has_reason CHECK (
        (kind = 'reversal') = (reason IS NOT NULL)) NOT VALID;
