DROP FUNCTION payflow_refuse_change();
