-- Evidence: what the journal says was said then, who looked at a number was allowed to, and what is over is gone.
--
-- The journal is sealed. A worker writes pages, and about once a second has them sealed (seal_pages): one row of registry.seal for up to 5,000
-- pages of its own, which it names from memory, so that no late commit is missed. All workers' seals are one chain, written one at a time:
-- each holds the hash of the one before it, so that nothing behind a seal that somebody wrote down elsewhere (`registryd audit head`) can
-- be changed, removed, added or put in another order without `registryd audit verify` finding it. Everything is hashed inside the
-- database, over what it holds, by functions PostgreSQL brings along:
--
--   page     SHA-256 of page_id, received_at, answered_at, messenger_id, queries, present_count, digest_key, digests, present, each as its
--            type's send function has it (PostgreSQL's binary format), one after another
--   content  SHA-256 of the hashes of a seal's pages in the order of page_ids
--   sha256   SHA-256 of previous, sequence (int8send), sealed_at (timestamptz_send), page_ids (array_send), marks, content, kind and note in UTF-8:
--            all of the row
--
-- What it does not show: a page that was changed before its seal, that is within about a second. A worker that is killed leaves the pages of
-- its last second unsealed; they are reported until the owner adopts them (adopt_unsealed_pages), which stands in the chain with a
-- reason. No key is held here: who owns the database can make the whole chain anew, and a head that is kept elsewhere tells that he did.

CREATE TYPE registry.seal_kind AS ENUM ('begin', 'pages', 'adopted', 'retention');

CREATE TABLE registry.seal (
    sequence  bigint PRIMARY KEY CHECK (sequence >= 1),
    sealed_at timestamptz NOT NULL,
    kind      registry.seal_kind NOT NULL,
    note      text NOT NULL,
    page_ids  uuid[] NOT NULL CHECK (cardinality(page_ids) <= 5000),
    marks     bytea NOT NULL CHECK (octet_length(marks) = 4 * cardinality(page_ids)),
    content   bytea NOT NULL CHECK (octet_length(content) = 32),
    previous  bytea NOT NULL CHECK (octet_length(previous) = 32),
    sha256    bytea NOT NULL CHECK (octet_length(sha256) = 32),
    CONSTRAINT pages_are_sealed_or_adopted CHECK ((kind IN ('pages', 'adopted')) = (page_ids <> '{}')),
    CONSTRAINT what_is_not_routine_says_why CHECK ((kind = 'pages') = (note = ''))
);
COMMENT ON TABLE registry.seal IS 'The hash chain over the journal, append-only: kept when the pages are gone, so that what was kept of the chain elsewhere still fits.';
COMMENT ON COLUMN registry.seal.sequence IS 'Counts the seals from 1, without a gap.';
COMMENT ON COLUMN registry.seal.sealed_at IS 'When it was written.';
COMMENT ON COLUMN registry.seal.kind IS 'begin (the first), pages (what a worker wrote in about a second), adopted (pages that no worker had sealed) or retention (pages went by the policy).';
COMMENT ON COLUMN registry.seal.note IS 'adopted: why. retention: the day (UTC) before which pages may be gone.';
COMMENT ON COLUMN registry.seal.page_ids IS 'The pages it covers, in the order of their ids.';
COMMENT ON COLUMN registry.seal.marks IS 'The first four bytes of each page''s hash: they tell which page was changed; content proves it.';
COMMENT ON COLUMN registry.seal.content IS 'SHA-256 over the pages'' hashes.';
COMMENT ON COLUMN registry.seal.previous IS 'sha256 of the seal before; zeros in the first.';
COMMENT ON COLUMN registry.seal.sha256 IS 'SHA-256 over everything else here.';
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.seal FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE FUNCTION registry.page_sha256(page registry.journal_page) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$
    SELECT sha256(uuid_send(page.page_id) || timestamptz_send(page.received_at) || timestamptz_send(page.answered_at) || int4send(page.messenger_id)
                  || int4send(page.queries) || int4send(page.present_count) || int2send(page.digest_key) || page.digests || varbit_send(page.present))
$$;
COMMENT ON FUNCTION registry.page_sha256 IS 'A page''s hash. `registryd audit verify` brings its own text of it (sql/queries/audit.sql), because this one can be replaced.';

CREATE FUNCTION registry.append_seal(kind registry.seal_kind, page_ids uuid[], hashes bytea[], note text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    last registry.seal;
    made registry.seal;
BEGIN
    -- One at a time, until the caller's commit: a chain has one end.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.seal', 0));
    SELECT s.* INTO last FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1;
    made.sequence := coalesce(last.sequence, 0) + 1;
    made.sealed_at := clock_timestamp();
    made.previous := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
    SELECT coalesce(string_agg(substring(h.hash FROM 1 FOR 4), '' ORDER BY h.place), ''),
           sha256(coalesce(string_agg(h.hash, '' ORDER BY h.place), ''))
      INTO made.marks, made.content FROM unnest(hashes) WITH ORDINALITY AS h(hash, place);
    made.sha256 := sha256(made.previous || int8send(made.sequence) || timestamptz_send(made.sealed_at) || array_send(append_seal.page_ids)
                          || made.marks || made.content || convert_to(append_seal.kind::text || append_seal.note, 'UTF8'));
    INSERT INTO registry.seal (sequence, sealed_at, kind, note, page_ids, marks, content, previous, sha256)
    VALUES (made.sequence, made.sealed_at, append_seal.kind, append_seal.note, append_seal.page_ids, made.marks, made.content, made.previous, made.sha256);
    RETURN made.sequence;
END
$$;
COMMENT ON FUNCTION registry.append_seal IS 'Appends one seal to the chain and returns its sequence; the next one waits for this transaction''s end.';

CREATE FUNCTION registry.seal_pages(written uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    found  uuid[];
    hashes bytea[];
BEGIN
    -- Planned for these very ids (EXECUTE), so that no partition is opened but theirs.
    EXECUTE format('SELECT array_agg(p.page_id ORDER BY p.page_id), array_agg(registry.page_sha256(p) ORDER BY p.page_id)
                      FROM (SELECT DISTINCT u.page_id FROM unnest($1) AS u(page_id)) AS w
                      JOIN registry.journal_page AS p ON p.page_id = w.page_id AND p.page_id BETWEEN %L AND %L',
                   (SELECT u.id FROM unnest(written) AS u(id) ORDER BY u.id LIMIT 1),
                   (SELECT u.id FROM unnest(written) AS u(id) ORDER BY u.id DESC LIMIT 1))
       INTO found, hashes USING written;
    IF found IS NULL THEN
        RETURN '{}';
    END IF;
    PERFORM registry.append_seal('pages', found, hashes, '');
    RETURN found;
END
$$;
COMMENT ON FUNCTION registry.seal_pages IS 'Seals those of the pages (5,000 at most) that are committed, and returns their ids; the others may be named again. A page that is sealed twice is none the worse.';

CREATE FUNCTION registry.adopt_unsealed_pages(reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    began   timestamptz := (SELECT s.sealed_at FROM registry.seal AS s WHERE s.sequence = 1);
    found   uuid[];
    hashes  bytea[];
    adopted bigint := 0;
BEGIN
    LOOP
        SELECT array_agg(u.page_id ORDER BY u.page_id), array_agg(u.hash ORDER BY u.page_id) INTO found, hashes
          FROM (SELECT p.page_id, registry.page_sha256(p) AS hash
                  FROM registry.journal_page AS p
                  LEFT JOIN (SELECT unnest(s.page_ids) AS page_id FROM registry.seal AS s) AS sealed ON sealed.page_id = p.page_id
                 WHERE sealed.page_id IS NULL AND registry.time_of(p.page_id) >= began
                   AND registry.time_of(p.page_id) NOT BETWEEN now() - interval '1 minute' AND now() + interval '1 day'
                 ORDER BY p.page_id LIMIT 5000) AS u;
        IF found IS NULL THEN
            RETURN adopted;
        END IF;
        PERFORM registry.append_seal('adopted', found, hashes, reason);
        adopted := adopted + cardinality(found);
    END LOOP;
END
$$;
COMMENT ON FUNCTION registry.adopt_unsealed_pages IS 'For the owner, after a worker was killed: seals the pages that no worker did, with the reason in the chain, and returns how many. Look at them first: an inserted page looks the same.';

-- As before; when pages of the journal go, a seal says so, and from when on they are still there.
CREATE OR REPLACE FUNCTION registry.drop_day(family text) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '50ms'
AS $$
DECLARE
    over date := registry.kept_from(family);
    kept registry.retention;
    gone registry.day_partition;
    figures bigint;
BEGIN
    SELECT r.* INTO kept FROM registry.retention AS r WHERE r.family = drop_day.family;
    IF NOT FOUND OR over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0)) THEN
        RETURN NULL;
    END IF;
    -- What lies in the default partition goes as a day does, with its figures kept.
    EXECUTE registry.counting(family, format('DELETE FROM registry.%I WHERE %I < %L RETURNING *', family || '_default', kept.key,
                                             registry.first_key_of(kept.key, over)));
    GET DIAGNOSTICS figures = ROW_COUNT;
    IF family = 'journal_page' AND figures > 0 THEN
        PERFORM registry.append_seal('retention', '{}', '{}', to_char(over, 'YYYY-MM-DD'));
    END IF;
    SELECT p.* INTO gone FROM registry.day_partition AS p
     WHERE p.family = drop_day.family AND p.day < over AND p.day <= kept.closed_through
     ORDER BY p.day LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOR attempt IN 1..8 LOOP
        BEGIN
            IF family = 'journal_page' THEN
                PERFORM registry.append_seal('retention', '{}', '{}', to_char(over, 'YYYY-MM-DD'));
            END IF;
            -- The partition first, which no query needs: the family is then locked for no longer than the drop itself takes.
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', gone.partition);
            EXECUTE format('DROP TABLE %s', gone.partition);
            RETURN gone.day;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1 + 0.2 * random());
        END;
    END LOOP;
    RETURN NULL;
END
$$;

SELECT registry.append_seal('begin', '{}', '{}', 'pages from here on are sealed');

GRANT EXECUTE ON FUNCTION registry.seal_pages(uuid[]) TO registryd_app;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Break-glass: one number's contracts and bindings unmasked, and who asked about it
--
--   requested   by a person with registryd_breakglass, for one number and a reason          breakglass.request
--   approved    by another person, with registryd_approver, within a day                    breakglass.approve
--   looked      by the first, within an hour, once                                           breakglass.look
--
-- Each step is a row of registry.breakglass_event, which is a hash chain of its own. A look can be undone by its caller after he has seen what it
-- returned; the request and its approval cannot: they are two persons' transactions, each of which the next step sees only once it
-- is committed. So every look leaves a committed trace, and an approval without a look must be read as one.
--
-- The journal holds keyed digests and the database has no key. Whoever has the service's credentials (`registryd breakglass request`) gives the
-- digests of the number with the request, so that they stand in the log before anything is looked for.
--
-- Nobody is granted registry.breakglass_event; schema breakglass has nothing but these functions.

CREATE SCHEMA breakglass;
COMMENT ON SCHEMA breakglass IS 'registryd: unmasked look-ups of one number, for a reason, approved by a second person, logged before they answer.';

CREATE TYPE registry.breakglass_step AS ENUM ('requested', 'approved', 'looked');

CREATE TABLE registry.breakglass_event (
    sequence    bigint PRIMARY KEY CHECK (sequence >= 1),
    request     bigint NOT NULL REFERENCES registry.breakglass_event,
    step        registry.breakglass_step NOT NULL,
    at          timestamptz NOT NULL,
    person      text NOT NULL,
    msisdn      bigint,
    reason      text NOT NULL,
    digest_keys smallint[] NOT NULL,
    digests     bytea NOT NULL CHECK (octet_length(digests) = 16 * cardinality(digest_keys)),
    previous    bytea NOT NULL CHECK (octet_length(previous) = 32),
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32),
    CONSTRAINT each_step_is_taken_once UNIQUE (request, step),
    CONSTRAINT requests_name_number_and_reason
        CHECK ((step = 'requested') = (request = sequence) AND (step = 'requested') = (msisdn IS NOT NULL) AND (step = 'requested') = (reason <> '')),
    CONSTRAINT numbers_are_numbers CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    CONSTRAINT reasons_are_told CHECK (step <> 'requested' OR length(btrim(reason)) >= 10)
);
COMMENT ON TABLE registry.breakglass_event IS 'The break-glass log, append-only: who asked to see which number and why, who approved it, and that it was looked at. Each row holds the hash of the one before it.';
COMMENT ON COLUMN registry.breakglass_event.sequence IS 'Counts the rows from 1, without a gap.';
COMMENT ON COLUMN registry.breakglass_event.request IS 'The sequence of the request that the step belongs to; its own for the request itself.';
COMMENT ON COLUMN registry.breakglass_event.step IS 'requested, approved or looked.';
COMMENT ON COLUMN registry.breakglass_event.at IS 'When.';
COMMENT ON COLUMN registry.breakglass_event.person IS 'Who: the role that logged in (session_user). Give each person one of his own.';
COMMENT ON COLUMN registry.breakglass_event.msisdn IS 'The number, of a request.';
COMMENT ON COLUMN registry.breakglass_event.reason IS 'Why, of a request: ten characters at least.';
COMMENT ON COLUMN registry.breakglass_event.digest_keys IS 'Under which digest keys the journal is searched.';
COMMENT ON COLUMN registry.breakglass_event.digests IS 'The number''s digests under them, 16 bytes each: who holds the keys can tell that they are this number''s.';
COMMENT ON COLUMN registry.breakglass_event.previous IS 'sha256 of the row before; zeros in the first.';
COMMENT ON COLUMN registry.breakglass_event.sha256 IS 'SHA-256 of previous, sequence, request, at, msisdn (0 for none), digests, digest_keys, the length of person, and step, person and reason in UTF-8.';
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.breakglass_event FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE FUNCTION registry.append_breakglass(
    request bigint, step registry.breakglass_step, msisdn bigint DEFAULT NULL, reason text DEFAULT '', digest_keys smallint[] DEFAULT '{}', digests bytea DEFAULT ''
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET lock_timeout = '10s'
AS $$
DECLARE
    last registry.breakglass_event;
    made registry.breakglass_event;
BEGIN
    -- Until the caller's commit: who leaves his transaction open holds up the others' requests, and no query.
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

CREATE FUNCTION registry.breakglass_request(wanted bigint) RETURNS registry.breakglass_event
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

CREATE FUNCTION breakglass.request(number bigint, reason text, digest_keys smallint[] DEFAULT '{}', digests bytea DEFAULT '') RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT registry.append_breakglass(NULL, 'requested', number, reason, digest_keys, digests) $$;
COMMENT ON FUNCTION breakglass.request IS 'Asks for a look at one number, for a reason; with its digests, at who asked about it too (`registryd breakglass request` makes them). Returns the request''s number, for somebody else to approve within a day.';

CREATE FUNCTION breakglass.approve(request bigint) RETURNS timestamptz
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
    END IF;
    PERFORM registry.append_breakglass(request, 'approved');
    RETURN now() + interval '1 hour';
END
$$;
COMMENT ON FUNCTION breakglass.approve IS 'Approves another person''s request; returns until when he may look.';

CREATE FUNCTION breakglass.open_requests()
RETURNS TABLE (request bigint, requested_at timestamptz, requested_by text, number text, reason text, approved_by text, ends_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT r.request, r.at, r.person, left(r.msisdn::text, -6) || '****' || right(r.msisdn::text, 2), r.reason, a.person,
           coalesce(a.at + interval '1 hour', r.at + interval '1 day')
      FROM registry.breakglass_event AS r
      LEFT JOIN registry.breakglass_event AS a ON a.request = r.request AND a.step = 'approved'
     WHERE r.step = 'requested' AND coalesce(a.at + interval '1 hour', r.at + interval '1 day') > now()
       AND NOT EXISTS (SELECT FROM registry.breakglass_event AS l WHERE l.request = r.request AND l.step = 'looked')
     ORDER BY r.request
$$;
COMMENT ON FUNCTION breakglass.open_requests IS 'Requests that wait for an approval or a look, their numbers masked.';

CREATE FUNCTION breakglass.look(request bigint)
RETURNS TABLE (kind text, began_at timestamptz, ended_at timestamptz, generation smallint, messenger text, detail text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    asked    registry.breakglass_event := registry.breakglass_request(request);
    approved registry.breakglass_event;
    searched record;
BEGIN
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
        SELECT 'contract', c.started_at, c.ended_at, c.generation, NULL, registry.holder_word(c.holder) || ', ' || registry.end_user_word(c.end_user),
               coalesce(c.end_reason::text, c.status::text)
          FROM registry.contract AS c WHERE c.msisdn = asked.msisdn ORDER BY c.generation;
    RETURN QUERY
        SELECT 'binding', b.bound_at, b.ended_at, b.generation, m.name, b.identification_code, coalesce(b.end_reason::text, 'live')
          FROM registry.binding AS b LEFT JOIN registry.messenger AS m ON m.messenger_id = b.messenger_id
         WHERE b.msisdn = asked.msisdn ORDER BY b.bound_at, m.name;
    -- Every page that a key made is searched: the journal has no index by number, on purpose. Planned for the key's own days (EXECUTE).
    FOR searched IN
        SELECT k.key_id, substring(asked.digests FROM 16 * k.place::integer - 15 FOR 16) AS digest,
               coalesce(registry.first_id_of(d.month)::text, '00000000-0000-0000-0000-000000000000') AS first_page,
               coalesce(registry.first_id_of((d.month + interval '1 month 1 day')::date)::text, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS end_page
          FROM unnest(asked.digest_keys) WITH ORDINALITY AS k(key_id, place)
          LEFT JOIN registry.digest_key AS d ON d.key_id = k.key_id
         ORDER BY k.key_id
    LOOP
        RETURN QUERY EXECUTE format($search$
            SELECT 'query', p.answered_at, NULL::timestamptz, NULL::smallint, m.name, left(p.page_id::text, 32) || lpad(to_hex(q.index), 4, '0'),
                   CASE get_bit(p.present, q.index) WHEN 1 THEN 'present' ELSE 'absent' END
              FROM registry.journal_page AS p
             CROSS JOIN LATERAL generate_series(0, p.queries - 1) AS q(index)
              LEFT JOIN registry.messenger AS m ON m.messenger_id = p.messenger_id
             WHERE p.page_id >= %L AND p.page_id < %L AND p.digest_key = $1 AND position($2 IN p.digests) > 0
               AND substring(p.digests FROM 16 * q.index + 1 FOR 16) = $2
             ORDER BY 2
        $search$, searched.first_page, searched.end_page) USING searched.key_id, searched.digest;
    END LOOP;
END
$$;
COMMENT ON FUNCTION breakglass.look IS 'An approved request''s number unmasked: its contracts and bindings (detail: the code), and with digests the queries about it (detail: the query''s id). Once, within an hour of the approval.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA breakglass FROM PUBLIC;
GRANT USAGE ON SCHEMA breakglass TO registryd_breakglass, registryd_approver;
GRANT EXECUTE ON FUNCTION breakglass.request(bigint, text, smallint[], bytea), breakglass.look(bigint) TO registryd_breakglass;
GRANT EXECUTE ON FUNCTION breakglass.approve(bigint) TO registryd_approver;
GRANT EXECUTE ON FUNCTION breakglass.open_requests() TO registryd_breakglass, registryd_approver;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Digest keys: one a month, gone with its month's journal

CREATE TABLE registry.digest_key (
    key_id       smallint PRIMARY KEY,
    month        date NOT NULL UNIQUE,
    ciphertext   bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CONSTRAINT keys_are_numbered_by_their_month
        CHECK (month = date_trunc('month', month) AND key_id = (extract(year FROM month) - 2000) * 12 + extract(month FROM month)),
    CONSTRAINT destroyed_keys_have_no_ciphertext CHECK ((ciphertext IS NULL) = (destroyed_at IS NOT NULL))
);
COMMENT ON TABLE registry.digest_key IS 'The keys of the journal''s digests: random, one a month, made ahead by the daemon. Destroyed, a month''s digests say nothing about any number any more; that the key was there stays.';
COMMENT ON COLUMN registry.digest_key.key_id IS 'What journal_page.digest_key names: months since January 2000. Key 1 is not here: it is the credential digest-key, of before there were monthly ones.';
COMMENT ON COLUMN registry.digest_key.month IS 'The month (UTC) whose pages it is for; some minutes of the next month may still be under it.';
COMMENT ON COLUMN registry.digest_key.ciphertext IS 'AES-256-GCM under the service''s secrets-key, bound to the month: nonce, then ciphertext with tag.';
COMMENT ON COLUMN registry.digest_key.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.digest_key.destroyed_at IS 'When it was destroyed, because the policy no longer kept its month''s journal.';

CREATE FUNCTION registry.destroy_digest_keys() RETURNS SETOF date
LANGUAGE sql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- A day more than the month: a worker may use its key for some minutes into the next.
    UPDATE registry.digest_key AS k SET ciphertext = NULL, destroyed_at = now()
     WHERE k.destroyed_at IS NULL AND k.month + interval '1 month 1 day' <= registry.kept_from('journal_page')
       AND NOT EXISTS (SELECT FROM registry.day_partition AS p WHERE p.family = 'journal_page' AND p.day < k.month + interval '1 month 1 day')
    RETURNING k.month
$$;
COMMENT ON FUNCTION registry.destroy_digest_keys IS 'Destroys the digest keys whose journal the policy in force no longer keeps and that is dropped; returns their months. What remains in backups opens only under secrets-key, and goes with them.';

CREATE FUNCTION breakglass.digest_keys() RETURNS TABLE (key_id smallint, month date, ciphertext bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT k.key_id, k.month, k.ciphertext FROM registry.digest_key AS k WHERE k.destroyed_at IS NULL ORDER BY k.month $$;
COMMENT ON FUNCTION breakglass.digest_keys IS 'The digest keys that are not destroyed, sealed: who has the service''s credentials makes a number''s digests with them.';

REVOKE ALL ON FUNCTION breakglass.digest_keys() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION breakglass.digest_keys() TO registryd_breakglass;
GRANT SELECT, INSERT (key_id, month, ciphertext) ON registry.digest_key TO registryd_app;
GRANT EXECUTE ON FUNCTION registry.destroy_digest_keys() TO registryd_app;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Erasure: ended contracts and bindings go when the policy no longer keeps them

ALTER TABLE registry.policy ADD COLUMN ended_kept interval NOT NULL DEFAULT '3 years' CHECK (ended_kept >= '1 day');
COMMENT ON COLUMN registry.policy.ended_kept IS 'How long ended contracts and ended bindings are kept, from their end.';

-- Erasure walks ended bindings by time, as it does contracts.
CREATE INDEX binding_ended ON registry.binding (ended_at) WHERE ended_at IS NOT NULL;

CREATE FUNCTION registry.purge_ended(batch integer) RETURNS TABLE (bindings bigint, contracts bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = registry, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on SET jit = off
AS $$
DECLARE
    over timestamptz := (SELECT now() - p.ended_kept FROM registry.policy_in_force(now()) AS p);
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.purge_ended', 0)) THEN
        RETURN;
    END IF;
    -- What is owed is read once a batch (a hash), what has ended by its index until the batch is full (no ORDER BY: a hash join would be sorted).
    -- Rows are deleted by where they lie (ctid): what has ended is never changed, so they lie there still.
    DELETE FROM registry.binding AS b WHERE b.ctid = ANY (ARRAY(
        SELECT e.ctid FROM registry.binding AS e
         WHERE e.ended_at < over
           AND NOT EXISTS (SELECT FROM registry.notification AS n WHERE n.msisdn = e.msisdn AND n.generation = e.generation)
         LIMIT batch));
    GET DIAGNOSTICS bindings = ROW_COUNT;
    DELETE FROM registry.contract AS c WHERE c.ctid = ANY (ARRAY(
        SELECT e.ctid FROM registry.contract AS e
         WHERE e.ended_at < over
           AND (SELECT true FROM registry.binding AS b WHERE b.msisdn = e.msisdn AND b.generation = e.generation LIMIT 1) IS NULL
           AND NOT EXISTS (SELECT FROM registry.notification AS n WHERE n.msisdn = e.msisdn AND n.generation = e.generation)
         LIMIT batch));
    GET DIAGNOSTICS contracts = ROW_COUNT;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION registry.purge_ended IS 'Deletes ended bindings and contracts that the policy in force no longer keeps, a batch of each, and returns how many; no row where somebody else is at it. What is still owed keeps its binding, and a binding that is still kept its contract.';

GRANT EXECUTE ON FUNCTION registry.purge_ended(integer) TO registryd_app;
