-- The registry: who holds which number, which messengers know them, who asked, and what is owed.
--
-- Families of tables, in the order below:
--   the law and the operator's numbers   policy, numbering_range, canary_number
--   what billing tells us                contract, feed_event
--   what messengers tell and ask us      messenger and its keys and secrets, binding, journal_page, quota_usage, enumeration_alarm
--   what we owe messengers               notification, notification_delivered, delivery_attempt, lane, replay, handover, digest, test_push
--   figures                              *_movement, delivered_day, attempt_day (appended by triggers, folded by the daemon), presence_day
--   evidence                             seal, digest_key, breakglass_event
--
-- An MSISDN is a bigint of E.164 digits without the plus. Nothing here holds a name, a document, an IMSI or a place.
-- Ids that travel on the wire are UUIDs that begin with a time in milliseconds (the layout of RFC 9562 version 7), so that they
-- neither count anything for an outsider nor scatter an index: journal_page's is the time of receipt, notification's its deadline.
-- Every hot table carries msisdn or messenger_id in its key, so that it could be distributed by it later.
--
-- What is a queue, or is updated all the time, is vacuumed by the number of its dead rows and without a pause. registry.contract is vacuumed
-- early, so that its primary key answers without a look at the table.
--
-- Here stands what cannot be replaced: tables, types, indexes, constraints, and below the line `-- code` the triggers, which need the
-- functions of sql/code. Who may do what stands in sql/grants.sql.
--
-- Run as registryd_owner (`registryd migrate`, or `SET ROLE registryd_owner` in psql) after sql/roles.sql.

-- Without these, which sql/roles.sql grants, the owner sees no person's transaction and may end none.
DO $roles$
BEGIN
    IF NOT pg_has_role('registryd_owner', 'pg_signal_backend', 'USAGE') OR NOT pg_has_role('registryd_owner', 'pg_read_all_stats', 'USAGE') THEN
        RAISE EXCEPTION 'registryd_owner may not end the sessions of those who are granted registryd_report'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Run sql/roles.sql again as a superuser.';
    END IF;
END
$roles$;

-- A function is for whom sql/grants.sql grants it to, and for nobody else.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE SCHEMA registry;
CREATE SCHEMA report;
CREATE SCHEMA breakglass;
COMMENT ON SCHEMA registry IS 'registryd: the daemon''s tables. Report from schema report instead: its views are kept stable.';
COMMENT ON SCHEMA report IS 'registryd: the DBA''s views. Numbers and codes are masked; names and columns are a contract.';
COMMENT ON SCHEMA breakglass IS 'registryd: unmasked look-ups of one number, for a reason, approved by a second person, logged before they answer.';

CREATE TABLE registry.schema_migration (
    version         integer PRIMARY KEY,
    checksum        bytea NOT NULL CHECK (octet_length(checksum) = 32),
    compatible_from integer NOT NULL CHECK (compatible_from <= version),
    applied_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.schema_migration IS 'Which files of sql/migrations were applied.';
COMMENT ON COLUMN registry.schema_migration.version IS 'The number a file''s name begins with.';
COMMENT ON COLUMN registry.schema_migration.checksum IS 'SHA-256 of the file as applied: a file that was edited since is refused.';
COMMENT ON COLUMN registry.schema_migration.compatible_from IS 'The oldest release, by the number of its newest migration, whose processes still work with the schema from here on.';
COMMENT ON COLUMN registry.schema_migration.applied_at IS 'When it was applied.';

CREATE TABLE registry.schema_code (
    name       text COLLATE "C" PRIMARY KEY,
    checksum   bytea NOT NULL CHECK (octet_length(checksum) = 32),
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.schema_code IS 'Which files of functions, views and grants were applied last: migrate applies those that differ.';
COMMENT ON COLUMN registry.schema_code.name IS 'The file, below sql/.';
COMMENT ON COLUMN registry.schema_code.checksum IS 'SHA-256 of the file as applied.';
COMMENT ON COLUMN registry.schema_code.applied_at IS 'When it was applied.';

CREATE TYPE registry.contract_status AS ENUM ('active', 'suspended', 'ended');
CREATE TYPE registry.holder AS ENUM ('individual', 'sole_trader', 'organisation');
CREATE TYPE registry.end_user AS ENUM ('not_required', 'registered', 'unregistered');
CREATE TYPE registry.end_reason AS ENUM ('terminated', 'ported_out', 'holder_changed');
CREATE TYPE registry.binding_end_reason AS ENUM ('terminated', 'replaced', 'removed');
CREATE TYPE registry.organisation_rule AS ENUM ('subscriber', 'verified_end_user');
CREATE TYPE registry.messenger_state AS ENUM ('active', 'suspended');
CREATE TYPE registry.secret_kind AS ENUM ('hmac_sha256', 'ed25519');
CREATE TYPE registry.delivery_channel AS ENUM ('push', 'pull', 'hand');
CREATE TYPE registry.delivery_outcome AS ENUM ('acknowledged', 'rejected', 'failed');
CREATE TYPE registry.feed_outcome AS ENUM ('applied', 'refused');
CREATE TYPE registry.alarm_kind AS ENUM ('absent', 'consecutive', 'canary');
CREATE TYPE registry.seal_kind AS ENUM ('begin', 'window', 'retention');
CREATE TYPE registry.breakglass_step AS ENUM ('requested', 'prepared', 'approved', 'looked');
CREATE TYPE registry.range_source AS ENUM ('register', 'hand');

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The law as dated data, and the operator's capacity

-- No column has a DEFAULT: a row that names less than the whole law is refused, where it would else reset the rest.
CREATE TABLE registry.policy (
    effective_from           timestamptz PRIMARY KEY,
    answer_within            interval NOT NULL CHECK (answer_within > '0'),
    notice_within            interval NOT NULL CHECK (notice_within > '0'),
    organisation_rule        registry.organisation_rule NOT NULL,
    suspended_is_present     boolean NOT NULL,
    journal_kept             interval NOT NULL CHECK (journal_kept >= '1 day'),
    notification_kept        interval NOT NULL CHECK (notification_kept >= '1 day'),
    note                     text NOT NULL CHECK (note <> ''),
    honest_absent_ratio      numeric NOT NULL,
    scan_absent_ratio        numeric NOT NULL,
    honest_density           numeric NOT NULL,
    honest_queries_per_alarm bigint NOT NULL,
    alarm_lasts              interval NOT NULL,
    alarm_queries_per_minute integer NOT NULL,
    echo_per_s               integer CHECK (echo_per_s > 0),
    alarm_slack              interval[] NOT NULL CHECK (cardinality(alarm_slack) > 0),
    ended_kept               interval NOT NULL CHECK (ended_kept >= '1 day'),
    recorded_at              timestamptz NOT NULL,
    recorded_by              text NOT NULL,
    CONSTRAINT scans_miss_more_than_honest_messengers
        CHECK (honest_absent_ratio > 0 AND scan_absent_ratio > honest_absent_ratio AND scan_absent_ratio < 1),
    CONSTRAINT scans_are_denser_than_honest_messengers CHECK (honest_density > 0 AND honest_density <= 0.95),
    CONSTRAINT false_alarms_are_rare CHECK (honest_queries_per_alarm >= 1000),
    CONSTRAINT alarms_end CHECK (alarm_lasts > '0' AND alarm_lasts <= '30 days'),
    CONSTRAINT alarms_slow_and_do_not_stop CHECK (alarm_queries_per_minute >= 1)
);
COMMENT ON TABLE registry.policy IS 'The rules in force from a date on. The row in force is the one with the latest effective_from not after now. A change is a new row, so the table is its own history.';
COMMENT ON COLUMN registry.policy.effective_from IS 'From when the row is in force, until the next row''s date.';
COMMENT ON COLUMN registry.policy.answer_within IS 'The time to answer a presence query, from its receipt (Decree 1801 of 2021: 20 minutes).';
COMMENT ON COLUMN registry.policy.notice_within IS 'The time to notify the messengers of a contract''s end, from the end (Decree 1801 of 2021: 24 hours).';
COMMENT ON COLUMN registry.policy.organisation_rule IS 'When a number held by an organisation or sole trader is present. subscriber: whenever its contract is live. verified_end_user: only when its end user is registered.';
COMMENT ON COLUMN registry.policy.suspended_is_present IS 'Whether a suspended contract counts as present. Its subscriber still holds the number.';
COMMENT ON COLUMN registry.policy.journal_kept IS 'How long the journal of presence queries is kept.';
COMMENT ON COLUMN registry.policy.notification_kept IS 'How long delivered notifications and delivery attempts are kept as proof.';
COMMENT ON COLUMN registry.policy.note IS 'Where the rule comes from.';
COMMENT ON COLUMN registry.policy.honest_absent_ratio IS 'The share of absent answers of an honest messenger, whose users have just typed a code from an SMS. Raise it before the first wave of an old user base.';
COMMENT ON COLUMN registry.policy.scan_absent_ratio IS 'The share of absent answers that a scan has at least. The nearer it is to the honest share, the longer a scan goes unseen.';
COMMENT ON COLUMN registry.policy.honest_density IS 'The probability, at most, that the number after a user''s belongs to another user of the same messenger, in the densest part of the numbering. It decides how many consecutive numbers raise an alarm: 82 at 0.7.';
COMMENT ON COLUMN registry.policy.honest_queries_per_alarm IS 'How many queries of honest messengers there are, on average and at least, between two false alarms.';
COMMENT ON COLUMN registry.policy.alarm_lasts IS 'How long a messenger is slowed down after the last sign.';
COMMENT ON COLUMN registry.policy.alarm_queries_per_minute IS 'How many numbers a minute each process still answers a messenger that is slowed down, so that single users are identified in time. 2147483647: alarms are raised, but slow nobody.';
COMMENT ON COLUMN registry.policy.echo_per_s IS 'How many notifications a second all processes together push to messengers with a backlog, until half of the notice period is gone. Each makes its messenger ask again, and those queries must be answered in time too. NULL: no bound.';
COMMENT ON COLUMN registry.policy.alarm_slack IS 'An alarm is raised when an owed notification has less time than this left to its deadline, once for each of these values.';
COMMENT ON COLUMN registry.policy.ended_kept IS 'How long ended contracts and ended bindings are kept, from their end.';
COMMENT ON COLUMN registry.policy.recorded_at IS 'When the row was written; set by the database.';
COMMENT ON COLUMN registry.policy.recorded_by IS 'Which database user wrote it; set by the database.';
INSERT INTO registry.policy VALUES (
    '2022-03-01 00:00:00+03', '20 minutes', '24 hours', 'verified_end_user', true, '3 years', '3 years',
    'Decree 1801 of 2021-10-20, in force from 2022-03-01; it lapses in March 2028: add the row of its successor before then.',
    0.03, 0.40, 0.70, 1000000000000, '1 hour', 60, 5000, '{22 hours,12 hours,1 hour,0}', '3 years', now(), session_user
);

CREATE TABLE registry.numbering_range (
    first_msisdn bigint PRIMARY KEY CHECK (first_msisdn BETWEEN 10000 AND 999999999999999),
    last_msisdn  bigint NOT NULL CHECK (last_msisdn BETWEEN first_msisdn AND 999999999999999),
    region       text NOT NULL DEFAULT '',
    note         text NOT NULL DEFAULT '',
    source       registry.range_source NOT NULL DEFAULT 'hand',
    CONSTRAINT numbering_ranges_do_not_overlap EXCLUDE USING gist (int8range(first_msisdn, last_msisdn, '[]') WITH &&)
);
COMMENT ON TABLE registry.numbering_range IS 'The operator''s allocated numbering capacity (DEF codes). Empty means unchecked; else a number outside answers absent. Numbers ported in need a range of their own.';
COMMENT ON COLUMN registry.numbering_range.first_msisdn IS 'The first number of the range.';
COMMENT ON COLUMN registry.numbering_range.last_msisdn IS 'The last number of the range, itself included.';
COMMENT ON COLUMN registry.numbering_range.region IS 'The region the regulator names.';
COMMENT ON COLUMN registry.numbering_range.note IS 'Where the row comes from.';
COMMENT ON COLUMN registry.numbering_range.source IS 'register: an import of the regulator''s register wrote the row, and the next one replaces it. hand: SQL did, or a list of the operator''s own; a register leaves it as it is.';

CREATE TABLE registry.canary_number (
    msisdn   bigint PRIMARY KEY CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    added_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.canary_number IS 'Numbers that were never issued to anyone. No user can have one, so whoever asks for one is searching. They answer absent like any other number. One that has or had a contract does not count. Keep to some thousands: each process reads all of them every second.';
COMMENT ON COLUMN registry.canary_number.msisdn IS 'The number. Keep it to yourselves.';
COMMENT ON COLUMN registry.canary_number.added_at IS 'When it was added.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What billing tells us

-- The widest columns come first, so that alignment wastes nothing. Measured with its indexes, a contract takes 117 bytes as a snapshot brings it,
-- and 125 once an event or a person has changed it (recorded_at).
CREATE TABLE registry.contract (
    msisdn      bigint NOT NULL CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    started_at  timestamptz NOT NULL,
    recorded_at timestamptz DEFAULT now(),
    status      registry.contract_status NOT NULL,
    holder      registry.holder NOT NULL,
    end_user    registry.end_user NOT NULL,
    generation  smallint NOT NULL CHECK (generation >= 1),
    ended_at    timestamptz,
    end_reason  registry.end_reason,
    unverified  boolean NOT NULL GENERATED ALWAYS AS (end_user = 'unregistered') STORED,
    -- The index that answers queries, without a look at the table: a number's live contract is its highest generation. The two further columns
    -- fill bytes that alignment would waste; end_user itself, of four bytes, would cost eight more.
    PRIMARY KEY (msisdn, generation) INCLUDE (unverified, status) WITH (fillfactor = 100),
    CONSTRAINT ended_contracts_say_when_and_why
        CHECK ((status = 'ended') = (ended_at IS NOT NULL) AND (ended_at IS NULL) = (end_reason IS NULL)),
    CONSTRAINT contracts_end_after_they_start CHECK (ended_at >= started_at),
    CONSTRAINT individuals_are_their_own_end_user CHECK ((holder = 'individual') = (end_user = 'not_required'))
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.01);
CREATE UNIQUE INDEX contract_live ON registry.contract (msisdn) WITH (fillfactor = 100) WHERE ended_at IS NULL;
-- Retention and reports walk ended contracts by time.
CREATE INDEX contract_ended ON registry.contract (ended_at) WHERE ended_at IS NOT NULL;
COMMENT ON TABLE registry.contract IS 'One MSISDN held by one subscriber over one period. Set ended_at to end it: bindings end and notifications are written in the same transaction. Ended is final. A number has one live contract at most: end that one before you insert the next generation.';
COMMENT ON COLUMN registry.contract.msisdn IS 'The number: E.164 digits without the plus.';
COMMENT ON COLUMN registry.contract.started_at IS 'When the holder got the number.';
COMMENT ON COLUMN registry.contract.recorded_at IS 'When an event, an import of a history or a person last changed the contract. NULL: it is as the newest snapshot has it (registry.last_snapshot).';
COMMENT ON COLUMN registry.contract.status IS 'active, suspended or ended. Ended is final: a restored subscriber gets the next generation.';
COMMENT ON COLUMN registry.contract.holder IS 'Who holds the contract. With policy.organisation_rule it decides whether an end user must be registered.';
COMMENT ON COLUMN registry.contract.end_user IS 'Whether the person who uses an organisation''s number is registered; not_required for individuals.';
COMMENT ON COLUMN registry.contract.generation IS 'Counts the holders of the number, from 1. It keeps a late notice from hitting the next holder.';
COMMENT ON COLUMN registry.contract.ended_at IS 'When the contract ended; the notice period runs from here (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.contract.end_reason IS 'terminated, ported_out or holder_changed; never told to a messenger.';
COMMENT ON COLUMN registry.contract.unverified IS 'Whether the end user should be registered and is not. An answer needs no more of end_user, and this fits into the primary key''s index.';

CREATE TABLE registry.last_snapshot (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    as_of timestamptz NOT NULL
);
COMMENT ON TABLE registry.last_snapshot IS 'The newest snapshot of billing''s that was applied: one row, none before the first. An older one changes nothing.';
COMMENT ON COLUMN registry.last_snapshot.one IS 'There is one row.';
COMMENT ON COLUMN registry.last_snapshot.as_of IS 'When it was taken.';

CREATE TABLE registry.feed_event (
    event_id    text COLLATE "C" PRIMARY KEY CHECK (event_id ~ '^[!-~]{1,128}$'),
    type        text NOT NULL,
    content     bytea NOT NULL CHECK (octet_length(content) = 16),
    outcome     registry.feed_outcome NOT NULL,
    reason      text,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((outcome = 'refused') = (reason IS NOT NULL))
);
CREATE INDEX feed_event_recorded ON registry.feed_event (recorded_at);
COMMENT ON TABLE registry.feed_event IS 'Billing''s events. They are kept so that a repeated event changes nothing.';
COMMENT ON COLUMN registry.feed_event.event_id IS 'Billing''s own id of the event.';
COMMENT ON COLUMN registry.feed_event.type IS 'activated, terminated, ported_out, …';
COMMENT ON COLUMN registry.feed_event.content IS 'Keyed digest of the event. The same id with another content is refused, not ignored. It holds no number.';
COMMENT ON COLUMN registry.feed_event.outcome IS 'What became of it. A refused event stays refused: its correction comes under a new id.';
COMMENT ON COLUMN registry.feed_event.reason IS 'Why it was refused, and what to send instead.';
COMMENT ON COLUMN registry.feed_event.occurred_at IS 'When it happened at the operator.';
COMMENT ON COLUMN registry.feed_event.recorded_at IS 'When the registry recorded it; the difference is report.feed_lag.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What messengers tell and ask us

CREATE TABLE registry.messenger (
    messenger_id          integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name                  text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    agreement             text,
    register_no           text,
    state                 registry.messenger_state NOT NULL DEFAULT 'active',
    endpoint_url          text CHECK (endpoint_url ~ '^https?://' AND octet_length(endpoint_url) <= 2048),
    batch_max             smallint NOT NULL DEFAULT 1 CHECK (batch_max BETWEEN 1 AND 1000),
    includes_phone_number boolean NOT NULL DEFAULT false,
    daily_quota           bigint CHECK (daily_quota > 0),
    certificate_sha256    bytea[] NOT NULL DEFAULT '{}',
    created_at            timestamptz NOT NULL DEFAULT now(),
    suspended_at          timestamptz,
    CHECK ((state = 'suspended') = (suspended_at IS NOT NULL))
);
COMMENT ON TABLE registry.messenger IS 'An organiser of instant messaging with an identification agreement: an API client.';
COMMENT ON COLUMN registry.messenger.messenger_id IS 'The registry''s number of the messenger.';
COMMENT ON COLUMN registry.messenger.name IS 'Short name, as commands and metrics use it.';
COMMENT ON COLUMN registry.messenger.agreement IS 'Number and date of the identification agreement (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.messenger.register_no IS 'Number in the regulator''s register of organisers of information distribution.';
COMMENT ON COLUMN registry.messenger.state IS 'A suspended messenger may not ask; what it is owed is still delivered.';
COMMENT ON COLUMN registry.messenger.endpoint_url IS 'Where notifications are pushed; NULL: it pulls them.';
COMMENT ON COLUMN registry.messenger.batch_max IS 'How many notifications one push may carry.';
COMMENT ON COLUMN registry.messenger.includes_phone_number IS 'Whether its agreement says that notifications carry the number.';
COMMENT ON COLUMN registry.messenger.daily_quota IS 'Numbers it may ask for a day (UTC); NULL: no budget.';
COMMENT ON COLUMN registry.messenger.certificate_sha256 IS 'SHA-256 of the client certificates (DER) it may present; empty: none asked.';
COMMENT ON COLUMN registry.messenger.created_at IS 'When it was added.';
COMMENT ON COLUMN registry.messenger.suspended_at IS 'When it was suspended.';

CREATE TABLE registry.messenger_key (
    key_id        text COLLATE "C" PRIMARY KEY CHECK (key_id ~ '^[a-z2-7]{8,32}$'),
    messenger_id  integer NOT NULL REFERENCES registry.messenger,
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX messenger_key_messenger ON registry.messenger_key (messenger_id);
COMMENT ON TABLE registry.messenger_key IS 'API keys, two live ones at most for a messenger, so that rotation overlaps.';
COMMENT ON COLUMN registry.messenger_key.key_id IS 'The public part of the key: rk_<keyId>_<secret>.';
COMMENT ON COLUMN registry.messenger_key.messenger_id IS 'Whose key it is.';
COMMENT ON COLUMN registry.messenger_key.secret_sha256 IS 'SHA-256 of the secret part, which is 32 random bytes and stored nowhere.';
COMMENT ON COLUMN registry.messenger_key.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.messenger_key.expires_at IS 'From when it is refused; NULL: never.';
COMMENT ON COLUMN registry.messenger_key.revoked_at IS 'When it was revoked; refused everywhere within 5 seconds.';
COMMENT ON COLUMN registry.messenger_key.last_used_at IS 'Last use, to the minute.';

CREATE TABLE registry.operator_key (
    key_id        text COLLATE "C" PRIMARY KEY CHECK (key_id ~ '^[a-z2-7]{8,32}$'),
    name          text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    scopes        text[] NOT NULL CHECK (scopes <@ ARRAY['feed', 'read', 'act'] AND cardinality(scopes) > 0),
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);
COMMENT ON TABLE registry.operator_key IS 'Keys of the operator API, two live ones at most of one name, so that rotation overlaps.';
COMMENT ON COLUMN registry.operator_key.key_id IS 'The public part of ok_<keyId>_<secret>.';
COMMENT ON COLUMN registry.operator_key.name IS 'Which system or person holds it; logs and metrics show this name.';
COMMENT ON COLUMN registry.operator_key.scopes IS 'What it allows: feed (contract events), read (the console''s views), act (its actions).';
COMMENT ON COLUMN registry.operator_key.secret_sha256 IS 'SHA-256 of the secret part, which is 32 random bytes and stored nowhere.';
COMMENT ON COLUMN registry.operator_key.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.operator_key.expires_at IS 'From when it is refused; NULL: never.';
COMMENT ON COLUMN registry.operator_key.revoked_at IS 'When it was revoked; refused everywhere within 5 seconds.';
COMMENT ON COLUMN registry.operator_key.last_used_at IS 'Last use, to the minute.';

CREATE TABLE registry.messenger_secret (
    secret_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    kind         registry.secret_kind NOT NULL,
    ciphertext   bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz
);
CREATE INDEX messenger_secret_messenger ON registry.messenger_secret (messenger_id);
COMMENT ON TABLE registry.messenger_secret IS 'Signing secrets for notifications. Each push is signed with every live one, so that rotation overlaps.';
COMMENT ON COLUMN registry.messenger_secret.secret_id IS 'The secret''s number.';
COMMENT ON COLUMN registry.messenger_secret.messenger_id IS 'Whose notifications it signs; bound into the ciphertext as associated data.';
COMMENT ON COLUMN registry.messenger_secret.kind IS 'hmac_sha256 (Standard Webhooks v1) or ed25519 (v1a).';
COMMENT ON COLUMN registry.messenger_secret.ciphertext IS 'AES-256-GCM under secrets-key: one byte that names the key, the nonce, the ciphertext with tag.';
COMMENT ON COLUMN registry.messenger_secret.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.messenger_secret.expires_at IS 'Until when it signs; NULL: until rotated.';

-- No foreign keys on the row: guard_new_bindings checks contract and messenger for a whole statement at once and locks the
-- contract against ending meanwhile, which a foreign key would not.
CREATE TABLE registry.binding (
    msisdn              bigint NOT NULL,
    bound_at            timestamptz NOT NULL DEFAULT now(),
    messenger_id        integer NOT NULL,
    generation          smallint NOT NULL,
    identification_code text COLLATE "C" NOT NULL CHECK (identification_code ~ '^[ -~]{1,128}$'),
    ended_at            timestamptz,
    end_reason          registry.binding_end_reason,
    PRIMARY KEY (msisdn, generation, messenger_id, bound_at),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
CREATE UNIQUE INDEX binding_live_number ON registry.binding (msisdn, messenger_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX binding_live_code ON registry.binding (messenger_id, identification_code) WHERE ended_at IS NULL;
CREATE INDEX binding_ended_code ON registry.binding (messenger_id, identification_code, ended_at) WHERE ended_at IS NOT NULL;
-- Erasure walks ended bindings by time, as it does contracts.
CREATE INDEX binding_ended ON registry.binding (ended_at) WHERE ended_at IS NOT NULL;
COMMENT ON TABLE registry.binding IS 'A messenger''s identification code on a contract (Decree 1801 of 2021: the operator records them). Live at once: at most one for a messenger and number, and at most one for a messenger and code.';
COMMENT ON COLUMN registry.binding.msisdn IS 'The contract''s number.';
COMMENT ON COLUMN registry.binding.bound_at IS 'When the binding was recorded.';
COMMENT ON COLUMN registry.binding.messenger_id IS 'The messenger.';
COMMENT ON COLUMN registry.binding.generation IS 'The contract''s generation.';
COMMENT ON COLUMN registry.binding.identification_code IS 'The unique code that the messenger assigned to its user; opaque to the operator.';
COMMENT ON COLUMN registry.binding.ended_at IS 'When it ended.';
COMMENT ON COLUMN registry.binding.end_reason IS 'terminated (with its contract), replaced (by another code) or removed (by the messenger).';

CREATE TABLE registry.journal_page (
    page_id       uuid NOT NULL,
    answered_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    queries       integer NOT NULL CHECK (queries BETWEEN 1 AND 65535),
    digest_key    smallint NOT NULL,
    messenger_ids integer[] NOT NULL,
    query_counts  integer[] NOT NULL CHECK (cardinality(query_counts) = cardinality(messenger_ids)),
    waited_ms     integer[] NOT NULL CHECK (cardinality(waited_ms) = cardinality(messenger_ids)),
    digests       bytea NOT NULL CHECK (octet_length(digests) = 16 * queries),
    present       varbit NOT NULL CHECK (length(present) = queries),
    told          varbit CHECK (length(told) = queries),
    PRIMARY KEY (page_id)
) PARTITION BY RANGE (page_id);
-- Digests are random bytes: trying to compress them would only cost time.
ALTER TABLE registry.journal_page ALTER COLUMN digests SET STORAGE EXTERNAL;
COMMENT ON TABLE registry.journal_page IS 'The journal of presence queries, append-only: one row for each committed group of queries, whichever messengers asked. It holds no number. registry.presence_query expands it.';
COMMENT ON COLUMN registry.journal_page.page_id IS 'The time of the answers in milliseconds, then random, then four zero hexadecimal digits: a query''s id is its page''s with its index in those four. Made by registry.new_page_id, and by nobody else.';
COMMENT ON COLUMN registry.journal_page.answered_at IS 'When the answers were decided, by the database''s clock; they are sent once this row is durable.';
COMMENT ON COLUMN registry.journal_page.queries IS 'How many queries the page holds.';
COMMENT ON COLUMN registry.journal_page.digest_key IS 'Which of the service''s digest keys made the digests.';
COMMENT ON COLUMN registry.journal_page.messenger_ids IS 'Who asked. The queries of each messenger stand one after another, in this order.';
COMMENT ON COLUMN registry.journal_page.query_counts IS 'How many queries each of them asked.';
COMMENT ON COLUMN registry.journal_page.waited_ms IS 'How long the first query of each had waited from its receipt until the database was asked, in milliseconds: a duration, so that no other clock is in it (Decree 1801 of 2021: answer within the policy''s time).';
COMMENT ON COLUMN registry.journal_page.digests IS 'Keyed BLAKE2b-128 of each number, 16 bytes each, in the order of the bits of present: an unkeyed hash of a phone number is reversed in seconds.';
COMMENT ON COLUMN registry.journal_page.present IS 'The answers, a bit each.';
COMMENT ON COLUMN registry.journal_page.told IS 'NULL where every query was answered. Else a 0 for each that was not, because its contract was being changed: it was asked again.';
-- Where the last sealed window ended. A sequence, because whoever makes a page must see it as it is now, and no transaction takes it back.
CREATE SEQUENCE registry.sealed_until_ms MINVALUE 0;
COMMENT ON SEQUENCE registry.sealed_until_ms IS 'The end of the last window of the journal that was or is being sealed, in milliseconds since 1970: no new page is older.';
CREATE TABLE registry.journal_page_default PARTITION OF registry.journal_page DEFAULT;

CREATE TABLE registry.quota_usage (
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    day          date NOT NULL,
    used         bigint NOT NULL DEFAULT 0,
    absent       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, messenger_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE registry.quota_usage IS 'Numbers asked for by messenger and day (UTC), written by each worker about once a second, so that workers share one budget. The journal is the proof, this is the guard.';
COMMENT ON COLUMN registry.quota_usage.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.quota_usage.day IS 'The day, UTC.';
COMMENT ON COLUMN registry.quota_usage.used IS 'Numbers asked for.';
COMMENT ON COLUMN registry.quota_usage.absent IS 'Of those, answered absent: a scan misses far more than an honest client.';

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
COMMENT ON TABLE registry.enumeration_alarm IS 'Messengers whose queries looked like a search for subscribers. An alarm is in force until ends_at, or until cleared_at is set; meanwhile its messenger is slowed down to the policy''s alarm_queries_per_minute.';
COMMENT ON COLUMN registry.enumeration_alarm.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.enumeration_alarm.raised_at IS 'When the first sign reached the database.';
COMMENT ON COLUMN registry.enumeration_alarm.kind IS 'absent (too many absent answers), consecutive (numbers in a row) or canary (a number never issued to anyone).';
COMMENT ON COLUMN registry.enumeration_alarm.ends_at IS 'When the alarm ends. Each further sign moves it.';
COMMENT ON COLUMN registry.enumeration_alarm.signs IS 'How often the sign was seen. More than once means that the search went on while it was slowed down.';
COMMENT ON COLUMN registry.enumeration_alarm.cleared_at IS 'When the operator ended it (registryd messenger clear-alarm, or a DBA by setting this).';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What we owe messengers

CREATE TABLE registry.notification (
    messenger_id        integer NOT NULL,
    generation          smallint NOT NULL,
    attempts            smallint NOT NULL DEFAULT 0,
    deadline_at         timestamptz NOT NULL CHECK (deadline_at >= '1970-01-01 00:00:00+00'),
    notification_id     uuid NOT NULL,
    msisdn              bigint NOT NULL,
    terminated_at       timestamptz NOT NULL,
    recorded_at         timestamptz NOT NULL DEFAULT now(),
    not_before          timestamptz NOT NULL DEFAULT now(),
    identification_code text COLLATE "C" NOT NULL,
    last_error          text,
    replayed            boolean NOT NULL DEFAULT false,
    PRIMARY KEY (messenger_id, deadline_at, notification_id)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
-- Empty but for the few that a replay has let in, so it costs the fan-out nothing.
CREATE INDEX notification_replayed ON registry.notification (messenger_id) WHERE replayed;
COMMENT ON TABLE registry.notification IS 'What is owed: one termination to one messenger for one binding. Written by the fan-out trigger and by registry.owe_again; a row leaves only by registry.settle_delivered. Nothing expires.';
COMMENT ON COLUMN registry.notification.messenger_id IS 'Who is owed it.';
COMMENT ON COLUMN registry.notification.generation IS 'The ended contract''s generation.';
COMMENT ON COLUMN registry.notification.attempts IS 'Delivery attempts that failed.';
COMMENT ON COLUMN registry.notification.deadline_at IS 'terminated_at plus the notice period in force then, to the millisecond; 1970 at least, where ids begin.';
COMMENT ON COLUMN registry.notification.notification_id IS 'Begins with deadline_at in milliseconds, so that the id alone leads to the row by the primary key.';
COMMENT ON COLUMN registry.notification.msisdn IS 'The number, told only where the messenger''s agreement says so.';
COMMENT ON COLUMN registry.notification.terminated_at IS 'When the contract ended.';
COMMENT ON COLUMN registry.notification.recorded_at IS 'When the notification was written.';
COMMENT ON COLUMN registry.notification.not_before IS 'When the next attempt is due.';
COMMENT ON COLUMN registry.notification.identification_code IS 'The messenger''s code for its user.';
COMMENT ON COLUMN registry.notification.last_error IS 'What the last attempt met, without any of its content.';
COMMENT ON COLUMN registry.notification.replayed IS 'Owed again by a replay: it was delivered before, so it is neither late nor overdue.';

CREATE TABLE registry.notification_delivered (
    messenger_id        integer NOT NULL,
    generation          smallint NOT NULL,
    attempts            smallint NOT NULL,
    deadline_at         timestamptz NOT NULL,
    notification_id     uuid NOT NULL,
    msisdn              bigint NOT NULL,
    terminated_at       timestamptz NOT NULL,
    recorded_at         timestamptz NOT NULL,
    delivered_at        timestamptz NOT NULL DEFAULT now(),
    via                 registry.delivery_channel NOT NULL,
    identification_code text COLLATE "C" NOT NULL,
    PRIMARY KEY (messenger_id, notification_id, delivered_at)
) PARTITION BY RANGE (delivered_at);
COMMENT ON TABLE registry.notification_delivered IS 'The proof that the duty was met: each notification with the time and channel of its delivery.';
COMMENT ON COLUMN registry.notification_delivered.messenger_id IS 'Who was notified.';
COMMENT ON COLUMN registry.notification_delivered.generation IS 'The ended contract''s generation.';
COMMENT ON COLUMN registry.notification_delivered.attempts IS 'Delivery attempts, the successful one included.';
COMMENT ON COLUMN registry.notification_delivered.deadline_at IS 'By when it was due.';
COMMENT ON COLUMN registry.notification_delivered.notification_id IS 'As it was in registry.notification.';
COMMENT ON COLUMN registry.notification_delivered.msisdn IS 'The number.';
COMMENT ON COLUMN registry.notification_delivered.terminated_at IS 'When the contract ended.';
COMMENT ON COLUMN registry.notification_delivered.recorded_at IS 'When the notification was written.';
COMMENT ON COLUMN registry.notification_delivered.delivered_at IS 'When the messenger''s receipt was recorded.';
COMMENT ON COLUMN registry.notification_delivered.via IS 'push, pull and acknowledge, or hand: then registry.handover has the channel''s name.';
COMMENT ON COLUMN registry.notification_delivered.identification_code IS 'The messenger''s code for its user.';
CREATE TABLE registry.notification_delivered_default PARTITION OF registry.notification_delivered DEFAULT;

CREATE TABLE registry.delivery_attempt (
    messenger_id  integer NOT NULL,
    attempted_at  timestamptz NOT NULL,
    notifications integer NOT NULL CHECK (notifications >= 1),
    outcome       registry.delivery_outcome NOT NULL,
    http_status   smallint,
    latency_ms    integer NOT NULL CHECK (latency_ms >= 0),
    error         text
) PARTITION BY RANGE (attempted_at);
CREATE INDEX delivery_attempt_messenger ON registry.delivery_attempt (messenger_id, attempted_at);
COMMENT ON TABLE registry.delivery_attempt IS 'One row a push, append-only.';
COMMENT ON COLUMN registry.delivery_attempt.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.delivery_attempt.attempted_at IS 'When the push began.';
COMMENT ON COLUMN registry.delivery_attempt.notifications IS 'How many notifications it carried.';
COMMENT ON COLUMN registry.delivery_attempt.outcome IS 'acknowledged (2xx), rejected (400, 413, 422: the content) or failed (the endpoint).';
COMMENT ON COLUMN registry.delivery_attempt.http_status IS 'The answer''s status; NULL where none came.';
COMMENT ON COLUMN registry.delivery_attempt.latency_ms IS 'From the start to the answer, in milliseconds.';
COMMENT ON COLUMN registry.delivery_attempt.error IS 'The kind of failure; never a body, a number or a code.';
CREATE TABLE registry.delivery_attempt_default PARTITION OF registry.delivery_attempt DEFAULT;

CREATE TABLE registry.lane (
    messenger_id       integer PRIMARY KEY REFERENCES registry.messenger,
    owner              text,
    token              bigint NOT NULL DEFAULT 0,
    lease_until        timestamptz,
    gate_until         timestamptz,
    failures           integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    last_error         text,
    last_success_at    timestamptz,
    low_water          uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    look_back_at       timestamptz NOT NULL DEFAULT now() + interval '30 seconds',
    alarms_below       interval[] NOT NULL DEFAULT '{}',
    second_channel_due boolean NOT NULL DEFAULT false,
    CONSTRAINT leased_lanes_have_owner_and_end CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT gated_lanes_have_failed CHECK (gate_until IS NULL OR failures > 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE registry.lane IS 'The ordered stream of one messenger''s notifications, worked by one process at a time. Free: no owner, or lease_until passed. Gated: gate_until is set, because the endpoint failed.';
COMMENT ON COLUMN registry.lane.messenger_id IS 'Whose notifications.';
COMMENT ON COLUMN registry.lane.owner IS 'The worker that holds the lease.';
COMMENT ON COLUMN registry.lane.token IS 'Fencing token: grows with each lease, so that a former owner''s verdicts are refused.';
COMMENT ON COLUMN registry.lane.lease_until IS 'When the lease lapses unless renewed.';
COMMENT ON COLUMN registry.lane.gate_until IS 'When the next probe of a failing endpoint is due.';
COMMENT ON COLUMN registry.lane.failures IS 'Failures of the endpoint in a row.';
COMMENT ON COLUMN registry.lane.last_error IS 'What the last failure was.';
COMMENT ON COLUMN registry.lane.last_success_at IS 'The endpoint''s last receipt.';
COMMENT ON COLUMN registry.lane.low_water IS 'Where a lease begins to read: all that was due up to this id had been taken. It is a matter of speed alone: entries of settled rows below it may be dead and slow to pass.';
COMMENT ON COLUMN registry.lane.look_back_at IS 'When the lane is to be read from its beginning again: a deferral is over, or something may have come below the mark.';
COMMENT ON COLUMN registry.lane.alarms_below IS 'The thresholds of policy.alarm_slack that an alarm was raised for and that the slack has not been above since.';
COMMENT ON COLUMN registry.lane.second_channel_due IS 'Whether the alarm was raised that pushes have failed for hours.';

CREATE TABLE registry.replay (
    replay_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    per_second   integer NOT NULL CHECK (per_second BETWEEN 1 AND 10000),
    asked_at     timestamptz NOT NULL DEFAULT now(),
    let_in_at    timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
CREATE INDEX replay_unfinished ON registry.replay (messenger_id, replay_id) WHERE finished_at IS NULL;
COMMENT ON TABLE registry.replay IS 'An operator''s request that delivered notifications be delivered again. Set finished_at to end one early.';
COMMENT ON COLUMN registry.replay.replay_id IS 'The request''s number.';
COMMENT ON COLUMN registry.replay.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.replay.per_second IS 'How many are let in a second, and how many may wait in registry.notification, so that the endpoint is not swamped.';
COMMENT ON COLUMN registry.replay.asked_at IS 'When it was asked for.';
COMMENT ON COLUMN registry.replay.let_in_at IS 'When notifications were last let in: what keeps the pace, whichever process does it.';
COMMENT ON COLUMN registry.replay.finished_at IS 'When its last notification was let in.';

CREATE TABLE registry.replayed_notification (
    replay_id       bigint NOT NULL,
    messenger_id    integer NOT NULL,
    notification_id uuid NOT NULL,
    replayed_at     timestamptz,
    delivered_at    timestamptz,
    via             registry.delivery_channel,
    PRIMARY KEY (messenger_id, notification_id, replay_id),
    CHECK ((delivered_at IS NULL) = (via IS NULL) AND (delivered_at IS NULL OR replayed_at IS NOT NULL))
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX replayed_notification_waiting ON registry.replayed_notification (replay_id, notification_id) WHERE replayed_at IS NULL;
-- A day's repeats in the order of their ids, for its digest.
CREATE INDEX replayed_notification_delivered ON registry.replayed_notification
    (messenger_id, ((delivered_at AT TIME ZONE 'UTC')::date), notification_id) WHERE delivered_at IS NOT NULL;
COMMENT ON TABLE registry.replayed_notification IS 'What each replay chose: waiting to be let in, then owed again, then delivered again.';
COMMENT ON COLUMN registry.replayed_notification.replay_id IS 'The request.';
COMMENT ON COLUMN registry.replayed_notification.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.replayed_notification.notification_id IS 'The notification, under its own id.';
COMMENT ON COLUMN registry.replayed_notification.replayed_at IS 'When it was owed again; NULL: it waits.';
COMMENT ON COLUMN registry.replayed_notification.delivered_at IS 'When the messenger''s receipt of the repeat was recorded.';
COMMENT ON COLUMN registry.replayed_notification.via IS 'push, pull or hand.';

CREATE TABLE registry.handover (
    messenger_id  integer NOT NULL REFERENCES registry.messenger,
    handed_at     timestamptz NOT NULL DEFAULT now(),
    channel       text NOT NULL CHECK (channel ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    notifications bigint NOT NULL CHECK (notifications > 0),
    file_sha256   bytea CHECK (octet_length(file_sha256) = 32),
    PRIMARY KEY (messenger_id, handed_at)
);
COMMENT ON TABLE registry.handover IS 'Deliveries by hand: notifications that were handed over otherwise than over HTTP. Append-only. The notifications have via = hand and delivered_at = handed_at.';
COMMENT ON COLUMN registry.handover.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.handover.handed_at IS 'When the receipt was recorded: delivered_at of each of them.';
COMMENT ON COLUMN registry.handover.channel IS 'The channel''s name, as the operator gave it.';
COMMENT ON COLUMN registry.handover.notifications IS 'How many this settled.';
COMMENT ON COLUMN registry.handover.file_sha256 IS 'SHA-256 of the file that was handed over or receipted; NULL where ids were given.';

CREATE TABLE registry.digest (
    messenger_id  integer NOT NULL REFERENCES registry.messenger,
    day           date NOT NULL,
    notifications bigint NOT NULL CHECK (notifications >= 0),
    first_id      uuid,
    last_id       uuid,
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32),
    made_at       timestamptz NOT NULL DEFAULT now(),
    attempts      integer NOT NULL DEFAULT 0,
    not_before    timestamptz NOT NULL DEFAULT now(),
    delivered_at  timestamptz,
    last_error    text,
    PRIMARY KEY (messenger_id, day),
    CHECK ((notifications = 0) = (first_id IS NULL) AND (first_id IS NULL) = (last_id IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX digest_due ON registry.digest (not_before) WHERE delivered_at IS NULL;
COMMENT ON TABLE registry.digest IS 'What was delivered to a messenger on a day (UTC), by whatever channel: one row, and one notifications.digest event, a messenger and day.';
COMMENT ON COLUMN registry.digest.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.digest.day IS 'The day, UTC, of delivered_at.';
COMMENT ON COLUMN registry.digest.notifications IS 'How many different notifications.';
COMMENT ON COLUMN registry.digest.first_id IS 'The lowest id; NULL where there was none.';
COMMENT ON COLUMN registry.digest.last_id IS 'The highest id; NULL where there was none.';
COMMENT ON COLUMN registry.digest.sha256 IS 'SHA-256 over the ids in ascending order, each in lower case and followed by a line feed.';
COMMENT ON COLUMN registry.digest.made_at IS 'When it was made: the event''s timestamp, the same on every retry.';
COMMENT ON COLUMN registry.digest.attempts IS 'Pushes begun.';
COMMENT ON COLUMN registry.digest.not_before IS 'When the next push is due.';
COMMENT ON COLUMN registry.digest.delivered_at IS 'When the endpoint answered 2xx; NULL: not yet.';
COMMENT ON COLUMN registry.digest.last_error IS 'What the last push met.';

CREATE TABLE registry.test_push (
    test_id      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    asked_at     timestamptz NOT NULL DEFAULT now(),
    claimed_at   timestamptz,
    ended_at     timestamptz,
    delivered    boolean,
    http_status  smallint,
    latency_ms   integer,
    error        text,
    CHECK ((ended_at IS NULL) = (delivered IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- One at a time for a messenger, and what deliver processes look for.
CREATE UNIQUE INDEX test_push_open ON registry.test_push (messenger_id) WHERE ended_at IS NULL;
CREATE INDEX test_push_messenger ON registry.test_push (messenger_id, asked_at);
COMMENT ON TABLE registry.test_push IS 'Requests to push one endpoint.test to a messenger, and their results. A deliver process claims each; who asked waits for the row.';
COMMENT ON COLUMN registry.test_push.test_id IS 'The request''s number; the message''s webhook-id has it too.';
COMMENT ON COLUMN registry.test_push.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.test_push.asked_at IS 'When it was asked for, by the messenger or a command.';
COMMENT ON COLUMN registry.test_push.claimed_at IS 'When a deliver process took it.';
COMMENT ON COLUMN registry.test_push.ended_at IS 'When its result was written; NULL: not yet.';
COMMENT ON COLUMN registry.test_push.delivered IS 'Whether the endpoint answered 2xx.';
COMMENT ON COLUMN registry.test_push.http_status IS 'What it answered; NULL where it did not.';
COMMENT ON COLUMN registry.test_push.latency_ms IS 'How long that took.';
COMMENT ON COLUMN registry.test_push.error IS 'What went wrong; NULL where it was delivered.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Figures

CREATE TABLE registry.contract_movement (
    day            date NOT NULL,
    activated      bigint NOT NULL DEFAULT 0,
    terminated     bigint NOT NULL DEFAULT 0,
    ported_out     bigint NOT NULL DEFAULT 0,
    holder_changed bigint NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX contract_movement_day ON registry.contract_movement (day);
COMMENT ON TABLE registry.contract_movement IS 'How many contracts each statement started and ended, by day (UTC). report.contract_daily sums these rows instead of scanning contracts. Triggers append them, so that no writer waits for another.';
COMMENT ON COLUMN registry.contract_movement.day IS 'The day of started_at or ended_at.';
COMMENT ON COLUMN registry.contract_movement.activated IS 'Contracts that started.';
COMMENT ON COLUMN registry.contract_movement.terminated IS 'Contracts that were terminated.';
COMMENT ON COLUMN registry.contract_movement.ported_out IS 'Contracts whose number left to another operator.';
COMMENT ON COLUMN registry.contract_movement.holder_changed IS 'Contracts that ended because the holder changed.';

CREATE TABLE registry.binding_movement (
    messenger_id integer NOT NULL,
    recorded     bigint NOT NULL,
    terminated   bigint NOT NULL,
    replaced     bigint NOT NULL,
    removed      bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE registry.binding_movement IS 'How many bindings each statement recorded and ended; report.binding_by_messenger sums these rows. Triggers append them, a job folds them.';
COMMENT ON COLUMN registry.binding_movement.messenger_id IS 'Whose bindings.';
COMMENT ON COLUMN registry.binding_movement.recorded IS 'Bindings recorded.';
COMMENT ON COLUMN registry.binding_movement.terminated IS 'Bindings that ended with their contract.';
COMMENT ON COLUMN registry.binding_movement.replaced IS 'Bindings that were replaced by another code.';
COMMENT ON COLUMN registry.binding_movement.removed IS 'Bindings that their messenger removed.';

CREATE TABLE registry.notification_movement (
    messenger_id integer NOT NULL,
    day          date NOT NULL,
    due          timestamptz NOT NULL,
    pending      bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE registry.notification_movement IS 'How many notifications each statement wrote (+) and settled (-), without replayed ones. Their sum is what is owed: report.notification_backlog and notification_deadline. Triggers append the rows, a job folds them.';
COMMENT ON COLUMN registry.notification_movement.messenger_id IS 'Who is owed them.';
COMMENT ON COLUMN registry.notification_movement.day IS 'The day of the contract''s end (UTC).';
COMMENT ON COLUMN registry.notification_movement.due IS 'The end of the minute of their deadline. From then on reports call them overdue.';
COMMENT ON COLUMN registry.notification_movement.pending IS 'Written less settled.';

CREATE TABLE registry.feed_movement (
    day       date NOT NULL,
    type      text NOT NULL,
    outcome   registry.feed_outcome NOT NULL,
    events    bigint NOT NULL,
    lag_sum_s numeric NOT NULL,
    worst_lag interval NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE registry.feed_movement IS 'How many of billing''s events each statement recorded, and how late; report.feed_lag sums these rows. Triggers append them, a job folds them.';
COMMENT ON COLUMN registry.feed_movement.day IS 'The day they were recorded (UTC).';
COMMENT ON COLUMN registry.feed_movement.type IS 'activated, terminated, ported_out, …';
COMMENT ON COLUMN registry.feed_movement.outcome IS 'What became of them.';
COMMENT ON COLUMN registry.feed_movement.events IS 'How many there were.';
COMMENT ON COLUMN registry.feed_movement.lag_sum_s IS 'The sum of the times from occurring to being recorded, in seconds. An interval would overflow over events with wrong dates.';
COMMENT ON COLUMN registry.feed_movement.worst_lag IS 'The longest of them.';

CREATE TABLE registry.presence_day (
    day           date NOT NULL,
    messenger_id  integer NOT NULL,
    queries       bigint NOT NULL,
    present_count bigint NOT NULL,
    in_time       bigint NOT NULL,
    late          bigint NOT NULL,
    worst_wait    interval NOT NULL,
    allowed       interval,
    PRIMARY KEY (day, messenger_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE registry.presence_day IS 'The figures of the journal''s sealed pages, added with each seal: what report.presence_daily and report.answer_deadline tell, also when the pages are gone.';
COMMENT ON COLUMN registry.presence_day.day IS 'The day of the answer (UTC).';
COMMENT ON COLUMN registry.presence_day.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.presence_day.queries IS 'Presence queries.';
COMMENT ON COLUMN registry.presence_day.present_count IS 'How many were answered present.';
COMMENT ON COLUMN registry.presence_day.in_time IS 'How many were answered within the policy''s time, by the policy in force at their receipt (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.presence_day.late IS 'How many were not. Received before any policy, a query is neither.';
COMMENT ON COLUMN registry.presence_day.worst_wait IS 'The longest time from receipt to answer.';
COMMENT ON COLUMN registry.presence_day.allowed IS 'The time that the policy gave.';

CREATE TABLE registry.delivered_day (
    day          date NOT NULL,
    messenger_id integer NOT NULL,
    in_time      bigint NOT NULL,
    late         bigint NOT NULL,
    worst_delay  interval NOT NULL
);
CREATE INDEX delivered_day_day ON registry.delivered_day (day);
COMMENT ON TABLE registry.delivered_day IS 'Delivered notifications'' figures, by statement: what report.notification_deadline sums, also when their rows are gone. Appended by triggers, folded by the daemon.';
COMMENT ON COLUMN registry.delivered_day.day IS 'The day of the contract''s end (UTC).';
COMMENT ON COLUMN registry.delivered_day.messenger_id IS 'Who was notified.';
COMMENT ON COLUMN registry.delivered_day.in_time IS 'Notifications delivered by their deadline (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.delivered_day.late IS 'Notifications delivered after it.';
COMMENT ON COLUMN registry.delivered_day.worst_delay IS 'The longest time from the end to the delivery.';

CREATE TABLE registry.attempt_day (
    day            date NOT NULL,
    messenger_id   integer NOT NULL,
    outcome        registry.delivery_outcome NOT NULL,
    http_status    smallint,
    attempts       bigint NOT NULL,
    notifications  bigint NOT NULL,
    latency_sum_ms bigint NOT NULL,
    latency_max_ms integer NOT NULL
);
CREATE INDEX attempt_day_day ON registry.attempt_day (day);
COMMENT ON TABLE registry.attempt_day IS 'Delivery attempts'' figures, by statement: what report.delivery_attempt_daily sums, also when their rows are gone. Appended by triggers, folded by the daemon.';
COMMENT ON COLUMN registry.attempt_day.day IS 'The day of the attempt (UTC).';
COMMENT ON COLUMN registry.attempt_day.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.attempt_day.outcome IS 'acknowledged, rejected or failed.';
COMMENT ON COLUMN registry.attempt_day.http_status IS 'The answer''s status; NULL where none came.';
COMMENT ON COLUMN registry.attempt_day.attempts IS 'Pushes.';
COMMENT ON COLUMN registry.attempt_day.notifications IS 'Notifications they carried.';
COMMENT ON COLUMN registry.attempt_day.latency_sum_ms IS 'Their latencies'' sum, in milliseconds.';
COMMENT ON COLUMN registry.attempt_day.latency_max_ms IS 'The longest latency, in milliseconds.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Evidence

CREATE TABLE registry.seal (
    sequence          bigint PRIMARY KEY CHECK (sequence >= 1),
    sealed_at         timestamptz NOT NULL,
    from_at           timestamptz NOT NULL,
    until_at          timestamptz NOT NULL,
    pages             bigint NOT NULL,
    queries           bigint NOT NULL,
    system_identifier bigint NOT NULL,
    timeline          integer NOT NULL,
    kind              registry.seal_kind NOT NULL,
    note              text NOT NULL,
    content           bytea NOT NULL CHECK (octet_length(content) = 32),
    previous          bytea NOT NULL CHECK (octet_length(previous) = 32),
    sha256            bytea NOT NULL CHECK (octet_length(sha256) = 32),
    CONSTRAINT windows_are_sealed CHECK (CASE kind WHEN 'window' THEN until_at > from_at AND note = '' ELSE until_at = from_at AND note <> '' END)
);
COMMENT ON TABLE registry.seal IS 'The hash chain over the journal, append-only: a row for each minute in which there were answers, and for each hour in which there were none. It goes from its beginning as the pages do.';
COMMENT ON COLUMN registry.seal.sequence IS 'Counts the seals from 1, without a gap.';
COMMENT ON COLUMN registry.seal.sealed_at IS 'When it was written.';
COMMENT ON COLUMN registry.seal.from_at IS 'Where its window begins: where that of the seal before ends. It covers all pages whose ids lie in the window.';
COMMENT ON COLUMN registry.seal.until_at IS 'Where its window ends; the same as from_at where it covers none.';
COMMENT ON COLUMN registry.seal.pages IS 'How many pages it covers.';
COMMENT ON COLUMN registry.seal.queries IS 'How many queries they hold.';
COMMENT ON COLUMN registry.seal.system_identifier IS 'The database cluster that it was written in.';
COMMENT ON COLUMN registry.seal.timeline IS 'The timeline that it was written on: a promotion begins a new one, and may lose the end of the one before.';
COMMENT ON COLUMN registry.seal.kind IS 'begin (the first), window, or retention (pages and their seals went by the policy).';
COMMENT ON COLUMN registry.seal.note IS 'retention: the day (UTC) before which pages are gone, the sequence of the last seal that went and its sha256.';
COMMENT ON COLUMN registry.seal.content IS 'SHA-256 over the pages.';
COMMENT ON COLUMN registry.seal.previous IS 'sha256 of the seal before; zeros in the first.';
COMMENT ON COLUMN registry.seal.sha256 IS 'SHA-256 over everything else here.';

CREATE TABLE registry.digest_key (
    key_id       smallint PRIMARY KEY,
    month        date NOT NULL UNIQUE,
    ciphertext   bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CONSTRAINT keys_are_numbered_by_their_month
        CHECK (month = date_trunc('month', month) AND key_id = (extract(year FROM month) - 2000) * 12 + extract(month FROM month)),
    CONSTRAINT destroyed_keys_have_no_ciphertext CHECK ((ciphertext IS NULL) = (destroyed_at IS NOT NULL))
);
COMMENT ON TABLE registry.digest_key IS 'The keys of the journal''s digests: random, one a month, made ahead by the daemon. Destroyed, a month''s digests say nothing about any number any more; that the key was there stays.';
COMMENT ON COLUMN registry.digest_key.key_id IS 'What journal_page.digest_key names: months since January 2000.';
COMMENT ON COLUMN registry.digest_key.month IS 'The month (UTC) whose pages it is for; some minutes of the next month may still be under it.';
COMMENT ON COLUMN registry.digest_key.ciphertext IS 'AES-256-GCM under journal-key, bound to the month: one byte that names the key, the nonce, the ciphertext with tag.';
COMMENT ON COLUMN registry.digest_key.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.digest_key.destroyed_at IS 'When it was destroyed, because the policy no longer kept its month''s journal.';

CREATE TABLE registry.breakglass_event (
    sequence    bigint PRIMARY KEY CHECK (sequence >= 1),
    request     bigint NOT NULL REFERENCES registry.breakglass_event,
    step        registry.breakglass_step NOT NULL,
    at          timestamptz NOT NULL,
    person      text NOT NULL,
    msisdn      bigint,
    reason      text NOT NULL,
    digest_keys smallint[] NOT NULL,
    digests     bytea NOT NULL CHECK (octet_length(digests) = 16 * cardinality(digest_keys)),
    previous    bytea NOT NULL CHECK (octet_length(previous) = 32),
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32),
    CONSTRAINT each_step_is_taken_once UNIQUE (request, step),
    CONSTRAINT requests_name_number_and_reason
        CHECK ((step = 'requested') = (request = sequence) AND (step = 'requested') = (msisdn IS NOT NULL) AND (step = 'requested') = (reason <> '')),
    CONSTRAINT numbers_are_numbers CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    CONSTRAINT reasons_are_told CHECK (step <> 'requested' OR length(btrim(reason)) >= 10)
);
COMMENT ON TABLE registry.breakglass_event IS 'The break-glass log, append-only: who asked to see which number and why, who approved it, and that it was looked at. Each row holds the hash of the one before it.';
COMMENT ON COLUMN registry.breakglass_event.sequence IS 'Counts the rows from 1, without a gap.';
COMMENT ON COLUMN registry.breakglass_event.request IS 'The sequence of the request that the step belongs to; its own for the request itself.';
COMMENT ON COLUMN registry.breakglass_event.step IS 'requested, prepared, approved or looked.';
COMMENT ON COLUMN registry.breakglass_event.at IS 'When.';
COMMENT ON COLUMN registry.breakglass_event.person IS 'Who: the role that logged in (session_user), which for prepared is the daemon''s. Give each person one of his own.';
COMMENT ON COLUMN registry.breakglass_event.msisdn IS 'The number, of a request.';
COMMENT ON COLUMN registry.breakglass_event.reason IS 'Why, of a request: ten characters at least.';
COMMENT ON COLUMN registry.breakglass_event.digest_keys IS 'Of the step prepared: under which digest keys the journal is searched.';
COMMENT ON COLUMN registry.breakglass_event.digests IS 'The number''s digests under them, 16 bytes each: who holds the keys can tell that they are this number''s.';
COMMENT ON COLUMN registry.breakglass_event.previous IS 'sha256 of the row before; zeros in the first.';
COMMENT ON COLUMN registry.breakglass_event.sha256 IS 'SHA-256 of previous, sequence, request, at, msisdn (0 for none), digests, digest_keys, the length of person, and step, person and reason in UTF-8.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Triggers, and the first seal: what follows needs the functions.
-- code

CREATE TRIGGER refuse_reopening BEFORE UPDATE ON registry.contract
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL)
    EXECUTE FUNCTION registry.refuse_reopening();
CREATE TRIGGER refuse_renumbering BEFORE UPDATE ON registry.contract
    FOR EACH ROW WHEN (OLD.msisdn <> NEW.msisdn OR OLD.generation <> NEW.generation)
    EXECUTE FUNCTION registry.refuse_renumbering();
CREATE TRIGGER complete_end BEFORE UPDATE ON registry.contract
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND (NEW.ended_at IS NOT NULL OR NEW.status = 'ended'))
    EXECUTE FUNCTION registry.complete_end();
CREATE TRIGGER notify_messengers_of_ends AFTER UPDATE ON registry.contract
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.notify_messengers_of_ends();
CREATE TRIGGER count_new_contracts AFTER INSERT ON registry.contract
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_new_contracts();
CREATE TRIGGER refuse_deleting_bound_contract BEFORE DELETE ON registry.contract
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_deleting_bound_contract();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.contract FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER stamp_recorded BEFORE UPDATE ON registry.contract FOR EACH ROW EXECUTE FUNCTION registry.stamp_recorded();
CREATE TRIGGER refuse_buried_contracts AFTER INSERT ON registry.contract
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_buried_contracts();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.binding FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER guard_new_bindings AFTER INSERT ON registry.binding
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION registry.guard_new_bindings();
CREATE TRIGGER refuse_binding_change BEFORE UPDATE ON registry.binding
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL OR OLD.msisdn <> NEW.msisdn OR OLD.generation <> NEW.generation
                       OR OLD.messenger_id <> NEW.messenger_id OR OLD.identification_code <> NEW.identification_code
                       OR OLD.bound_at <> NEW.bound_at)
    EXECUTE FUNCTION registry.refuse_binding_change();
-- A live binding that is gone would never be notified. Ended ones leave by retention.
CREATE TRIGGER refuse_deleting_live_binding BEFORE DELETE ON registry.binding
    FOR EACH ROW WHEN (OLD.ended_at IS NULL)
    EXECUTE FUNCTION registry.refuse_binding_change();
CREATE TRIGGER count_recorded_bindings AFTER INSERT ON registry.binding
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_bindings();
CREATE TRIGGER count_ended_bindings AFTER UPDATE ON registry.binding
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_bindings();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER count_owed_notifications AFTER INSERT ON registry.notification
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_notifications();
CREATE TRIGGER wake_delivery AFTER INSERT ON registry.notification
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.wake_delivery();
CREATE TRIGGER count_settled_notifications AFTER DELETE ON registry.notification
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_notifications();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification_delivered FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER count_delivered AFTER INSERT ON registry.notification_delivered
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.count_delivered();
CREATE TRIGGER count_attempts AFTER INSERT ON registry.delivery_attempt
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.count_attempts();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.journal_page FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE TRIGGER refuse_deleting_bound_messenger BEFORE DELETE ON registry.messenger
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_deleting_bound_messenger();
CREATE TRIGGER open_lane AFTER INSERT ON registry.messenger FOR EACH ROW EXECUTE FUNCTION registry.open_lane();

CREATE TRIGGER limit_live_keys AFTER INSERT OR UPDATE OF messenger_id, expires_at, revoked_at ON registry.messenger_key
    FOR EACH ROW EXECUTE FUNCTION registry.limit_live_keys();
CREATE TRIGGER limit_live_keys AFTER INSERT OR UPDATE OF name, expires_at, revoked_at ON registry.operator_key
    FOR EACH ROW EXECUTE FUNCTION registry.limit_live_operator_keys();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.seal FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.breakglass_event FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE TRIGGER count_feed_events AFTER INSERT ON registry.feed_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.count_feed_events();

CREATE TRIGGER keep_policy_history BEFORE INSERT OR UPDATE OR DELETE ON registry.policy
    FOR EACH ROW EXECUTE FUNCTION registry.keep_policy_history();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.policy FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

-- Nobody but the database says what a page's id is: registryd_app may not name the column.
ALTER TABLE registry.journal_page ALTER COLUMN page_id SET DEFAULT registry.new_page_id();
SELECT registry.append_seal('begin', date_trunc('minute', now()), 0, 0, sha256(''), 'pages from here on are sealed');
SELECT setval('registry.sealed_until_ms', (extract(epoch FROM date_trunc('minute', now())) * 1000)::bigint);

-- The first partitions; later ones are made by the daemon, a week ahead.
SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, 8);
