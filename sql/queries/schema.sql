-- What the database and its schema are, for checks before work begins.

-- name: applied_migrations
SELECT m.version, m.checksum FROM registry.schema_migration AS m ORDER BY m.version;

-- name: is_writable
-- Why: a demoted primary still answers statements, but nothing can be journaled there.
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS writable;

-- name: describe_server
-- Why: finds the primary among several hosts. The timeline is taken from the WAL that is written now, because pg_control_checkpoint() lags
-- behind a promotion.
SELECT c.system_identifier AS system_id,
       CASE WHEN pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END AS timeline
  FROM pg_control_system() AS c;

-- name: describe_database
SELECT format('%s as %s on PostgreSQL %s', current_database(), current_user, current_setting('server_version')) AS described;

-- name: lacking_privileges
-- Why: `check` tells which grants the role lacks; the daemon would find out at its first query.
SELECT format('%s on %s', needed.privilege, needed.relation) AS privilege
  FROM (VALUES ('SELECT', 'registry.policy'), ('SELECT', 'registry.contract'), ('INSERT', 'registry.contract'), ('INSERT', 'registry.binding'),
               ('INSERT', 'registry.journal_page'), ('INSERT', 'registry.digest_key'), ('SELECT', 'registry.notification'), ('UPDATE', 'registry.lane'),
               ('INSERT', 'registry.delivery_attempt'), ('UPDATE', 'registry.quota_usage'), ('INSERT', 'registry.feed_event'),
               ('SELECT', 'registry.messenger_secret'), ('UPDATE', 'registry.watch'), ('INSERT', 'registry.digest')) AS needed(privilege, relation)
 WHERE NOT has_any_column_privilege(needed.relation, needed.privilege);
