-- Whether the registry is complete. An empty or half-fed registry would answer absent of subscribers who are there, so it answers nothing.

-- The planner puts it into the statements of the hot path. To read the cluster's identifier from the control file would cost a fifth of a lone query. So
-- the row also holds when its server started: a server with another start reads the control file, and confirm_complete writes its start down.
CREATE OR REPLACE FUNCTION registry.completeness() RETURNS SETOF registry.feed_state
LANGUAGE sql STABLE ROWS 1
AS $$
    SELECT s.* FROM registry.feed_state AS s
     WHERE s.one AND s.complete_since IS NOT NULL
       AND (s.server_started_at = pg_postmaster_start_time() OR s.system_identifier = (SELECT c.system_identifier FROM pg_control_system() AS c))
$$;
COMMENT ON FUNCTION registry.completeness IS 'Who has said, in this database cluster, that the registry holds every contract. No row where nobody has: then nothing is answered.';

CREATE OR REPLACE FUNCTION registry.is_complete() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS 'SELECT EXISTS (SELECT FROM registry.completeness())';
COMMENT ON FUNCTION registry.is_complete IS 'Whether somebody has said, in this database cluster, that the registry holds every contract. Without that nothing is answered.';

CREATE OR REPLACE FUNCTION registry.confirm_complete() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- Whoever is asked meanwhile reads the control file; nobody waits for the row.
    UPDATE registry.feed_state AS s SET server_started_at = pg_postmaster_start_time()
     WHERE s.one AND s.server_started_at <> pg_postmaster_start_time()
       AND s.system_identifier = (SELECT c.system_identifier FROM pg_control_system() AS c);
    RETURN registry.is_complete();
END
$$;
COMMENT ON FUNCTION registry.confirm_complete IS 'Whether the registry is complete, as is_complete() tells. Each process asks about once a second. After a restart of the server it also writes down the new start time, so that queries need not read the control file.';

CREATE OR REPLACE FUNCTION registry.declare_complete(source text, reason text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- A registry that is complete stays so since the first time, and the row is then left as it is.
    INSERT INTO registry.feed_state AS s (complete_since, source, declared_by, reason, system_identifier, server_started_at)
    SELECT now(), declare_complete.source, session_user, declare_complete.reason, c.system_identifier, pg_postmaster_start_time()
      FROM pg_control_system() AS c
        ON CONFLICT (one) DO UPDATE
       SET complete_since = excluded.complete_since, source = excluded.source, declared_by = excluded.declared_by, reason = excluded.reason,
           system_identifier = excluded.system_identifier, server_started_at = excluded.server_started_at
     WHERE s.complete_since IS NULL OR s.system_identifier <> excluded.system_identifier
$$;
COMMENT ON FUNCTION registry.declare_complete IS 'Says that the registry holds every contract: a whole snapshot or history was imported, or a person knows it. From now on queries are answered.';

CREATE OR REPLACE FUNCTION registry.declare_incomplete(reason text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    INSERT INTO registry.feed_state AS s (complete_since, source, declared_by, reason, system_identifier, server_started_at)
    SELECT NULL, 'person', session_user, declare_incomplete.reason, c.system_identifier, pg_postmaster_start_time() FROM pg_control_system() AS c
        ON CONFLICT (one) DO UPDATE
       SET complete_since = NULL, source = 'person', declared_by = excluded.declared_by, reason = excluded.reason,
           system_identifier = excluded.system_identifier, server_started_at = excluded.server_started_at
$$;
COMMENT ON FUNCTION registry.declare_incomplete IS 'Says that the registry lacks contracts, as after going back to an older backup. From now on every query is 503, until it is declared complete again.';
