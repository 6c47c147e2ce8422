-- The views of schema report: the DBA's contract. Columns are only ever added, so that grants and views of a DBA's own stay.
-- Days are UTC. Figures stand in tables of their own (sql/code/movements.sql and seals.sql); only pages of the journal that are not sealed yet
-- are counted when they are asked for. Numbers and codes appear masked or not at all.

CREATE OR REPLACE VIEW report.presence_daily AS
SELECT f.day, m.name AS messenger, sum(f.queries)::bigint AS queries, sum(f.present_count)::bigint AS present,
       sum(f.queries - f.present_count)::bigint AS absent, round(sum(f.queries - f.present_count) / sum(f.queries), 4) AS absent_ratio
  FROM (TABLE registry.presence_day UNION ALL SELECT * FROM registry.open_presence()) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.presence_daily IS 'Presence queries and answers by day and messenger.';
COMMENT ON COLUMN report.presence_daily.day IS 'The day of the answer (UTC).';
COMMENT ON COLUMN report.presence_daily.messenger IS 'Who asked.';
COMMENT ON COLUMN report.presence_daily.queries IS 'Numbers asked for.';
COMMENT ON COLUMN report.presence_daily.present IS 'Of them, answered present.';
COMMENT ON COLUMN report.presence_daily.absent IS 'Of them, answered absent.';
COMMENT ON COLUMN report.presence_daily.absent_ratio IS 'absent of queries: a few per cent are honest.';

CREATE OR REPLACE VIEW report.answer_deadline AS
SELECT f.day, m.name AS messenger, sum(f.in_time + f.late)::bigint AS queries, sum(f.in_time)::bigint AS in_time, sum(f.late)::bigint AS late,
       max(f.worst_wait) AS worst_wait, max(f.allowed) AS allowed,
       extract(epoch FROM max(f.worst_wait))::float8 AS worst_wait_seconds, extract(epoch FROM max(f.allowed))::float8 AS allowed_seconds
  FROM (TABLE registry.presence_day UNION ALL SELECT * FROM registry.open_presence()) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 WHERE f.allowed IS NOT NULL
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.answer_deadline IS 'Decree 1801 of 2021: how many queries were answered within the policy''s time, and the worst wait, by day and messenger. Queries that were refused are not journaled: see report.refusal_daily.';
COMMENT ON COLUMN report.answer_deadline.day IS 'The day of the answer (UTC).';
COMMENT ON COLUMN report.answer_deadline.messenger IS 'Who asked.';
COMMENT ON COLUMN report.answer_deadline.queries IS 'Numbers asked for.';
COMMENT ON COLUMN report.answer_deadline.in_time IS 'Answered within the time that the policy gave.';
COMMENT ON COLUMN report.answer_deadline.late IS 'Answered after it.';
COMMENT ON COLUMN report.answer_deadline.worst_wait IS 'The longest time from receipt to answer.';
COMMENT ON COLUMN report.answer_deadline.allowed IS 'The time that the policy gave; the longest, where it changed that day.';
COMMENT ON COLUMN report.answer_deadline.worst_wait_seconds IS 'worst_wait in seconds.';
COMMENT ON COLUMN report.answer_deadline.allowed_seconds IS 'allowed in seconds.';

CREATE OR REPLACE VIEW report.binding_by_messenger AS
SELECT m.name AS messenger, coalesce(sum(b.recorded - b.terminated - b.replaced - b.removed), 0)::bigint AS live,
       coalesce(sum(b.terminated), 0)::bigint AS terminated, coalesce(sum(b.replaced), 0)::bigint AS replaced,
       coalesce(sum(b.removed), 0)::bigint AS removed
  FROM registry.messenger AS m LEFT JOIN registry.binding_movement AS b ON b.messenger_id = m.messenger_id
 GROUP BY m.name;
COMMENT ON VIEW report.binding_by_messenger IS 'Bindings by messenger: live, and ever ended by how they ended.';
COMMENT ON COLUMN report.binding_by_messenger.messenger IS 'Whose bindings.';
COMMENT ON COLUMN report.binding_by_messenger.live IS 'On live contracts now.';
COMMENT ON COLUMN report.binding_by_messenger.terminated IS 'Ended with their contract; each owed a notification.';
COMMENT ON COLUMN report.binding_by_messenger.replaced IS 'Ended by another code for the number.';
COMMENT ON COLUMN report.binding_by_messenger.removed IS 'Ended by their messenger.';

CREATE OR REPLACE VIEW report.contract_daily AS
SELECT c.day, sum(c.activated)::bigint AS activated, sum(c.terminated)::bigint AS terminated, sum(c.ported_out)::bigint AS ported_out,
       sum(c.holder_changed)::bigint AS holder_changed
  FROM registry.contract_movement AS c GROUP BY c.day;
COMMENT ON VIEW report.contract_daily IS 'Contracts that started, and that ended by reason, by day.';
COMMENT ON COLUMN report.contract_daily.day IS 'The day of the start or end (UTC).';
COMMENT ON COLUMN report.contract_daily.activated IS 'Contracts that started.';
COMMENT ON COLUMN report.contract_daily.terminated IS 'Contracts that were terminated.';
COMMENT ON COLUMN report.contract_daily.ported_out IS 'Contracts whose number left to another operator.';
COMMENT ON COLUMN report.contract_daily.holder_changed IS 'Contracts that ended because the holder changed.';

CREATE OR REPLACE VIEW report.notification_backlog AS
SELECT m.name AS messenger, coalesce(owed.pending, 0) AS pending, coalesce(owed.overdue, 0) AS overdue,
       oldest.deadline_at AS oldest_deadline_at, oldest.deadline_at - now() AS slack,
       coalesce(pace.delivered, 0) AS delivered_last_hour,
       coalesce(owed.pending, 0) * interval '1 hour' / pace.delivered AS eta, coalesce(owed.held, 0) AS held,
       refused.refused, extract(epoch FROM oldest.deadline_at - now())::float8 AS slack_seconds,
       coalesce(owed.pending, 0) * 3600::float8 / pace.delivered AS eta_seconds
  FROM registry.messenger AS m
  LEFT JOIN (SELECT n.messenger_id, sum(n.pending)::bigint AS pending, coalesce(sum(n.pending) FILTER (WHERE n.due < now()), 0)::bigint AS overdue,
                    sum(n.held)::bigint AS held
               FROM registry.notification_movement AS n GROUP BY n.messenger_id) AS owed ON owed.messenger_id = m.messenger_id
  LEFT JOIN LATERAL (SELECT least((SELECT n.deadline_at FROM registry.notification AS n WHERE n.messenger_id = m.messenger_id
                                    ORDER BY n.deadline_at LIMIT 1),
                                  (SELECT h.deadline_at FROM registry.notification_held AS h WHERE h.messenger_id = m.messenger_id
                                    ORDER BY h.deadline_at LIMIT 1)) AS deadline_at) AS oldest ON true
  LEFT JOIN registry.delivered_last_hour() AS pace ON pace.messenger_id = m.messenger_id
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE registry.is_refused(late.last_error)) AS refused
                       FROM (SELECT n.last_error FROM registry.notification AS n
                              WHERE n.messenger_id = m.messenger_id AND n.deadline_at < now() AND NOT n.replayed LIMIT 20000) AS late) AS refused;
COMMENT ON VIEW report.notification_backlog IS 'What is owed and not delivered, by messenger: the oldest deadline, the slack to it, and when the backlog ends at the last hour''s pace. What a replay owes again was delivered before, and is not counted.';
COMMENT ON COLUMN report.notification_backlog.messenger IS 'Who is owed.';
COMMENT ON COLUMN report.notification_backlog.pending IS 'Notifications not delivered yet.';
COMMENT ON COLUMN report.notification_backlog.overdue IS 'Of them, past their deadline, by whole minutes.';
COMMENT ON COLUMN report.notification_backlog.oldest_deadline_at IS 'The earliest deadline among them.';
COMMENT ON COLUMN report.notification_backlog.slack IS 'From now to it; negative: overdue.';
COMMENT ON COLUMN report.notification_backlog.delivered_last_hour IS 'Delivered in the last hour, by push and pull.';
COMMENT ON COLUMN report.notification_backlog.held IS 'Of pending, held in a wave of ends beyond the bound, until a person releases or withdraws it.';
COMMENT ON COLUMN report.notification_backlog.refused IS 'Of overdue, those whose content the messenger refuses though its endpoint works; counted among 20,000.';
COMMENT ON COLUMN report.notification_backlog.eta IS 'How long pending takes at that pace; NULL where nothing was delivered.';
COMMENT ON COLUMN report.notification_backlog.slack_seconds IS 'slack in seconds.';
COMMENT ON COLUMN report.notification_backlog.eta_seconds IS 'eta in seconds.';

CREATE OR REPLACE VIEW report.notification_deadline AS
SELECT f.day, m.name AS messenger, sum(f.in_time + f.late + f.overdue + f.pending)::bigint AS owed, sum(f.in_time)::bigint AS in_time,
       sum(f.late)::bigint AS late, sum(f.overdue)::bigint AS overdue, sum(f.pending)::bigint AS pending, max(f.worst_delay) AS worst_delay,
       extract(epoch FROM max(f.worst_delay))::float8 AS worst_delay_seconds
  FROM (SELECT d.day, d.messenger_id, d.in_time, d.late, 0 AS overdue, 0 AS pending, d.worst_delay
          FROM registry.delivered_day AS d
        UNION ALL
        SELECT n.day, n.messenger_id, 0, 0, coalesce(sum(n.pending) FILTER (WHERE n.due < now()), 0),
               coalesce(sum(n.pending) FILTER (WHERE n.due >= now()), 0), NULL
          FROM registry.notification_movement AS n GROUP BY 1, 2 HAVING sum(n.pending) <> 0) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.notification_deadline IS 'Decree 1801 of 2021: notifications delivered in time, late, overdue and still pending, by day of the contract''s end and messenger.';
COMMENT ON COLUMN report.notification_deadline.day IS 'The day of the contract''s end (UTC).';
COMMENT ON COLUMN report.notification_deadline.messenger IS 'Who is owed.';
COMMENT ON COLUMN report.notification_deadline.owed IS 'All that was to be notified.';
COMMENT ON COLUMN report.notification_deadline.in_time IS 'Delivered by the deadline.';
COMMENT ON COLUMN report.notification_deadline.late IS 'Delivered after it.';
COMMENT ON COLUMN report.notification_deadline.overdue IS 'Not delivered, and past the deadline, by whole minutes.';
COMMENT ON COLUMN report.notification_deadline.pending IS 'Not delivered, and not past it.';
COMMENT ON COLUMN report.notification_deadline.worst_delay IS 'The longest time from an end to its delivery.';
COMMENT ON COLUMN report.notification_deadline.worst_delay_seconds IS 'worst_delay in seconds.';

CREATE OR REPLACE VIEW report.notification_withdrawn AS
SELECT (w.withdrawn_at AT TIME ZONE 'UTC')::date AS day, m.name AS messenger, w.request, registry.without_numbers(w.reason) AS reason,
       count(*) AS notifications
  FROM registry.notification_withdrawn AS w
  JOIN registry.messenger AS m ON m.messenger_id = w.messenger_id
 GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW report.notification_withdrawn IS 'Notifications that two persons withdrew, by day, messenger and request. They count neither as owed nor as delivered.';
COMMENT ON COLUMN report.notification_withdrawn.day IS 'The day on which they were withdrawn (UTC).';
COMMENT ON COLUMN report.notification_withdrawn.messenger IS 'Who was owed them.';
COMMENT ON COLUMN report.notification_withdrawn.request IS 'The request in the break-glass log.';
COMMENT ON COLUMN report.notification_withdrawn.reason IS 'Why, as the request says.';
COMMENT ON COLUMN report.notification_withdrawn.notifications IS 'How many.';

CREATE OR REPLACE VIEW report.delivery_attempt_daily AS
SELECT f.day, m.name AS messenger, f.outcome::text AS outcome, f.http_status,
       sum(f.attempts)::bigint AS attempts, sum(f.notifications)::bigint AS notifications,
       round(sum(f.latency_sum_ms) / sum(f.attempts), 1) AS mean_latency_ms, max(f.latency_max_ms) AS max_latency_ms
  FROM registry.attempt_day AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 GROUP BY f.day, m.name, f.outcome, f.http_status;
COMMENT ON VIEW report.delivery_attempt_daily IS 'Pushes by day, messenger, outcome and HTTP status.';
COMMENT ON COLUMN report.delivery_attempt_daily.day IS 'The day of the push (UTC).';
COMMENT ON COLUMN report.delivery_attempt_daily.messenger IS 'To whom.';
COMMENT ON COLUMN report.delivery_attempt_daily.outcome IS 'acknowledged (2xx), rejected (the content) or failed (the endpoint).';
COMMENT ON COLUMN report.delivery_attempt_daily.http_status IS 'The answer''s status; NULL where none came.';
COMMENT ON COLUMN report.delivery_attempt_daily.attempts IS 'Pushes.';
COMMENT ON COLUMN report.delivery_attempt_daily.notifications IS 'Notifications they carried.';
COMMENT ON COLUMN report.delivery_attempt_daily.mean_latency_ms IS 'Their mean time to the answer, in milliseconds.';
COMMENT ON COLUMN report.delivery_attempt_daily.max_latency_ms IS 'The longest.';

CREATE OR REPLACE VIEW report.endpoint_health AS
SELECT m.name AS messenger,
       CASE WHEN m.endpoint_url IS NULL THEN 'none' WHEN l.gate_until IS NOT NULL THEN 'gated' ELSE 'healthy' END AS state,
       l.failures, l.last_error, l.gate_until, l.last_success_at,
       CASE WHEN l.lease_until > now() THEN l.owner END AS process,
       EXISTS (SELECT FROM registry.hold AS h WHERE h.released_at IS NULL AND (h.messenger_id IS NULL OR h.messenger_id = m.messenger_id)) AS held
  FROM registry.messenger AS m JOIN registry.lane AS l ON l.messenger_id = m.messenger_id;
COMMENT ON VIEW report.endpoint_health IS 'Each messenger''s endpoint: none, healthy or gated, and which process serves its lane now.';
COMMENT ON COLUMN report.endpoint_health.messenger IS 'Whose endpoint.';
COMMENT ON COLUMN report.endpoint_health.state IS 'none (it pulls), healthy or gated (it fails, and is probed).';
COMMENT ON COLUMN report.endpoint_health.failures IS 'Failures in a row.';
COMMENT ON COLUMN report.endpoint_health.last_error IS 'What the last one was.';
COMMENT ON COLUMN report.endpoint_health.gate_until IS 'When it is probed next.';
COMMENT ON COLUMN report.endpoint_health.last_success_at IS 'Its last receipt.';
COMMENT ON COLUMN report.endpoint_health.held IS 'Whether a person holds its notifications back.';
COMMENT ON COLUMN report.endpoint_health.process IS 'Which process serves its lane now.';

CREATE OR REPLACE VIEW report.quota_today AS
SELECT m.name AS messenger, m.daily_quota AS quota, coalesce(u.used, 0) AS used, coalesce(u.absent, 0) AS absent,
       round(u.absent::numeric / nullif(u.used, 0), 4) AS absent_ratio
  FROM registry.messenger AS m
  LEFT JOIN registry.quota_usage AS u ON u.messenger_id = m.messenger_id AND u.day = (now() AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW report.quota_today IS 'What each messenger has asked today (UTC), up to a second ago, against its quota.';
COMMENT ON COLUMN report.quota_today.messenger IS 'Who asks.';
COMMENT ON COLUMN report.quota_today.quota IS 'Numbers it may ask for a day; NULL: no quota.';
COMMENT ON COLUMN report.quota_today.used IS 'Numbers asked for today.';
COMMENT ON COLUMN report.quota_today.absent IS 'Of them, answered absent.';
COMMENT ON COLUMN report.quota_today.absent_ratio IS 'absent of used.';

CREATE OR REPLACE VIEW report.presence_without_code AS
SELECT f.day, m.name AS messenger, sum(f.present_count)::bigint AS present, sum(f.bound_count)::bigint AS with_code,
       sum(f.present_count - f.bound_count)::bigint AS without_code, now() >= ((f.day + 1)::timestamp AT TIME ZONE 'UTC') + max(p.code_within) AS is_final
  FROM (TABLE registry.presence_day UNION ALL SELECT * FROM registry.open_presence()) AS f
  JOIN registry.messenger AS m ON m.messenger_id = f.messenger_id
 CROSS JOIN (SELECT l.code_within FROM registry.policy AS l WHERE l.effective_from <= now() ORDER BY l.effective_from DESC LIMIT 1) AS p
 GROUP BY f.day, m.name;
COMMENT ON VIEW report.presence_without_code IS 'Whom the operator could not bind: queries, not persons, that were answered present and left no binding, so that the messenger is owed no notification of that contract by them. One that is asked without a code and bound later, by POST /v1/bindings or another query, counts once as without and once as with a code.';
COMMENT ON COLUMN report.presence_without_code.day IS 'The day of the answer (UTC).';
COMMENT ON COLUMN report.presence_without_code.messenger IS 'Who asked.';
COMMENT ON COLUMN report.presence_without_code.present IS 'Queries that were answered present.';
COMMENT ON COLUMN report.presence_without_code.with_code IS 'Of them, those that left a binding of the messenger on the number: recorded, replaced, or there already under the same code.';
COMMENT ON COLUMN report.presence_without_code.without_code IS 'The others: asked without a code, or with one that is bound to another number.';
COMMENT ON COLUMN report.presence_without_code.is_final IS 'Whether the policy''s code_within has passed since the day''s end. Until then the codes of that day may still come.';

CREATE OR REPLACE VIEW report.organisation_rule_daily AS
SELECT t.day, t.turned_by_rule FROM registry.turned_day AS t;
COMMENT ON VIEW report.organisation_rule_daily IS 'How many answers the policy''s organisation_rule turned, by day, of what is sealed: some two minutes ago. By messenger it is not told, because the journal does not say of which number it is so.';
COMMENT ON COLUMN report.organisation_rule_daily.day IS 'The day of the answer (UTC).';
COMMENT ON COLUMN report.organisation_rule_daily.turned_by_rule IS 'Answers that were absent because the end user of an organisation''s or sole trader''s number is not registered, and would have been present under organisation_rule subscriber.';

CREATE OR REPLACE VIEW report.refusal_daily AS
SELECT r.day, m.name AS messenger, r.reason, r.refusals
  FROM registry.refusal_day AS r JOIN registry.messenger AS m ON m.messenger_id = r.messenger_id;
COMMENT ON VIEW report.refusal_daily IS 'Requests that were refused, up to ten seconds ago: they are no part of the journal, because nobody was told anything of a number.';
COMMENT ON COLUMN report.refusal_daily.day IS 'The day (UTC).';
COMMENT ON COLUMN report.refusal_daily.messenger IS 'Who asked.';
COMMENT ON COLUMN report.refusal_daily.reason IS 'quota, throttle, budget, queue, database, incomplete, suspended, held, invalid …: as registryd_requests_refused has them.';
COMMENT ON COLUMN report.refusal_daily.refusals IS 'How many requests. A batch is one.';

CREATE OR REPLACE VIEW report.enumeration_alarm AS
SELECT m.name AS messenger, a.raised_at, a.kind::text AS kind, a.cleared_at IS NULL AND a.ends_at > now() AS in_force,
       a.ends_at, a.cleared_at, a.signs, coalesce(u.used, 0) AS used_that_day, coalesce(u.absent, 0) AS absent_that_day,
       round(u.absent::numeric / nullif(u.used, 0), 4) AS absent_ratio_that_day
  FROM registry.enumeration_alarm AS a
  JOIN registry.messenger AS m ON m.messenger_id = a.messenger_id
  LEFT JOIN registry.quota_usage AS u ON u.messenger_id = a.messenger_id AND u.day = (a.raised_at AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW report.enumeration_alarm IS 'Messengers whose queries looked like a search for subscribers: absent (too many absent answers), consecutive (numbers in a row) or canary (a number never issued). In force, a messenger is slowed down.';
COMMENT ON COLUMN report.enumeration_alarm.messenger IS 'Who asked.';
COMMENT ON COLUMN report.enumeration_alarm.raised_at IS 'When the first sign was seen.';
COMMENT ON COLUMN report.enumeration_alarm.kind IS 'absent, consecutive or canary.';
COMMENT ON COLUMN report.enumeration_alarm.in_force IS 'Whether it slows the messenger down now.';
COMMENT ON COLUMN report.enumeration_alarm.ends_at IS 'When it ends; each further sign moves it.';
COMMENT ON COLUMN report.enumeration_alarm.cleared_at IS 'When the operator ended it.';
COMMENT ON COLUMN report.enumeration_alarm.signs IS 'How often the sign was seen.';
COMMENT ON COLUMN report.enumeration_alarm.used_that_day IS 'Numbers asked for on the day it was raised.';
COMMENT ON COLUMN report.enumeration_alarm.absent_that_day IS 'Of them, answered absent.';
COMMENT ON COLUMN report.enumeration_alarm.absent_ratio_that_day IS 'absent of used.';

CREATE OR REPLACE VIEW report.contract_outside_capacity AS
SELECT '+' || o.block || '****' AS block, sum(o.contracts)::bigint AS contracts FROM registry.contracts_outside_capacity() AS o GROUP BY o.block;
COMMENT ON VIEW report.contract_outside_capacity IS 'Live contracts outside the operator''s numbering capacity: numbers that were ported in. Whole blocks of them mean that the capacity lacks a range, or that a feed is another operator''s.';
COMMENT ON COLUMN report.contract_outside_capacity.block IS 'A block of 10,000 numbers; its last four digits are stars.';
COMMENT ON COLUMN report.contract_outside_capacity.contracts IS 'Live contracts in it.';
