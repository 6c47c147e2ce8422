-- The views of schema report on the service itself: whom it serves, what it did by hand and again, its processes, evidence and days. The head of
-- reports.sql holds for these too.

CREATE OR REPLACE VIEW report.messenger AS
SELECT m.name AS messenger, m.state::text AS state, m.suspended_at, m.agreement, m.register_no,
       substring(m.endpoint_url FROM '^https?://[^/?]+') AS endpoint, m.batch_max, m.includes_phone_number, m.daily_quota,
       cardinality(m.certificate_sha256) AS certificates, coalesce(k.live, 0) AS keys, k.expires_at AS keys_expire_at, k.last_used_at,
       coalesce(s.live, 0) AS secrets, s.expires_at AS secrets_expire_at, m.created_at,
       extract(epoch FROM k.expires_at - now())::float8 AS keys_expire_seconds
  FROM registry.messenger AS m
  LEFT JOIN (SELECT k.messenger_id, count(*) FILTER (WHERE l.live) AS live, max(k.last_used_at) AS last_used_at,
                    nullif(max(coalesce(k.expires_at, 'infinity')) FILTER (WHERE l.live), 'infinity') AS expires_at
               FROM registry.messenger_key AS k
              CROSS JOIN LATERAL (SELECT k.revoked_at IS NULL AND coalesce(k.expires_at, 'infinity') > now() AS live) AS l
              GROUP BY k.messenger_id) AS k ON k.messenger_id = m.messenger_id
  LEFT JOIN (SELECT s.messenger_id, count(*) AS live, nullif(max(coalesce(s.expires_at, 'infinity')), 'infinity') AS expires_at
               FROM registry.messenger_secret AS s WHERE coalesce(s.expires_at, 'infinity') > now() GROUP BY s.messenger_id) AS s
    ON s.messenger_id = m.messenger_id;
COMMENT ON VIEW report.messenger IS 'Each messenger with its settings, and how its keys and signing secrets stand; no key or secret is in it.';
COMMENT ON COLUMN report.messenger.messenger IS 'Its name.';
COMMENT ON COLUMN report.messenger.state IS 'active or suspended.';
COMMENT ON COLUMN report.messenger.suspended_at IS 'When it was suspended.';
COMMENT ON COLUMN report.messenger.agreement IS 'Number and date of the identification agreement.';
COMMENT ON COLUMN report.messenger.register_no IS 'Number in the regulator''s register.';
COMMENT ON COLUMN report.messenger.endpoint IS 'Scheme and host of its endpoint, because a path may hold a secret; NULL: it pulls.';
COMMENT ON COLUMN report.messenger.batch_max IS 'How many notifications one push may carry.';
COMMENT ON COLUMN report.messenger.includes_phone_number IS 'Whether notifications carry the number.';
COMMENT ON COLUMN report.messenger.daily_quota IS 'Numbers it may ask for a day (UTC); NULL: no quota.';
COMMENT ON COLUMN report.messenger.certificates IS 'How many client certificates it may present; 0: none is asked.';
COMMENT ON COLUMN report.messenger.keys IS 'API keys that work now.';
COMMENT ON COLUMN report.messenger.keys_expire_at IS 'When the last of them expires; NULL: one never does, or none works.';
COMMENT ON COLUMN report.messenger.last_used_at IS 'When any of its keys was last used, to the minute.';
COMMENT ON COLUMN report.messenger.secrets IS 'Signing secrets that sign now.';
COMMENT ON COLUMN report.messenger.secrets_expire_at IS 'When the last of them expires; NULL: one never does, or none signs.';
COMMENT ON COLUMN report.messenger.created_at IS 'When it was added.';
COMMENT ON COLUMN report.messenger.keys_expire_seconds IS 'Seconds to keys_expire_at.';

CREATE OR REPLACE VIEW report.handover AS
SELECT m.name AS messenger, h.handed_at, h.channel, h.notifications, encode(h.file_sha256, 'hex') AS file_sha256
  FROM registry.handover AS h JOIN registry.messenger AS m ON m.messenger_id = h.messenger_id;
COMMENT ON VIEW report.handover IS 'What was delivered by hand.';
COMMENT ON COLUMN report.handover.messenger IS 'To whom.';
COMMENT ON COLUMN report.handover.handed_at IS 'When the receipt was recorded.';
COMMENT ON COLUMN report.handover.channel IS 'By which channel.';
COMMENT ON COLUMN report.handover.notifications IS 'How many this settled.';
COMMENT ON COLUMN report.handover.file_sha256 IS 'SHA-256 of the file that was handed over or receipted; NULL where ids were given.';

CREATE OR REPLACE VIEW report.digest AS
SELECT d.day, m.name AS messenger, d.notifications, encode(d.sha256, 'hex') AS sha256, d.made_at, d.attempts, d.delivered_at, d.last_error,
       CASE WHEN d.delivered_at IS NULL THEN d.not_before END AS next_attempt_at
  FROM registry.digest AS d JOIN registry.messenger AS m ON m.messenger_id = d.messenger_id;
COMMENT ON VIEW report.digest IS 'The daily digests: what each messenger was told of what was delivered to it on a day.';
COMMENT ON COLUMN report.digest.day IS 'The day of the deliveries (UTC).';
COMMENT ON COLUMN report.digest.messenger IS 'To whom.';
COMMENT ON COLUMN report.digest.notifications IS 'How many different notifications were delivered.';
COMMENT ON COLUMN report.digest.sha256 IS 'SHA-256 over their ids, as the digest tells it.';
COMMENT ON COLUMN report.digest.made_at IS 'When it was made.';
COMMENT ON COLUMN report.digest.attempts IS 'Pushes begun.';
COMMENT ON COLUMN report.digest.delivered_at IS 'When the endpoint took it; NULL: not yet.';
COMMENT ON COLUMN report.digest.last_error IS 'What the last push met.';
COMMENT ON COLUMN report.digest.next_attempt_at IS 'When the next push is due; NULL: it is delivered.';

CREATE OR REPLACE VIEW report.replay AS
SELECT r.replay_id, m.name AS messenger, r.asked_at, r.per_second, waits.waiting, r.let_in_at, r.finished_at,
       waits.waiting::float8 / r.per_second AS takes_seconds
  FROM registry.replay AS r
  JOIN registry.messenger AS m ON m.messenger_id = r.messenger_id
 CROSS JOIN LATERAL (SELECT count(*) AS waiting FROM registry.replayed_notification AS n
                      WHERE n.replay_id = r.replay_id AND n.replayed_at IS NULL AND r.finished_at IS NULL) AS waits;
COMMENT ON VIEW report.replay IS 'Requests that delivered notifications be delivered again.';
COMMENT ON COLUMN report.replay.replay_id IS 'The request''s number.';
COMMENT ON COLUMN report.replay.messenger IS 'To whom.';
COMMENT ON COLUMN report.replay.asked_at IS 'When it was asked for.';
COMMENT ON COLUMN report.replay.per_second IS 'How many are let in a second.';
COMMENT ON COLUMN report.replay.waiting IS 'How many wait to be let in.';
COMMENT ON COLUMN report.replay.let_in_at IS 'When some were last let in.';
COMMENT ON COLUMN report.replay.finished_at IS 'When its last one was let in, or somebody ended it early; NULL: it goes on.';
COMMENT ON COLUMN report.replay.takes_seconds IS 'How many seconds those that wait take at least, once nothing that was never delivered is due.';

CREATE OR REPLACE VIEW report.breakglass AS
SELECT r.request, r.kind::text AS kind, r.at AS requested_at, r.person AS requested_by,
       registry.without_numbers(r.reason) AS reason, a.at AS approved_at, a.person AS approved_by,
       d.at AS done_at, d.person AS done_by, nullif(d.scope, '') AS outcome
  FROM registry.breakglass_event AS r
  LEFT JOIN registry.breakglass_event AS a ON a.request = r.request AND a.step = 'approved'
  LEFT JOIN registry.breakglass_event AS d ON d.request = r.request AND d.step IN ('looked', 'reinstated', 'withdrawn')
 WHERE r.step = 'requested';
COMMENT ON VIEW report.breakglass IS 'The break-glass log, a row for each request: who asked for what and why, who approved it, and that it was done. It tells no number.';
COMMENT ON COLUMN report.breakglass.request IS 'The request''s number.';
COMMENT ON COLUMN report.breakglass.kind IS 'look (at one number), reinstate (contracts that were ended by mistake) or withdraw (notifications).';
COMMENT ON COLUMN report.breakglass.requested_at IS 'When it was asked for.';
COMMENT ON COLUMN report.breakglass.requested_by IS 'Who asked: the role that logged in.';
COMMENT ON COLUMN report.breakglass.reason IS 'Why. Digits that might be a number are a star.';
COMMENT ON COLUMN report.breakglass.approved_at IS 'When it was approved; NULL: not, or not yet.';
COMMENT ON COLUMN report.breakglass.approved_by IS 'Who approved it.';
COMMENT ON COLUMN report.breakglass.done_at IS 'When it was carried out; NULL: not, or not yet.';
COMMENT ON COLUMN report.breakglass.done_by IS 'Who carried it out.';
COMMENT ON COLUMN report.breakglass.outcome IS 'Of what was undone or withdrawn: how many, by outcome, as JSON.';

CREATE OR REPLACE VIEW report.retention AS
SELECT k.family, k.partitions, k.oldest, k.made_until, k.size_bytes, s.parts_over, s.unplaced_rows
  FROM registry.kept_partitions() AS k JOIN registry.retention_state() AS s ON s.family = k.family;
COMMENT ON VIEW report.retention IS 'What is kept of the journal, of deliveries and of attempts, and what should be zero.';
COMMENT ON COLUMN report.retention.family IS 'The partitioned table.';
COMMENT ON COLUMN report.retention.partitions IS 'How many partitions it has.';
COMMENT ON COLUMN report.retention.oldest IS 'The first day that is kept (UTC).';
COMMENT ON COLUMN report.retention.made_until IS 'The last day that a partition is made for.';
COMMENT ON COLUMN report.retention.size_bytes IS 'Its size with indexes.';
COMMENT ON COLUMN report.retention.parts_over IS 'Partitions that the policy keeps no longer, and that are still there: it should be 0.';
COMMENT ON COLUMN report.retention.unplaced_rows IS 'Rows without a partition, counted to 100,000: it should be 0.';

CREATE OR REPLACE VIEW report.evidence AS
SELECT e.seals, e.sequence AS last_seal, e.sealed_at, e.sealed_until, e.unsealed_pages, e.log_entries, v.verified_at, v.verified_by,
       v.pages AS verified_pages, v.findings, k.keys, k.keys_destroyed, extract(epoch FROM now() - e.sealed_until)::float8 AS unsealed_seconds,
       extract(epoch FROM now() - v.verified_at)::float8 AS verified_seconds
  FROM registry.chain_end() AS e
 CROSS JOIN (SELECT count(*) FILTER (WHERE d.destroyed_at IS NULL) AS keys, count(d.destroyed_at) AS keys_destroyed FROM registry.digest_key AS d) AS k
  LEFT JOIN registry.last_verification AS v ON v.one;
COMMENT ON VIEW report.evidence IS 'How the evidence stands, in one row: where the chain over the journal ends, what it does not cover yet, and when it was last verified.';
COMMENT ON COLUMN report.evidence.seals IS 'How many seals there are.';
COMMENT ON COLUMN report.evidence.last_seal IS 'The sequence of the last one.';
COMMENT ON COLUMN report.evidence.sealed_at IS 'When it was written.';
COMMENT ON COLUMN report.evidence.sealed_until IS 'Up to when the journal is sealed.';
COMMENT ON COLUMN report.evidence.unsealed_pages IS 'Pages after that, counted to 10,000.';
COMMENT ON COLUMN report.evidence.log_entries IS 'Entries of the break-glass log.';
COMMENT ON COLUMN report.evidence.verified_at IS 'When registryd audit verify last looked; NULL: never.';
COMMENT ON COLUMN report.evidence.verified_by IS 'Who did: the role that logged in.';
COMMENT ON COLUMN report.evidence.verified_pages IS 'How many pages were compared with their seals.';
COMMENT ON COLUMN report.evidence.findings IS 'How much was found that is not as it was written: it should be 0.';
COMMENT ON COLUMN report.evidence.keys IS 'Keys of the journal''s digests that are kept, one a month.';
COMMENT ON COLUMN report.evidence.keys_destroyed IS 'Those that were destroyed with their month''s journal.';
COMMENT ON COLUMN report.evidence.unsealed_seconds IS 'Seconds since sealed_until: a minute or two while somebody asks, an hour while nobody does.';
COMMENT ON COLUMN report.evidence.verified_seconds IS 'Seconds since verified_at.';

CREATE OR REPLACE VIEW report.process AS
SELECT p.role, p.host, p.instance, p.version, p.schema, p.since, p.heard_at, extract(epoch FROM now() - p.heard_at)::float8 AS silent_seconds
  FROM registry.process AS p;
COMMENT ON VIEW report.process IS 'The processes of the service, as each tells of itself every ten seconds. One that is silent for a minute died, or cannot reach the database.';
COMMENT ON COLUMN report.process.role IS 'answer, deliver or operate.';
COMMENT ON COLUMN report.process.host IS 'Where it runs.';
COMMENT ON COLUMN report.process.instance IS 'Its number there.';
COMMENT ON COLUMN report.process.version IS 'The program''s version.';
COMMENT ON COLUMN report.process.schema IS 'The newest migration that it knows.';
COMMENT ON COLUMN report.process.since IS 'When it first told of itself.';
COMMENT ON COLUMN report.process.heard_at IS 'When it last did.';
COMMENT ON COLUMN report.process.silent_seconds IS 'Seconds since then.';

CREATE OR REPLACE VIEW report.import AS
SELECT s.as_of, s.applied_at, s.lines, s.rejects, s.started, s.changed, s.ended, extract(epoch FROM now() - s.as_of)::float8 AS age_seconds
  FROM registry.last_snapshot AS s;
COMMENT ON VIEW report.import IS 'The newest snapshot of billing''s that was imported, and what it changed; no row before the first.';
COMMENT ON COLUMN report.import.as_of IS 'When it was taken.';
COMMENT ON COLUMN report.import.applied_at IS 'When it was applied; NULL, with all that follows, where a history said as of when it was.';
COMMENT ON COLUMN report.import.lines IS 'Good lines that it had.';
COMMENT ON COLUMN report.import.rejects IS 'Bad ones, which were left out.';
COMMENT ON COLUMN report.import.started IS 'Contracts that it started.';
COMMENT ON COLUMN report.import.changed IS 'Contracts whose state or end user it changed.';
COMMENT ON COLUMN report.import.ended IS 'Contracts that it ended.';
COMMENT ON COLUMN report.import.age_seconds IS 'Seconds since as_of.';

CREATE OR REPLACE VIEW report.presence_minute AS
SELECT a.minute, a.queries, a.absent, round(a.absent::numeric / nullif(a.queries, 0), 4) AS absent_ratio, a.requests, a.refused, a.failed
  FROM registry.answer_minute AS a;
COMMENT ON VIEW report.presence_minute IS 'What was asked and answered in each minute of the last day, by all processes together. No evidence, but a look; a minute in which nobody asked has no row.';
COMMENT ON COLUMN report.presence_minute.minute IS 'The minute''s begin.';
COMMENT ON COLUMN report.presence_minute.queries IS 'Numbers that were answered.';
COMMENT ON COLUMN report.presence_minute.absent IS 'Of them, answered absent.';
COMMENT ON COLUMN report.presence_minute.absent_ratio IS 'absent of queries.';
COMMENT ON COLUMN report.presence_minute.requests IS 'Requests of the presence routes.';
COMMENT ON COLUMN report.presence_minute.refused IS 'Of them, answered 4xx.';
COMMENT ON COLUMN report.presence_minute.failed IS 'Of them, answered 5xx.';

CREATE OR REPLACE VIEW report.action AS
SELECT a.action_id, a.at, a.person, a.key_id, a.kind, m.name AS messenger,
       registry.without_numbers(a.what) AS what, a.counted,
       registry.without_numbers(a.reason) AS reason, a.outcome
  FROM registry.action AS a LEFT JOIN registry.messenger AS m ON m.messenger_id = a.messenger_id;
COMMENT ON VIEW report.action IS 'What persons did in the console. What they did by commands, the columns of each table tell, such as hold.held_by.';
COMMENT ON COLUMN report.action.action_id IS 'The action''s number.';
COMMENT ON COLUMN report.action.at IS 'When.';
COMMENT ON COLUMN report.action.person IS 'Who: the name of the operator key.';
COMMENT ON COLUMN report.action.key_id IS 'By which key.';
COMMENT ON COLUMN report.action.kind IS 'What sort of action.';
COMMENT ON COLUMN report.action.messenger IS 'Of which messenger; NULL: of all, or of none.';
COMMENT ON COLUMN report.action.what IS 'What was done, in a sentence. Digits that might be a number are a star.';
COMMENT ON COLUMN report.action.counted IS 'How many notifications, alarms or ends it concerned.';
COMMENT ON COLUMN report.action.reason IS 'Why, in the person''s words; digits that might be a number are a star.';
COMMENT ON COLUMN report.action.outcome IS 'What came of it.';
