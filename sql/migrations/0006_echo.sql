-- The echo of a notification: the messenger asks again.
--
-- Who is notified that a contract ended identifies its user anew, within 20 minutes by the same decree: each notification comes back as
-- a presence query. After a mass termination the notifications therefore leave no faster than the queries can be answered, unless half of
-- the notice period is gone: then the deadline goes before.

-- Two cores answer 8,000 single queries a second and more: most of that, and room for the day's own queries.
ALTER TABLE registry.policy ADD COLUMN echo_per_s integer DEFAULT 5000 CHECK (echo_per_s > 0);
COMMENT ON COLUMN registry.policy.echo_per_s IS 'How many notifications a second the workers push together to messengers with a backlog, until half of the notice period is gone: each makes its messenger ask again within answer_within (Decree 1801 of 2021). NULL: no bound.';
