CREATE OR REPLACE FUNCTION registry.guard_new_bindings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    wanted bigint;
    held   bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM added WHERE ended_at IS NULL' INTO wanted;
    IF wanted = 0 THEN
        RETURN NULL;
    END IF;
    EXECUTE $hold$
        SELECT count(*) FROM (
            SELECT FROM added AS a
              JOIN registry.contract AS c ON c.msisdn = a.msisdn AND c.generation = a.generation AND c.ended_at IS NULL
             WHERE a.ended_at IS NULL AND EXISTS (SELECT FROM registry.messenger AS m WHERE m.messenger_id = a.messenger_id)
             ORDER BY c.msisdn
               FOR SHARE OF c) AS held
    $hold$ INTO held;
    IF held <> wanted THEN
        RAISE EXCEPTION 'a binding needs a live contract and a known messenger'
            USING ERRCODE = 'restrict_violation', TABLE = 'binding', SCHEMA = 'registry',
                  HINT = 'The contract has ended or never was, or messenger_id is unknown. Bind to the number''s live generation.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.guard_new_bindings IS 'Locks the contracts of new bindings against ending until commit, so that no end can miss a binding.';

CREATE OR REPLACE FUNCTION registry.refuse_binding_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'a binding is never changed, only ended'
        USING ERRCODE = 'restrict_violation', HINT = 'Set ended_at and end_reason together, once, and insert a new binding.';
END
$$;
COMMENT ON FUNCTION registry.refuse_binding_change IS 'Refuses every change of a binding except its end, and the deletion of a live one.';
