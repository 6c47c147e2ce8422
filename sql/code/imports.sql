-- Imports of billing's files: staging, the fast first load, and applying the differences of a snapshot.
--
-- A snapshot is true as of a time, and leaves alone what the registry learned after that time. contract.recorded_at says when an event, an
-- import or a person last changed a contract; NULL says that the contract is as the newest snapshot has it. What a snapshot ends, or changes of a
-- contract that others told of, is recorded as of the snapshot's time.
--
-- A function of the owner's makes the staging tables. The functions that read them run with the owner's rights, so they must be sure that nobody
-- else could put a rule or a trigger on these tables.

CREATE OR REPLACE FUNCTION registry.make_import_staging() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- EXECUTE, here and below: a second import in the same session must not use the plan of the first one's tables.
    EXECUTE $make$
        CREATE TEMPORARY TABLE import_contract ON COMMIT DROP AS
            SELECT c.msisdn, c.started_at, c.ended_at, c.status, c.holder, c.end_user, c.end_reason, c.generation
              FROM registry.contract AS c WITH NO DATA;
        CREATE TEMPORARY TABLE import_change ON COMMIT DROP AS
            SELECT ''::text AS kind, c.msisdn, c.generation, c.ended_at, c.started_at, c.status, c.holder, c.end_user
              FROM registry.contract AS c WITH NO DATA;
        GRANT SELECT, INSERT ON pg_temp.import_contract TO registryd_app;
        GRANT SELECT, INSERT, UPDATE ON pg_temp.import_change TO registryd_app
    $make$;
END
$$;
COMMENT ON FUNCTION registry.make_import_staging IS 'Makes two temporary tables, which are gone with the transaction: import_contract for the lines of a file, import_change for what a snapshot changes.';

CREATE OR REPLACE FUNCTION registry.refuse_foreign_staging(name text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF (SELECT t.relowner FROM pg_class AS t WHERE t.oid = format('pg_temp.%I', name)::regclass) <> current_user::regrole THEN
        RAISE EXCEPTION '% was not made by registry.make_import_staging', name
            USING ERRCODE = 'insufficient_privilege', HINT = 'Call registry.make_import_staging() in the same transaction first.';
    END IF;
END
$$;
COMMENT ON FUNCTION registry.refuse_foreign_staging IS 'Refuses a staging table that somebody else made: it could run that person''s code with the owner''s rights.';

CREATE OR REPLACE FUNCTION registry.analyze_changes() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    PERFORM registry.refuse_foreign_staging('import_change');
    ANALYZE pg_temp.import_change;
END
$$;
COMMENT ON FUNCTION registry.analyze_changes IS 'Gathers statistics of import_change. Without them, statements that join it would be planned for one row where there are a million.';

CREATE OR REPLACE FUNCTION registry.apply_snapshot(as_of timestamptz) RETURNS TABLE (ended bigint, updated bigint, started bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    PERFORM registry.refuse_foreign_staging('import_change');
    -- One statement for all ends, so that the trigger that writes notifications runs once. Ends come first: a number's next generation starts
    -- after the last one has ended.
    EXECUTE $ends$
        UPDATE registry.contract AS c
           SET ended_at = n.ended_at, recorded_at = CASE WHEN c.recorded_at = $1 THEN 'infinity' ELSE $1 END,
               end_reason = CASE n.kind WHEN 'terminated' THEN 'terminated'::registry.end_reason ELSE 'holder_changed' END
          FROM pg_temp.import_change AS n
         WHERE n.kind IN ('terminated', 'holder_changed') AND c.msisdn = n.msisdn AND c.generation = n.generation AND c.ended_at IS NULL
    $ends$ USING as_of;
    GET DIAGNOSTICS ended = ROW_COUNT;
    EXECUTE $updates$
        UPDATE registry.contract AS c
           SET status = n.status, end_user = n.end_user, recorded_at = CASE WHEN c.recorded_at IS NULL THEN '-infinity' WHEN c.recorded_at = $1 THEN 'infinity' ELSE $1 END
          FROM pg_temp.import_change AS n
         WHERE n.kind = 'updated' AND c.msisdn = n.msisdn AND c.generation = n.generation AND c.ended_at IS NULL
    $updates$ USING as_of;
    GET DIAGNOSTICS updated = ROW_COUNT;
    EXECUTE $starts$
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, recorded_at)
        SELECT n.msisdn, coalesce(n.generation, 0) + 1, n.status, n.holder, n.end_user, n.started_at, NULL
          FROM pg_temp.import_change AS n
         WHERE n.kind IN ('activated', 'holder_changed')
         ORDER BY n.msisdn
    $starts$;
    GET DIAGNOSTICS started = ROW_COUNT;
    PERFORM registry.record_snapshot(as_of);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION registry.apply_snapshot IS 'Applies import_change, the differences of a snapshot taken at a time. Returns how many contracts ended, were updated and started.';

CREATE OR REPLACE FUNCTION registry.record_snapshot(as_of timestamptz) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO registry.last_snapshot AS l (as_of) VALUES (record_snapshot.as_of)
        ON CONFLICT (one) DO UPDATE SET as_of = greatest(l.as_of, excluded.as_of)
$$;
COMMENT ON FUNCTION registry.record_snapshot IS 'Remembers when the newest snapshot was taken.';

CREATE OR REPLACE FUNCTION registry.note_snapshot(as_of timestamptz, lines bigint, rejects bigint, started bigint, changed bigint, ended bigint) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    UPDATE registry.last_snapshot AS l
       SET applied_at = now(), lines = note_snapshot.lines, rejects = note_snapshot.rejects, started = note_snapshot.started,
           changed = note_snapshot.changed, ended = note_snapshot.ended
     WHERE l.as_of = note_snapshot.as_of
    RETURNING true
$$;
COMMENT ON FUNCTION registry.note_snapshot IS 'Remembers what the newest snapshot was and did; an older one than that is not noted.';

CREATE OR REPLACE FUNCTION registry.load_first(as_of timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET maintenance_work_mem = '256MB' SET work_mem = '256MB'
AS $$
DECLARE
    index  record;
    remake text[] := '{}';
    loaded bigint;
BEGIN
    -- While the first contracts come in, queries wait and then get 503. Without the lock they would be answered a wrong "absent".
    LOCK TABLE registry.contract IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM registry.contract) THEN
        RAISE EXCEPTION 'registry.contract holds contracts already'
            USING ERRCODE = 'restrict_violation', HINT = 'Import the file again: it is then compared with what is there.';
    END IF;
    PERFORM registry.refuse_foreign_staging('import_contract');
    -- Building an index over all rows at once costs a quarter of inserting each row into it. So the indexes are dropped and made again as they
    -- were, in this transaction. A number with two live contracts fails there, and then nothing was loaded.
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
    EXECUTE $load$
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason, recorded_at)
        SELECT s.msisdn, coalesce(s.generation, 1), s.status, s.holder, s.end_user, s.started_at, s.ended_at, s.end_reason,
               CASE WHEN $1 IS NULL THEN now() END
          FROM pg_temp.import_contract AS s
         ORDER BY s.msisdn, s.generation
    $load$ USING as_of;
    GET DIAGNOSTICS loaded = ROW_COUNT;
    FOR position IN 1 .. cardinality(remake) LOOP
        EXECUTE remake[position];
    END LOOP;
    IF as_of IS NOT NULL THEN
        PERFORM registry.record_snapshot(as_of);
    END IF;
    RETURN loaded;
END
$$;
COMMENT ON FUNCTION registry.load_first IS 'Moves import_contract into the empty registry.contract. as_of: when the snapshot was taken; NULL: the file is a history. Every check and trigger holds. Returns how many rows.';
