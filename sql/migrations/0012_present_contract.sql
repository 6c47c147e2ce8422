-- What the registry knows of a contract is as old as what told it, and a number's live contract is its last.
--
-- A snapshot tells what was true at its own time, however late it is imported: what it writes is recorded as learned then, so that the
-- next snapshot may change it. And no contract, ended or live, stands above a live one of its number: events, snapshots and queries
-- all take the highest generation for the present one.

CREATE OR REPLACE FUNCTION registry.stamp_recorded() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.recorded_at := coalesce(nullif(current_setting('registry.learned_at', true), '')::timestamptz, now());
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.stamp_recorded IS 'A change is newer than any snapshot taken before it: it says when the registry learned of it. A snapshot''s own changes were learned when it was taken (registry.learned_at, for its transaction).';
COMMENT ON COLUMN registry.contract.recorded_at IS 'When the registry last learned something of the contract: from an event or a DBA now, from a snapshot when that was taken. A snapshot from before then changes nothing of it.';

DROP FUNCTION registry.load_first();
CREATE FUNCTION registry.load_first(learned_at timestamptz) RETURNS bigint
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
REVOKE ALL ON FUNCTION registry.load_first(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.load_first(timestamptz) TO registryd_app;

CREATE FUNCTION registry.refuse_buried_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    above smallint;
BEGIN
    IF NEW.ended_at IS NULL THEN
        SELECT max(c.generation) INTO above FROM registry.contract AS c WHERE c.msisdn = NEW.msisdn AND c.generation > NEW.generation;
        IF above IS NOT NULL THEN
            RAISE EXCEPTION 'a live contract is its number''s last (generation % exists)', above
                USING ERRCODE = 'restrict_violation', HINT = format('Insert it as generation %s.', above + 1);
        END IF;
    ELSIF EXISTS (SELECT FROM registry.contract AS c WHERE c.msisdn = NEW.msisdn AND c.ended_at IS NULL AND c.generation < NEW.generation) THEN
        RAISE EXCEPTION 'this number has a live contract of a lower generation'
            USING ERRCODE = 'restrict_violation', HINT = 'A contract that ended before the live one began has a lower generation than that.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.refuse_buried_contract IS 'A number''s live contract has its highest generation. A bulk load (registry.bulk_load) is spared this row by row, and looks for it once.';
CREATE TRIGGER refuse_buried_contract BEFORE INSERT ON registry.contract
    FOR EACH ROW WHEN (current_setting('registry.bulk_load', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION registry.refuse_buried_contract();

CREATE FUNCTION registry.forget_events(batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    over      timestamptz := (SELECT now() - p.ended_kept FROM registry.policy_in_force(now()) AS p);
    forgotten bigint;
BEGIN
    DELETE FROM registry.feed_event AS f WHERE f.event_id = ANY (ARRAY(
        SELECT e.event_id FROM registry.feed_event AS e WHERE e.recorded_at < over ORDER BY e.recorded_at LIMIT batch));
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION registry.forget_events IS 'Deletes billing''s events, a batch at most, recorded longer ago than the policy keeps ended contracts; figures of them stay in feed_movement. Returns how many.';
REVOKE ALL ON FUNCTION registry.forget_events(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.forget_events(integer) TO registryd_app;
