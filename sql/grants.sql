-- Every grant of our roles; nothing else is allowed to them. The file is applied as a whole, in one transaction: it takes back what our roles hold
-- and gives what stands here. What a DBA granted to roles of his own stays.
-- The whole matrix stands in tests/contracts/privileges.txt.

DO $revoke$
DECLARE
    held record;
BEGIN
    FOR held IN
        WITH role AS (SELECT r.oid FROM pg_roles AS r WHERE r.rolname IN ('registryd_app', 'registryd_report', 'registryd_breakglass', 'registryd_approver')
                      UNION ALL SELECT 0)
        SELECT DISTINCT o.name
          FROM (SELECT 'SCHEMA ' || n.oid::regnamespace, n.oid, n.nspacl FROM pg_namespace AS n
                UNION ALL
                SELECT 'TABLE ' || c.oid::regclass, c.relnamespace, a.acl
                  FROM pg_class AS c, LATERAL (SELECT c.relacl UNION ALL SELECT a.attacl FROM pg_attribute AS a WHERE a.attrelid = c.oid) AS a(acl)
                 WHERE c.relkind IN ('r', 'p', 'v', 'S')
                UNION ALL
                SELECT 'FUNCTION ' || f.oid::regprocedure, f.pronamespace, coalesce(f.proacl, acldefault('f', f.proowner)) FROM pg_proc AS f) AS o(name, namespace, acl),
               LATERAL aclexplode(o.acl) AS granted
         WHERE o.namespace::regnamespace::text IN ('registry', 'report', 'breakglass') AND granted.grantee IN (SELECT role.oid FROM role)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, registryd_app, registryd_report, registryd_breakglass, registryd_approver', held.name);
    END LOOP;
END
$revoke$;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The daemon

GRANT USAGE ON SCHEMA registry, report TO registryd_app;
GRANT SELECT ON registry.schema_migration, registry.schema_code, registry.policy, registry.feed_state, registry.last_snapshot, registry.last_verification, registry.canary_number, registry.handover, registry.notification_delivered,
    registry.ends_recorded, registry.wave, registry.notification_held, registry.notification_withdrawn, registry.undone TO registryd_app;
-- Of a row that is new the daemon says what only it knows. When it was written, and what comes of it later, the database says.
GRANT SELECT, INSERT (event_id, type, reason, occurred_at), UPDATE (type, reason, occurred_at, last_at, calls, alarms), DELETE ON registry.feed_waiting TO registryd_app;
GRANT SELECT, INSERT (msisdn, status, status_at, end_user, end_user_at), UPDATE (status, status_at, end_user, end_user_at, recorded_at) ON registry.newest_state TO registryd_app;
GRANT SELECT, INSERT (ends, until_at, reason, made_by) ON registry.wave_allowance TO registryd_app;
GRANT SELECT, INSERT (messenger_id, reason, held_by), UPDATE (released_at, released_by, release_reason) ON registry.hold TO registryd_app;
GRANT UPDATE (alarms) ON registry.wave TO registryd_app;
GRANT SELECT, INSERT, UPDATE (refusals) ON registry.refusal_day TO registryd_app;
GRANT SELECT, INSERT, UPDATE (queries, absent, requests, refused, failed, latencies), DELETE ON registry.answer_minute TO registryd_app;
GRANT SELECT, INSERT (host, role, instance, pid, version, schema), UPDATE (pid, version, schema, since, heard_at), DELETE ON registry.process TO registryd_app;
GRANT SELECT ON registry.delivered_day, registry.notification_movement TO registryd_app;
GRANT SELECT, INSERT, DELETE ON registry.numbering_range TO registryd_app;
GRANT SELECT, INSERT (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason), UPDATE (status, holder, end_user, ended_at, end_reason)
    ON registry.contract TO registryd_app;
GRANT SELECT, INSERT ON registry.delivery_attempt TO registryd_app;
GRANT SELECT, INSERT (event_id, type, content, outcome, reason, occurred_at) ON registry.feed_event TO registryd_app;
GRANT SELECT, INSERT (messenger_id, per_second, since_at, until_at, notifications) ON registry.replay TO registryd_app;
GRANT SELECT, INSERT (name, agreement, register_no, endpoint_url, batch_max, includes_phone_number, daily_quota, certificate_sha256),
    UPDATE (endpoint_url, batch_max, includes_phone_number, daily_quota, certificate_sha256, state, suspended_at)
    ON registry.messenger TO registryd_app;
GRANT SELECT, INSERT (key_id, messenger_id, secret_sha256), UPDATE (expires_at, revoked_at, last_used_at) ON registry.messenger_key TO registryd_app;
GRANT SELECT, INSERT (key_id, name, scopes, secret_sha256), UPDATE (expires_at, revoked_at, last_used_at) ON registry.operator_key TO registryd_app;
GRANT SELECT, INSERT (session_sha256, key_id), UPDATE (used_at), DELETE ON registry.console_session TO registryd_app;
GRANT SELECT, INSERT (confirmation, person, key_id, kind, messenger_id, what, counted, reason, outcome), UPDATE (outcome) ON registry.action TO registryd_app;
GRANT SELECT, INSERT (messenger_id, kind, ciphertext), UPDATE (expires_at) ON registry.messenger_secret TO registryd_app;
GRANT SELECT, INSERT (msisdn, bound_at, messenger_id, generation, identification_code), UPDATE (ended_at, end_reason) ON registry.binding TO registryd_app;
-- The database alone sets a page's id and time.
GRANT SELECT (page_id, answered_at), INSERT (queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present, told, bound, turned_by_rule) ON registry.journal_page TO registryd_app;
GRANT SELECT ON SEQUENCE registry.sealed_until_ms TO registryd_app;
GRANT SELECT, INSERT (key_id, month, ciphertext) ON registry.digest_key TO registryd_app;
GRANT SELECT, INSERT, UPDATE (used, absent) ON registry.quota_usage TO registryd_app;
GRANT SELECT, INSERT (messenger_id, kind, ends_at), UPDATE (ends_at, signs, cleared_at) ON registry.enumeration_alarm TO registryd_app;
GRANT SELECT, UPDATE (attempts, not_before, last_error) ON registry.notification TO registryd_app;
GRANT SELECT, UPDATE (owner, token, lease_until, gate_until, failures, last_error, last_success_at, low_water, look_back_at, alarms_below,
    second_channel_due, refused_told) ON registry.lane TO registryd_app;
GRANT EXECUTE ON FUNCTION registry.is_refused, registry.without_numbers, registry.without_digits TO registryd_app, registryd_report;
GRANT SELECT, INSERT (messenger_id, endpoint_url), UPDATE (claimed_at, ended_at, delivered, http_status, latency_ms, error), DELETE
    ON registry.test_push TO registryd_app;
GRANT SELECT, INSERT (replay_id, messenger_id, notification_id) ON registry.replayed_notification TO registryd_app;
GRANT SELECT, INSERT (messenger_id, day, notifications, first_id, last_id, sha256), UPDATE (attempts, not_before, delivered_at, last_error)
    ON registry.digest TO registryd_app;
GRANT EXECUTE ON FUNCTION registry.policy_in_force, registry.is_present, registry.time_of, registry.completeness, registry.is_complete,
    registry.confirm_complete, registry.declare_complete, registry.declare_incomplete, registry.live_contracts, registry.ends_bound, registry.ends_left, registry.open_feed_call, registry.release_wave,
    registry.make_import_staging, registry.load_first, registry.analyze_changes, registry.apply_snapshot, registry.note_snapshot, registry.settle_delivered, registry.settle_by_hand, registry.delivered_since,
    registry.find_delivered, registry.delivered_on, registry.owe_again, registry.make_partitions, registry.drop_part,
    registry.retention_state, registry.new_page_id, registry.seal_window, registry.unsealed_s, registry.answers_late, registry.kept_partitions, registry.chain_end, registry.open_requests, registry.find_answer, registry.destroy_digest_keys,
    registry.requests_to_prepare, registry.prepare_request, registry.purge_ended, registry.partitions_ahead, registry.breakglass_steps,
    registry.forget_replays, registry.forget_events, registry.forget_records, registry.fold_movements, registry.fold_ends, registry.end_long_reports TO registryd_app;
GRANT EXECUTE ON FUNCTION registry.ask_own_replay, registry.request_change, registry.decide_change TO registryd_app;
GRANT SELECT ON registry.change_request, registry.change TO registryd_app;
GRANT SELECT, INSERT (public_key), UPDATE (public_key, published_at) ON registry.sealing_key TO registryd_app;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Reports, which the daemon's metrics and `registryd report` read too

GRANT USAGE ON SCHEMA report TO registryd_report;
GRANT SELECT ON ALL TABLES IN SCHEMA report TO registryd_report, registryd_app;
GRANT EXECUTE ON FUNCTION registry.contracts_outside_capacity, registry.open_presence, registry.delivered_last_hour, registry.is_complete, registry.ended_last_hour, registry.ends_bound,
    registry.ends_allowed, registry.ends_left, registry.kept_partitions, registry.chain_end, registry.retention_state TO registryd_report, registryd_app;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Break-glass

GRANT USAGE ON SCHEMA breakglass TO registryd_breakglass, registryd_approver;
GRANT EXECUTE ON FUNCTION breakglass.request, breakglass.request_reinstate, breakglass.request_withdraw, breakglass.look TO registryd_breakglass;
GRANT EXECUTE ON FUNCTION breakglass.approve TO registryd_approver;
-- Who approves may count beforehand what a request would do.
GRANT EXECUTE ON FUNCTION breakglass.open_requests, breakglass.reinstate, breakglass.withdraw TO registryd_breakglass, registryd_approver;
