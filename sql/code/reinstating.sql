-- The way back from a mistaken end. Two persons undo it (breakglass.sql):
--
--   1. Each contract begins again as the next generation of the same holder, from the mistaken end on. Only where the mistaken generation is still
--      its number's latest; else it has moved on. The status before the end is lost, so it begins as active, and the next snapshot corrects it.
--   2. The bindings that this end ended are made again under their codes, unless the messenger has bound the number (number_taken) or the code
--      (code_taken) again meanwhile. For those nothing is made, and their notifications stay owed.
--   3. Their held notifications are withdrawn: nobody was told. Owed ones may be on their way, so they are withdrawn too, and binding.reinstated is
--      owed instead; and it is owed for each that was delivered.
--
-- All of it is one transaction, under the lock that billing's events and snapshots take, so that these come before or after it. Everything is done
-- for all contracts at once. EXECUTE plans each statement for the tables as they are then: a plan that PL/pgSQL keeps takes quadratic time.
--
-- A snapshot that names the contract's first start sees no change, because an earlier start is none.

CREATE OR REPLACE VIEW registry.undone AS
SELECT n.messenger_id, n.undoes AS notification_id, n.notification_id AS reinstatement_id FROM registry.notification AS n WHERE n.undoes IS NOT NULL
UNION ALL
SELECT d.messenger_id, d.undoes, d.notification_id FROM registry.notification_delivered AS d WHERE d.undoes IS NOT NULL;
COMMENT ON VIEW registry.undone IS 'Notifications of ends that were undone and that may have reached their messenger. No replay tells them again.';
COMMENT ON COLUMN registry.undone.messenger_id IS 'Whose notification.';
COMMENT ON COLUMN registry.undone.notification_id IS 'The notification.';
COMMENT ON COLUMN registry.undone.reinstatement_id IS 'The notification that undoes it.';

CREATE OR REPLACE FUNCTION registry.scope_of_numbers(numbers bigint[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF cardinality(numbers) = 0 OR EXISTS (SELECT FROM unnest(numbers) AS u(msisdn) WHERE (u.msisdn BETWEEN 10000 AND 999999999999999) IS NOT TRUE) THEN
        RAISE EXCEPTION 'a number has 5 to 15 digits, and one at least is named' USING ERRCODE = 'check_violation', HINT = 'E.164, without the plus.';
    END IF;
    RETURN (SELECT jsonb_build_object('numbers', count(*), 'sha256', encode(sha256(convert_to(string_agg(u.msisdn || E'\n', '' ORDER BY u.msisdn), 'UTF8')), 'hex'))
              FROM (SELECT DISTINCT n.msisdn FROM unnest(numbers) AS n(msisdn)) AS u);
END
$$;
COMMENT ON FUNCTION registry.scope_of_numbers IS 'What a request says of its numbers: how many there are, and the SHA-256 over them in ascending order, each followed by a line feed.';

CREATE OR REPLACE FUNCTION breakglass.request_reinstate(
    reason text, recorded_from timestamptz DEFAULT NULL, recorded_until timestamptz DEFAULT NULL, end_reasons text[] DEFAULT NULL,
    wave bigint DEFAULT NULL, numbers bigint[] DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    asked bigint;
BEGIN
    IF num_nonnulls(recorded_from, wave, numbers) = 0 OR (wave IS NOT NULL AND num_nonnulls(recorded_from, recorded_until, numbers) > 0)
       OR (recorded_until IS NOT NULL AND recorded_from IS NULL) THEN
        RAISE EXCEPTION 'name the contracts by when their ends were recorded, by a wave or by their numbers' USING ERRCODE = 'check_violation',
            HINT = 'recorded_from and recorded_until, which may narrow numbers too; or wave alone.';
    ELSIF recorded_from >= least(recorded_until, now()) OR recorded_from = '-infinity' THEN
        RAISE EXCEPTION 'the period is empty or has no beginning' USING ERRCODE = 'check_violation', HINT = 'It is from recorded_from on, before recorded_until, and over by now.';
    ELSIF NOT end_reasons <@ enum_range(NULL::registry.end_reason)::text[] THEN
        RAISE EXCEPTION 'an end reason is terminated, ported_out or holder_changed' USING ERRCODE = 'check_violation';
    ELSIF wave IS NOT NULL AND NOT EXISTS (SELECT FROM registry.wave AS w WHERE w.wave_id = wave) THEN
        RAISE EXCEPTION 'there is no wave %', wave USING ERRCODE = 'check_violation', HINT = 'report.wave lists them.';
    END IF;
    asked := registry.append_request('reinstate', NULL, jsonb_strip_nulls(jsonb_build_object(
        'recorded_from', recorded_from, 'recorded_until', CASE WHEN recorded_from IS NOT NULL THEN least(recorded_until, now()) END,
        'end_reasons', to_jsonb(end_reasons), 'wave', wave) || CASE WHEN numbers IS NULL THEN '{}' ELSE registry.scope_of_numbers(numbers) END)::text, reason);
    INSERT INTO registry.breakglass_number (request, msisdn)
    SELECT DISTINCT asked, u.msisdn FROM unnest(numbers) AS u(msisdn);
    RETURN asked;
END
$$;
COMMENT ON FUNCTION breakglass.request_reinstate IS 'Asks that contracts which ended by mistake begin again, for a reason: those whose ends were recorded in a period, for some reasons alone, those of a wave, or those of the latest ended contracts of some numbers. Returns the request''s number.';

CREATE OR REPLACE FUNCTION registry.find_mistaken(asked registry.breakglass_event) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    scope jsonb := asked.scope::jsonb;
    named text;
BEGIN
    -- Of a wave: the contracts of its notifications, and those without a binding that ended in the same transactions.
    named := CASE
        WHEN scope ? 'wave' THEN format($wave$
            (SELECT h.msisdn, h.generation FROM registry.notification_held AS h WHERE h.wave_id = %1$L
             UNION
             SELECT e.msisdn, e.generation FROM registry.contract AS e
              WHERE e.ended_at IS NOT NULL
                AND e.recorded_at = ANY (ARRAY(SELECT DISTINCT h.recorded_at FROM registry.notification_held AS h WHERE h.wave_id = %1$L)))
            AS named JOIN registry.contract AS c ON c.msisdn = named.msisdn AND c.generation = named.generation$wave$, scope ->> 'wave')
        WHEN scope ? 'numbers' THEN format($numbers$
            (SELECT n.msisdn, (SELECT max(e.generation) FROM registry.contract AS e WHERE e.msisdn = n.msisdn AND e.ended_at IS NOT NULL) AS generation
               FROM registry.breakglass_number AS n WHERE n.request = %L)
            AS named JOIN registry.contract AS c ON c.msisdn = named.msisdn AND c.generation = named.generation$numbers$, asked.request)
        ELSE 'registry.contract AS c' END;
    EXECUTE format($find$
        CREATE TEMPORARY TABLE mistaken ON COMMIT DROP AS
        SELECT c.msisdn, c.generation, c.ended_at, c.recorded_at, c.holder, c.end_user,
               CASE WHEN EXISTS (SELECT FROM registry.contract AS l WHERE l.msisdn = c.msisdn AND l.generation > c.generation)
                    THEN 'moved_on' ELSE 'reinstated' END AS outcome
          FROM %s
         WHERE c.ended_at IS NOT NULL%s%s
    $find$, named,
        CASE WHEN scope ? 'recorded_from'
             THEN format(' AND c.recorded_at >= %L AND c.recorded_at < %L', scope ->> 'recorded_from', scope ->> 'recorded_until') END,
        CASE WHEN scope ? 'end_reasons'
             THEN format(' AND c.end_reason = ANY (%L)', ARRAY(SELECT jsonb_array_elements_text(scope -> 'end_reasons'))) END);
    EXECUTE 'ANALYZE pg_temp.mistaken';
    EXECUTE $bindings$
        CREATE TEMPORARY TABLE mistaken_binding ON COMMIT DROP AS
        SELECT j.msisdn, j.generation, j.messenger_id, j.identification_code,
               CASE WHEN j.number_is_bound THEN 'number_taken' WHEN j.code_is_bound OR j.place > 1 THEN 'code_taken' ELSE j.outcome END AS outcome
          FROM (SELECT b.msisdn, b.generation, b.messenger_id, b.identification_code, m.outcome,
                       EXISTS (SELECT FROM registry.binding AS l
                                WHERE l.msisdn = b.msisdn AND l.messenger_id = b.messenger_id AND l.ended_at IS NULL) AS number_is_bound,
                       EXISTS (SELECT FROM registry.binding AS l WHERE l.messenger_id = b.messenger_id AND l.identification_code = b.identification_code
                                                                   AND l.ended_at IS NULL) AS code_is_bound,
                       -- A code that was bound to one number after the other, and both ended: the later one has it.
                       CASE m.outcome WHEN 'reinstated' THEN row_number() OVER (
                           PARTITION BY b.messenger_id, b.identification_code, m.outcome ORDER BY b.bound_at DESC, b.msisdn) ELSE 1 END AS place
                  FROM pg_temp.mistaken AS m
                  JOIN registry.binding AS b ON b.msisdn = m.msisdn AND b.generation = m.generation
                 WHERE b.end_reason = 'terminated') AS j
    $bindings$;
    EXECUTE 'ANALYZE pg_temp.mistaken_binding';
END
$$;
COMMENT ON FUNCTION registry.find_mistaken IS 'Makes two temporary tables of what a request to reinstate names: mistaken, the contracts, and mistaken_binding, the bindings that these ends ended, each with what is to become of it.';

CREATE OR REPLACE FUNCTION registry.begin_again() RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    wanted bigint;
    made   bigint;
BEGIN
    EXECUTE $contracts$
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
        SELECT m.msisdn, m.generation + 1, 'active', m.holder, m.end_user, m.ended_at
          FROM pg_temp.mistaken AS m WHERE m.outcome = 'reinstated' ORDER BY m.msisdn
    $contracts$;
    EXECUTE $wanted$SELECT count(*) FROM pg_temp.mistaken_binding AS b WHERE b.outcome = 'reinstated'$wanted$ INTO wanted;
    EXECUTE $bindings$
        INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
        SELECT b.msisdn, b.generation + 1, b.messenger_id, b.identification_code
          FROM pg_temp.mistaken_binding AS b WHERE b.outcome = 'reinstated' ORDER BY b.msisdn, b.messenger_id
            ON CONFLICT DO NOTHING
    $bindings$;
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made <> wanted THEN
        -- The messenger has bound a code while we looked.
        EXECUTE $taken$
            UPDATE pg_temp.mistaken_binding AS b SET outcome = 'code_taken'
             WHERE b.outcome = 'reinstated'
               AND NOT EXISTS (SELECT FROM registry.binding AS l
                                WHERE l.msisdn = b.msisdn AND l.generation = b.generation + 1 AND l.messenger_id = b.messenger_id AND l.ended_at IS NULL)
        $taken$;
    END IF;
    -- What was undone no longer fills the bound of the hour. What was recorded while a wave came may never have filled it, and is not taken
    -- off: the bound is rather too tight for an hour. By minutes, because fold_ends sums them so.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.fold_movements', 0));
    EXECUTE $ends$
        WITH undone AS (
            SELECT date_trunc('minute', m.recorded_at) AS minute, count(*) AS ends FROM pg_temp.mistaken AS m
             WHERE m.outcome = 'reinstated' AND m.recorded_at > now() - interval '1 hour'
               AND NOT EXISTS (SELECT FROM registry.wave AS w WHERE m.recorded_at BETWEEN w.began_at AND w.last_at)
             GROUP BY 1
        ), counted AS (
            DELETE FROM registry.ends_recorded AS e USING undone AS u WHERE date_trunc('minute', e.recorded_at) = u.minute
            RETURNING u.minute, e.recorded_at, e.ends
        )
        INSERT INTO registry.ends_recorded (recorded_at, ends)
        SELECT max(c.recorded_at), sum(c.ends) - u.ends FROM undone AS u JOIN counted AS c ON c.minute = u.minute
         GROUP BY u.minute, u.ends HAVING sum(c.ends) > u.ends
    $ends$;
END
$$;
COMMENT ON FUNCTION registry.begin_again IS 'Makes the next generation of each contract in mistaken that is to be reinstated, and its bindings again under their codes.';

-- Without nested loops: see withdraw_chosen.
CREATE OR REPLACE FUNCTION registry.choose_mistaken_notices(is_final boolean) RETURNS void
LANGUAGE plpgsql SET enable_nestloop = off
AS $$
DECLARE
    since timestamptz;
    locks text := CASE WHEN is_final THEN 'FOR UPDATE OF n' END;
BEGIN
    PERFORM registry.make_chosen_notices();
    IF is_final THEN
        -- Replays let nothing in meanwhile, and no wave is released: release_wave locks the wave first, too.
        PERFORM FROM registry.replay AS r WHERE r.finished_at IS NULL ORDER BY r.replay_id FOR UPDATE;
        PERFORM FROM registry.wave AS w WHERE w.released + w.withdrawn < w.notifications ORDER BY w.wave_id FOR UPDATE;
    END IF;
    -- First what is held, then what is owed, then what was delivered, because a notification moves in that order. Locks are taken in the order of
    -- the ids, as receipts take theirs.
    EXECUTE format($held$
        INSERT INTO pg_temp.chosen_notice (state, messenger_id, deadline_at, notification_id, msisdn, generation, identification_code)
        SELECT 'held', n.messenger_id, n.deadline_at, n.notification_id, n.msisdn, n.generation, n.identification_code
          FROM registry.notification_held AS n
          JOIN pg_temp.mistaken_binding AS b ON b.msisdn = n.msisdn AND b.generation = n.generation AND b.messenger_id = n.messenger_id
         WHERE b.outcome = 'reinstated' ORDER BY n.messenger_id, n.notification_id %s
    $held$, locks);
    EXECUTE format($owed$
        INSERT INTO pg_temp.chosen_notice (state, messenger_id, deadline_at, notification_id, msisdn, generation, identification_code)
        SELECT CASE WHEN n.replayed THEN 'repeated' ELSE 'owed' END,
               n.messenger_id, n.deadline_at, n.notification_id, n.msisdn, n.generation, n.identification_code
          FROM registry.notification AS n
          JOIN pg_temp.mistaken_binding AS b ON b.msisdn = n.msisdn AND b.generation = n.generation AND b.messenger_id = n.messenger_id
         WHERE b.outcome = 'reinstated' AND n.undoes IS NULL ORDER BY n.messenger_id, n.notification_id %s
    $owed$, locks);
    EXECUTE $since$SELECT min(coalesce(m.recorded_at, m.ended_at)) FROM pg_temp.mistaken AS m WHERE m.outcome = 'reinstated'$since$ INTO since;
    EXECUTE format($delivered$
        INSERT INTO pg_temp.chosen_notice (state, messenger_id, deadline_at, notification_id, msisdn, generation, identification_code)
        SELECT 'delivered', n.messenger_id, n.deadline_at, n.notification_id, n.msisdn, n.generation, n.identification_code
          FROM registry.notification_delivered AS n
          JOIN pg_temp.mistaken_binding AS b ON b.msisdn = n.msisdn AND b.generation = n.generation AND b.messenger_id = n.messenger_id
         WHERE b.outcome = 'reinstated' AND n.undoes IS NULL AND n.delivered_at >= %L
    $delivered$, since);
    EXECUTE 'ANALYZE pg_temp.chosen_notice';
END
$$;
COMMENT ON FUNCTION registry.choose_mistaken_notices IS 'Fills chosen_notice with the notifications of the bindings that are reinstated, and locks those that are held or owed where the choice is final.';

CREATE OR REPLACE FUNCTION registry.owe_reinstatements() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- A replay that was asked for before would tell the mistake again, after it was undone.
    EXECUTE $replays$
        DELETE FROM registry.replayed_notification AS r USING pg_temp.chosen_notice AS n
         WHERE n.state = 'delivered' AND r.messenger_id = n.messenger_id AND r.notification_id = n.notification_id AND r.delivered_at IS NULL
    $replays$;
    -- A lane may still hold, for its turn and a push at most, what was owed. Told afterwards, the reinstatement is what stands.
    EXECUTE $events$
        INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, not_before, identification_code, undoes)
        SELECT n.messenger_id, n.generation + 1, d.deadline_at, registry.id_at(d.deadline_at), n.msisdn, now(),
               CASE n.state WHEN 'owed' THEN clock_timestamp() + interval '2 minutes' ELSE now() END, n.identification_code, n.notification_id
          FROM pg_temp.chosen_notice AS n
         CROSS JOIN (SELECT date_trunc('milliseconds', now() + coalesce(
                         (SELECT p.notice_within FROM registry.policy_in_force(now()) AS p), interval '24 hours')) AS deadline_at) AS d
         WHERE n.state IN ('owed', 'delivered')
    $events$;
END
$$;
COMMENT ON FUNCTION registry.owe_reinstatements IS 'Writes binding.reinstated for each of chosen_notice that may have reached its messenger.';

CREATE OR REPLACE FUNCTION registry.tell_reinstatement(request bigint, with_list boolean)
RETURNS TABLE (what text, outcome text, messenger text, quantity bigint, number bigint, generation smallint, identification_code text)
LANGUAGE plpgsql
AS $$
BEGIN
    RETURN QUERY EXECUTE $told$
        SELECT t.what, t.outcome, m.name, t.quantity, NULL::bigint, NULL::smallint, NULL::text
          FROM (SELECT 1 AS place, 'contract' AS what, c.outcome, NULL::integer AS messenger_id, count(*) AS quantity
                  FROM pg_temp.mistaken AS c GROUP BY c.outcome
                UNION ALL
                SELECT 1, 'contract', 'not_ended', NULL, count(*) FROM registry.breakglass_number AS n
                 WHERE n.request = $1 AND NOT EXISTS (SELECT FROM pg_temp.mistaken AS c WHERE c.msisdn = n.msisdn) HAVING count(*) > 0
                UNION ALL
                SELECT 2, 'binding', b.outcome, b.messenger_id, count(*) FROM pg_temp.mistaken_binding AS b GROUP BY b.outcome, b.messenger_id
                UNION ALL
                SELECT 3, 'notification', n.state, n.messenger_id, count(*) FROM pg_temp.chosen_notice AS n GROUP BY n.state, n.messenger_id) AS t
          LEFT JOIN registry.messenger AS m ON m.messenger_id = t.messenger_id
         ORDER BY t.place, m.name NULLS FIRST, t.outcome
    $told$ USING request;
    IF with_list THEN
        RETURN QUERY EXECUTE $list$
            SELECT 'contract', c.outcome, NULL::text, 1::bigint, c.msisdn, c.generation, NULL::text
              FROM pg_temp.mistaken AS c WHERE c.outcome <> 'reinstated'
            UNION ALL
            SELECT 'binding', b.outcome, m.name, 1, b.msisdn, b.generation, b.identification_code
              FROM pg_temp.mistaken_binding AS b LEFT JOIN registry.messenger AS m ON m.messenger_id = b.messenger_id
             WHERE b.outcome <> 'reinstated'
        $list$;
    END IF;
END
$$;
COMMENT ON FUNCTION registry.tell_reinstatement IS 'What became of a request''s contracts, bindings and notifications: how many of each, and on demand those for which nothing was made.';

CREATE OR REPLACE FUNCTION breakglass.reinstate(request bigint, dry_run boolean DEFAULT false, with_list boolean DEFAULT false)
RETURNS TABLE (what text, outcome text, messenger text, quantity bigint, number bigint, generation smallint, identification_code text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET work_mem = '256MB' SET jit = off
AS $$
DECLARE
    asked  registry.breakglass_event := CASE WHEN dry_run AND NOT with_list THEN registry.request_to_try(request, 'reinstate')
                                             ELSE registry.approved_request(request, 'reinstate') END;
    result jsonb;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'contracts begin again in READ COMMITTED transactions only' USING ERRCODE = 'insufficient_privilege',
            HINT = 'A stricter isolation would not see what was bound or told meanwhile.';
    END IF;
    IF NOT dry_run THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('registry.feed', 0));
    END IF;
    PERFORM registry.find_mistaken(asked);
    IF NOT dry_run THEN
        PERFORM registry.begin_again();
    END IF;
    PERFORM registry.choose_mistaken_notices(NOT dry_run);
    RETURN QUERY SELECT t.* FROM registry.tell_reinstatement(request, with_list) AS t;
    IF NOT dry_run THEN
        PERFORM registry.withdraw_chosen(asked);
        PERFORM registry.owe_reinstatements();
        SELECT jsonb_object_agg(o.what, o.outcomes) INTO result
          FROM (SELECT s.what, jsonb_object_agg(s.outcome, s.quantity) AS outcomes
                  FROM (SELECT t.what, t.outcome, sum(t.quantity) AS quantity FROM registry.tell_reinstatement(request, false) AS t GROUP BY 1, 2) AS s
                 GROUP BY s.what) AS o;
        DELETE FROM registry.breakglass_number AS n WHERE n.request = asked.request;
        PERFORM registry.take_step(asked, 'reinstated', coalesce(result, '{}')::text);
    END IF;
    DROP TABLE pg_temp.mistaken, pg_temp.mistaken_binding, pg_temp.chosen_notice;
END
$$;
COMMENT ON FUNCTION breakglass.reinstate IS 'Undoes the ends that an approved request names: contracts and bindings begin again, held and owed notifications are withdrawn, and binding.reinstated is owed for what may have been told. Returns how many by outcome and messenger; with_list also each for which nothing was made, its number included. dry_run changes nothing.';
