-- What the database and its schema are, for checks before work begins.

-- name: applied_migrations
SELECT m.version, m.checksum, m.compatible_from FROM registry.schema_migration AS m ORDER BY m.version;

-- name: applied_code
SELECT c.name, c.checksum FROM registry.schema_code AS c;

-- name: is_writable
-- Why: a demoted primary still answers statements, but nothing can be journaled there.
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS writable;

-- name: take_transaction_id
-- Why: a server that has no transaction ids left answers every statement that reads. This takes one, and writes nothing else. Where the
-- answer to a commit is lost, the id tells whether it was committed.
SELECT pg_current_xact_id()::text AS taken;

-- name: read_transaction_status
-- Why: what a commit in doubt wrote is neither lost nor written twice. Our own id is above every one that this server has given out, also that
-- of an open transaction. NULL: this server has not come to the id, or has forgotten it.
SELECT CASE WHEN $1::text::xid8 < pg_current_xact_id() THEN pg_xact_status($1::text::xid8) END AS status;

-- name: try_write
-- Why: after a write that failed of the disk, the process is ready again once there is room. A new table takes it from the disk, where a
-- table that is there may have some left. The caller undoes it.
CREATE TEMPORARY TABLE room ON COMMIT DROP AS SELECT repeat('x', 1000) AS filler FROM generate_series(1, 1000);

-- name: describe_server
-- Why: finds the primary among several hosts. A primary's timeline is taken from the WAL that it writes now, because pg_control_checkpoint()
-- lags behind a promotion. A standby's is the highest that its files know: one that was the primary has its own there until it is rewound.
-- Commits that wait for a standby are read from outside, because a commit that tries whether they do would wait with them.
SELECT c.system_identifier AS system_id, t.takes_writes,
       CASE WHEN t.takes_writes THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
            ELSE greatest(p.timeline_id, r.min_recovery_end_timeline)::bigint END AS timeline,
       ARRAY(SELECT format('%s %s', a.pid, a.query_start) FROM pg_stat_activity AS a
              WHERE a.usename = current_user AND a.wait_event = 'SyncRep') AS waiting
  FROM pg_control_system() AS c, pg_control_checkpoint() AS p, pg_control_recovery() AS r,
       (SELECT NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off' AS takes_writes) AS t;

-- name: read_replication
-- Why: of pg_stat_replication everybody may count the rows, though only some may read them.
SELECT current_setting('synchronous_standby_names') AS synchronous_standbys, (SELECT count(*) FROM pg_stat_replication) AS standbys;

-- name: describe_database
SELECT format('%s as %s on PostgreSQL %s', current_database(), current_user, current_setting('server_version')) AS described;

-- name: lacking_functions
-- Why: `check` says before the start which of the functions that the daemon calls its role may not call.
SELECT f.oid::regprocedure::text AS signature
  FROM pg_proc AS f
 WHERE f.pronamespace = 'registry'::regnamespace AND f.proname = ANY ($1::text[]) AND NOT has_function_privilege(f.oid, 'EXECUTE')
 ORDER BY 1;

-- name: read_setting
-- Why: NULL where the server does not know it, instead of an error.
SELECT current_setting($1, true) AS value;

-- name: who_holds
-- Why: migrate says whom it waits for. Only who has been at it for a while: the others are gone before one could look.
SELECT format('%s as %s (pid %s) on %s for %s', coalesce(nullif(a.application_name, ''), 'a session'), a.usename, a.pid,
              string_agg(DISTINCT l.relation::regclass::text, ', '), date_trunc('second', clock_timestamp() - a.xact_start)) AS described
  FROM pg_locks AS l
  JOIN pg_stat_activity AS a ON a.pid = l.pid
  JOIN pg_class AS c ON c.oid = l.relation
 WHERE l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database() AND a.xact_start < clock_timestamp() - interval '1 second'
   AND c.relnamespace::regnamespace::text IN ('registry', 'report') AND c.relkind IN ('r', 'p', 'v')
 GROUP BY a.pid, a.usename, a.application_name, a.xact_start
 ORDER BY a.xact_start
 LIMIT 3;

-- name: read_clock
-- Why: `check` compares it with the clock of the machine it runs on.
SELECT clock_timestamp() AS now;

-- name: read_memory
-- Why: a look-up reads the primary key of contracts. What of it does not lie in memory comes from the disk, hundreds of times as slowly.
SELECT pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers, pg_relation_size('registry.contract_pkey') AS primary_key;

-- name: read_locks
-- Why: a transaction that touches every partition, such as a dump, needs a place for each. The table has that many for all of them together.
SELECT current_setting('max_locks_per_transaction')::integer AS per_transaction,
       current_setting('max_locks_per_transaction')::integer
           * (current_setting('max_connections')::integer + current_setting('max_prepared_transactions')::integer) AS places,
       count(*)::integer AS relations
  FROM pg_class AS c
 WHERE c.relnamespace::regnamespace::text IN ('registry', 'report', 'breakglass') AND c.relkind IN ('r', 'p', 'i', 'I');

-- name: read_rules_off
-- Why: who switched a trigger off for some bulk work and forgot it has switched off the duty: ends then owe nothing, and nobody is told of that. An
-- index that is being made anew (REINDEX CONCURRENTLY) stands beside the one that is in force.
SELECT format('trigger %s of %s is disabled', t.tgname, t.tgrelid::regclass) AS rule
  FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
 WHERE c.relnamespace = 'registry'::regnamespace AND NOT t.tgisinternal AND t.tgenabled NOT IN ('O', 'A')
UNION ALL
SELECT format('index %s is not valid', i.indexrelid::regclass) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
 WHERE c.relnamespace = 'registry'::regnamespace AND i.indisunique AND NOT i.indisvalid AND c.relname !~ '_cc(new|old)[0-9]*$'
 ORDER BY rule;

-- name: what_is_logged
-- Why: says by which settings what a person writes reaches the server's log. The DETAIL of an error is always among it.
SELECT format('%s = %s', s.name, s.setting) AS setting
  FROM pg_settings AS s
 WHERE (s.name = 'log_statement' AND s.setting <> 'none')
    OR (s.name IN ('log_min_duration_statement', 'log_min_duration_sample', 'auto_explain.log_min_duration') AND s.setting <> '-1')
    OR (s.name IN ('log_parameter_max_length', 'log_parameter_max_length_on_error') AND s.setting <> '0')
    OR (s.name = 'log_min_error_statement' AND s.setting <> 'panic')
    OR (s.name = 'log_transaction_sample_rate' AND s.setting <> '0')
 ORDER BY s.name;

-- name: logged_persons
-- Why: nobody inherits the settings of a role, so each person who may unmask a number needs his own. A superuser sets them for himself.
-- The role of this session comes first: that is the daemon's.
SELECT current_user::text AS name WHERE current_setting('log_min_messages') <> 'panic'
UNION ALL (
SELECT r.rolname::text AS name
  FROM pg_roles AS r
  LEFT JOIN LATERAL (
       SELECT split_part(one, '=', 2) AS value
         FROM pg_db_role_setting AS d CROSS JOIN unnest(d.setconfig) AS one
        WHERE d.setrole = r.oid AND one LIKE 'log_min_messages=%'
          AND d.setdatabase IN (0, (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database()))
        ORDER BY d.setdatabase DESC
        LIMIT 1) AS own ON true
 WHERE r.rolcanlogin AND NOT r.rolsuper AND pg_has_role(r.oid, 'registryd_breakglass', 'MEMBER') AND own.value IS DISTINCT FROM 'panic'
 ORDER BY 1);
