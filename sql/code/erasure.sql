CREATE OR REPLACE FUNCTION registry.purge_ended(batch integer) RETURNS TABLE (bindings bigint, contracts bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = registry, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on SET jit = off
AS $$
DECLARE
    over        timestamptz := (SELECT now() - p.ended_kept FROM registry.policy_in_force(now()) AS p);
    due_before  timestamptz := over + greatest((SELECT max(p.notice_within) FROM registry.policy AS p), '24 hours');
    whose       integer;
    numbers     bigint[] := '{}';
    generations smallint[] := '{}';
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.purge_ended', 0)) THEN
        RETURN;
    END IF;
    -- What is owed of contracts that are over has a deadline of their time, or undoes an end: mostly it is nothing, whatever else is owed. It is
    -- looked for by the key, because on a day when millions are owed to look through them takes seconds for each batch.
    FOR whose IN SELECT m.messenger_id FROM registry.messenger AS m LOOP
        SELECT numbers || coalesce(array_agg(o.msisdn), '{}'), generations || coalesce(array_agg(o.generation), '{}') INTO numbers, generations
          FROM (SELECT n.msisdn, n.generation FROM registry.notification AS n WHERE n.messenger_id = whose AND n.deadline_at < due_before
                UNION ALL
                SELECT n.msisdn, n.generation FROM registry.notification AS n WHERE n.messenger_id = whose AND n.undoes IS NOT NULL
                UNION ALL
                SELECT h.msisdn, h.generation FROM registry.notification_held AS h WHERE h.messenger_id = whose AND h.deadline_at < due_before) AS o;
    END LOOP;
    -- What has ended is read by its index until the batch is full; an ORDER BY would sort all of it first. Rows are deleted by their place (ctid),
    -- which stays the same because ended rows are never changed.
    DELETE FROM registry.binding AS b WHERE b.ctid = ANY (ARRAY(
        SELECT e.ctid FROM registry.binding AS e
         WHERE e.ended_at < over
           AND NOT EXISTS (SELECT FROM unnest(numbers, generations) AS o(msisdn, generation) WHERE o.msisdn = e.msisdn AND o.generation = e.generation)
         LIMIT batch));
    GET DIAGNOSTICS bindings = ROW_COUNT;
    DELETE FROM registry.contract AS c WHERE c.ctid = ANY (ARRAY(
        SELECT e.ctid FROM registry.contract AS e
         WHERE e.ended_at < over
           AND (SELECT true FROM registry.binding AS b WHERE b.msisdn = e.msisdn AND b.generation = e.generation LIMIT 1) IS NULL
           AND NOT EXISTS (SELECT FROM unnest(numbers, generations) AS o(msisdn, generation) WHERE o.msisdn = e.msisdn AND o.generation = e.generation)
         LIMIT batch));
    GET DIAGNOSTICS contracts = ROW_COUNT;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION registry.purge_ended IS 'Deletes ended bindings and contracts that the policy in force no longer keeps, a batch of each. Returns how many; no row where another process is doing it. A binding stays while its notification is owed, a contract while it has bindings.';

CREATE OR REPLACE FUNCTION registry.forget_events(batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    over      timestamptz := (SELECT now() - p.ended_kept FROM registry.policy_in_force(now()) AS p);
    forgotten bigint;
    gone      bigint;
BEGIN
    DELETE FROM registry.feed_event AS f WHERE f.event_id = ANY (ARRAY(
        SELECT e.event_id FROM registry.feed_event AS e WHERE e.recorded_at < over ORDER BY e.recorded_at LIMIT batch));
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    DELETE FROM registry.newest_state AS s WHERE s.msisdn = ANY (ARRAY(
        SELECT e.msisdn FROM registry.newest_state AS e WHERE e.recorded_at < now() - interval '30 days' ORDER BY e.recorded_at LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    forgotten := greatest(forgotten, gone);
    DELETE FROM registry.feed_waiting AS w WHERE w.event_id = ANY (ARRAY(
        SELECT e.event_id FROM registry.feed_waiting AS e WHERE e.last_at < now() - interval '30 days' LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN greatest(forgotten, gone);
END
$$;
COMMENT ON FUNCTION registry.forget_events IS 'Deletes a batch of billing''s events that were recorded longer ago than the policy keeps ended contracts (their figures stay in feed_movement), and a batch each of numbers'' newest states and of waiting events that are 30 days old. Returns the largest of the three numbers.';

CREATE OR REPLACE FUNCTION registry.forget_records(batch integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
    WITH over AS (SELECT now() - p.ended_kept AS at FROM registry.policy_in_force(now()) AS p),
         usage AS (DELETE FROM registry.quota_usage AS u WHERE u.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.quota_usage AS e WHERE e.day < (SELECT at::date FROM over) LIMIT batch)) RETURNING 1),
         digests AS (DELETE FROM registry.digest AS d WHERE d.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.digest AS e WHERE e.day < (SELECT at::date FROM over) LIMIT batch)) RETURNING 1),
         handed AS (DELETE FROM registry.handover AS h WHERE h.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.handover AS e WHERE e.handed_at < (SELECT at FROM over) LIMIT batch)) RETURNING 1),
         alarms AS (DELETE FROM registry.enumeration_alarm AS a WHERE a.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.enumeration_alarm AS e WHERE e.ends_at < (SELECT at FROM over) LIMIT batch)) RETURNING 1),
         withdrawn AS (DELETE FROM registry.notification_withdrawn AS w WHERE w.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.notification_withdrawn AS e
              WHERE e.withdrawn_at < (SELECT now() - p.notification_kept FROM registry.policy_in_force(now()) AS p) LIMIT batch)) RETURNING 1),
         changes AS (DELETE FROM registry.change_request AS c WHERE c.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.change_request AS e WHERE e.expires_at < (SELECT at FROM over) LIMIT batch)) RETURNING 1),
         refusals AS (DELETE FROM registry.refusal_day AS r WHERE r.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.refusal_day AS e
              WHERE e.day < (SELECT (now() - p.journal_kept)::date FROM registry.policy_in_force(now()) AS p) LIMIT batch)) RETURNING 1),
         -- Requests that nobody has carried out lapse within a day and an hour.
         numbers AS (DELETE FROM registry.breakglass_number AS n WHERE n.ctid = ANY (ARRAY(
             SELECT e.ctid FROM registry.breakglass_number AS e JOIN registry.breakglass_event AS r ON r.sequence = e.request
              WHERE r.at < now() - interval '26 hours' LIMIT batch)) RETURNING 1)
    SELECT greatest((SELECT count(*) FROM usage), (SELECT count(*) FROM digests), (SELECT count(*) FROM handed), (SELECT count(*) FROM alarms),
                    (SELECT count(*) FROM withdrawn), (SELECT count(*) FROM changes), (SELECT count(*) FROM refusals), (SELECT count(*) FROM numbers))
$$;
COMMENT ON FUNCTION registry.forget_records IS 'Deletes a batch each of quota usage, daily digests, deliveries by hand, change requests and alarms that are older than the policy keeps ended contracts, of withdrawn notifications that are older than it keeps delivered ones, of refusals that are older than it keeps the journal, and of the numbers of lapsed requests. Returns the largest of these counts.';

CREATE OR REPLACE FUNCTION registry.destroy_digest_keys() RETURNS SETOF date
LANGUAGE sql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- A day more than the month, because a process may use its key for some minutes into the next month.
    UPDATE registry.digest_key AS k SET ciphertext = NULL, destroyed_at = now()
     WHERE k.destroyed_at IS NULL AND k.month + interval '1 month 1 day' <= registry.kept_from('journal_page')
       AND NOT EXISTS (SELECT FROM registry.day_partition AS p WHERE p.family = 'journal_page' AND p.day < k.month + interval '1 month 1 day')
    RETURNING k.month
$$;
COMMENT ON FUNCTION registry.destroy_digest_keys IS 'Destroys the digest keys whose journal the policy in force no longer keeps and that is dropped; returns their months. What remains in backups opens only under journal-key, and goes with them.';
