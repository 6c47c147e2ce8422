-- The enumeration guard: who searches for subscribers instead of identifying its users, and what is done about it.
--
-- The daemon judges in memory (registryd/domain/enumeration.py says how) and brings its alarms here about once a second, so that all
-- workers throttle the same messengers, a restart forgets none, and the operator sees and clears them. Its measures are the policy's,
-- because they weigh the secrecy of the subscriber databases against the duty to answer.

ALTER TABLE registry.policy
    ADD COLUMN honest_absent_ratio      numeric NOT NULL DEFAULT 0.03,
    ADD COLUMN scan_absent_ratio        numeric NOT NULL DEFAULT 0.40,
    ADD COLUMN honest_density           numeric NOT NULL DEFAULT 0.70,
    ADD COLUMN honest_queries_per_alarm bigint NOT NULL DEFAULT 1000000000000,
    ADD COLUMN alarm_lasts              interval NOT NULL DEFAULT '1 hour',
    ADD COLUMN alarm_queries_per_minute integer NOT NULL DEFAULT 60,
    ADD CONSTRAINT scans_miss_more_than_honest_messengers
        CHECK (honest_absent_ratio > 0 AND scan_absent_ratio > honest_absent_ratio AND scan_absent_ratio < 1),
    ADD CONSTRAINT scans_are_denser_than_honest_messengers CHECK (honest_density > 0 AND honest_density <= 0.95),
    ADD CONSTRAINT false_alarms_are_rare CHECK (honest_queries_per_alarm >= 1000),
    ADD CONSTRAINT alarms_end CHECK (alarm_lasts > '0' AND alarm_lasts <= '30 days'),
    ADD CONSTRAINT alarms_slow_and_do_not_stop CHECK (alarm_queries_per_minute >= 1);
COMMENT ON COLUMN registry.policy.honest_absent_ratio IS 'Which share of absent answers an honest messenger has: its users have just typed a code from an SMS. Raise it before a first wave of an old user base.';
COMMENT ON COLUMN registry.policy.scan_absent_ratio IS 'Which share of absent answers a scan has at least. The nearer to the honest one, the longer a scan goes on unseen.';
COMMENT ON COLUMN registry.policy.honest_density IS 'How likely it is at most, in the densest part of the numbering, that the number after a user''s is one of the same messenger''s users. Decides how many consecutive numbers are an alarm: 82 at 0.7.';
COMMENT ON COLUMN registry.policy.honest_queries_per_alarm IS 'How many queries of honest messengers there are at least, on average, for each false alarm.';
COMMENT ON COLUMN registry.policy.alarm_lasts IS 'How long a messenger is slowed down after the last sign.';
COMMENT ON COLUMN registry.policy.alarm_queries_per_minute IS 'How many numbers each worker still answers it in a minute meanwhile, so that single users are identified in time. 2147483647: alarms are told and slow nobody.';

CREATE TYPE registry.alarm_kind AS ENUM ('absent', 'consecutive', 'canary');

CREATE TABLE registry.enumeration_alarm (
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    raised_at    timestamptz NOT NULL DEFAULT now(),
    kind         registry.alarm_kind NOT NULL,
    ends_at      timestamptz NOT NULL,
    signs        integer NOT NULL DEFAULT 1 CHECK (signs >= 1),
    cleared_at   timestamptz,
    PRIMARY KEY (messenger_id, raised_at, kind),
    CONSTRAINT alarms_end_after_they_began CHECK (ends_at > raised_at),
    CONSTRAINT alarms_are_cleared_after_they_began CHECK (cleared_at >= raised_at)
);
COMMENT ON TABLE registry.enumeration_alarm IS 'Messengers whose queries looked like a search for subscribers. In force, that is slowed down to the policy''s alarm_queries_per_minute: until ends_at, or until cleared_at is set.';
COMMENT ON COLUMN registry.enumeration_alarm.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.enumeration_alarm.raised_at IS 'When the first sign reached the database.';
COMMENT ON COLUMN registry.enumeration_alarm.kind IS 'absent (too many absent answers), consecutive (numbers in a row) or canary (a number never issued to anyone).';
COMMENT ON COLUMN registry.enumeration_alarm.ends_at IS 'When it ends; each further sign moves it.';
COMMENT ON COLUMN registry.enumeration_alarm.signs IS 'How often the sign was seen: more than once means that the search went on while it was slowed down.';
COMMENT ON COLUMN registry.enumeration_alarm.cleared_at IS 'When the operator ended it (registryd messenger clear-alarm, or a DBA by setting this).';

CREATE TABLE registry.canary_number (
    msisdn   bigint PRIMARY KEY CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    added_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.canary_number IS 'Numbers that were never issued to anyone: no user can have one, so whoever asks for one is searching. They answer absent like any other. One that has a contract, or ever had, counts no more. Hundreds, some thousands at most: each worker reads them every second.';
COMMENT ON COLUMN registry.canary_number.msisdn IS 'The number. Keep it to yourselves.';
COMMENT ON COLUMN registry.canary_number.added_at IS 'When it was added.';

GRANT SELECT, INSERT, UPDATE (ends_at, signs, cleared_at) ON registry.enumeration_alarm TO registryd_app;
GRANT SELECT ON registry.canary_number TO registryd_app;
