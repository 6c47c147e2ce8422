-- The processes of the service, as each tells of itself.

-- name: tell
-- Why: a process that is not heard of any more died, whatever its host says. A process that starts anew begins a life of its own. Those of
-- which nobody has heard for a day go.
WITH gone AS (DELETE FROM registry.process AS o WHERE o.heard_at < now() - interval '1 day' AND (o.host, o.role, o.instance) <> ($1, $2, $3))
INSERT INTO registry.process AS p (host, role, instance, pid, version, schema) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (host, role, instance) DO UPDATE
   SET pid = excluded.pid, version = excluded.version, schema = excluded.schema, heard_at = now(),
       since = CASE WHEN p.pid = excluded.pid THEN p.since ELSE now() END;

-- name: leave
-- Why: who stops in order is not missed; its successor's row, which has another process id, stays.
DELETE FROM registry.process AS p WHERE p.host = $1 AND p.role = $2 AND p.instance = $3 AND p.pid = $4;

-- name: read_processes
-- Why: who is there, and what it has in hand. Sessions tell a process's name and not its host, so they are those of all hosts.
WITH session AS MATERIALIZED (
    SELECT split_part(a.application_name, ' ', 2) AS process, count(*)::integer AS connections FROM pg_stat_activity AS a
     WHERE a.datname = current_database() AND starts_with(a.application_name, 'registryd ') GROUP BY 1)
SELECT p.role, p.instance, p.host, p.pid, p.version, p.schema, p.since, p.heard_at, extract(epoch FROM now() - p.heard_at)::float8 AS silent_s,
       (SELECT count(*)::integer FROM registry.lane AS l
         WHERE l.owner = format('%s %s@%s', p.host, p.role, p.instance) AND l.lease_until > now()) AS lanes,
       coalesce(s.connections, 0) AS connections
  FROM registry.process AS p LEFT JOIN session AS s ON s.process = format('%s@%s', p.role, p.instance) ORDER BY p.role, p.host, p.instance;

-- name: count_roles
-- Why: each role's part of the duty is done by nobody else.
SELECT r.role, count(p.host) FILTER (WHERE p.heard_at > now() - $1 * interval '1 second')::integer AS up,
       count(p.host) FILTER (WHERE p.heard_at <= now() - $1 * interval '1 second')::integer AS silent
  FROM unnest('{answer,deliver,operate}'::text[]) AS r(role)
  LEFT JOIN registry.process AS p ON p.role = r.role
 GROUP BY r.role ORDER BY r.role;

-- name: read_database
-- Why: which cluster it is, since when, on which timeline, and how near to its bounds. Of others' sessions our role sees the user, whom
-- the server's own processes mostly lack, and not the backend's type.
SELECT current_setting('server_version') AS server_version, pg_postmaster_start_time() AS started_at, s.system_identifier::text AS system_identifier,
       c.timeline_id AS timeline, (SELECT max(m.version) FROM registry.schema_migration AS m) AS schema,
       pg_database_size(current_database()) AS size_bytes,
       (SELECT count(*)::integer FROM pg_stat_activity AS a WHERE a.usename IS NOT NULL) AS connections,
       current_setting('max_connections')::integer AS connections_max, (SELECT count(*)::integer FROM pg_stat_replication) AS standbys
  FROM pg_control_system() AS s, pg_control_checkpoint() AS c;
