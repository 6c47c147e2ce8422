CREATE OR REPLACE FUNCTION registry.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'registry.% is not truncated: it is evidence', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Retention is by policy: rows and partitions leave when their period is over.';
END
$$;
COMMENT ON FUNCTION registry.refuse_truncate IS 'Refuses TRUNCATE, which fires no row triggers.';

-- Who deletes is read from the stack, which no session can set, once a statement. It stops a mistake, such as emptying a queue that seems stuck,
-- and not an owner who means it: he may disable the trigger.
CREATE OR REPLACE FUNCTION registry.refuse_losing_notifications() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    stack text;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF stack !~ 'settle_delivered|withdraw_chosen|release_wave' THEN
        RAISE EXCEPTION 'registry.% is owed, and not deleted', TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation',
                  HINT = 'It leaves by its delivery, by hand too (registryd notifications acknowledge), or two persons withdraw it (registryd breakglass).';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.refuse_losing_notifications IS 'Refuses to delete what is owed or held, unless its delivery, its withdrawal or the release of its wave does so: nobody would ever be told.';

CREATE OR REPLACE FUNCTION registry.refuse_changing_owed() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'what is owed keeps its messenger, deadline, contract and code'
        USING ERRCODE = 'restrict_violation',
              HINT = 'Its id leads to it by messenger and deadline: with others no receipt would find it, and it would be pushed for ever.';
END
$$;
COMMENT ON FUNCTION registry.refuse_changing_owed IS 'Refuses to change what a notification tells, to whom and by when; its attempts may change.';

CREATE OR REPLACE FUNCTION registry.refuse_deleting_bound_messenger() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.binding AS b WHERE b.messenger_id = OLD.messenger_id AND b.ended_at IS NULL)
       OR EXISTS (SELECT FROM registry.binding AS b WHERE b.messenger_id = OLD.messenger_id AND b.ended_at IS NOT NULL)
       OR EXISTS (SELECT FROM registry.notification AS n WHERE n.messenger_id = OLD.messenger_id)
       OR EXISTS (SELECT FROM registry.notification_held AS h WHERE h.messenger_id = OLD.messenger_id) THEN
        RAISE EXCEPTION 'messenger % has bindings or notifications and cannot be deleted', OLD.name
            USING ERRCODE = 'restrict_violation', HINT = 'Suspend it (registryd messenger suspend NAME): what it is owed is still delivered.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION registry.refuse_deleting_bound_messenger IS 'Refuses to delete a messenger that is owed something or has bindings: the duty, or its proof, would be lost.';

CREATE OR REPLACE FUNCTION registry.open_lane() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.lane (messenger_id) VALUES (NEW.messenger_id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.open_lane IS 'Gives every messenger a lane, by whatever path it was added.';

CREATE OR REPLACE FUNCTION registry.refuse_changing_outcome() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the outcome of action % is known and stays', OLD.action_id USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION registry.refuse_changing_outcome IS 'Keeps what is written of an action: its outcome is written once.';

CREATE OR REPLACE FUNCTION registry.limit_live_keys() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM registry.messenger AS m WHERE m.messenger_id = NEW.messenger_id FOR NO KEY UPDATE;
    IF (SELECT count(*) FROM registry.messenger_key AS k
         WHERE k.messenger_id = NEW.messenger_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())) > 2 THEN
        RAISE EXCEPTION 'a messenger has two live keys at most'
            USING ERRCODE = 'restrict_violation', HINT = 'Revoke the older one, or let it expire, before making another.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.limit_live_keys IS 'Refuses a third live key. Two are what a rotation needs; a third would be one that nobody tracks.';

CREATE OR REPLACE FUNCTION registry.limit_live_operator_keys() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('operator key ' || NEW.name, 0));
    IF (SELECT count(*) FROM registry.operator_key AS k
         WHERE k.name = NEW.name AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())) > 2 THEN
        RAISE EXCEPTION 'an operator has two live keys at most'
            USING ERRCODE = 'restrict_violation', HINT = 'Revoke the older one, or let it expire, before making another.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.limit_live_operator_keys IS 'The same for the keys of one name of the operator API.';

CREATE OR REPLACE FUNCTION registry.end_long_reports(longest interval) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))
      FROM pg_catalog.pg_stat_activity AS a
     -- Sessions in other databases are no reports of this registry, and lock nothing here.
     WHERE a.datname = current_database()
       AND (a.usename = 'registryd_report'
            -- A superuser counts as a member of every role, so also of the owner, and is spared.
            OR (pg_has_role(a.usesysid, 'registryd_report', 'MEMBER')
                AND NOT pg_has_role(a.usesysid, 'registryd_owner', 'MEMBER') AND NOT pg_has_role(a.usesysid, 'registryd_app', 'MEMBER')))
       AND (a.xact_start < clock_timestamp() - longest
            OR EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory'))
       -- A look reads the whole journal, and ends are undone for minutes, under the lock of the break-glass log or of the feed.
       AND NOT (pg_has_role(a.usesysid, 'registryd_breakglass', 'MEMBER')
                AND EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                             WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.objsubid = 1
                               AND l.classid::bigint << 32 | l.objid::bigint
                                   IN (hashtextextended('registry.breakglass_event', 0), hashtextextended('registry.feed', 0))))
$$;
COMMENT ON FUNCTION registry.end_long_reports IS 'Ends sessions in this database, of registryd_report and of persons who are granted it, whose transaction takes longer than this or that hold an advisory lock, for which a job might wait. A role can switch off its own statement_timeout. Sessions of the owner''s and the daemon''s roles are spared, and those that carry out a break-glass request. Returns how many were ended.';
