-- Break-glass: one number's contracts and bindings unmasked, and who asked about it. The steps:
--
--   requested   by a person with registryd_breakglass, for one number and a reason          breakglass.request
--   prepared    by the daemon within seconds: it adds the number's digests                   registry.prepare_request
--   approved    by another person, with registryd_approver, within a day                    breakglass.approve
--   looked      by the first, within an hour, once                                           breakglass.look
--
-- Each step is a row of registry.breakglass_event, which is a hash chain of its own. Whoever looks can roll back his look after he has seen the
-- result. He cannot undo the request and the approval: they are transactions of two persons, and the next step sees each only once it is
-- committed. So every look leaves a committed trace, and an approval without a look must be taken for a look.
--
-- The journal holds keyed digests and the database has no key to make them with. The daemon has (role operate, credential journal-key), so it
-- prepares each request. The persons need no secret of the service, and the digests stand in the log before anybody approves or looks.
--
-- Nobody is granted registry.breakglass_event; schema breakglass has nothing but these functions.

CREATE OR REPLACE FUNCTION registry.append_breakglass(
    request bigint, step registry.breakglass_step, msisdn bigint DEFAULT NULL, reason text DEFAULT '', digest_keys smallint[] DEFAULT '{}', digests bytea DEFAULT ''
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET lock_timeout = '10s'
AS $$
DECLARE
    last registry.breakglass_event;
    made registry.breakglass_event;
BEGIN
    -- The lock is held until the caller's commit. A transaction left open delays other requests, but no presence query.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.breakglass_event', 0));
    SELECT e.* INTO last FROM registry.breakglass_event AS e ORDER BY e.sequence DESC LIMIT 1;
    made.sequence := coalesce(last.sequence, 0) + 1;
    made.request := coalesce(append_breakglass.request, made.sequence);
    made.at := clock_timestamp();
    made.previous := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
    made.sha256 := sha256(made.previous || int8send(made.sequence) || int8send(made.request) || timestamptz_send(made.at)
                          || int8send(coalesce(append_breakglass.msisdn, 0)) || append_breakglass.digests || array_send(append_breakglass.digest_keys)
                          || int4send(length(session_user::text)) || convert_to(append_breakglass.step::text || session_user::text || append_breakglass.reason, 'UTF8'));
    INSERT INTO registry.breakglass_event (sequence, request, step, at, person, msisdn, reason, digest_keys, digests, previous, sha256)
    VALUES (made.sequence, made.request, append_breakglass.step, made.at, session_user, append_breakglass.msisdn, append_breakglass.reason,
            append_breakglass.digest_keys, append_breakglass.digests, made.previous, made.sha256);
    RETURN made.sequence;
END
$$;
COMMENT ON FUNCTION registry.append_breakglass IS 'Appends one step to the break-glass log and returns its sequence.';

CREATE OR REPLACE FUNCTION registry.breakglass_request(wanted bigint) RETURNS registry.breakglass_event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked registry.breakglass_event;
BEGIN
    SELECT e.* INTO asked FROM registry.breakglass_event AS e WHERE e.request = wanted AND e.step = 'requested';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no request %', wanted USING ERRCODE = 'insufficient_privilege', HINT = 'breakglass.open_requests() lists them.';
    END IF;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION registry.breakglass_request IS 'A request by its number, or a refusal.';

-- PostgreSQL logs a row that a CHECK or NOT NULL refuses, with all its values. So bad values are refused before they make a row.
CREATE OR REPLACE FUNCTION breakglass.request(number bigint, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF number IS NULL OR number NOT BETWEEN 10000 AND 999999999999999 THEN
        RAISE EXCEPTION 'a number has 5 to 15 digits' USING ERRCODE = 'check_violation', HINT = 'E.164, without the plus.';
    ELSIF reason IS NULL OR length(btrim(reason)) < 10 THEN
        RAISE EXCEPTION 'a reason has ten characters at least' USING ERRCODE = 'check_violation',
            HINT = 'Say why: who approves the request and who audits it reads that.';
    END IF;
    RETURN registry.append_breakglass(NULL, 'requested', number, reason);
END
$$;
COMMENT ON FUNCTION breakglass.request IS 'Asks for a look at one number, for a reason. Returns the request''s number, for somebody else to approve within a day.';

CREATE OR REPLACE FUNCTION registry.requests_to_prepare() RETURNS TABLE (request bigint, msisdn bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT r.request, r.msisdn
      FROM registry.breakglass_event AS r
     WHERE r.step = 'requested' AND r.at > now() - interval '1 day'
       AND NOT EXISTS (SELECT FROM registry.breakglass_event AS p WHERE p.request = r.request AND p.step = 'prepared')
     ORDER BY r.request
$$;
COMMENT ON FUNCTION registry.requests_to_prepare IS 'The requests that still lack their number''s digests, for the daemon to make them.';

CREATE OR REPLACE FUNCTION registry.prepare_request(request bigint, digest_keys smallint[], digests bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF digest_keys IS NULL OR digests IS NULL OR octet_length(digests) <> 16 * cardinality(digest_keys) THEN
        RAISE EXCEPTION 'each digest key has one digest of 16 bytes' USING ERRCODE = 'check_violation';
    ELSIF NOT EXISTS (SELECT FROM registry.breakglass_event AS e WHERE e.request = prepare_request.request AND e.step = 'requested') THEN
        RAISE EXCEPTION 'there is no request %', request USING ERRCODE = 'check_violation';
    END IF;
    RETURN registry.append_breakglass(request, 'prepared', NULL, '', digest_keys, digests);
END
$$;
COMMENT ON FUNCTION registry.prepare_request IS 'Adds to a request its number''s digests, one under each digest key. Once: they are logged.';

CREATE OR REPLACE FUNCTION breakglass.approve(request bigint) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked registry.breakglass_event := registry.breakglass_request(request);
BEGIN
    IF asked.person = session_user THEN
        RAISE EXCEPTION 'a request is approved by somebody else' USING ERRCODE = 'insufficient_privilege',
            HINT = 'Ask a second person, whose own role is granted registryd_approver.';
    ELSIF asked.at < now() - interval '1 day' THEN
        RAISE EXCEPTION 'the request is older than a day' USING ERRCODE = 'insufficient_privilege', HINT = 'Let it be asked anew.';
    ELSIF EXISTS (SELECT FROM registry.breakglass_event AS e WHERE e.request = approve.request AND e.step = 'approved') THEN
        RAISE EXCEPTION 'the request is approved already' USING ERRCODE = 'insufficient_privilege';
    ELSIF NOT EXISTS (SELECT FROM registry.breakglass_event AS e WHERE e.request = approve.request AND e.step = 'prepared') THEN
        RAISE EXCEPTION 'the request is not prepared yet' USING ERRCODE = 'insufficient_privilege',
            HINT = 'A process of the role operate adds its digests within seconds. If none does: is one running, with the right journal-key?';
    END IF;
    PERFORM registry.append_breakglass(request, 'approved');
    RETURN now() + interval '1 hour';
END
$$;
COMMENT ON FUNCTION breakglass.approve IS 'Approves another person''s request; returns until when he may look.';

CREATE OR REPLACE FUNCTION breakglass.open_requests()
RETURNS TABLE (
    request bigint, requested_at timestamptz, requested_by text, number text, reason text, is_prepared boolean, approved_by text, ends_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT r.request, r.at, r.person, left(r.msisdn::text, -6) || '****' || right(r.msisdn::text, 2), r.reason,
           EXISTS (SELECT FROM registry.breakglass_event AS p WHERE p.request = r.request AND p.step = 'prepared'), a.person,
           coalesce(a.at + interval '1 hour', r.at + interval '1 day')
      FROM registry.breakglass_event AS r
      LEFT JOIN registry.breakglass_event AS a ON a.request = r.request AND a.step = 'approved'
     WHERE r.step = 'requested' AND coalesce(a.at + interval '1 hour', r.at + interval '1 day') > now()
       AND NOT EXISTS (SELECT FROM registry.breakglass_event AS l WHERE l.request = r.request AND l.step = 'looked')
     ORDER BY r.request
$$;
COMMENT ON FUNCTION breakglass.open_requests IS 'Requests that wait for an approval or a look, their numbers masked.';

CREATE OR REPLACE FUNCTION breakglass.look(request bigint)
RETURNS TABLE (kind text, began_at timestamptz, ended_at timestamptz, generation smallint, messenger text, detail text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    asked    registry.breakglass_event := registry.breakglass_request(request);
    prepared registry.breakglass_event;
    approved registry.breakglass_event;
    searched record;
BEGIN
    SELECT e.* INTO prepared FROM registry.breakglass_event AS e WHERE e.request = look.request AND e.step = 'prepared';
    SELECT e.* INTO approved FROM registry.breakglass_event AS e WHERE e.request = look.request AND e.step = 'approved';
    IF asked.person <> session_user THEN
        RAISE EXCEPTION 'the request is somebody else''s' USING ERRCODE = 'insufficient_privilege', HINT = 'Who asked looks.';
    ELSIF approved.request IS NULL THEN
        RAISE EXCEPTION 'nobody has approved the request' USING ERRCODE = 'insufficient_privilege',
            HINT = format('Somebody with registryd_approver runs SELECT breakglass.approve(%s).', request);
    ELSIF approved.at < now() - interval '1 hour' THEN
        RAISE EXCEPTION 'the approval is older than an hour' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask anew.';
    ELSIF EXISTS (SELECT FROM registry.breakglass_event AS e WHERE e.request = look.request AND e.step = 'looked') THEN
        RAISE EXCEPTION 'the request was used already' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask anew.';
    END IF;
    PERFORM registry.append_breakglass(request, 'looked');
    RETURN QUERY
        SELECT 'contract', c.started_at, c.ended_at, c.generation, NULL, c.holder || ', ' || c.end_user,
               coalesce(c.end_reason::text, c.status::text)
          FROM registry.contract AS c WHERE c.msisdn = asked.msisdn ORDER BY c.generation;
    RETURN QUERY
        SELECT 'binding', b.bound_at, b.ended_at, b.generation, m.name, b.identification_code, coalesce(b.end_reason::text, 'live')
          FROM registry.binding AS b LEFT JOIN registry.messenger AS m ON m.messenger_id = b.messenger_id
         WHERE b.msisdn = asked.msisdn ORDER BY b.bound_at, m.name;
    -- Every page of the key's month is searched, because the journal has no index by number, on purpose. EXECUTE plans for that month alone.
    FOR searched IN
        SELECT k.key_id, substring(prepared.digests FROM 16 * k.place::integer - 15 FOR 16) AS digest,
               coalesce(registry.first_id_at(d.month::timestamp AT TIME ZONE 'UTC')::text, '00000000-0000-0000-0000-000000000000') AS first_page,
               coalesce(registry.first_id_at((d.month + interval '1 month 1 day') AT TIME ZONE 'UTC')::text, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS end_page
          FROM unnest(prepared.digest_keys) WITH ORDINALITY AS k(key_id, place)
          LEFT JOIN registry.digest_key AS d ON d.key_id = k.key_id
         ORDER BY k.key_id
    LOOP
        RETURN QUERY EXECUTE format($search$
            SELECT 'query', q.answered_at, NULL::timestamptz, NULL::smallint, m.name, q.query_id::text, CASE WHEN q.present THEN 'present' ELSE 'absent' END
              FROM registry.journal_page AS p
             CROSS JOIN LATERAL registry.queries_of(p) AS q
              LEFT JOIN registry.messenger AS m ON m.messenger_id = q.messenger_id
             WHERE p.page_id >= %L AND p.page_id < %L AND p.digest_key = $1 AND position($2 IN p.digests) > 0 AND q.msisdn_digest = $2
             ORDER BY 2
        $search$, searched.first_page, searched.end_page) USING searched.key_id, searched.digest;
    END LOOP;
END
$$;
COMMENT ON FUNCTION breakglass.look IS 'An approved request''s number unmasked: its contracts and bindings (detail: the code), and the queries about it (detail: the query''s id). Once, within an hour of the approval.';
