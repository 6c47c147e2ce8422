-- What tests/console/life.py makes of a registry. What has a path of its own comes by it: ends by an UPDATE, notifications and the held wave by
-- its trigger, deliveries by their function, the planned law and a person's request by theirs. What would take hours is written as it would stand.

INSERT INTO registry.messenger (name, agreement, register_no, endpoint_url, daily_quota)
SELECT n.name, 'ID-2026/' || n.i, (100 + n.i)::text,
       CASE WHEN n.name <> 'pulling' THEN 'https://' || n.name || '.example.net/hooks/registry?token=wombat' END,
       CASE n.name WHEN 'used-up' THEN 5000 WHEN 'busy' THEN 2000000 END
  FROM (SELECT i, coalesce((ARRAY['north-chat','messages-of-the-great-river-and-all-its-towns','scanner','paused','used-up','pulling','refuses','busy'])[i], 'messenger-' || to_char(i, 'FM000')) AS name FROM generate_series(1, 100) AS i) AS n;

INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256, created_at, last_used_at)
SELECT 'k' || translate(lpad(m.messenger_id::text, 9, '0'), '0189', 'abcd'), m.messenger_id, sha256(m.name::bytea), now() - interval '200 days',
       now() - interval '2 minutes'
  FROM registry.messenger AS m;
UPDATE registry.messenger_key SET expires_at = now() + interval '3 days' WHERE messenger_id = 2;
INSERT INTO registry.messenger_secret (messenger_id, kind, ciphertext) SELECT m.messenger_id, 'hmac_sha256', '\x00' FROM registry.messenger AS m;

INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
SELECT 79160700000 + i, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(0, 1999) AS i;
INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
SELECT 79160700000 + i, 1, m.messenger_id, 'zebra-okapi-' || i
 FROM generate_series(0, 99) AS i, registry.messenger AS m
 WHERE m.name IN ('north-chat', 'messages-of-the-great-river-and-all-its-towns', 'refuses', 'busy');
INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
SELECT 79160700000 + i, 1, m.messenger_id, 'zebra-okapi-' || i
 FROM generate_series(500, 699) AS i, registry.messenger AS m WHERE m.messenger_id BETWEEN 10 AND 14;

UPDATE registry.contract SET ended_at = now() - interval '25 hours', end_reason = 'ported_out', status = 'ended' WHERE msisdn < 79160700003;
UPDATE registry.contract SET ended_at = now() - interval '90 minutes', end_reason = 'terminated', status = 'ended'
 WHERE msisdn BETWEEN 79160700003 AND 79160700040;

-- Only one messenger is late; another was late with one notice today; a third refuses what is overdue; the rest was delivered in time.
SELECT registry.settle_delivered(n.messenger_id, array_agg(n.notification_id), 'push')
  FROM registry.notification AS n JOIN registry.messenger AS m ON m.messenger_id = n.messenger_id
 WHERE (m.name = 'messages-of-the-great-river-and-all-its-towns' AND n.deadline_at < now()) OR m.name = 'busy' GROUP BY n.messenger_id;
UPDATE registry.notification AS n SET attempts = 9, not_before = now() + interval '40 minutes', last_error = 'status 422'
  FROM registry.messenger AS m WHERE m.messenger_id = n.messenger_id AND m.name = 'refuses';

UPDATE registry.lane AS l SET failures = 41, gate_until = now() + interval '25 seconds', last_error = 'the connection was refused',
       last_success_at = now() - interval '95 minutes'
  FROM registry.messenger AS m WHERE m.messenger_id = l.messenger_id AND m.name = 'messages-of-the-great-river-and-all-its-towns';
UPDATE registry.lane AS l SET failures = 3, gate_until = now() + interval '50 seconds', last_error = 'status 503',
       last_success_at = now() - interval '4 minutes'
  FROM registry.messenger AS m WHERE m.messenger_id = l.messenger_id AND m.name = 'messenger-077';
UPDATE registry.lane SET owner = 'host-a deliver@1', lease_until = now() + interval '1 hour', last_success_at = coalesce(last_success_at,
       now() - messenger_id * interval '7 minutes')
 WHERE messenger_id % 3 = 0;

INSERT INTO registry.delivery_attempt (messenger_id, attempted_at, notifications, outcome, http_status, latency_ms, error)
SELECT m.messenger_id, now() - i * interval '75 seconds', 1 + i % 4,
       CASE WHEN m.name = 'messages-of-the-great-river-and-all-its-towns' AND i < 16 THEN 'failed' WHEN m.name = 'refuses' THEN 'rejected' ELSE 'acknowledged' END::registry.delivery_outcome,
       CASE WHEN m.name = 'messages-of-the-great-river-and-all-its-towns' AND i < 16 THEN NULL WHEN m.name = 'refuses' THEN 422 ELSE 204 END,
       20 + i * 7 % 90,
       CASE WHEN m.name = 'messages-of-the-great-river-and-all-its-towns' AND i < 16 THEN 'the connection was refused' WHEN m.name = 'refuses' THEN 'status 422' END
  FROM registry.messenger AS m, generate_series(1, 30) AS i
 WHERE m.name IN ('messages-of-the-great-river-and-all-its-towns', 'busy', 'refuses') OR m.messenger_id % 10 = 0;

INSERT INTO registry.enumeration_alarm (messenger_id, kind, raised_at, ends_at, signs)
SELECT m.messenger_id, 'consecutive', now() - interval '12 minutes', now() + interval '48 minutes', 4
 FROM registry.messenger AS m WHERE m.name = 'scanner';
INSERT INTO registry.enumeration_alarm (messenger_id, kind, raised_at, ends_at, cleared_at)
SELECT m.messenger_id, 'absent', now() - interval '2 days', now() - interval '47 hours', now() - interval '47 hours 30 minutes'
 FROM registry.messenger AS m WHERE m.name = 'busy';
INSERT INTO registry.hold (messenger_id, reason, held_at) SELECT m.messenger_id, 'asked to wait until its new data centre is up',
       now() - interval '50 minutes'
  FROM registry.messenger AS m WHERE m.name = 'paused';

INSERT INTO registry.quota_usage (messenger_id, day, used, absent)
SELECT m.messenger_id, d.day::date, CASE m.name WHEN 'used-up' THEN 5000 WHEN 'busy' THEN 1700000 ELSE 3000 + m.messenger_id * 37 END,
       CASE m.name WHEN 'scanner' THEN 2400 WHEN 'busy' THEN 48000 ELSE 90 + m.messenger_id END
  FROM registry.messenger AS m, (VALUES (now() AT TIME ZONE 'UTC'), (now() AT TIME ZONE 'UTC' - interval '1 day')) AS d(day)
 WHERE m.messenger_id <= 90;
INSERT INTO registry.refusal_day (day, messenger_id, reason, refusals)
SELECT (now() AT TIME ZONE 'UTC')::date, m.messenger_id, r.reason, r.refusals
  FROM (VALUES ('used-up', 'quota', 1204), ('scanner', 'throttle', 388), ('busy', 'budget', 17), ('busy', 'database', 2),
       ('messages-of-the-great-river-and-all-its-towns', 'invalid', 5)) AS r(name, reason, refusals)
  JOIN registry.messenger AS m ON m.name = r.name;
INSERT INTO registry.answer_minute (minute, queries, absent, requests, refused, failed, latencies)
SELECT date_trunc('minute', now(), 'UTC') - i * interval '1 minute', 4000 + 1500 * sin(i / 6.0), 120, 4100 + 1500 * sin(i / 6.0), 20 + i % 9,
       CASE WHEN i = 31 THEN 40 ELSE 0 END,
       '{0,0,2500,1100,300,100,0,0,0,0,0,0,0,0,0,0}'
  FROM generate_series(1, 60) AS i;

INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at, recorded_at)
SELECT 'billing-' || i, CASE WHEN i % 7 = 0 THEN 'terminated' ELSE 'activated' END, decode(md5(i::text), 'hex'), 'applied', NULL,
       now() - i * interval '20 seconds' - interval '9 seconds', now() - i * interval '20 seconds'
  FROM generate_series(1, 240) AS i;
INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at)
SELECT 'odd-' || i, 'activated', decode(md5('odd' || i), 'hex'), 'refused', 'the number has a live contract: send its end first',
       now() - interval '4 minutes' FROM generate_series(1, 6) AS i;
INSERT INTO registry.feed_waiting (event_id, type, reason, occurred_at, first_at, last_at, calls)
SELECT 'early-' || i, 'terminated', CASE WHEN i < 4 THEN 'no_contract_yet' ELSE 'too_many_ends' END, now() - interval '50 minutes',
       now() - i * interval '9 minutes', now() - interval '30 seconds', 12 * i FROM generate_series(1, 6) AS i;

INSERT INTO registry.process (host, role, instance, pid, version, schema, since) VALUES
    ('host-a', 'answer', 1, 1310, '0.1.0', 1, now() - interval '3 days'), ('host-a', 'answer', 2, 1311, '0.1.0', 1, now() - interval '3 days'),
       ('host-a', 'deliver', 1, 1312, '0.1.0', 1, now() - interval '3 days');
INSERT INTO registry.process (host, role, instance, pid, version, schema, since, heard_at)
VALUES ('host-b', 'deliver', 1, 977, '0.0.9', 1, now() - interval '30 days', now() - interval '25 minutes');

SELECT registry.change_policy('{"notice_within": "12 hours", "answer_within": "10 minutes"}', now() + interval '30 days',
       'Decree 77 of 2026: half the time for notices and answers');
INSERT INTO registry.last_verification (verified_by, pages, findings) VALUES ('auditor', 1234, 0);
SELECT breakglass.request(79160700009, 'a subscriber asks who was told of his number');
