-- The law in force, and its history. A policy that has begun cannot be changed, deleted or preceded by another: deadlines were told and lateness
-- was judged by it. One that keeps something for less time cannot begin within a day.

CREATE OR REPLACE FUNCTION registry.policy_in_force(at timestamptz) RETURNS SETOF registry.policy
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
AS 'SELECT p.* FROM registry.policy AS p WHERE p.effective_from <= at ORDER BY p.effective_from DESC LIMIT 1';
COMMENT ON FUNCTION registry.policy_in_force IS 'The policy in force at a time. There is no row where none was in force yet, so that nothing is answered without a rule.';

CREATE OR REPLACE FUNCTION registry.is_present(
    status registry.contract_status, unverified boolean, organisation_rule registry.organisation_rule, suspended_is_present boolean
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (status = 'active' OR (status = 'suspended' AND suspended_is_present)) AND (organisation_rule = 'subscriber' OR NOT unverified)
$$;
COMMENT ON FUNCTION registry.is_present IS 'Who counts as present: the rule that answers every query. The same rule in words: registryd/domain/presence.py; a test holds the two together.';

-- A row comes through change_policy or not at all: written by hand it would reset what its author forgot. The trigger reads who called it from
-- the stack, which no session can set, and which names the function in any language of the server's messages.
-- It stops a mistake, not an owner who means it: he may replace this function, and report.policy shows who wrote each row.
CREATE OR REPLACE FUNCTION registry.keep_policy_history() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stack  text;
    former registry.policy;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.effective_from <= now() THEN
        RAISE EXCEPTION 'a policy that has begun is history and stays as it is'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Add one that takes its place: SELECT registry.change_policy(''{"notice_within": "12 hours"}'', now(), ''why'').';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    IF NEW.effective_from < now() THEN
        RAISE EXCEPTION 'a policy begins now or later, never in the past'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'What was answered and notified until now was so under the policies of the time. Set effective_from to now() or later.';
    END IF;
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF TG_OP = 'UPDATE' OR strpos(stack, 'change_policy(jsonb,timestamp with time zone,text)') = 0 THEN
        RAISE EXCEPTION 'a policy is made by registry.change_policy alone, which repeats what you do not name'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'SELECT registry.change_policy(''{"notice_within": "12 hours"}'', now(), ''why''). One that is planned is deleted and made anew.';
    END IF;
    SELECT p.* INTO former FROM registry.policy_in_force(NEW.effective_from) AS p;
    -- What retention has deleted does not come back, so a slip of the pen (3 days for 3 years) must not be in force at once.
    IF NEW.effective_from < now() + interval '1 day'
       AND (now() - NEW.journal_kept > now() - former.journal_kept OR now() - NEW.notification_kept > now() - former.notification_kept
            OR now() - NEW.ended_kept > now() - former.ended_kept) THEN
        RAISE EXCEPTION 'a policy that keeps something for less time begins in a day at the earliest'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'What goes does not come back. Let it begin in a day or later (--from, effective_from); until then it can be deleted.';
    END IF;
    NEW.recorded_at := clock_timestamp();
    NEW.recorded_by := session_user;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.keep_policy_history IS 'Refuses to change, delete or precede a policy that has begun: deadlines were told and lateness was judged by it. Refuses every row that change_policy did not write, and one that keeps something for less time and begins within a day.';

CREATE OR REPLACE FUNCTION registry.change_policy(changes jsonb, effective_from timestamptz, note text) RETURNS SETOF registry.policy
LANGUAGE plpgsql SET search_path = registry, pg_temp
AS $$
DECLARE
    settable text[] := ARRAY(
        SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = 'registry.policy'::regclass AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attname NOT IN ('effective_from', 'note', 'recorded_at', 'recorded_by') ORDER BY a.attnum);
    unknown text;
BEGIN
    SELECT k.key INTO unknown FROM jsonb_object_keys(changes) AS k(key) WHERE k.key <> ALL (settable) ORDER BY k.key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the policy has no %', unknown
            USING ERRCODE = 'undefined_column', HINT = format('It has %s.', array_to_string(settable, ', '));
    END IF;
    RETURN QUERY
    INSERT INTO registry.policy
    SELECT n.*
      FROM registry.policy_in_force(change_policy.effective_from) AS p,
           jsonb_populate_record(p, changes || jsonb_build_object('effective_from', change_policy.effective_from, 'note', change_policy.note)) AS n
    RETURNING *;
END
$$;
COMMENT ON FUNCTION registry.change_policy IS 'Adds a policy in force from a time on: `changes` (column: value), and for the rest what would be in force then. Returns the new row.';
