-- The bound on ends: how many contracts may end in an hour before somebody must look.
--
-- Every path asks registry.ends_left() first. Billing's events beyond it wait, imports and policies stop, and what comes all the same, by SQL, is
-- written as held (ends.sql).

CREATE OR REPLACE FUNCTION registry.live_contracts() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT coalesce(sum(m.activated - m.terminated - m.ported_out - m.holder_changed), 0)::bigint FROM registry.contract_movement AS m $$;
COMMENT ON FUNCTION registry.live_contracts IS 'How many contracts are live, from what started and ended, without a look at the contracts.';

CREATE OR REPLACE FUNCTION registry.ends_bound() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT greatest(p.ends_max, ceil(p.ends_max_share * registry.live_contracts()))::bigint FROM registry.policy_in_force(now()) AS p
$$;
COMMENT ON FUNCTION registry.ends_bound IS 'How many contracts may end in an hour by the policy in force.';

CREATE OR REPLACE FUNCTION registry.ends_left() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT greatest(registry.ends_bound() - coalesce((SELECT sum(e.ends) FROM registry.ends_recorded AS e WHERE e.recorded_at > now() - interval '1 hour'), 0), 0)::bigint
           + coalesce((SELECT sum(a.ends - a.used) FROM registry.wave_allowance AS a WHERE a.until_at > now()), 0)::bigint
$$;
COMMENT ON FUNCTION registry.ends_left IS 'How many more contracts may end now: the policy''s bound less what ended in the last hour, and what allowances in force have left.';
