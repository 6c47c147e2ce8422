-- What the answer processes do, for those who look.

-- name: add_minute
-- Why: each process adds its figures every ten seconds; the database's clock says to which minute, so it tells how long ago. What is a day old goes.
WITH gone AS (DELETE FROM registry.answer_minute AS o WHERE o.minute < now() - interval '1 day')
INSERT INTO registry.answer_minute AS a (minute, queries, absent, requests, refused, failed, latencies)
VALUES (date_trunc('minute', now() - $1 * interval '1 second', 'UTC'), $2, $3, $4, $5, $6, $7::bigint[])
    ON CONFLICT (minute) DO UPDATE
   SET queries = a.queries + excluded.queries, absent = a.absent + excluded.absent, requests = a.requests + excluded.requests,
       refused = a.refused + excluded.refused, failed = a.failed + excluded.failed,
       latencies = ARRAY(SELECT coalesce(l.kept, 0) + coalesce(l.added, 0)
                           FROM unnest(a.latencies, excluded.latencies) WITH ORDINALITY AS l(kept, added, place) ORDER BY l.place);

-- name: read_minutes
-- Why: the last $1 whole minutes; nobody asked in one that is not there.
SELECT m.minute, coalesce(a.queries, 0) AS queries, coalesce(a.absent, 0) AS absent, coalesce(a.requests, 0) AS requests,
       coalesce(a.refused, 0) AS refused, coalesce(a.failed, 0) AS failed, coalesce(a.latencies, '{}') AS latencies
  FROM generate_series(date_trunc('minute', now(), 'UTC') - $1::integer * interval '1 minute', date_trunc('minute', now(), 'UTC') - interval '1 minute',
                       interval '1 minute') AS m(minute)
  LEFT JOIN registry.answer_minute AS a ON a.minute = m.minute
 ORDER BY m.minute;

-- name: read_presence_today
-- Why: what each messenger has asked today against its quota, who asked most first.
SELECT q.messenger, q.quota, q.used AS queries, q.absent FROM report.quota_today AS q ORDER BY q.used DESC, q.messenger;

-- name: read_refused_today
SELECT r.messenger, r.reason, r.refusals FROM report.refusal_daily AS r WHERE r.day = (now() AT TIME ZONE 'UTC')::date ORDER BY r.refusals DESC, 1, 2;

-- name: count_late_today
-- Why: an answer after the policy's time breaks the law, and is known once its page is sealed.
SELECT registry.answers_late((now() AT TIME ZONE 'UTC')::date) AS late;

-- name: find_answer
-- Why: a messenger quotes a queryId or batchId; what was answered then is evidence, and whose number it was is not told.
SELECT a.messenger, a.answered_at, a.present, a.bound, a.waited_s, a.is_sealed, a.queries, a.messengers FROM registry.find_answer($1) AS a;
