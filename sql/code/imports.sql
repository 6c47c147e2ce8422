-- Billing's whole table as a snapshot: how one is staged, how the first one gets in at speed, and what an older one may not undo.
--
-- A snapshot is true as of a time. A contract that the registry learned something of after that time is left as it is, so
-- contract.recorded_at now moves with every change: event, snapshot and a DBA's UPDATE alike.
--
-- The staging table is made by a function of the owner's, so that load_first, which runs with the owner's rights, may trust that nobody
-- hung a rule or a trigger on what it reads. Its columns follow registry.contract's types.

CREATE OR REPLACE FUNCTION registry.make_import_staging() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- EXECUTE, so that a second import of the same session does not meet the first one's plan.
    EXECUTE $make$
        CREATE TEMPORARY TABLE import_contract ON COMMIT DROP AS
            SELECT c.msisdn, c.started_at, c.ended_at, c.status, c.holder, c.end_user, c.end_reason, c.generation
              FROM registry.contract AS c WITH NO DATA;
        GRANT SELECT, INSERT ON pg_temp.import_contract TO registryd_app
    $make$;
END
$$;
COMMENT ON FUNCTION registry.make_import_staging IS 'Makes the temporary table import_contract, which takes the lines of one import and is gone with its transaction.';

CREATE OR REPLACE FUNCTION registry.load_first(learned_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET maintenance_work_mem = '256MB' SET work_mem = '256MB'
AS $$
DECLARE
    index  record;
    remake text[] := '{}';
    loaded bigint;
BEGIN
    -- While the first contracts come in, queries wait and are then refused, where they would be told a wrong "absent".
    LOCK TABLE registry.contract IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM registry.contract) THEN
        RAISE EXCEPTION 'registry.contract holds contracts already'
            USING ERRCODE = 'restrict_violation', HINT = 'Import the file again: it is then compared with what is there.';
    END IF;
    IF (SELECT t.relowner FROM pg_class AS t WHERE t.oid = 'pg_temp.import_contract'::regclass) <> current_user::regrole THEN
        RAISE EXCEPTION 'import_contract was not made by registry.make_import_staging'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Call registry.make_import_staging() in the same transaction first.';
    END IF;
    -- An index built over all rows at once costs a quarter of one that each row is put into. They are made again as they were, in this
    -- very transaction: a number with two live contracts fails there, and nothing was loaded.
    FOR index IN
        SELECT i.indexrelid::regclass AS name, c.conname AS rule,
               pg_get_indexdef(i.indexrelid) || CASE WHEN c.contype IN ('p', 'u') THEN
                   format('; ALTER TABLE registry.contract ADD CONSTRAINT %1$I %2$s USING INDEX %1$I', c.conname,
                          CASE c.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END) ELSE '' END AS definition
          FROM pg_index AS i
          LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
         WHERE i.indrelid = 'registry.contract'::regclass
         ORDER BY i.indexrelid
    LOOP
        remake := remake || index.definition;
        EXECUTE CASE WHEN index.rule IS NULL THEN format('DROP INDEX %s', index.name)
                     ELSE format('ALTER TABLE registry.contract DROP CONSTRAINT %I', index.rule) END;
    END LOOP;
    PERFORM set_config('registry.bulk_load', 'on', true);
    EXECUTE $load$
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason, recorded_at)
        SELECT s.msisdn, coalesce(s.generation, 1), s.status, s.holder, s.end_user, s.started_at, s.ended_at, s.end_reason, $1
          FROM pg_temp.import_contract AS s
         ORDER BY s.msisdn, s.generation
    $load$ USING learned_at;
    GET DIAGNOSTICS loaded = ROW_COUNT;
    FOR position IN 1 .. cardinality(remake) LOOP
        EXECUTE remake[position];
    END LOOP;
    RETURN loaded;
END
$$;
COMMENT ON FUNCTION registry.load_first IS 'Moves import_contract into an empty registry.contract, as learned at a time: every check and trigger holds, only the indexes are built at the end. Returns how many rows.';
