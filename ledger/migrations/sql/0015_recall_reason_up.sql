-- A payout that is called back before the bank was asked is reversed by somebody, who
-- says why; one that the bank rejected has the bank's words in its description.
ALTER TABLE ledger_transfer
    DROP CONSTRAINT transfer_reversal_has_reason,
    ADD CONSTRAINT transfer_reversal_has_reason CHECK (
        CASE kind WHEN 'reversal' THEN reason IS NOT NULL
            WHEN 'payout_reversal' THEN true
            ELSE reason IS NULL END);
