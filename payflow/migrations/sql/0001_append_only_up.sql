-- The refusal that every append-only table shares. The trigger's argument is the name
-- of the rule, which arrives in the client as the error's constraint name.
CREATE FUNCTION payflow_refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: its rows are append-only',
        TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_ARGV[0];
END
$$;
