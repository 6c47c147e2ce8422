-- What is kept of what is gone, and for how long: seals whose pages the policy has let go, and replays of long ago.
--
-- A seal names its pages, so the chain would outgrow the journal. Seals go from the chain's beginning, once the days of their pages are
-- dropped, and the chain says so: a seal of kind 'forgotten' names the last one that went and its hash, which is the `previous` of the first that
-- is left. That one is itself old enough to go, so that the chain can be seen to have lost nothing that the policy kept.

ALTER TYPE registry.seal_kind ADD VALUE 'forgotten';
COMMENT ON TABLE registry.seal IS 'The hash chain over the journal, append-only: a seal outlives its pages by a day or more, and goes from the chain''s beginning.';
COMMENT ON COLUMN registry.seal.sequence IS 'Counts the seals from 1, without a gap.';
COMMENT ON COLUMN registry.seal.kind IS 'begin (the first), pages (what a worker wrote in about a second), adopted (pages that no worker had sealed), retention (pages went by the policy) or forgotten (seals went after them).';
COMMENT ON COLUMN registry.seal.note IS 'adopted: why. retention: the day (UTC) before which pages may be gone. forgotten: sequence and sha256 of the last seal that went.';

CREATE FUNCTION registry.forget_seals(batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    over      date := registry.kept_from('journal_page');
    old       registry.seal;
    stays     registry.seal;
    forgotten bigint;
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0))
       OR EXISTS (SELECT FROM registry.day_partition AS p WHERE p.family = 'journal_page' AND p.day < over) THEN
        RETURN 0;
    END IF;
    FOR old IN SELECT s.* FROM registry.seal AS s ORDER BY s.sequence LIMIT batch + 1 LOOP
        EXIT WHEN old.sealed_at >= over - 1 OR old.page_ids[cardinality(old.page_ids)] >= registry.first_id_of(over);
        stays := old;
    END LOOP;
    DELETE FROM registry.seal AS s WHERE s.sequence < stays.sequence;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    IF forgotten > 0 THEN
        PERFORM registry.append_seal('forgotten', '{}', '{}', format('%s %s', stays.sequence - 1, encode(stays.previous, 'hex')));
    END IF;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION registry.forget_seals IS 'Deletes seals, a batch at most, from the chain''s beginning, whose pages the policy has let go for more than a day; a seal says so. Returns how many.';

-- As before, but the chain may begin later than with 1.
CREATE OR REPLACE FUNCTION registry.adopt_unsealed_pages(reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    began   timestamptz := (SELECT s.sealed_at FROM registry.seal AS s ORDER BY s.sequence LIMIT 1);
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

CREATE FUNCTION registry.forget_replays(batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    over      date := registry.kept_from('notification_delivered');
    forgotten bigint;
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.forget_replays', 0)) THEN
        RETURN 0;
    END IF;
    DELETE FROM registry.replayed_notification AS r WHERE r.ctid = ANY (ARRAY(
        SELECT e.ctid
          FROM registry.replay AS a JOIN registry.replayed_notification AS e ON e.messenger_id = a.messenger_id AND e.replay_id = a.replay_id
         WHERE a.finished_at < over
           AND NOT EXISTS (SELECT FROM registry.notification AS n WHERE n.messenger_id = e.messenger_id
                                  AND n.deadline_at = registry.time_of(e.notification_id) AND n.notification_id = e.notification_id)
         LIMIT batch));
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    DELETE FROM registry.replay AS a
     WHERE a.finished_at < over
       AND NOT EXISTS (SELECT FROM registry.replayed_notification AS e WHERE e.messenger_id = a.messenger_id AND e.replay_id = a.replay_id);
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION registry.forget_replays IS 'Deletes what replays chose, a batch at most, that ended longer ago than the policy keeps deliveries and of which nothing is owed any more; then the replays themselves. Returns how many notifications.';

REVOKE ALL ON FUNCTION registry.forget_seals(integer), registry.forget_replays(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.forget_seals(integer), registry.forget_replays(integer) TO registryd_app;
