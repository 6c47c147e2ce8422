-- The views of schema report: the DBA's contract. Made anew by every `registryd migrate`; columns are only ever added.
-- Days are UTC: closed ones stand in tables of figures, open ones are counted as they are asked for (0005_retention.sql). Numbers and codes
-- appear masked or not at all.

SET LOCAL client_min_messages = warning;
DROP VIEW IF EXISTS report.presence_daily, report.answer_deadline, report.binding_by_messenger, report.contract_daily,
    report.notification_backlog, report.notification_deadline, report.delivery_attempt_daily, report.endpoint_health,
    report.quota_today, report.enumeration_alarm, report.feed_lag;

CREATE VIEW report.presence_daily AS
SELECT f.day, m.name AS messenger, sum(f.queries)::bigint AS queries, sum(f.present_count)::bigint AS present,
       sum(f.queries - f.present_count)::bigint AS absent, round(sum(f.queries - f.present_count) / sum(f.queries), 4) AS absent_ratio
  FROM (TABLE registry.presence_day UNION ALL SELECT * FROM registry.open_presence()) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.presence_daily IS 'Presence queries and answers by day and messenger.';

CREATE VIEW report.answer_deadline AS
SELECT f.day, m.name AS messenger, sum(f.in_time + f.late)::bigint AS queries, sum(f.in_time)::bigint AS in_time, sum(f.late)::bigint AS late,
       max(f.worst_wait) AS worst_wait, max(f.allowed) AS allowed
  FROM (TABLE registry.presence_day UNION ALL SELECT * FROM registry.open_presence()) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 WHERE f.allowed IS NOT NULL
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.answer_deadline IS 'Decree 1801 of 2021: how many queries were answered within the policy''s time, and the worst wait, by day and messenger. Unanswered queries are not journaled: see the metrics of refusals.';

CREATE VIEW report.binding_by_messenger AS
SELECT m.name AS messenger,
       count(*) FILTER (WHERE b.ended_at IS NULL) AS live,
       count(*) FILTER (WHERE b.end_reason = 'terminated') AS terminated,
       count(*) FILTER (WHERE b.end_reason = 'replaced') AS replaced,
       count(*) FILTER (WHERE b.end_reason = 'removed') AS removed
  FROM registry.messenger AS m LEFT JOIN registry.binding AS b ON b.messenger_id = m.messenger_id
 GROUP BY m.name;
COMMENT ON VIEW report.binding_by_messenger IS 'Bindings by messenger and how they ended.';

CREATE VIEW report.contract_daily AS
SELECT c.day, sum(c.activated)::bigint AS activated, sum(c.terminated)::bigint AS terminated, sum(c.ported_out)::bigint AS ported_out,
       sum(c.holder_changed)::bigint AS holder_changed
  FROM registry.contract_movement AS c GROUP BY c.day;
COMMENT ON VIEW report.contract_daily IS 'Contracts that started, and that ended by reason, by day.';

CREATE VIEW report.notification_backlog AS
SELECT m.name AS messenger, count(n.notification_id) AS pending,
       count(*) FILTER (WHERE n.deadline_at < now() AND NOT n.replayed) AS overdue,
       min(n.deadline_at) FILTER (WHERE NOT n.replayed) AS oldest_deadline_at,
       min(n.deadline_at) FILTER (WHERE NOT n.replayed) - now() AS slack,
       coalesce(max(pace.delivered), 0) AS delivered_last_hour,
       count(n.notification_id) * interval '1 hour' / max(pace.delivered) AS eta
  FROM registry.messenger AS m
  LEFT JOIN registry.notification AS n ON n.messenger_id = m.messenger_id
  LEFT JOIN registry.delivered_last_hour() AS pace ON pace.messenger_id = m.messenger_id
 GROUP BY m.name;
COMMENT ON VIEW report.notification_backlog IS 'What is owed and not delivered, by messenger: the oldest deadline, the slack to it, and when the backlog ends at the last hour''s pace. What a replay owes again is pending, and has no deadline to miss.';

CREATE VIEW report.notification_deadline AS
SELECT f.day, m.name AS messenger, sum(f.in_time + f.late + f.overdue + f.pending)::bigint AS owed, sum(f.in_time)::bigint AS in_time,
       sum(f.late)::bigint AS late, sum(f.overdue)::bigint AS overdue, sum(f.pending)::bigint AS pending, max(f.worst_delay) AS worst_delay
  FROM (SELECT d.day, d.messenger_id, d.in_time, d.late, 0 AS overdue, 0 AS pending, d.worst_delay
          FROM (TABLE registry.delivered_day UNION ALL SELECT * FROM registry.open_delivered()) AS d
        UNION ALL
        SELECT (n.terminated_at AT TIME ZONE 'UTC')::date, n.messenger_id, 0, 0, count(*) FILTER (WHERE n.deadline_at < now()),
               count(*) FILTER (WHERE n.deadline_at >= now()), NULL
          FROM registry.notification AS n WHERE NOT n.replayed GROUP BY 1, 2) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.notification_deadline IS 'Decree 1801 of 2021: notifications delivered in time, late, overdue and still pending, by day of the contract''s end and messenger.';

CREATE VIEW report.delivery_attempt_daily AS
SELECT f.day, m.name AS messenger, f.outcome::text AS outcome, f.http_status,
       sum(f.attempts)::bigint AS attempts, sum(f.notifications)::bigint AS notifications,
       round(sum(f.latency_sum_ms) / sum(f.attempts), 1) AS mean_latency_ms, max(f.latency_max_ms) AS max_latency_ms
  FROM (TABLE registry.attempt_day UNION ALL SELECT * FROM registry.open_attempts()) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 GROUP BY f.day, m.name, f.outcome, f.http_status;
COMMENT ON VIEW report.delivery_attempt_daily IS 'Pushes by day, messenger, outcome and HTTP status.';

CREATE VIEW report.endpoint_health AS
SELECT m.name AS messenger,
       CASE WHEN m.endpoint_url IS NULL THEN 'none' WHEN l.gate_until IS NOT NULL THEN 'gated' ELSE 'healthy' END AS state,
       l.failures, l.last_error, l.gate_until, l.last_success_at,
       CASE WHEN l.lease_until > now() THEN l.owner END AS worker
  FROM registry.messenger AS m JOIN registry.lane AS l ON l.messenger_id = m.messenger_id;
COMMENT ON VIEW report.endpoint_health IS 'Each messenger''s endpoint: none, healthy or gated, and which worker serves its lane now.';

CREATE VIEW report.quota_today AS
SELECT m.name AS messenger, m.daily_quota AS quota, coalesce(u.used, 0) AS used, coalesce(u.absent, 0) AS absent,
       round(u.absent::numeric / nullif(u.used, 0), 4) AS absent_ratio
  FROM registry.messenger AS m
  LEFT JOIN registry.quota_usage AS u ON u.messenger_id = m.messenger_id AND u.day = (now() AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW report.quota_today IS 'What each messenger has asked today (UTC), up to a second ago, against its budget.';

CREATE VIEW report.enumeration_alarm AS
SELECT m.name AS messenger, a.raised_at, a.kind::text AS kind, a.cleared_at IS NULL AND a.ends_at > now() AS in_force,
       a.ends_at, a.cleared_at, a.signs, coalesce(u.used, 0) AS used_that_day, coalesce(u.absent, 0) AS absent_that_day,
       round(u.absent::numeric / nullif(u.used, 0), 4) AS absent_ratio_that_day
  FROM registry.enumeration_alarm AS a
  JOIN registry.messenger AS m ON m.messenger_id = a.messenger_id
  LEFT JOIN registry.quota_usage AS u ON u.messenger_id = a.messenger_id AND u.day = (a.raised_at AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW report.enumeration_alarm IS 'Messengers whose queries looked like a search for subscribers: absent (too many absent answers), consecutive (numbers in a row) or canary (a number never issued). In force, a messenger is slowed down.';

CREATE VIEW report.feed_lag AS
SELECT (e.recorded_at AT TIME ZONE 'UTC')::date AS day, e.type, e.outcome::text AS outcome, count(*) AS events,
       avg(e.recorded_at - e.occurred_at) AS mean_lag, max(e.recorded_at - e.occurred_at) AS worst_lag
  FROM registry.feed_event AS e GROUP BY 1, 2, 3;
COMMENT ON VIEW report.feed_lag IS 'How long after it happened each contract event reached the registry: the notice period has run since.';

GRANT SELECT ON ALL TABLES IN SCHEMA report TO registryd_report, registryd_app;
