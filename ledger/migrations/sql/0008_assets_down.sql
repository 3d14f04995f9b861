DROP TABLE ledger_asset;
