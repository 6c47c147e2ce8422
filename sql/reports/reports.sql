-- The views of schema report: the DBA's contract. Made anew by every `registryd migrate`; columns are only ever added.
-- Days are UTC: closed ones stand in tables of figures, open ones are counted as they are asked for (0005_retention.sql). Numbers and codes
-- appear masked or not at all.

SET LOCAL client_min_messages = warning;
DROP VIEW IF EXISTS report.presence_daily, report.answer_deadline, report.binding_by_messenger, report.contract_daily,
    report.notification_backlog, report.notification_deadline, report.delivery_attempt_daily, report.endpoint_health,
    report.quota_today, report.enumeration_alarm, report.feed_lag, report.policy;

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
SELECT m.name AS messenger, coalesce(sum(b.recorded - b.terminated - b.replaced - b.removed), 0)::bigint AS live,
       coalesce(sum(b.terminated), 0)::bigint AS terminated, coalesce(sum(b.replaced), 0)::bigint AS replaced,
       coalesce(sum(b.removed), 0)::bigint AS removed
  FROM registry.messenger AS m LEFT JOIN registry.binding_movement AS b ON b.messenger_id = m.messenger_id
 GROUP BY m.name;
COMMENT ON VIEW report.binding_by_messenger IS 'Bindings by messenger: live, and ever ended by how they ended.';

CREATE VIEW report.contract_daily AS
SELECT c.day, sum(c.activated)::bigint AS activated, sum(c.terminated)::bigint AS terminated, sum(c.ported_out)::bigint AS ported_out,
       sum(c.holder_changed)::bigint AS holder_changed
  FROM registry.contract_movement AS c GROUP BY c.day;
COMMENT ON VIEW report.contract_daily IS 'Contracts that started, and that ended by reason, by day.';

CREATE VIEW report.notification_backlog AS
SELECT m.name AS messenger, coalesce(owed.pending, 0) AS pending, coalesce(owed.overdue, 0) AS overdue,
       oldest.deadline_at AS oldest_deadline_at, oldest.deadline_at - now() AS slack,
       coalesce(pace.delivered, 0) AS delivered_last_hour,
       coalesce(owed.pending, 0) * interval '1 hour' / pace.delivered AS eta
  FROM registry.messenger AS m
  LEFT JOIN (SELECT n.messenger_id, sum(n.pending)::bigint AS pending, coalesce(sum(n.pending) FILTER (WHERE n.due < now()), 0)::bigint AS overdue
               FROM registry.notification_movement AS n GROUP BY n.messenger_id) AS owed ON owed.messenger_id = m.messenger_id
  LEFT JOIN LATERAL (SELECT n.deadline_at FROM registry.notification AS n WHERE n.messenger_id = m.messenger_id
                      ORDER BY n.deadline_at LIMIT 1) AS oldest ON true
  LEFT JOIN registry.delivered_last_hour() AS pace ON pace.messenger_id = m.messenger_id;
COMMENT ON VIEW report.notification_backlog IS 'What is owed and not delivered, by messenger: the oldest deadline, the slack to it, and when the backlog ends at the last hour''s pace.';

CREATE VIEW report.notification_deadline AS
SELECT f.day, m.name AS messenger, sum(f.in_time + f.late + f.overdue + f.pending)::bigint AS owed, sum(f.in_time)::bigint AS in_time,
       sum(f.late)::bigint AS late, sum(f.overdue)::bigint AS overdue, sum(f.pending)::bigint AS pending, max(f.worst_delay) AS worst_delay
  FROM (SELECT d.day, d.messenger_id, d.in_time, d.late, 0 AS overdue, 0 AS pending, d.worst_delay
          FROM (TABLE registry.delivered_day UNION ALL SELECT * FROM registry.open_delivered()) AS d
        UNION ALL
        SELECT n.day, n.messenger_id, 0, 0, coalesce(sum(n.pending) FILTER (WHERE n.due < now()), 0),
               coalesce(sum(n.pending) FILTER (WHERE n.due >= now()), 0), NULL
          FROM registry.notification_movement AS n GROUP BY 1, 2 HAVING sum(n.pending) <> 0) AS f
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
SELECT e.day, e.type, e.outcome::text AS outcome, sum(e.events)::bigint AS events, sum(e.lag_sum) / sum(e.events) AS mean_lag,
       max(e.worst_lag) AS worst_lag
  FROM registry.feed_movement AS e GROUP BY e.day, e.type, e.outcome;
COMMENT ON VIEW report.feed_lag IS 'How long after it happened each contract event reached the registry: the notice period has run since.';

CREATE VIEW report.policy AS
SELECT p.*, lead(p.effective_from) OVER (ORDER BY p.effective_from) AS superseded_at,
       p.effective_from = (SELECT max(b.effective_from) FROM registry.policy AS b WHERE b.effective_from <= now()) AS in_force
  FROM registry.policy AS p;
COMMENT ON VIEW report.policy IS 'The law as dated data: what was in force from when to when, what is, and what is planned; who wrote each row and when.';

GRANT SELECT ON ALL TABLES IN SCHEMA report TO registryd_report, registryd_app;
