-- What no path can break: the ends of contracts, the bindings on them, and what is owed for them.
--
-- A contract ends when somebody sets ended_at: the event API, an import, or a DBA in psql. In that same statement its bindings end and
-- one notification is written for each (notify_messengers_of_ends). The work is done once a statement, from the transition table, so
-- that a million ends are one statement too. The plan is made anew for each statement (EXECUTE), because a plan that PL/pgSQL
-- remembers from a statement of one row is quadratic for one of a million.
--
-- The other direction is closed by a lock: a binding is written only while a share lock keeps its contract from ending
-- (guard_new_bindings). An end that comes meanwhile waits, and then sees the binding. That argument needs READ COMMITTED, where each
-- statement sees what was committed before it; ends under a stricter isolation are refused.
--
-- Every refusal says what to do, and none quotes a number.

CREATE FUNCTION registry.id_at(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(floor(extract(epoch FROM at) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$$;
COMMENT ON FUNCTION registry.id_at IS 'A new UUID that begins with the time in milliseconds (RFC 9562 version 7).';

CREATE FUNCTION registry.time_of(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT 'epoch'::timestamptz + ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint * interval '1 millisecond' $$;
COMMENT ON FUNCTION registry.time_of IS 'The time that a UUID of registry.id_at, or a query''s id, begins with.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Contracts: starting and ending

CREATE FUNCTION registry.explain_second_live_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    live smallint;
BEGIN
    SELECT c.generation INTO live FROM registry.contract AS c WHERE c.msisdn = NEW.msisdn AND c.ended_at IS NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'this number has a live contract already (generation %)', live
            USING ERRCODE = 'unique_violation', TABLE = 'contract', SCHEMA = 'registry', CONSTRAINT = 'contract_live',
                  HINT = 'End it first (UPDATE registry.contract SET ended_at = now(), end_reason = ''holder_changed'' WHERE …), then insert the next generation.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.explain_second_live_contract IS 'The unique index contract_live refuses a second live contract; this says what to do about it.';

-- The index alone holds the rule. A bulk load sets registry.bulk_load = 'on' for its transaction to be spared the friendlier words.
CREATE TRIGGER explain_second_live_contract BEFORE INSERT ON registry.contract
    FOR EACH ROW WHEN (NEW.ended_at IS NULL AND current_setting('registry.bulk_load', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION registry.explain_second_live_contract();

CREATE FUNCTION registry.refuse_reopening() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'this contract has ended, and ended is final (generation %)', OLD.generation
        USING ERRCODE = 'restrict_violation',
              HINT = 'Insert a contract of the next generation instead: the messengers have been notified that this one ended.';
END
$$;
COMMENT ON FUNCTION registry.refuse_reopening IS 'Ended is final: a restored subscriber gets the next generation.';
CREATE TRIGGER refuse_reopening BEFORE UPDATE ON registry.contract
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL)
    EXECUTE FUNCTION registry.refuse_reopening();

CREATE FUNCTION registry.refuse_renumbering() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'a contract keeps its number and generation'
        USING ERRCODE = 'restrict_violation',
              HINT = 'End this contract and insert one for the other number: bindings belong to a number and generation.';
END
$$;
COMMENT ON FUNCTION registry.refuse_renumbering IS 'Bindings and notifications name a contract by number and generation, so these never change.';
CREATE TRIGGER refuse_renumbering BEFORE UPDATE ON registry.contract
    FOR EACH ROW WHEN (OLD.msisdn <> NEW.msisdn OR OLD.generation <> NEW.generation)
    EXECUTE FUNCTION registry.refuse_renumbering();

CREATE FUNCTION registry.complete_end() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.ended_at := coalesce(NEW.ended_at, greatest(now(), NEW.started_at));
    NEW.status := 'ended';
    NEW.end_reason := coalesce(NEW.end_reason, 'terminated');
    IF NEW.ended_at < NEW.started_at THEN
        RAISE EXCEPTION 'ended_at lies before started_at'
            USING ERRCODE = 'check_violation', HINT = 'A contract ends after it has started: set ended_at to when it ended.';
    END IF;
    IF NEW.ended_at > clock_timestamp() + interval '5 minutes' THEN
        RAISE EXCEPTION 'ended_at lies in the future'
            USING ERRCODE = 'check_violation', HINT = 'A contract ends when it has ended: set ended_at then. It takes effect at once.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.complete_end IS 'Setting ended_at (or status) is enough to end a contract: this fills the rest.';
CREATE TRIGGER complete_end BEFORE UPDATE ON registry.contract
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND (NEW.ended_at IS NOT NULL OR NEW.status = 'ended'))
    EXECUTE FUNCTION registry.complete_end();

CREATE FUNCTION registry.notify_messengers_of_ends() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- An ended row cannot be updated (refuse_reopening), so every ended row here ended in this very statement.
    IF NOT EXISTS (SELECT FROM changed WHERE ended_at IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'contracts are ended in READ COMMITTED transactions only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'A stricter isolation would not see a binding that was recorded meanwhile, and its messenger would never be notified.';
    END IF;
    EXECUTE $fan_out$
        WITH ended AS (
            UPDATE registry.binding AS b
               SET ended_at = greatest(c.ended_at, b.bound_at), end_reason = 'terminated'
              FROM changed AS c
             WHERE c.ended_at IS NOT NULL
               AND b.msisdn = c.msisdn AND b.generation = c.generation AND b.ended_at IS NULL
            RETURNING b.messenger_id, b.generation, b.msisdn, b.identification_code, c.ended_at AS terminated_at
        ), owed AS (
            SELECT e.*, date_trunc('milliseconds', e.terminated_at + coalesce(
                       (SELECT p.notice_within FROM registry.policy_in_force(e.terminated_at) AS p), interval '24 hours')) AS deadline_at
              FROM ended AS e
        )
        INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code)
        SELECT o.messenger_id, o.generation, o.deadline_at, registry.id_at(o.deadline_at), o.msisdn, o.terminated_at, o.identification_code
          FROM owed AS o
    $fan_out$;
    EXECUTE $count$
        INSERT INTO registry.contract_movement (day, terminated, ported_out, holder_changed)
        SELECT (c.ended_at AT TIME ZONE 'UTC')::date, count(*) FILTER (WHERE c.end_reason = 'terminated'),
               count(*) FILTER (WHERE c.end_reason = 'ported_out'), count(*) FILTER (WHERE c.end_reason = 'holder_changed')
          FROM changed AS c WHERE c.ended_at IS NOT NULL GROUP BY 1
    $count$;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.notify_messengers_of_ends IS 'Decree 1801 of 2021: whatever path ends a contract, its bindings end and a notification is owed for each, in the same transaction.';
CREATE TRIGGER notify_messengers_of_ends AFTER UPDATE ON registry.contract
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.notify_messengers_of_ends();

CREATE FUNCTION registry.count_new_contracts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    EXECUTE $count$
        INSERT INTO registry.contract_movement (day, activated, terminated, ported_out, holder_changed)
        SELECT m.day, sum(m.activated), sum(m.terminated), sum(m.ported_out), sum(m.holder_changed)
          FROM (SELECT (c.started_at AT TIME ZONE 'UTC')::date AS day, 1 AS activated, 0 AS terminated, 0 AS ported_out, 0 AS holder_changed
                  FROM added AS c
                UNION ALL
                SELECT (c.ended_at AT TIME ZONE 'UTC')::date, 0, (c.end_reason = 'terminated')::int, (c.end_reason = 'ported_out')::int,
                       (c.end_reason = 'holder_changed')::int
                  FROM added AS c WHERE c.ended_at IS NOT NULL) AS m
         GROUP BY m.day
    $count$;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_new_contracts IS 'Appends to contract_movement what a statement inserted.';
CREATE TRIGGER count_new_contracts AFTER INSERT ON registry.contract
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_new_contracts();

CREATE FUNCTION registry.refuse_deleting_bound_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.binding AS b WHERE b.msisdn = OLD.msisdn AND b.generation = OLD.generation) THEN
        RAISE EXCEPTION 'this contract has bindings and cannot be deleted (generation %)', OLD.generation
            USING ERRCODE = 'restrict_violation',
                  HINT = 'End it instead: UPDATE registry.contract SET ended_at = now() WHERE …; its messengers are then notified.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION registry.refuse_deleting_bound_contract IS 'Deleting a bound contract would lose the duty to notify, or its proof.';
CREATE TRIGGER refuse_deleting_bound_contract BEFORE DELETE ON registry.contract
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_deleting_bound_contract();

CREATE FUNCTION registry.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'registry.% is not truncated: it is evidence', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Retention is by policy: rows and partitions leave when their period is over.';
END
$$;
COMMENT ON FUNCTION registry.refuse_truncate IS 'TRUNCATE would slip past the row triggers.';
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.contract FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.binding FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification_delivered FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.journal_page FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Bindings stand on live contracts

CREATE FUNCTION registry.guard_new_bindings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    wanted bigint;
    held   bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM added WHERE ended_at IS NULL' INTO wanted;
    IF wanted = 0 THEN
        RETURN NULL;
    END IF;
    EXECUTE $hold$
        SELECT count(*) FROM (
            SELECT FROM added AS a
              JOIN registry.contract AS c ON c.msisdn = a.msisdn AND c.generation = a.generation AND c.ended_at IS NULL
             WHERE a.ended_at IS NULL AND EXISTS (SELECT FROM registry.messenger AS m WHERE m.messenger_id = a.messenger_id)
             ORDER BY c.msisdn
               FOR SHARE OF c) AS held
    $hold$ INTO held;
    IF held <> wanted THEN
        RAISE EXCEPTION 'a binding needs a live contract and a known messenger'
            USING ERRCODE = 'restrict_violation', TABLE = 'binding', SCHEMA = 'registry',
                  HINT = 'The contract has ended or never was, or messenger_id is unknown. Bind to the number''s live generation.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.guard_new_bindings IS 'Holds the contracts of new bindings against ending until commit, so that no end can miss a binding.';
CREATE TRIGGER guard_new_bindings AFTER INSERT ON registry.binding
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION registry.guard_new_bindings();

CREATE FUNCTION registry.refuse_binding_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'a binding is never changed, only ended'
        USING ERRCODE = 'restrict_violation', HINT = 'Set ended_at and end_reason together, once, and insert a new binding.';
END
$$;
COMMENT ON FUNCTION registry.refuse_binding_change IS 'active -> ended is the only move of a binding; a live one is not deleted either.';
CREATE TRIGGER refuse_binding_change BEFORE UPDATE ON registry.binding
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL OR OLD.msisdn <> NEW.msisdn OR OLD.generation <> NEW.generation
                       OR OLD.messenger_id <> NEW.messenger_id OR OLD.identification_code <> NEW.identification_code
                       OR OLD.bound_at <> NEW.bound_at)
    EXECUTE FUNCTION registry.refuse_binding_change();
-- A live binding that is gone would never be notified. Ended ones leave by retention.
CREATE TRIGGER refuse_deleting_live_binding BEFORE DELETE ON registry.binding
    FOR EACH ROW WHEN (OLD.ended_at IS NULL)
    EXECUTE FUNCTION registry.refuse_binding_change();

CREATE FUNCTION registry.refuse_deleting_bound_messenger() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.binding AS b WHERE b.messenger_id = OLD.messenger_id AND b.ended_at IS NULL)
       OR EXISTS (SELECT FROM registry.binding AS b WHERE b.messenger_id = OLD.messenger_id AND b.ended_at IS NOT NULL)
       OR EXISTS (SELECT FROM registry.notification AS n WHERE n.messenger_id = OLD.messenger_id) THEN
        RAISE EXCEPTION 'messenger % has bindings or notifications and cannot be deleted', OLD.name
            USING ERRCODE = 'restrict_violation', HINT = 'Suspend it (registryd messenger suspend NAME): what it is owed is still delivered.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION registry.refuse_deleting_bound_messenger IS 'Deleting a messenger would lose what it is owed.';
CREATE TRIGGER refuse_deleting_bound_messenger BEFORE DELETE ON registry.messenger
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_deleting_bound_messenger();

CREATE FUNCTION registry.open_lane() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.lane (messenger_id) VALUES (NEW.messenger_id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.open_lane IS 'Every messenger has its lane, by whatever path it was added.';
CREATE TRIGGER open_lane AFTER INSERT ON registry.messenger FOR EACH ROW EXECUTE FUNCTION registry.open_lane();

CREATE FUNCTION registry.limit_live_keys() RETURNS trigger
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
COMMENT ON FUNCTION registry.limit_live_keys IS 'Two live keys are what a rotation needs; a third would be one that nobody tracks.';
CREATE TRIGGER limit_live_keys AFTER INSERT OR UPDATE OF messenger_id, expires_at, revoked_at ON registry.messenger_key
    FOR EACH ROW EXECUTE FUNCTION registry.limit_live_keys();

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Notifications leave by being delivered, and by nothing else

CREATE FUNCTION registry.settle_delivered(messenger integer, ids uuid[], channel registry.delivery_channel) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- In the order of the ids, so that a push and a pull that settle the same ones at once wait for each other, and never in a circle.
    WITH gone AS (
        DELETE FROM registry.notification AS n
         USING (SELECT DISTINCT u.id FROM unnest(ids) AS u(id) ORDER BY u.id) AS i
         WHERE n.messenger_id = messenger AND n.deadline_at = registry.time_of(i.id) AND n.notification_id = i.id
        RETURNING n.*
    ), kept AS (
        INSERT INTO registry.notification_delivered (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, terminated_at,
                                                     recorded_at, via, identification_code)
        SELECT g.messenger_id, g.generation, least(g.attempts + (channel = 'push')::int, 32767), g.deadline_at, g.notification_id, g.msisdn, g.terminated_at,
               g.recorded_at, channel, g.identification_code
          FROM gone AS g
        RETURNING 1
    )
    SELECT count(*) FROM kept
$$;
COMMENT ON FUNCTION registry.settle_delivered IS 'Moves delivered notifications of one messenger to notification_delivered: the only way out of registry.notification. Returns how many moved; others'' ids and settled ids are ignored.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Days: partitions are made ahead; a default partition catches what they would not, so that no answer fails for want of one.

CREATE TABLE registry.journal_page_default PARTITION OF registry.journal_page DEFAULT;
CREATE TABLE registry.notification_delivered_default PARTITION OF registry.notification_delivered DEFAULT;
CREATE TABLE registry.delivery_attempt_default PARTITION OF registry.delivery_attempt DEFAULT;

CREATE FUNCTION registry.first_id_of(day date) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT (lpad(to_hex((extract(epoch FROM day) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;
COMMENT ON FUNCTION registry.first_id_of IS 'The lowest time-ordered id of a day (UTC): where a partition of the journal begins.';

CREATE FUNCTION registry.make_partitions(first_day date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    family record;
    day    date;
    made   integer := 0;
BEGIN
    -- One at a time: workers race here once an hour.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.make_partitions', 0));
    FOR family IN SELECT * FROM (VALUES ('journal_page', 'page_id'), ('notification_delivered', 'delivered_at'),
                                        ('delivery_attempt', 'attempted_at')) AS families(name, key) LOOP
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            CONTINUE WHEN to_regclass(format('registry.%I', family.name || to_char(day, '_YYYYMMDD'))) IS NOT NULL;
            -- Made apart and then attached: that stops no writer, and what the default partition caught of this day moves over, where
            -- it would otherwise forbid the day its partition for ever.
            EXECUTE format($make$
                CREATE TABLE registry.%1$I (LIKE registry.%2$I INCLUDING ALL);
                WITH caught AS (DELETE FROM registry.%3$I WHERE %4$I >= %5$L AND %4$I < %6$L RETURNING *)
                INSERT INTO registry.%1$I SELECT * FROM caught;
                ALTER TABLE registry.%2$I ATTACH PARTITION registry.%1$I FOR VALUES FROM (%5$L) TO (%6$L)
            $make$, family.name || to_char(day, '_YYYYMMDD'), family.name, family.name || '_default', family.key,
                CASE family.key WHEN 'page_id' THEN registry.first_id_of(day)::text ELSE day::text END,
                CASE family.key WHEN 'page_id' THEN registry.first_id_of(day + 1)::text ELSE (day + 1)::text END);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION registry.make_partitions IS 'Makes the daily partitions of the journal, deliveries and attempts that are missing; returns how many it made.';

-- The journal as one row a query. An id leads to its page by the primary key: registry.find_query.
CREATE VIEW registry.presence_query AS
SELECT (left(p.page_id::text, 32) || lpad(to_hex(q.index), 4, '0'))::uuid AS query_id,
       p.messenger_id,
       substring(p.digests FROM 16 * q.index + 1 FOR 16) AS msisdn_digest,
       get_bit(p.present, q.index) = 1 AS present,
       p.received_at,
       p.answered_at
  FROM registry.journal_page AS p
 CROSS JOIN LATERAL generate_series(0, p.queries - 1) AS q(index);
COMMENT ON VIEW registry.presence_query IS 'The journal of presence queries, one row a query.';
COMMENT ON COLUMN registry.presence_query.query_id IS 'The id the messenger was told.';
COMMENT ON COLUMN registry.presence_query.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.presence_query.msisdn_digest IS 'Keyed digest of the number.';
COMMENT ON COLUMN registry.presence_query.present IS 'The answer.';
COMMENT ON COLUMN registry.presence_query.received_at IS 'When the query''s page was opened.';
COMMENT ON COLUMN registry.presence_query.answered_at IS 'When the answer was decided.';

CREATE FUNCTION registry.find_query(id uuid) RETURNS SETOF registry.presence_query
LANGUAGE sql STABLE
AS $$
    SELECT id, p.messenger_id, substring(p.digests FROM 16 * i.index + 1 FOR 16), get_bit(p.present, i.index) = 1, p.received_at, p.answered_at
      FROM registry.journal_page AS p,
           LATERAL (SELECT ('x' || right(id::text, 4))::bit(16)::int AS index) AS i
     WHERE p.page_id = (left(id::text, 32) || '0000')::uuid AND i.index < p.queries
$$;
COMMENT ON FUNCTION registry.find_query IS 'One query by its id: one probe of the primary key.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Who may do what. Everything else is refused.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA registry FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

GRANT USAGE ON SCHEMA registry TO registryd_app;
GRANT SELECT ON registry.schema_migration, registry.policy, registry.numbering_range TO registryd_app;
GRANT INSERT, DELETE ON registry.numbering_range TO registryd_app;
GRANT SELECT, INSERT, UPDATE (status, holder, end_user, ended_at, end_reason) ON registry.contract TO registryd_app;
GRANT SELECT, INSERT ON registry.feed_event TO registryd_app;
GRANT SELECT, INSERT, UPDATE (endpoint_url, batch_max, includes_phone_number, daily_quota, certificate_sha256, state, suspended_at)
    ON registry.messenger TO registryd_app;
GRANT SELECT, INSERT, UPDATE (expires_at, revoked_at, last_used_at) ON registry.messenger_key TO registryd_app;
GRANT SELECT, INSERT, UPDATE (expires_at) ON registry.messenger_secret TO registryd_app;
GRANT SELECT, INSERT, UPDATE (ended_at, end_reason) ON registry.binding TO registryd_app;
GRANT INSERT ON registry.journal_page TO registryd_app;
GRANT SELECT, INSERT, UPDATE (used, absent) ON registry.quota_usage TO registryd_app;
GRANT SELECT, UPDATE (attempts, not_before, last_error) ON registry.notification TO registryd_app;
GRANT SELECT ON registry.notification_delivered TO registryd_app;
GRANT SELECT, INSERT ON registry.delivery_attempt TO registryd_app;
GRANT SELECT, UPDATE (owner, token, lease_until, gate_until, failures, last_error, last_success_at) ON registry.lane TO registryd_app;
GRANT EXECUTE ON FUNCTION
    registry.policy_in_force(timestamptz),
    registry.is_present(registry.contract_status, registry.holder, registry.end_user, registry.organisation_rule, boolean),
    registry.time_of(uuid),
    registry.settle_delivered(integer, uuid[], registry.delivery_channel),
    registry.make_partitions(date, integer)
    TO registryd_app;
GRANT USAGE ON SCHEMA report TO registryd_report, registryd_app;
