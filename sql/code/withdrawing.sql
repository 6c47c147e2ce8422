-- Notifications that are not told after all. Two persons withdraw them (breakglass.sql): those that their messenger refuses for ever, and those of a
-- held wave. Those of ends that were undone are withdrawn with them (reinstating.sql).
--
-- A withdrawn notification is a row of registry.notification_withdrawn, which no digest, replay or figure of deliveries reads. A receipt that comes
-- later finds nothing to settle, so that no delivery is recorded.

CREATE OR REPLACE FUNCTION registry.is_refused(last_error text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT coalesce(last_error IN ('status 400', 'status 413', 'status 422'), false) $$;
COMMENT ON FUNCTION registry.is_refused IS 'Whether the last attempt met an endpoint that works and refuses this content.';

CREATE OR REPLACE FUNCTION breakglass.request_withdraw(
    reason text, messenger text DEFAULT NULL, due_before timestamptz DEFAULT NULL, ids uuid[] DEFAULT NULL, wave bigint DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF (messenger IS NULL) = (wave IS NULL) OR (wave IS NOT NULL AND num_nonnulls(due_before, ids) > 0) THEN
        RAISE EXCEPTION 'a withdrawal names a messenger or a wave' USING ERRCODE = 'check_violation',
            HINT = 'Of a messenger: what it refused, by ids or with a deadline before a time. Of a held wave: all of it.';
    ELSIF messenger IS NOT NULL AND NOT EXISTS (SELECT FROM registry.messenger AS m WHERE m.name = messenger) THEN
        RAISE EXCEPTION 'there is no such messenger' USING ERRCODE = 'check_violation', HINT = 'registryd messenger list names them.';
    ELSIF wave IS NOT NULL AND NOT EXISTS (SELECT FROM registry.wave AS w WHERE w.wave_id = wave) THEN
        RAISE EXCEPTION 'there is no wave %', wave USING ERRCODE = 'check_violation', HINT = 'report.wave lists them.';
    ELSIF cardinality(ids) NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'a request names 1 to 10,000 ids' USING ERRCODE = 'check_violation', HINT = 'Name the others in another request.';
    END IF;
    RETURN registry.append_request('withdraw', NULL, jsonb_strip_nulls(jsonb_build_object(
        'messenger', messenger, 'wave', wave, 'ids', to_jsonb(ids),
        'due_before', CASE WHEN messenger IS NOT NULL AND ids IS NULL THEN least(due_before, now()) END))::text, reason);
END
$$;
COMMENT ON FUNCTION breakglass.request_withdraw IS 'Asks that notifications be withdrawn, for a reason: what a messenger refused and is overdue, by ids or by deadline, or all that is held of a wave. Returns the request''s number.';

CREATE OR REPLACE FUNCTION registry.make_chosen_notices() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE $make$
        CREATE TEMPORARY TABLE chosen_notice ON COMMIT DROP AS
            SELECT ''::text AS state, n.messenger_id, n.deadline_at, n.notification_id, n.msisdn, n.generation, n.identification_code
              FROM registry.notification AS n WITH NO DATA
    $make$;
END
$$;
COMMENT ON FUNCTION registry.make_chosen_notices IS 'Makes the temporary table chosen_notice, for the notifications that a request speaks of: held, owed, repeated (owed again by a replay), or what else the caller says.';

-- Without nested loops, because a table that has just grown from nothing is planned as if it were still empty.
CREATE OR REPLACE FUNCTION registry.withdraw_chosen(asked registry.breakglass_event) RETURNS void
LANGUAGE plpgsql SET enable_nestloop = off
AS $$
BEGIN
    EXECUTE $held$
        WITH gone AS (
            DELETE FROM registry.notification_held AS h USING pg_temp.chosen_notice AS n
             WHERE n.state = 'held' AND h.messenger_id = n.messenger_id AND h.deadline_at = n.deadline_at AND h.notification_id = n.notification_id
            RETURNING h.*
        ), kept AS (
            INSERT INTO registry.notification_withdrawn (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, terminated_at,
                                                         recorded_at, request, identification_code, reason)
            SELECT g.messenger_id, g.generation, 0, g.deadline_at, g.notification_id, g.msisdn, g.terminated_at, g.recorded_at, $1,
                   g.identification_code, $2
              FROM gone AS g
        )
        UPDATE registry.wave AS w SET withdrawn = w.withdrawn + g.notifications
          FROM (SELECT g.wave_id, count(*) AS notifications FROM gone AS g GROUP BY g.wave_id) AS g
         WHERE w.wave_id = g.wave_id
    $held$ USING asked.request, asked.reason;
    -- What a replay owes again was delivered: its first delivery stays as the proof.
    EXECUTE $owed$
        WITH gone AS (
            DELETE FROM registry.notification AS o USING pg_temp.chosen_notice AS n
             WHERE n.state IN ('owed', 'repeated')
               AND o.messenger_id = n.messenger_id AND o.deadline_at = n.deadline_at AND o.notification_id = n.notification_id
            RETURNING o.*
        )
        INSERT INTO registry.notification_withdrawn (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, terminated_at,
                                                     recorded_at, request, identification_code, reason)
        SELECT g.messenger_id, g.generation, g.attempts, g.deadline_at, g.notification_id, g.msisdn, g.terminated_at, g.recorded_at, $1,
               g.identification_code, $2
          FROM gone AS g WHERE NOT g.replayed
    $owed$ USING asked.request, asked.reason;
END
$$;
COMMENT ON FUNCTION registry.withdraw_chosen IS 'Moves the held and owed ones of chosen_notice, which the caller has locked, to notification_withdrawn.';

CREATE OR REPLACE FUNCTION registry.choose_for_withdrawal(scope jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- The wave is locked first, as release_wave does it; then rows in the order of the ids, as receipts take theirs.
    PERFORM FROM registry.wave AS w WHERE w.wave_id = (scope ->> 'wave')::bigint FOR UPDATE;
    EXECUTE $choose$
        INSERT INTO pg_temp.chosen_notice (state, messenger_id, deadline_at, notification_id)
        SELECT 'held', h.messenger_id, h.deadline_at, h.notification_id FROM registry.notification_held AS h
         WHERE h.wave_id = ($1 ->> 'wave')::bigint ORDER BY h.messenger_id, h.notification_id FOR UPDATE OF h
    $choose$ USING scope;
    EXECUTE $choose$
        INSERT INTO pg_temp.chosen_notice (state, messenger_id, deadline_at, notification_id)
        SELECT CASE WHEN NOT registry.is_refused(n.last_error) OR n.deadline_at > now() THEN 'not_refused' WHEN n.replayed THEN 'repeated' ELSE 'owed' END,
               n.messenger_id, n.deadline_at, n.notification_id
          FROM registry.notification AS n
         WHERE n.messenger_id = (SELECT m.messenger_id FROM registry.messenger AS m WHERE m.name = $1 ->> 'messenger')
           AND CASE WHEN $1 ? 'ids' THEN n.notification_id = ANY ($2)
                    ELSE n.deadline_at < ($1 ->> 'due_before')::timestamptz AND registry.is_refused(n.last_error) END
         ORDER BY n.notification_id FOR UPDATE OF n
    $choose$ USING scope, ARRAY(SELECT jsonb_array_elements_text(scope -> 'ids')::uuid);
END
$$;
COMMENT ON FUNCTION registry.choose_for_withdrawal IS 'Fills chosen_notice with what a request to withdraw names, and locks it. not_refused: the messenger does not refuse it, or it is not overdue.';

CREATE OR REPLACE FUNCTION breakglass.withdraw(request bigint, dry_run boolean DEFAULT false)
RETURNS TABLE (outcome text, messenger text, notifications bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET work_mem = '256MB' SET jit = off
AS $$
DECLARE
    asked   registry.breakglass_event := CASE WHEN dry_run THEN registry.request_to_try(request, 'withdraw') ELSE registry.approved_request(request, 'withdraw') END;
    outcome jsonb;
BEGIN
    PERFORM registry.make_chosen_notices();
    PERFORM registry.choose_for_withdrawal(asked.scope::jsonb);
    IF NOT dry_run THEN
        PERFORM registry.withdraw_chosen(asked);
        EXECUTE 'SELECT coalesce(jsonb_object_agg(n.state, n.notifications), ''{}'')
                   FROM (SELECT c.state, count(*) AS notifications FROM pg_temp.chosen_notice AS c GROUP BY c.state) AS n' INTO outcome;
        PERFORM registry.take_step(asked, 'withdrawn', outcome::text);
    END IF;
    RETURN QUERY EXECUTE $told$
        SELECT CASE n.state WHEN 'not_refused' THEN n.state ELSE 'withdrawn' END, m.name, count(*)
          FROM pg_temp.chosen_notice AS n LEFT JOIN registry.messenger AS m ON m.messenger_id = n.messenger_id
         GROUP BY 1, 2 ORDER BY 1 DESC, 2
    $told$;
    DROP TABLE pg_temp.chosen_notice;
END
$$;
COMMENT ON FUNCTION breakglass.withdraw IS 'Withdraws what an approved request names; dry_run only counts. not_refused: named by its id, but the messenger does not refuse it, or it is not overdue; it stays owed.';
