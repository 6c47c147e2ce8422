-- Break-glass: what nobody may do alone. One person asks, for a reason, another approves, and the first carries it out. A request is of one kind:
--
--   look        one number's contracts and bindings unmasked, and who asked about it         breakglass.request, breakglass.look
--   reinstate   contracts that were ended by mistake begin again (reinstating.sql)           breakglass.request_reinstate, breakglass.reinstate
--   withdraw    notifications are not told after all (withdrawing.sql)                       breakglass.request_withdraw, breakglass.withdraw
--
-- Its steps:
--
--   requested   by a person with registryd_breakglass
--   prepared    a look alone, by the daemon within seconds: it adds the number's digests     registry.prepare_request
--   approved    by another person, with registryd_approver, within a day                     breakglass.approve
--   looked, reinstated or withdrawn   by the first, within an hour, once
--
-- Each step is a row of registry.breakglass_event, which is a hash chain of its own. Whoever looks can roll back his look after he has seen the
-- result. He cannot undo the request and the approval: they are transactions of two persons, and the next step sees each only once it is
-- committed. So every look leaves a committed trace, and an approval without a look must be taken for a look.
--
-- The journal holds keyed digests and the database has no key to make them with. The daemon has (role operate, credential journal-key), so it
-- prepares each request for a look. The persons need no secret of the service, and the digests stand in the log before anybody approves or looks.
--
-- Nobody is granted registry.breakglass_event; schema breakglass has nothing but these functions.

CREATE OR REPLACE FUNCTION registry.append_breakglass(event registry.breakglass_event) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET lock_timeout = '10s'
AS $$
DECLARE
    last registry.breakglass_event;
    made registry.breakglass_event := event;
BEGIN
    -- The lock is held until the caller's commit. A transaction left open delays other requests, but no presence query.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.breakglass_event', 0));
    SELECT e.* INTO last FROM registry.breakglass_event AS e ORDER BY e.sequence DESC LIMIT 1;
    made.sequence := coalesce(last.sequence, 0) + 1;
    made.request := coalesce(event.request, made.sequence);
    made.at := clock_timestamp();
    made.person := session_user;
    made.scope := coalesce(event.scope, '');
    made.reason := coalesce(event.reason, '');
    made.digest_keys := coalesce(event.digest_keys, '{}');
    made.digests := coalesce(event.digests, '');
    made.previous := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
    made.sha256 := sha256(made.previous || int8send(made.sequence) || int8send(made.request) || timestamptz_send(made.at)
                          || int8send(coalesce(made.msisdn, 0)) || made.digests || array_send(made.digest_keys)
                          || int4send(length(made.person)) || int4send(length(made.scope))
                          || convert_to(made.kind::text || made.step::text || made.person || made.scope || made.reason, 'UTF8'));
    INSERT INTO registry.breakglass_event (sequence, request, kind, step, at, person, msisdn, scope, reason, digest_keys, digests, previous, sha256)
    VALUES (made.sequence, made.request, made.kind, made.step, made.at, made.person, made.msisdn, made.scope, made.reason, made.digest_keys,
            made.digests, made.previous, made.sha256);
    RETURN made.sequence;
END
$$;
COMMENT ON FUNCTION registry.append_breakglass IS 'Appends one step to the break-glass log and returns its sequence. It sets who, when, the place in the chain and the hash itself.';

CREATE OR REPLACE FUNCTION registry.take_step(asked registry.breakglass_event, step registry.breakglass_step, scope text DEFAULT '') RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    taken registry.breakglass_event;
BEGIN
    taken.request := asked.request;
    taken.kind := asked.kind;
    taken.step := take_step.step;
    taken.scope := take_step.scope;
    RETURN registry.append_breakglass(taken);
END
$$;
COMMENT ON FUNCTION registry.take_step IS 'Appends the next step of a request.';

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

CREATE OR REPLACE FUNCTION registry.request_of_kind(wanted bigint, kind registry.breakglass_kind) RETURNS registry.breakglass_event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked registry.breakglass_event := registry.breakglass_request(wanted);
BEGIN
    IF asked.kind <> request_of_kind.kind THEN
        RAISE EXCEPTION 'request % is of kind %, not %', wanted, asked.kind, request_of_kind.kind USING ERRCODE = 'insufficient_privilege',
            HINT = format('breakglass.%s(%s) carries it out.', asked.kind, wanted);
    END IF;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION registry.request_of_kind IS 'A request by its number, or a refusal where it is of another kind.';

CREATE OR REPLACE FUNCTION registry.approved_request(wanted bigint, kind registry.breakglass_kind) RETURNS registry.breakglass_event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked    registry.breakglass_event := registry.request_of_kind(wanted, kind);
    approved registry.breakglass_event;
BEGIN
    SELECT e.* INTO approved FROM registry.breakglass_event AS e WHERE e.request = wanted AND e.step = 'approved';
    IF asked.person <> session_user THEN
        RAISE EXCEPTION 'the request is somebody else''s' USING ERRCODE = 'insufficient_privilege', HINT = 'Who asked carries it out.';
    ELSIF approved.request IS NULL THEN
        RAISE EXCEPTION 'nobody has approved the request' USING ERRCODE = 'insufficient_privilege',
            HINT = format('Somebody with registryd_approver runs SELECT breakglass.approve(%s).', wanted);
    ELSIF EXISTS (SELECT FROM registry.breakglass_event AS e WHERE e.request = wanted AND e.step IN ('looked', 'reinstated', 'withdrawn')) THEN
        RAISE EXCEPTION 'the request was used already' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask anew.';
    ELSIF approved.at < now() - interval '1 hour' THEN
        RAISE EXCEPTION 'the approval is older than an hour' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask anew.';
    END IF;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION registry.approved_request IS 'The caller''s own request that another person has approved within the hour and that was not used, or a refusal.';

CREATE OR REPLACE FUNCTION registry.request_to_try(wanted bigint, kind registry.breakglass_kind) RETURNS registry.breakglass_event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked registry.breakglass_event := registry.request_of_kind(wanted, kind);
BEGIN
    -- What becomes of chosen numbers tells something of them, as a look does.
    IF asked.scope::jsonb ? 'numbers' THEN
        RETURN registry.approved_request(wanted, kind);
    ELSIF asked.person <> session_user AND NOT pg_has_role(session_user, 'registryd_approver', 'MEMBER') THEN
        RAISE EXCEPTION 'the request is somebody else''s' USING ERRCODE = 'insufficient_privilege', HINT = 'Who asked and who approves may try it.';
    END IF;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION registry.request_to_try IS 'A request whose effect the caller may count beforehand: his own, or any for who approves requests; one that names numbers only once it is approved.';

-- PostgreSQL logs a row that a CHECK or NOT NULL refuses, with all its values. So bad values are refused before they make a row.
CREATE OR REPLACE FUNCTION registry.append_request(kind registry.breakglass_kind, msisdn bigint, scope text, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked registry.breakglass_event;
BEGIN
    IF append_request.reason IS NULL OR length(btrim(append_request.reason)) < 10 THEN
        RAISE EXCEPTION 'a reason has ten characters at least' USING ERRCODE = 'check_violation',
            HINT = 'Say why: who approves the request and who audits it reads that.';
    END IF;
    asked.kind := append_request.kind;
    asked.step := 'requested';
    asked.msisdn := append_request.msisdn;
    asked.scope := append_request.scope;
    asked.reason := append_request.reason;
    RETURN registry.append_breakglass(asked);
END
$$;
COMMENT ON FUNCTION registry.append_request IS 'Appends a request to the break-glass log; its sequence is the request''s number.';

CREATE OR REPLACE FUNCTION breakglass.request(number bigint, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF number IS NULL OR number NOT BETWEEN 10000 AND 999999999999999 THEN
        RAISE EXCEPTION 'a number has 5 to 15 digits' USING ERRCODE = 'check_violation', HINT = 'E.164, without the plus.';
    END IF;
    RETURN registry.append_request('look', number, '', reason);
END
$$;
COMMENT ON FUNCTION breakglass.request IS 'Asks for a look at one number, for a reason. Returns the request''s number, for somebody else to approve within a day.';

CREATE OR REPLACE FUNCTION registry.requests_to_prepare() RETURNS TABLE (request bigint, msisdn bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT r.request, r.msisdn
      FROM registry.breakglass_event AS r
     WHERE r.step = 'requested' AND r.kind = 'look' AND r.at > now() - interval '1 day'
       AND NOT EXISTS (SELECT FROM registry.breakglass_event AS p WHERE p.request = r.request AND p.step = 'prepared')
     ORDER BY r.request
$$;
COMMENT ON FUNCTION registry.requests_to_prepare IS 'The requests for a look that still lack their number''s digests, for the daemon to make them.';

CREATE OR REPLACE FUNCTION registry.prepare_request(request bigint, digest_keys smallint[], digests bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    prepared registry.breakglass_event;
BEGIN
    IF prepare_request.digest_keys IS NULL OR prepare_request.digests IS NULL
       OR octet_length(prepare_request.digests) <> 16 * cardinality(prepare_request.digest_keys) THEN
        RAISE EXCEPTION 'each digest key has one digest of 16 bytes' USING ERRCODE = 'check_violation';
    ELSIF NOT EXISTS (SELECT FROM registry.breakglass_event AS e
                       WHERE e.request = prepare_request.request AND e.step = 'requested' AND e.kind = 'look') THEN
        RAISE EXCEPTION 'there is no request % for a look', request USING ERRCODE = 'check_violation';
    END IF;
    prepared.request := prepare_request.request;
    prepared.kind := 'look';
    prepared.step := 'prepared';
    prepared.digest_keys := prepare_request.digest_keys;
    prepared.digests := prepare_request.digests;
    RETURN registry.append_breakglass(prepared);
END
$$;
COMMENT ON FUNCTION registry.prepare_request IS 'Adds to a request for a look its number''s digests, one under each digest key. Once: they are logged.';

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
    ELSIF asked.kind = 'look'
          AND NOT EXISTS (SELECT FROM registry.breakglass_event AS e WHERE e.request = approve.request AND e.step = 'prepared') THEN
        RAISE EXCEPTION 'the request is not prepared yet' USING ERRCODE = 'insufficient_privilege',
            HINT = 'A process of the role operate adds its digests within seconds. If none does: is one running, with the right journal-key?';
    END IF;
    PERFORM registry.take_step(asked, 'approved');
    RETURN now() + interval '1 hour';
END
$$;
COMMENT ON FUNCTION breakglass.approve IS 'Approves another person''s request; returns until when he may carry it out.';

CREATE OR REPLACE FUNCTION registry.masked_number(number bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT '+' || left(d.digits, d.kept) || repeat('*', length(d.digits) - d.kept - 2) || right(d.digits, 2)
      FROM (SELECT number::text AS digits, CASE WHEN number > 99999999 THEN 4 ELSE 1 END AS kept) AS d
$$;
COMMENT ON FUNCTION registry.masked_number IS 'A number as people may see it who may recognise it but not learn it: +7916*****67. The same in words: registryd/domain/identifiers.py; a test holds the two together.';

CREATE OR REPLACE FUNCTION breakglass.open_requests()
RETURNS TABLE (
    request bigint, kind text, requested_at timestamptz, requested_by text, number text, scope text, reason text, is_prepared boolean,
    approved_by text, ends_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- A hash of few numbers would tell them.
    SELECT r.request, r.kind::text, r.at, r.person, registry.masked_number(r.msisdn),
           CASE WHEN r.scope = '' THEN '' ELSE (r.scope::jsonb - 'sha256')::text END, r.reason,
           r.kind <> 'look' OR EXISTS (SELECT FROM registry.breakglass_event AS p WHERE p.request = r.request AND p.step = 'prepared'), a.person,
           coalesce(a.at + interval '1 hour', r.at + interval '1 day')
      FROM registry.breakglass_event AS r
      LEFT JOIN registry.breakglass_event AS a ON a.request = r.request AND a.step = 'approved'
     WHERE r.step = 'requested' AND coalesce(a.at + interval '1 hour', r.at + interval '1 day') > now()
       AND NOT EXISTS (SELECT FROM registry.breakglass_event AS l WHERE l.request = r.request AND l.step IN ('looked', 'reinstated', 'withdrawn'))
     ORDER BY r.request
$$;
COMMENT ON FUNCTION breakglass.open_requests IS 'Requests that wait for an approval or to be carried out: a look''s number masked, of the other kinds the scope without the hash of its numbers.';

CREATE OR REPLACE FUNCTION breakglass.look(request bigint)
RETURNS TABLE (kind text, began_at timestamptz, ended_at timestamptz, generation smallint, messenger text, detail text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    asked    registry.breakglass_event := registry.approved_request(request, 'look');
    prepared registry.breakglass_event;
    searched record;
BEGIN
    SELECT e.* INTO prepared FROM registry.breakglass_event AS e WHERE e.request = look.request AND e.step = 'prepared';
    PERFORM registry.take_step(asked, 'looked');
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
