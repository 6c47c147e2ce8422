-- Whether the evidence is what was written. Run as registryd_owner: nobody else may read all of it.
--
-- Hashes are made here by PostgreSQL's own functions and none of schema registry, which whoever tampers with its tables could replace too.

-- name: read_chain
-- Why: each seal from $1 on with what it should say, in the chain's order. `may_be_gone` is the day before which the policy in force at a retention
-- seal let pages go: a seal that claims more shows. No seal covers the policy, so its row is told. Times that no window has are cut, so that
-- they can be compared; the hash is over what is there.
SELECT s.sequence, s.sealed_at, s.kind::text AS kind, s.note, greatest(least(s.from_at, '9999-01-01 00:00+00'), '1970-01-01 00:00+00') AS from_at,
       greatest(least(s.until_at, '9999-01-01 00:00+00'), '1970-01-01 00:00+00') AS until_at, s.pages, s.system_identifier, s.timeline, s.previous, s.sha256,
       sha256(s.previous || int8send(s.sequence) || timestamptz_send(s.sealed_at) || timestamptz_send(s.from_at) || timestamptz_send(s.until_at)
              || int8send(s.pages) || int8send(s.queries) || s.content || int8send(s.system_identifier) || int4send(s.timeline)
              || convert_to(s.kind::text || s.note, 'UTF8')) AS expected,
       date_trunc('week', (s.sealed_at - p.journal_kept) AT TIME ZONE 'UTC')::date AS may_be_gone, p.effective_from, p.recorded_at,
       p.journal_kept::text AS journal_kept
  FROM registry.seal AS s
  LEFT JOIN LATERAL (SELECT l.journal_kept, l.effective_from, l.recorded_at FROM registry.policy AS l
                      WHERE s.kind = 'retention' AND l.effective_from <= s.sealed_at
                      ORDER BY l.effective_from DESC LIMIT 1) AS p ON true
 WHERE s.sequence >= $1
 ORDER BY s.sequence;

-- name: find_changed_windows
-- Why: the windows of a run of seals ($1 to $2) beside their pages ($3 to below $4), those that fit left out. Windows whose pages the policy has
-- let go by now are left out too. The pages come from the index in their order, and nothing is sorted.
SELECT s.sequence, s.from_at, s.until_at, s.pages AS sealed, f.pages AS found
  FROM registry.seal AS s
 CROSS JOIN LATERAL (
       SELECT count(*) AS pages, coalesce(sum(p.queries), 0) AS queries, sha256(coalesce(string_agg(p.bytes, ''), '')) AS content
         FROM (SELECT p.queries, uuid_send(p.page_id) || timestamptz_send(p.answered_at) || int4send(p.queries) || int2send(p.digest_key)
                                 || array_send(p.messenger_ids) || array_send(p.query_counts) || array_send(p.waited_ms) || p.digests
                                 || varbit_send(p.present) || coalesce(varbit_send(p.told), '\xffffffff')
                                 || coalesce(varbit_send(p.bound), '\xffffffff') || coalesce(int4send(p.turned_by_rule), '\xffffffff') AS bytes
                 FROM registry.journal_page AS p
                WHERE p.page_id >= $3 AND p.page_id < $4
                  AND p.page_id >= (lpad(to_hex((extract(epoch FROM s.from_at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
                  AND p.page_id < (lpad(to_hex((extract(epoch FROM s.until_at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
                ORDER BY p.page_id) AS p) AS f
 WHERE s.sequence BETWEEN $1 AND $2 AND s.from_at >= '1970-01-01 00:00+00' AND s.until_at <= '9999-01-01 00:00+00' AND s.from_at < s.until_at
   AND s.until_at > coalesce((SELECT max((left(r.note, 10) || ' 00:00+00')::timestamptz) FROM registry.seal AS r
                               WHERE r.kind = 'retention' AND r.note ~ '^[0-9]{4}-[01][0-9]-[0-3][0-9] '), '-infinity')
   AND (f.pages <> s.pages OR f.queries <> s.queries OR f.content <> s.content)
 ORDER BY s.sequence;

-- name: find_stray_pages
-- Why: pages in parts of the journal where no page may be ($1 to below $2, part by part).
SELECT p.page_id
  FROM unnest($1::uuid[], $2::uuid[]) AS part(first_page, end_page)
  JOIN registry.journal_page AS p ON p.page_id >= part.first_page AND p.page_id < part.end_page
 ORDER BY p.page_id LIMIT 1000;

-- name: read_moment
-- Why: where and when the evidence is read. A promotion begins a new timeline, and may have lost the end of the one before.
SELECT now() AS at, c.system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline
  FROM pg_control_system() AS c;

-- name: read_heads
SELECT h.chain, h.sequence, h.at, h.sha256
  FROM ((SELECT 'journal' AS chain, s.sequence, s.sealed_at AS at, s.sha256 FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT 'breakglass', e.sequence, e.at, e.sha256 FROM registry.breakglass_event AS e ORDER BY e.sequence DESC LIMIT 1)) AS h;

-- name: read_log
-- Why: the break-glass log from $1 on in its order, each row with the hash that it should have.
SELECT e.sequence, e.previous, e.sha256,
       sha256(e.previous || int8send(e.sequence) || int8send(e.request) || timestamptz_send(e.at) || int8send(coalesce(e.msisdn, 0)) || e.digests
              || array_send(e.digest_keys) || int4send(length(e.person)) || int4send(length(e.scope))
              || convert_to(e.kind::text || e.step::text || e.person || e.scope || e.reason, 'UTF8')) AS expected
  FROM registry.breakglass_event AS e WHERE e.sequence >= $1 ORDER BY e.sequence;

-- name: record_verification
-- Why: an alarm tells when nobody has verified for a week; only the last one counts.
INSERT INTO registry.last_verification AS v (pages, findings) VALUES ($1, $2)
ON CONFLICT (one) DO UPDATE SET verified_at = now(), verified_by = session_user, pages = excluded.pages, findings = excluded.findings;
