-- The views of schema report on what comes in: billing's feed, the waves of ends that it or a person causes, and the law. The head of reports.sql holds
-- for these too.

CREATE OR REPLACE VIEW report.wave AS
SELECT w.wave_id, w.began_at, w.last_at, w.ended_by, w.ends, w.notifications, w.notifications - w.released - w.withdrawn AS held,
       w.released, w.withdrawn, oldest.deadline_at AS oldest_deadline_at, w.released_at, w.released_by,
       registry.without_numbers(w.release_reason) AS release_reason
  FROM registry.wave AS w
  LEFT JOIN LATERAL (SELECT h.deadline_at FROM registry.notification_held AS h WHERE h.wave_id = w.wave_id
                      ORDER BY h.deadline_at LIMIT 1) AS oldest ON true;
COMMENT ON VIEW report.wave IS 'Waves of ends beyond the bound of an hour. Their notifications are held until a person releases or withdraws them.';
COMMENT ON COLUMN report.wave.wave_id IS 'The wave''s number.';
COMMENT ON COLUMN report.wave.began_at IS 'When its first statement ran.';
COMMENT ON COLUMN report.wave.last_at IS 'When its last statement ran.';
COMMENT ON COLUMN report.wave.ended_by IS 'Which database user ended the contracts.';
COMMENT ON COLUMN report.wave.ends IS 'Contracts that ended.';
COMMENT ON COLUMN report.wave.notifications IS 'Notifications that are owed for them.';
COMMENT ON COLUMN report.wave.held IS 'Of them, still held.';
COMMENT ON COLUMN report.wave.released IS 'Of them, released by a person.';
COMMENT ON COLUMN report.wave.withdrawn IS 'Of them, withdrawn by two persons.';
COMMENT ON COLUMN report.wave.oldest_deadline_at IS 'The earliest deadline among those held.';
COMMENT ON COLUMN report.wave.released_at IS 'When a person began to release it.';
COMMENT ON COLUMN report.wave.released_by IS 'Who that was: a database user, or the name of an operator key.';
COMMENT ON COLUMN report.wave.release_reason IS 'Why.';

CREATE OR REPLACE VIEW report.feed_lag AS
SELECT e.day, e.type, e.outcome::text AS outcome, sum(e.events)::bigint AS events, justify_hours(make_interval(secs => (sum(e.lag_sum_s) / sum(e.events))::float8)) AS mean_lag,
       max(e.worst_lag) AS worst_lag, (sum(e.lag_sum_s) / sum(e.events))::float8 AS mean_lag_seconds,
       extract(epoch FROM max(e.worst_lag))::float8 AS worst_lag_seconds
  FROM registry.feed_movement AS e GROUP BY e.day, e.type, e.outcome;
COMMENT ON VIEW report.feed_lag IS 'How long after it happened each contract event reached the registry: the notice period has run since.';
COMMENT ON COLUMN report.feed_lag.day IS 'The day of the recording (UTC).';
COMMENT ON COLUMN report.feed_lag.type IS 'activated, terminated, ported_out, …';
COMMENT ON COLUMN report.feed_lag.outcome IS 'applied or refused.';
COMMENT ON COLUMN report.feed_lag.events IS 'Billing''s events.';
COMMENT ON COLUMN report.feed_lag.mean_lag IS 'The mean time from occurring to being recorded.';
COMMENT ON COLUMN report.feed_lag.worst_lag IS 'The longest.';
COMMENT ON COLUMN report.feed_lag.mean_lag_seconds IS 'mean_lag in seconds.';
COMMENT ON COLUMN report.feed_lag.worst_lag_seconds IS 'worst_lag in seconds.';

CREATE OR REPLACE VIEW report.feed_waiting AS
SELECT registry.without_digits(w.event_id) AS event_id, w.type, w.reason, w.occurred_at, w.first_at, w.last_at, w.calls,
       now() - w.first_at AS waited, extract(epoch FROM now() - w.first_at)::float8 AS waited_seconds
  FROM registry.feed_waiting AS w;
COMMENT ON VIEW report.feed_waiting IS 'Billing''s events that were answered not_yet and wait to be sent again: each may be a subscriber who is answered wrongly, or an end that nobody was told of.';
COMMENT ON COLUMN report.feed_waiting.event_id IS 'Billing''s own id of the event. Digits that might be a number are a star.';
COMMENT ON COLUMN report.feed_waiting.type IS 'activated, terminated, ported_out, …';
COMMENT ON COLUMN report.feed_waiting.reason IS 'What it waits for: in_the_future, no_contract_yet, still_live, held_by_an_individual, too_many_ends, follows_a_waiting_event or registry_failed.';
COMMENT ON COLUMN report.feed_waiting.occurred_at IS 'When it happened, by its own word.';
COMMENT ON COLUMN report.feed_waiting.first_at IS 'When it came first.';
COMMENT ON COLUMN report.feed_waiting.last_at IS 'When it came last. Long ago: billing has stopped to send it again.';
COMMENT ON COLUMN report.feed_waiting.calls IS 'How often it came.';
COMMENT ON COLUMN report.feed_waiting.waited IS 'Since it came first.';
COMMENT ON COLUMN report.feed_waiting.waited_seconds IS 'The same in seconds.';

CREATE OR REPLACE VIEW report.feed_status AS
SELECT registry.is_complete() AS complete, s.complete_since, s.source, s.declared_by, registry.without_numbers(s.reason) AS reason,
       e.last_event_at, l.as_of AS last_snapshot_at,
       w.waiting, w.oldest_waiting_at, registry.ended_last_hour() AS ends_last_hour, registry.ends_bound() AS ends_bound,
       registry.ends_allowed() AS ends_allowed, registry.ends_left() AS ends_left,
       extract(epoch FROM now() - e.last_event_at)::float8 AS last_event_seconds, extract(epoch FROM now() - l.as_of)::float8 AS last_snapshot_seconds
  FROM (SELECT count(*) AS waiting, min(f.first_at) AS oldest_waiting_at FROM registry.feed_waiting AS f) AS w
 CROSS JOIN (SELECT (SELECT f.recorded_at FROM registry.feed_event AS f ORDER BY f.recorded_at DESC LIMIT 1) AS last_event_at) AS e
  LEFT JOIN registry.feed_state AS s ON s.one
  LEFT JOIN registry.last_snapshot AS l ON l.one;
COMMENT ON VIEW report.feed_status IS 'Billing''s feed in one row: whether the registry is complete and may answer, when billing last spoke, what waits, and how many contracts may still end in this hour.';
COMMENT ON COLUMN report.feed_status.complete IS 'Whether the registry holds every contract. Where it does not, every query is 503.';
COMMENT ON COLUMN report.feed_status.complete_since IS 'Since when. There, but complete is false: it was said in another database cluster, before this one was restored.';
COMMENT ON COLUMN report.feed_status.source IS 'What said so: snapshot, history or person.';
COMMENT ON COLUMN report.feed_status.declared_by IS 'The database user that said so.';
COMMENT ON COLUMN report.feed_status.reason IS 'Why.';
COMMENT ON COLUMN report.feed_status.last_event_at IS 'When the last event was recorded; NULL: none ever, or not for as long as ended contracts are kept.';
COMMENT ON COLUMN report.feed_status.last_snapshot_at IS 'When the newest snapshot was taken.';
COMMENT ON COLUMN report.feed_status.waiting IS 'Events that wait: report.feed_waiting.';
COMMENT ON COLUMN report.feed_status.oldest_waiting_at IS 'When the first of them came.';
COMMENT ON COLUMN report.feed_status.ends_last_hour IS 'Contracts that ended in the last hour, by the time of recording.';
COMMENT ON COLUMN report.feed_status.ends_bound IS 'How many may, by the policy in force.';
COMMENT ON COLUMN report.feed_status.ends_allowed IS 'How many more allowances in force let through (registryd feed allow-ends).';
COMMENT ON COLUMN report.feed_status.ends_left IS 'How many may still end now.';
COMMENT ON COLUMN report.feed_status.last_event_seconds IS 'Seconds since last_event_at.';
COMMENT ON COLUMN report.feed_status.last_snapshot_seconds IS 'Seconds since last_snapshot_at.';

CREATE OR REPLACE VIEW report.policy AS
SELECT p.effective_from, p.lapses_at, p.answer_within, p.notice_within, p.organisation_rule, p.suspended_is_present, p.journal_kept,
       p.notification_kept, registry.without_numbers(p.note) AS note, p.honest_absent_ratio, p.scan_absent_ratio, p.honest_density,
       p.honest_queries_per_alarm, p.alarm_lasts, p.alarm_queries_per_minute, p.echo_per_s, p.alarm_slack, p.code_within, p.ends_max,
       p.ends_max_share, p.ended_kept, p.recorded_at, p.recorded_by,
       lead(p.effective_from) OVER (ORDER BY p.effective_from) AS superseded_at,
       p.effective_from = (SELECT max(b.effective_from) FROM registry.policy AS b WHERE b.effective_from <= now()) AS in_force,
       extract(epoch FROM p.answer_within)::float8 AS answer_within_seconds, extract(epoch FROM p.notice_within)::float8 AS notice_within_seconds,
       extract(epoch FROM p.journal_kept)::float8 AS journal_kept_seconds, extract(epoch FROM p.notification_kept)::float8 AS notification_kept_seconds,
       extract(epoch FROM p.alarm_lasts)::float8 AS alarm_lasts_seconds, extract(epoch FROM p.code_within)::float8 AS code_within_seconds,
       extract(epoch FROM p.ended_kept)::float8 AS ended_kept_seconds,
       ARRAY(SELECT extract(epoch FROM s.slack)::float8 FROM unnest(p.alarm_slack) WITH ORDINALITY AS s(slack, place) ORDER BY s.place)
           AS alarm_slack_seconds
  FROM registry.policy AS p;
COMMENT ON VIEW report.policy IS 'The law as dated data: what was in force from when to when, what is, and what is planned; who wrote each row and when.';
COMMENT ON COLUMN report.policy.superseded_at IS 'When the next row takes its place; NULL: none is planned.';
COMMENT ON COLUMN report.policy.in_force IS 'Whether it is the law now.';
COMMENT ON COLUMN report.policy.answer_within_seconds IS 'answer_within in seconds.';
COMMENT ON COLUMN report.policy.notice_within_seconds IS 'notice_within in seconds.';
COMMENT ON COLUMN report.policy.journal_kept_seconds IS 'journal_kept in seconds, a year taken for 365.25 days.';
COMMENT ON COLUMN report.policy.notification_kept_seconds IS 'notification_kept in seconds, a year taken for 365.25 days.';
COMMENT ON COLUMN report.policy.alarm_lasts_seconds IS 'alarm_lasts in seconds.';
COMMENT ON COLUMN report.policy.code_within_seconds IS 'code_within in seconds.';
COMMENT ON COLUMN report.policy.ended_kept_seconds IS 'ended_kept in seconds, a year taken for 365.25 days.';
COMMENT ON COLUMN report.policy.alarm_slack_seconds IS 'alarm_slack in seconds.';
DO $comments$
DECLARE
    named record;
BEGIN
    -- The others are registry.policy's own: this fails where one of its columns is not told.
    FOR named IN
        SELECT a.attname, col_description(a.attrelid, a.attnum) AS comment FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = 'registry.policy'::regclass AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        EXECUTE format('COMMENT ON COLUMN report.policy.%I IS %L', named.attname,
                       named.comment || CASE named.attname WHEN 'note' THEN ' Digits that might be a number are a star.' ELSE '' END);
    END LOOP;
END
$comments$;
