-- The views of schema report: the DBA's contract. Made anew by every `registryd migrate`; columns are only ever added.
-- Days are UTC. Numbers and codes appear masked or not at all.

SET LOCAL client_min_messages = warning;
DROP VIEW IF EXISTS report.presence_daily, report.answer_deadline, report.binding_by_messenger, report.contract_daily,
    report.notification_backlog, report.notification_deadline, report.delivery_attempt_daily, report.endpoint_health,
    report.quota_today, report.feed_lag;

CREATE VIEW report.presence_daily AS
SELECT (p.received_at AT TIME ZONE 'UTC')::date AS day, m.name AS messenger,
       sum(p.queries)::bigint AS queries, sum(p.present_count)::bigint AS present, sum(p.queries - p.present_count)::bigint AS absent,
       round(sum(p.queries - p.present_count)::numeric / sum(p.queries), 4) AS absent_ratio
  FROM registry.journal_page AS p JOIN registry.messenger AS m ON m.messenger_id = p.messenger_id
 GROUP BY 1, 2;
COMMENT ON VIEW report.presence_daily IS 'Presence queries and answers by day and messenger.';

CREATE VIEW report.answer_deadline AS
SELECT (p.received_at AT TIME ZONE 'UTC')::date AS day, m.name AS messenger,
       sum(p.queries)::bigint AS queries,
       coalesce(sum(p.queries) FILTER (WHERE p.answered_at - p.received_at <= law.answer_within), 0)::bigint AS in_time,
       coalesce(sum(p.queries) FILTER (WHERE p.answered_at - p.received_at > law.answer_within), 0)::bigint AS late,
       max(p.answered_at - p.received_at) AS worst_wait,
       max(law.answer_within) AS allowed
  FROM registry.journal_page AS p
  JOIN registry.messenger AS m ON m.messenger_id = p.messenger_id
 CROSS JOIN LATERAL (SELECT l.answer_within FROM registry.policy AS l WHERE l.effective_from <= p.received_at
                      ORDER BY l.effective_from DESC LIMIT 1) AS law
 GROUP BY 1, 2;
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
       pace.delivered_last_hour,
       count(n.notification_id) * interval '1 hour' / nullif(pace.delivered_last_hour, 0) AS eta
  FROM registry.messenger AS m
  LEFT JOIN registry.notification AS n ON n.messenger_id = m.messenger_id
 CROSS JOIN LATERAL (SELECT count(*) AS delivered_last_hour FROM registry.notification_delivered AS d
                      WHERE d.messenger_id = m.messenger_id AND d.delivered_at > now() - interval '1 hour') AS pace
 GROUP BY m.name, pace.delivered_last_hour;
COMMENT ON VIEW report.notification_backlog IS 'What is owed and not delivered, by messenger: the oldest deadline, the slack to it, and when the backlog ends at the last hour''s pace. What a replay owes again is pending, and has no deadline to miss.';

CREATE VIEW report.notification_deadline AS
SELECT fate.day, m.name AS messenger, count(*) AS owed,
       count(*) FILTER (WHERE fate.delivered_at <= fate.deadline_at) AS in_time,
       count(*) FILTER (WHERE fate.delivered_at > fate.deadline_at) AS late,
       count(*) FILTER (WHERE fate.delivered_at IS NULL AND fate.deadline_at < now()) AS overdue,
       count(*) FILTER (WHERE fate.delivered_at IS NULL AND fate.deadline_at >= now()) AS pending,
       max(fate.delivered_at - fate.terminated_at) AS worst_delay
  FROM (SELECT (d.terminated_at AT TIME ZONE 'UTC')::date AS day, d.messenger_id, d.deadline_at, d.terminated_at, d.delivered_at
          FROM registry.notification_delivered AS d
        UNION ALL
        SELECT (n.terminated_at AT TIME ZONE 'UTC')::date, n.messenger_id, n.deadline_at, n.terminated_at, NULL
          FROM registry.notification AS n WHERE NOT n.replayed) AS fate
  JOIN registry.messenger AS m ON m.messenger_id = fate.messenger_id
 GROUP BY 1, 2;
COMMENT ON VIEW report.notification_deadline IS 'Decree 1801 of 2021: notifications delivered in time, late, overdue and still pending, by day of the contract''s end and messenger.';

CREATE VIEW report.delivery_attempt_daily AS
SELECT (a.attempted_at AT TIME ZONE 'UTC')::date AS day, m.name AS messenger, a.outcome::text AS outcome, a.http_status,
       count(*) AS attempts, sum(a.notifications)::bigint AS notifications,
       round(avg(a.latency_ms), 1) AS mean_latency_ms, max(a.latency_ms) AS max_latency_ms
  FROM registry.delivery_attempt AS a JOIN registry.messenger AS m ON m.messenger_id = a.messenger_id
 GROUP BY 1, 2, 3, 4;
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

CREATE VIEW report.feed_lag AS
SELECT (e.recorded_at AT TIME ZONE 'UTC')::date AS day, e.type, e.outcome::text AS outcome, count(*) AS events,
       avg(e.recorded_at - e.occurred_at) AS mean_lag, max(e.recorded_at - e.occurred_at) AS worst_lag
  FROM registry.feed_event AS e GROUP BY 1, 2, 3;
COMMENT ON VIEW report.feed_lag IS 'How long after it happened each contract event reached the registry: the notice period has run since.';

GRANT SELECT ON ALL TABLES IN SCHEMA report TO registryd_report, registryd_app;
