-- The registry: who holds which number, which messengers know them, who asked, and what is owed.
--
-- Families of tables, in the order below:
--   the law and the operator's numbers   policy, numbering_range, canary_number
--   what billing tells us                feed_state, contract, newest_state, feed_event, feed_waiting
--   what messengers tell and ask us      messenger and its keys and secrets, operator_key, console_session, action, binding, journal_page, quota_usage, enumeration_alarm
--   what we owe messengers               notification, notification_delivered, delivery_attempt, lane, replay, handover, digest, test_push
--   the brake and the way back           ends_recorded, wave_allowance, wave, notification_held, hold, notification_withdrawn
--   figures                              *_movement, delivered_day, attempt_day (appended by triggers, folded by the daemon), presence_day, answer_minute
--   the service itself                   process
--   evidence                             seal, digest_key, breakglass_event
--
-- An MSISDN is a bigint of E.164 digits without the plus. Nothing here holds a name, a document, an IMSI or a place.
-- Ids that travel on the wire are UUIDs that begin with a time in milliseconds (the layout of RFC 9562 version 7), so that they
-- neither count anything for an outsider nor scatter an index: journal_page's is the time of the answers, notification's its deadline.
-- Every hot table carries msisdn or messenger_id in its key, so that it could be distributed by it later.
--
-- What is a queue, or is updated all the time, is vacuumed by the number of its dead rows and without a pause. registry.contract is vacuumed
-- early, so that its primary key answers without a look at the table. registry.binding is too, because a vacuum remembers some ten million dead
-- rows at a time: after a fifth of 300 million it would pass each of five indexes several times.
--
-- What stands behind a table's first line or a column, `registryd migrate` writes as its COMMENT.
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

CREATE TABLE registry.schema_migration ( -- Which files of sql/migrations were applied.
    version         integer PRIMARY KEY, -- The number a file's name begins with.
    checksum        bytea NOT NULL CHECK (octet_length(checksum) = 32), -- SHA-256 of the file as applied: a file that was edited since is refused.
    compatible_from integer NOT NULL CHECK (compatible_from <= version), -- The oldest release, by the number of its newest migration, whose processes still work with the schema from here on.
    applied_at      timestamptz NOT NULL DEFAULT now() -- When it was applied.
);

CREATE TABLE registry.schema_code ( -- Which files of functions, views and grants were applied last: migrate applies those that differ.
    name       text COLLATE "C" PRIMARY KEY, -- The file, below sql/.
    checksum   bytea NOT NULL CHECK (octet_length(checksum) = 32), -- SHA-256 of the file as applied.
    applied_at timestamptz NOT NULL DEFAULT now() -- When it was applied.
);

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
CREATE TYPE registry.change_kind AS ENUM ('endpoint', 'webhook_secret');
CREATE TYPE registry.change_outcome AS ENUM ('confirmed', 'refused', 'superseded');
CREATE TYPE registry.seal_kind AS ENUM ('begin', 'window', 'retention');
CREATE TYPE registry.breakglass_kind AS ENUM ('look', 'reinstate', 'withdraw');
CREATE TYPE registry.breakglass_step AS ENUM ('requested', 'prepared', 'approved', 'looked', 'reinstated', 'withdrawn');
CREATE TYPE registry.range_source AS ENUM ('register', 'hand');

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The law as dated data, and the operator's capacity

-- No column has a DEFAULT: a row that names less than the whole law is refused, where it would else reset the rest.
CREATE TABLE registry.policy ( -- The rules in force from a date on. The row in force is the one with the latest effective_from not after now. A change is a new row, so the table is its own history.
    effective_from           timestamptz PRIMARY KEY, -- From when the row is in force, until the next row's date.
    lapses_at                timestamptz, -- When the rule itself lapses, and a successor must be in its place; NULL: no such date is known. It ends nothing by itself: people are warned.
    answer_within            interval NOT NULL CHECK (answer_within > '0'), -- The time to answer a presence query, from its receipt (Decree 1801 of 2021: 20 minutes).
    notice_within            interval NOT NULL CHECK (notice_within > '0'), -- The time to notify the messengers of a contract's end, from the end (Decree 1801 of 2021: 24 hours).
    organisation_rule        registry.organisation_rule NOT NULL, -- When a number held by an organisation or sole trader is present. subscriber: whenever its contract is live. verified_end_user: only when its end user is registered.
    suspended_is_present     boolean NOT NULL, -- Whether a suspended contract counts as present. Its subscriber still holds the number.
    journal_kept             interval NOT NULL CHECK (journal_kept >= '1 day'), -- How long the journal of presence queries is kept.
    notification_kept        interval NOT NULL CHECK (notification_kept >= '1 day'), -- How long delivered notifications and delivery attempts are kept as proof.
    note                     text NOT NULL CHECK (note <> ''), -- Where the rule comes from.
    honest_absent_ratio      numeric NOT NULL, -- The share of absent answers of an honest messenger, whose users have just typed a code from an SMS. Raise it before the first wave of an old user base.
    scan_absent_ratio        numeric NOT NULL, -- The share of absent answers that a scan has at least. The nearer it is to the honest share, the longer a scan goes unseen.
    honest_density           numeric NOT NULL, -- The probability, at most, that the number after a user's belongs to another user of the same messenger, in the densest part of the numbering. It decides how many consecutive numbers raise an alarm: 82 at 0.7.
    honest_queries_per_alarm bigint NOT NULL, -- How many queries of honest messengers there are, on average and at least, between two false alarms.
    alarm_lasts              interval NOT NULL, -- How long a messenger is slowed down after the last sign.
    alarm_queries_per_minute integer NOT NULL, -- How many numbers a minute each process still answers a messenger that is slowed down, so that single users are identified in time. 2147483647: alarms are raised, but slow nobody.
    echo_per_s               integer CHECK (echo_per_s > 0), -- How many notifications a second all processes together push to messengers with a backlog, until half of the notice period is gone. Each makes its messenger ask again, and those queries must be answered in time too. NULL: no bound.
    alarm_slack              interval[] NOT NULL CHECK (cardinality(alarm_slack) > 0), -- An alarm is raised when an owed notification has less time than this left to its deadline, once for each of these values.
    code_within              interval NOT NULL CHECK (code_within > '0'), -- How long after a query that was answered present a messenger may send its identification code, before report.presence_without_code calls it missing.
    ends_max                 bigint NOT NULL CHECK (ends_max >= 0), -- How many contracts may end in an hour, by the time of recording, before somebody must look: the larger of this number and of ends_max_share.
    ends_max_share           numeric NOT NULL CHECK (ends_max_share BETWEEN 0 AND 1), -- The same as a share of the live contracts.
    ended_kept               interval NOT NULL CHECK (ended_kept >= '1 day'), -- How long ended contracts and ended bindings are kept, from their end.
    recorded_at              timestamptz NOT NULL, -- When the row was written; set by the database.
    recorded_by              text NOT NULL, -- Which database user wrote it; set by the database.
    CONSTRAINT scans_miss_more_than_honest_messengers
        CHECK (honest_absent_ratio > 0 AND scan_absent_ratio > honest_absent_ratio AND scan_absent_ratio < 1),
    CONSTRAINT scans_are_denser_than_honest_messengers CHECK (honest_density > 0 AND honest_density <= 0.95),
    CONSTRAINT false_alarms_are_rare CHECK (honest_queries_per_alarm >= 1000),
    CONSTRAINT alarms_end CHECK (alarm_lasts > '0' AND alarm_lasts <= '30 days'),
    CONSTRAINT alarms_slow_and_do_not_stop CHECK (alarm_queries_per_minute >= 1),
    CONSTRAINT policies_have_dates CHECK (isfinite(effective_from) AND isfinite(lapses_at))
);
INSERT INTO registry.policy VALUES (
    '2022-03-01 00:00:00+03', '2028-03-01 00:00:00+03', '20 minutes', '24 hours', 'verified_end_user', true, '3 years', '3 years',
    'Decree 1801 of 2021-10-20, in force from 2022-03-01; it lapses in March 2028: add the row of its successor before then.',
    0.03, 0.40, 0.70, 1000000000000, '1 hour', 60, 5000, '{22 hours,12 hours,1 hour,0}', '24 hours', 10000, 0.001, '3 years', now(), session_user
);

CREATE TABLE registry.numbering_range ( -- The operator's allocated numbering capacity (DEF and ABC codes). It advises: imports and events count the live contracts outside it, which are numbers ported in. It never decides an answer.
    first_msisdn bigint PRIMARY KEY CHECK (first_msisdn BETWEEN 10000 AND 999999999999999), -- The first number of the range.
    last_msisdn  bigint NOT NULL CHECK (last_msisdn BETWEEN first_msisdn AND 998999999999999), -- The last number of the range, itself included.
    region       text NOT NULL DEFAULT '', -- The region the regulator names.
    note         text NOT NULL DEFAULT '', -- Where the row comes from.
    source       registry.range_source NOT NULL DEFAULT 'hand', -- register: an import of the regulator's register wrote the row, and the next one replaces it. hand: SQL did, or a list of the operator's own; a register leaves it as it is.
    CONSTRAINT numbering_ranges_do_not_overlap EXCLUDE USING gist (int8range(first_msisdn, last_msisdn, '[]') WITH &&)
);

CREATE TABLE registry.canary_number ( -- Numbers that were never issued to anyone. No user can have one, so whoever asks for one is searching. They answer absent like any other number. One that has or had a contract does not count. Keep to some thousands: each process reads all of them every second.
    msisdn   bigint PRIMARY KEY CHECK (msisdn BETWEEN 10000 AND 998999999999999), -- The number. Keep it to yourselves.
    added_at timestamptz NOT NULL DEFAULT now() -- When it was added.
);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What billing tells us

-- The widest columns come first, so that alignment wastes nothing. Measured with its indexes, a contract takes 117 bytes as a snapshot brings it,
-- and 125 once an event or a person has changed it (recorded_at).
CREATE TABLE registry.contract ( -- One MSISDN held by one subscriber over one period. Set ended_at to end it: bindings end and notifications are written in the same transaction. Ended is final. A number has one live contract at most: end that one before you insert the next generation.
    msisdn      bigint NOT NULL CHECK (msisdn BETWEEN 10000 AND 999999999999999), -- The number: E.164 digits without the plus.
    started_at  timestamptz NOT NULL, -- When the holder got the number.
    recorded_at timestamptz DEFAULT now(), -- When an event, an import of a history or a person last changed the contract, or the time of the snapshot that ended it. NULL: it is as the newest snapshot has it (registry.last_snapshot).
    status      registry.contract_status NOT NULL, -- active, suspended or ended. Ended is final: a restored subscriber gets the next generation.
    holder      registry.holder NOT NULL, -- Who holds the contract. With policy.organisation_rule it decides whether an end user must be registered.
    end_user    registry.end_user NOT NULL, -- Whether the person who uses an organisation's number is registered; not_required for individuals.
    generation  smallint NOT NULL CHECK (generation >= 1), -- Counts the holders of the number, from 1. It keeps a late notice from hitting the next holder.
    ended_at    timestamptz, -- When the contract ended; the notice period runs from here (Decree 1801 of 2021).
    end_reason  registry.end_reason, -- terminated, ported_out or holder_changed; never told to a messenger.
    unverified  boolean NOT NULL GENERATED ALWAYS AS (end_user = 'unregistered') STORED, -- Whether the end user should be registered and is not. An answer needs no more of end_user, and this fits into the primary key's index.
    -- The index that answers queries, without a look at the table: a number's live contract is its highest generation. The two further columns
    -- fill bytes that alignment would waste; end_user itself, of four bytes, would cost eight more.
    PRIMARY KEY (msisdn, generation) INCLUDE (unverified, status) WITH (fillfactor = 100),
    -- +999 and twelve digits: a country code that nobody has, answered from the digits alone where [api] test_numbers is on.
    CONSTRAINT test_numbers_have_no_contract CHECK (msisdn < 999000000000000),
    CONSTRAINT ended_contracts_say_when_and_why
        CHECK ((status = 'ended') = (ended_at IS NOT NULL) AND (ended_at IS NULL) = (end_reason IS NULL)),
    CONSTRAINT contracts_end_after_they_start CHECK (ended_at >= started_at),
    -- Landlines are older than 1970, though not than 1900, in whatever zone. No end is, because the id of a notification begins with a time that
    -- counts from there.
    CONSTRAINT contracts_are_of_our_time CHECK (started_at >= '1899-12-31 00:00:00+00' AND started_at < 'infinity'
                                                AND ended_at >= '1970-01-01 00:00:00+00' AND ended_at < 'infinity'),
    CONSTRAINT individuals_are_their_own_end_user CHECK ((holder = 'individual') = (end_user = 'not_required'))
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.01);
CREATE UNIQUE INDEX contract_live ON registry.contract (msisdn) WITH (fillfactor = 100) WHERE ended_at IS NULL;
-- Retention and reports walk ended contracts by time.
CREATE INDEX contract_ended ON registry.contract (ended_at) WHERE ended_at IS NOT NULL;

-- A state event that comes late must not undo a newer one, and feed_event holds no number to find the newer one by. A column of contract would
-- cost every changed contract 8 bytes more for ever; this costs the few numbers that had a state event lately some 100.
CREATE TABLE registry.newest_state ( -- What the newest state events of a number said, and when that was. Kept for 30 days: an event that comes later than that is taken for a new one.
    msisdn      bigint PRIMARY KEY CHECK (msisdn BETWEEN 10000 AND 999999999999999), -- The number.
    status_at   timestamptz, -- When the newest of suspended and resumed happened; NULL: none was told lately.
    end_user_at timestamptz, -- When the newest of end_user_registered and end_user_withdrawn happened; NULL: none was told lately.
    recorded_at timestamptz NOT NULL DEFAULT now(), -- When the last of them was recorded.
    status      registry.contract_status CHECK (status <> 'ended'), -- What the newest of suspended and resumed said.
    end_user    registry.end_user CHECK (end_user <> 'not_required'), -- What the newest of end_user_registered and end_user_withdrawn said.
    CHECK ((status IS NULL) = (status_at IS NULL) AND (end_user IS NULL) = (end_user_at IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX newest_state_recorded ON registry.newest_state (recorded_at);

CREATE TABLE registry.last_snapshot ( -- The newest snapshot of billing's that was applied: one row, none before the first. An older one changes nothing.
    one   boolean PRIMARY KEY DEFAULT true CHECK (one), -- There is one row.
    as_of timestamptz NOT NULL, -- When it was taken.
    applied_at timestamptz, -- When it was applied; NULL, with all below, where a history said as of when it was.
    lines      bigint, -- How many good lines it had.
    rejects    bigint, -- How many bad ones, which were left out.
    started    bigint, -- Contracts that it started.
    changed    bigint, -- Contracts whose state or end user it changed.
    ended      bigint -- Contracts that it ended.
);

CREATE TABLE registry.feed_state ( -- Whether the registry is complete. Until it is, nothing is answered, because a subscriber whom nobody has told us of is not absent. One row, none before the first declaration. Written only when that changes; when the feed last spoke stands in feed_event and last_snapshot.
    one               boolean PRIMARY KEY DEFAULT true CHECK (one), -- There is one row.
    complete_since    timestamptz, -- Since when the registry holds every contract; NULL: it does not.
    source            text NOT NULL CHECK (source IN ('snapshot', 'history', 'person')), -- What said so: a whole snapshot, a whole history, or a person.
    declared_by       text NOT NULL, -- The database user that said so; set by the database.
    reason            text NOT NULL CHECK (reason <> ''), -- Why.
    system_identifier bigint NOT NULL, -- The database cluster where it was said. In another one, which a dump was restored into, it says nothing.
    server_started_at timestamptz NOT NULL -- When the server started that a process last found the row on. A query that finds the same start on its server need not read the identifier from the control file.
);

CREATE TABLE registry.feed_event ( -- Billing's events. They are kept so that a repeated event changes nothing.
    event_id    text COLLATE "C" PRIMARY KEY CHECK (event_id ~ '^[!-~]{1,128}$'), -- Billing's own id of the event.
    type        text NOT NULL, -- activated, terminated, ported_out, …
    content     bytea NOT NULL CHECK (octet_length(content) = 16), -- Keyed digest of the event. The same id with another content is refused, not ignored. It holds no number.
    outcome     registry.feed_outcome NOT NULL, -- What became of it. A refused event stays refused: its correction comes under a new id.
    reason      text, -- Why it was refused, and what to send instead.
    occurred_at timestamptz NOT NULL, -- When it happened at the operator.
    recorded_at timestamptz NOT NULL DEFAULT now(), -- When the registry recorded it; the difference is report.feed_lag.
    CHECK ((outcome = 'refused') = (reason IS NOT NULL))
);
CREATE INDEX feed_event_recorded ON registry.feed_event (recorded_at);

CREATE TABLE registry.feed_waiting ( -- Events that were answered not_yet: only time, another event or a person is missing. Billing sends them again. A row leaves when its event is applied or refused.
    event_id    text COLLATE "C" PRIMARY KEY CHECK (event_id ~ '^[!-~]{1,128}$'), -- Billing's own id of the event.
    type        text NOT NULL, -- activated, terminated, ported_out, …
    reason      text NOT NULL, -- What it waited for when it came last: in_the_future, no_contract_yet, still_live, held_by_an_individual, too_many_ends, follows_a_waiting_event or registry_failed.
    occurred_at timestamptz NOT NULL, -- When it happened at the operator, by its own word. The notice period of an end runs from here.
    first_at    timestamptz NOT NULL DEFAULT now(), -- When it came first.
    last_at     timestamptz NOT NULL DEFAULT now(), -- When it came last.
    calls       integer NOT NULL DEFAULT 1 CHECK (calls >= 1), -- How often it came.
    alarms      smallint NOT NULL DEFAULT 0 -- How many of its alarms were raised: after 15 minutes, and for an end at half of the notice period.
);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What messengers tell and ask us

CREATE TABLE registry.messenger ( -- An organiser of instant messaging with an identification agreement: an API client.
    messenger_id          integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The registry's number of the messenger.
    name                  text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'), -- Short name, as commands and metrics use it.
    agreement             text, -- Number and date of the identification agreement (Decree 1801 of 2021).
    register_no           text, -- Number in the regulator's register of organisers of information distribution.
    state                 registry.messenger_state NOT NULL DEFAULT 'active', -- A suspended messenger may not ask; what it is owed is still delivered.
    -- Only what can be sent byte for byte: printable ASCII without blanks, and no ? before an empty query.
    endpoint_url          text CHECK (octet_length(endpoint_url) <= 2048 AND endpoint_url ~ '^https?://[a-z0-9._:\[\]-]+(/[!-"$->@-\[\]-~]*)?(\?[!-"$-\[\]-~]+)?$'), -- Where notifications are pushed; NULL: it pulls them.
    batch_max             smallint NOT NULL DEFAULT 1 CHECK (batch_max BETWEEN 1 AND 1000), -- How many notifications one push may carry.
    includes_phone_number boolean NOT NULL DEFAULT false, -- Whether its agreement says that notifications carry the number.
    daily_quota           bigint CHECK (daily_quota > 0), -- Numbers it may ask for a day (UTC); NULL: no quota.
    certificate_sha256    bytea[] NOT NULL DEFAULT '{}', -- SHA-256 of the client certificates (DER) it may present; empty: none asked.
    created_at            timestamptz NOT NULL DEFAULT now(), -- When it was added.
    suspended_at          timestamptz, -- When it was suspended.
    CHECK ((state = 'suspended') = (suspended_at IS NOT NULL))
);

CREATE TABLE registry.messenger_key ( -- API keys, two live ones at most for a messenger, so that rotation overlaps.
    key_id        text COLLATE "C" PRIMARY KEY CHECK (key_id ~ '^[a-z2-7]{8,32}$'), -- The public part of the key: rk_<keyId>_<secret>.
    messenger_id  integer NOT NULL REFERENCES registry.messenger, -- Whose key it is.
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32), -- SHA-256 of the secret part, which is 32 random bytes and stored nowhere.
    created_at    timestamptz NOT NULL DEFAULT now(), -- When it was made.
    expires_at    timestamptz, -- From when it is refused; NULL: never.
    revoked_at    timestamptz, -- When it was revoked; refused everywhere within 5 seconds.
    last_used_at  timestamptz -- Last use, to the minute.
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX messenger_key_messenger ON registry.messenger_key (messenger_id);

CREATE TABLE registry.operator_key ( -- Keys of the operator API, two live ones at most of one name, so that rotation overlaps.
    key_id        text COLLATE "C" PRIMARY KEY CHECK (key_id ~ '^[a-z2-7]{8,32}$'), -- The public part of ok_<keyId>_<secret>.
    name          text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'), -- Which system or person holds it; logs and metrics show this name.
    scopes        text[] NOT NULL CHECK (scopes <@ ARRAY['feed', 'read', 'act'] AND cardinality(scopes) > 0), -- What it allows: feed (contract events), read (the console's views), act (its actions).
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32), -- SHA-256 of the secret part, which is 32 random bytes and stored nowhere.
    created_at    timestamptz NOT NULL DEFAULT now(), -- When it was made.
    expires_at    timestamptz, -- From when it is refused; NULL: never.
    revoked_at    timestamptz, -- When it was revoked; refused everywhere within 5 seconds.
    last_used_at  timestamptz -- Last use, to the minute.
);

CREATE TABLE registry.console_session ( -- Who is logged in to the console. A session ends by logout, after 15 minutes without a page, after 12 hours, and with its key.
    session_sha256 bytea PRIMARY KEY CHECK (octet_length(session_sha256) = 32), -- SHA-256 of the session's token: 32 random bytes in the browser's cookie, stored nowhere.
    key_id         text COLLATE "C" NOT NULL REFERENCES registry.operator_key, -- The key that the person logged in with.
    began_at       timestamptz NOT NULL DEFAULT now(), -- When the person logged in.
    used_at        timestamptz NOT NULL DEFAULT now() -- When the person last asked for a page. What a page asks for by itself does not count.
) WITH (fillfactor = 50);
CREATE INDEX console_session_key ON registry.console_session (key_id);

CREATE TABLE registry.action ( -- What persons did in the console, append-only but for an outcome that is not known at once. What they do by commands is not here.
    action_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The action's number.
    confirmation uuid NOT NULL UNIQUE, -- Which confirmation page it was done from. Sent twice, a confirmation is carried out once.
    at           timestamptz NOT NULL DEFAULT now(), -- When.
    person       text COLLATE "C" NOT NULL, -- Who: the name of the operator key.
    key_id       text COLLATE "C" NOT NULL REFERENCES registry.operator_key, -- By which key.
    kind         text NOT NULL CHECK (kind IN ('hold', 'release', 'release_wave', 'test_push', 'replay', 'clear_alarm', 'set_quota', 'allow_ends', 'test_change', 'confirm_change', 'refuse_change')), -- What sort of action.
    messenger_id integer REFERENCES registry.messenger, -- Of which messenger; NULL: of all, or of none.
    what         text NOT NULL CHECK (what <> ''), -- What was done, in a sentence.
    counted      bigint NOT NULL CHECK (counted >= 0), -- How many notifications, alarms or ends it concerned, as the confirmation page showed.
    reason       text NOT NULL, -- Why, in the person's words; empty where none was asked for.
    outcome      text CHECK (outcome <> '') -- What came of it. NULL: it is under way, or the process that did it ended meanwhile.
);
CREATE INDEX action_at ON registry.action (at);

CREATE TABLE registry.messenger_secret ( -- Signing secrets for notifications. Each push is signed with every live one, so that rotation overlaps.
    secret_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The secret's number.
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- Whose notifications it signs; bound into the ciphertext as associated data.
    kind         registry.secret_kind NOT NULL, -- hmac_sha256 (Standard Webhooks v1) or ed25519 (v1a).
    ciphertext   bytea NOT NULL, -- AES-256-GCM under secrets-key: one byte that names the key, the nonce, the ciphertext with tag. Where to_public, sealed to its public half.
    to_public    boolean NOT NULL DEFAULT false, -- Whether it was made by a process without secrets-key, at its messenger's request: sealed to registry.sealing_key. `secrets rewrap` seals it as the others.
    created_at   timestamptz NOT NULL DEFAULT now(), -- When it was made.
    expires_at   timestamptz -- Until when it signs; NULL: until rotated.
);
CREATE INDEX messenger_secret_messenger ON registry.messenger_secret (messenger_id);

CREATE TABLE registry.sealing_key ( -- The public half of secrets-key, one row. Who has no secrets-key seals a new signing secret to it, and cannot open it again.
    one          boolean PRIMARY KEY DEFAULT true CHECK (one), -- There is one row.
    public_key   bytea NOT NULL CHECK (octet_length(public_key) = 32), -- An X25519 public key; its private half is derived from secrets-key.
    published_at timestamptz NOT NULL DEFAULT now() -- When a deliver process wrote it.
);

CREATE TABLE registry.change_request ( -- What a messenger asks the operator to change: its endpoint, or its signing secret. A person confirms or refuses it; until then nothing changes, so that a key that leaked redirects no notice.
    change_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The request's number.
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- Who asks.
    kind         registry.change_kind NOT NULL, -- endpoint or webhook_secret.
    endpoint_url text CHECK (octet_length(endpoint_url) <= 2048 AND endpoint_url ~ '^https?://[a-z0-9._:\[\]-]+(/[!-"$->@-\[\]-~]*)?(\?[!-"$-\[\]-~]+)?$'), -- The endpoint that it wants; as messenger.endpoint_url.
    ciphertext   bytea, -- The signing secret that it was shown, sealed to public_key and bound to the messenger; gone once the request is decided.
    public_key   bytea CHECK (octet_length(public_key) = 32), -- The sealing key that it is sealed to.
    requested_by text COLLATE "C" NOT NULL REFERENCES registry.messenger_key, -- The key that asked.
    requested_at timestamptz NOT NULL DEFAULT now(), -- When it asked.
    expires_at   timestamptz NOT NULL DEFAULT now() + interval '7 days', -- From when on nobody can confirm it.
    outcome      registry.change_outcome, -- confirmed, refused, or superseded by a later request of the messenger's own; NULL: it waits, until expires_at.
    decided_at   timestamptz, -- When.
    decided_by   text, -- By whom: a database user, the name of an operator key, or messenger.
    reason       text, -- Why it was refused; told to the messenger.
    CONSTRAINT each_kind_has_its_content
        CHECK ((kind = 'endpoint') = (endpoint_url IS NOT NULL) AND (ciphertext IS NOT NULL) = (kind = 'webhook_secret' AND outcome IS NULL)
               AND (kind = 'webhook_secret') = (public_key IS NOT NULL)),
    CONSTRAINT decisions_say_when_and_by_whom CHECK ((outcome IS NULL) = (decided_at IS NULL) AND (outcome IS NULL) = (decided_by IS NULL)),
    CONSTRAINT refusals_say_why CHECK ((outcome IS NOT DISTINCT FROM 'refused') = (reason IS NOT NULL) AND reason <> ''),
    CONSTRAINT requests_expire CHECK (expires_at > requested_at)
);
CREATE UNIQUE INDEX change_request_open ON registry.change_request (messenger_id, kind) WHERE outcome IS NULL;
CREATE INDEX change_request_messenger ON registry.change_request (messenger_id, change_id);

-- No foreign keys on the row: guard_new_bindings checks contract and messenger for a whole statement at once and locks the
-- contract against ending meanwhile, which a foreign key would not.
CREATE TABLE registry.binding ( -- A messenger's identification code on a contract (Decree 1801 of 2021: the operator records them). Live at once: at most one for a messenger and number, and at most one for a messenger and code.
    msisdn              bigint NOT NULL, -- The contract's number.
    bound_at            timestamptz NOT NULL DEFAULT now(), -- When the binding was recorded.
    messenger_id        integer NOT NULL, -- The messenger.
    generation          smallint NOT NULL, -- The contract's generation.
    identification_code text COLLATE "C" NOT NULL CHECK (identification_code ~ '^[ -~]{1,128}$'), -- The unique code that the messenger assigned to its user; opaque to the operator.
    ended_at            timestamptz, -- When it ended.
    end_reason          registry.binding_end_reason, -- terminated (with its contract), replaced (by another code) or removed (by the messenger).
    PRIMARY KEY (msisdn, generation, messenger_id, bound_at),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE UNIQUE INDEX binding_live_number ON registry.binding (msisdn, messenger_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX binding_live_code ON registry.binding (messenger_id, identification_code) WHERE ended_at IS NULL;
CREATE INDEX binding_ended_code ON registry.binding (messenger_id, identification_code, ended_at) WHERE ended_at IS NOT NULL;
-- Erasure walks ended bindings by time, as it does contracts.
CREATE INDEX binding_ended ON registry.binding (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE registry.journal_page ( -- The journal of presence queries, append-only: one row for each committed group of queries, whichever messengers asked. It holds no number. registry.presence_query expands it.
    page_id       uuid NOT NULL, -- The time of the answers in milliseconds, then random, then four zero hexadecimal digits: a query's id is its page's with its index in those four. Made by registry.new_page_id, and by nobody else.
    answered_at   timestamptz NOT NULL DEFAULT clock_timestamp(), -- When the answers were decided, by the database's clock; they are sent once this row is durable.
    queries       integer NOT NULL CHECK (queries BETWEEN 1 AND 65535), -- How many queries the page holds.
    digest_key    smallint NOT NULL, -- Which of the service's digest keys made the digests.
    messenger_ids integer[] NOT NULL, -- Who asked. The queries of each messenger stand one after another, in this order.
    query_counts  integer[] NOT NULL CHECK (cardinality(query_counts) = cardinality(messenger_ids)), -- How many queries each of them asked.
    waited_ms     integer[] NOT NULL CHECK (cardinality(waited_ms) = cardinality(messenger_ids)), -- How long the first query of each had waited from its receipt until the database was asked, in milliseconds: a duration, so that no other clock is in it (Decree 1801 of 2021: answer within the policy's time).
    digests       bytea NOT NULL CHECK (octet_length(digests) = 16 * queries), -- Keyed BLAKE2b-128 of each number, 16 bytes each, in the order of the bits of present: an unkeyed hash of a phone number is reversed in seconds.
    present       varbit NOT NULL CHECK (length(present) = queries), -- The answers, a bit each.
    told          varbit CHECK (length(told) = queries), -- NULL where every query was answered. Else a 0 for each that was not, because its contract was being changed: it was asked again.
    bound         varbit CHECK (length(bound) = queries), -- NULL where no query of the group bound anything. Else a 1 for each query after which a binding of its messenger stood on the number: recorded, replaced or unchanged.
    turned_by_rule integer CHECK (turned_by_rule > 0), -- How many of the group's answers organisation_rule turned: absent by it, present without it. NULL: none. A count and no bits, so that the page does not tell of which number that is so.
    PRIMARY KEY (page_id)
) PARTITION BY RANGE (page_id);
-- Digests are random bytes: trying to compress them would only cost time.
ALTER TABLE registry.journal_page ALTER COLUMN digests SET STORAGE EXTERNAL;
-- Where the last sealed window ended. A sequence, because whoever makes a page must see it as it is now, and no transaction takes it back.
CREATE SEQUENCE registry.sealed_until_ms MINVALUE 0;
COMMENT ON SEQUENCE registry.sealed_until_ms IS 'The end of the last window of the journal that was or is being sealed, in milliseconds since 1970: no new page is older.';
CREATE TABLE registry.journal_page_default PARTITION OF registry.journal_page DEFAULT;

CREATE TABLE registry.quota_usage ( -- Numbers asked for by messenger and day (UTC), written by each process about once a second, so that processes share one budget. The journal is the proof, this is the guard.
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- Who asked.
    day          date NOT NULL, -- The day, UTC.
    used         bigint NOT NULL DEFAULT 0, -- Numbers asked for.
    absent       bigint NOT NULL DEFAULT 0, -- Of those, answered absent: a scan misses far more than an honest client.
    PRIMARY KEY (day, messenger_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.enumeration_alarm ( -- Messengers whose queries looked like a search for subscribers. An alarm is in force until ends_at, or until cleared_at is set; meanwhile its messenger is slowed down to the policy's alarm_queries_per_minute.
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- Who asked.
    raised_at    timestamptz NOT NULL DEFAULT now(), -- When the first sign reached the database.
    kind         registry.alarm_kind NOT NULL, -- absent (too many absent answers), consecutive (numbers in a row) or canary (a number never issued to anyone).
    ends_at      timestamptz NOT NULL, -- When the alarm ends. Each further sign moves it.
    signs        integer NOT NULL DEFAULT 1 CHECK (signs >= 1), -- How often the sign was seen. More than once means that the search went on while it was slowed down.
    cleared_at   timestamptz, -- When the operator ended it (registryd messenger clear-alarm, or a DBA by setting this).
    PRIMARY KEY (messenger_id, raised_at, kind),
    CONSTRAINT alarms_end_after_they_began CHECK (ends_at > raised_at),
    CONSTRAINT alarms_are_cleared_after_they_began CHECK (cleared_at >= raised_at)
);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What we owe messengers

CREATE TABLE registry.notification ( -- What is owed: one termination, or its undoing, to one messenger for one binding. Written by the trigger that ends bindings, by replays, by released waves and by reinstatements. A row leaves by its delivery or by two persons' withdrawal. Nothing expires.
    messenger_id        integer NOT NULL, -- Who is owed it.
    generation          smallint NOT NULL, -- The ended contract's generation.
    attempts            smallint NOT NULL DEFAULT 0, -- Delivery attempts that failed.
    deadline_at         timestamptz NOT NULL CHECK (deadline_at >= '1970-01-01 00:00:00+00'), -- terminated_at plus the notice period in force then, to the millisecond; 1970 at least, where ids begin.
    notification_id     uuid NOT NULL, -- Begins with deadline_at in milliseconds, so that the id alone leads to the row by the primary key.
    msisdn              bigint NOT NULL, -- The number, told only where the messenger's agreement says so.
    terminated_at       timestamptz NOT NULL, -- When the contract ended.
    recorded_at         timestamptz NOT NULL DEFAULT now(), -- When the notification was written.
    not_before          timestamptz NOT NULL DEFAULT now(), -- When the next attempt is due.
    identification_code text COLLATE "C" NOT NULL, -- The messenger's code for its user.
    last_error          text, -- What the last attempt met, without any of its content.
    replayed            boolean NOT NULL DEFAULT false, -- Owed again by a replay: it was delivered before, so it is neither late nor overdue.
    undoes              uuid, -- NULL: it tells a termination. Else it tells that the end which this other notification told was a mistake and is undone; terminated_at is then when the contract began again.
    PRIMARY KEY (messenger_id, deadline_at, notification_id)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
-- Empty but for the few that a replay has let in, so it costs the fan-out nothing; and empty but for those that undo another.
CREATE INDEX notification_replayed ON registry.notification (messenger_id) WHERE replayed;
CREATE INDEX notification_undoes ON registry.notification (messenger_id, undoes) WHERE undoes IS NOT NULL;

CREATE TABLE registry.notification_delivered ( -- The proof that the duty was met: each notification with the time and channel of its delivery.
    messenger_id        integer NOT NULL, -- Who was notified.
    generation          smallint NOT NULL, -- The ended contract's generation.
    attempts            smallint NOT NULL, -- Delivery attempts, the successful one included.
    deadline_at         timestamptz NOT NULL, -- By when it was due.
    notification_id     uuid NOT NULL, -- As it was in registry.notification.
    msisdn              bigint NOT NULL, -- The number.
    terminated_at       timestamptz NOT NULL, -- When the contract ended.
    recorded_at         timestamptz NOT NULL, -- When the notification was written.
    delivered_at        timestamptz NOT NULL DEFAULT now(), -- When the messenger's receipt was recorded.
    via                 registry.delivery_channel NOT NULL, -- push, pull and acknowledge, or hand: then registry.handover has the channel's name.
    identification_code text COLLATE "C" NOT NULL, -- The messenger's code for its user.
    undoes              uuid, -- As it was in registry.notification.
    PRIMARY KEY (messenger_id, notification_id, delivered_at)
) PARTITION BY RANGE (delivered_at);
CREATE INDEX notification_delivered_undoes ON registry.notification_delivered (messenger_id, undoes) WHERE undoes IS NOT NULL;
CREATE TABLE registry.notification_delivered_default PARTITION OF registry.notification_delivered DEFAULT;

CREATE TABLE registry.delivery_attempt ( -- One row a push, append-only.
    messenger_id  integer NOT NULL, -- To whom.
    attempted_at  timestamptz NOT NULL, -- When the push began.
    notifications integer NOT NULL CHECK (notifications >= 1), -- How many notifications it carried.
    outcome       registry.delivery_outcome NOT NULL, -- acknowledged (2xx), rejected (400, 413, 422: the content) or failed (the endpoint).
    http_status   smallint, -- The answer's status; NULL where none came.
    latency_ms    integer NOT NULL CHECK (latency_ms >= 0), -- From the start to the answer, in milliseconds.
    error         text -- The kind of failure; never a body, a number or a code.
) PARTITION BY RANGE (attempted_at);
CREATE INDEX delivery_attempt_messenger ON registry.delivery_attempt (messenger_id, attempted_at);
CREATE TABLE registry.delivery_attempt_default PARTITION OF registry.delivery_attempt DEFAULT;

CREATE TABLE registry.lane ( -- The ordered stream of one messenger's notifications, worked by one process at a time. Free: no owner, or lease_until passed. Gated: gate_until is set, because the endpoint failed.
    messenger_id       integer PRIMARY KEY REFERENCES registry.messenger, -- Whose notifications.
    owner              text, -- The process that holds the lease.
    token              bigint NOT NULL DEFAULT 0, -- Fencing token: grows with each lease, so that a former owner's verdicts are refused.
    lease_until        timestamptz, -- When the lease lapses unless renewed.
    gate_until         timestamptz, -- When the next probe of a failing endpoint is due.
    failures           integer NOT NULL DEFAULT 0 CHECK (failures >= 0), -- Failures of the endpoint in a row.
    last_error         text, -- What the last failure was.
    last_success_at    timestamptz, -- The endpoint's last receipt.
    low_water          uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000', -- Where a lease begins to read: all that was due up to this id had been taken. It is a matter of speed alone: entries of settled rows below it may be dead and slow to pass.
    look_back_at       timestamptz NOT NULL DEFAULT now() + interval '30 seconds', -- When the lane is to be read from its beginning again: a deferral is over, or something may have come below the mark.
    alarms_below       interval[] NOT NULL DEFAULT '{}', -- The thresholds of policy.alarm_slack that an alarm was raised for and that the slack has not been above since.
    second_channel_due boolean NOT NULL DEFAULT false, -- Whether the alarm was raised that pushes have failed for hours.
    refused_told       boolean NOT NULL DEFAULT false, -- Whether the alarm was raised that the messenger refuses content that is overdue.
    CONSTRAINT leased_lanes_have_owner_and_end CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT gated_lanes_have_failed CHECK (gate_until IS NULL OR failures > 0)
) -- Mostly empty pages: a row is written several times a minute, and beside an old snapshot every version stays. Those on the page of the one
-- before need no index entry.
WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.replay ( -- A request of an operator or of a messenger that delivered notifications be delivered again. Set finished_at to end one early.
    replay_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The request's number.
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- To whom.
    own          boolean NOT NULL DEFAULT false, -- Whether the messenger asked for it itself.
    since_at     timestamptz, -- It chose what was delivered from then on; NULL: it chose by ids.
    until_at     timestamptz, -- It chose what was delivered before then.
    notifications bigint NOT NULL DEFAULT 0 CHECK (notifications >= 0), -- How many it chose.
    per_second   integer NOT NULL CHECK (per_second BETWEEN 1 AND 10000), -- How many are let in a second, and how many may wait in registry.notification, so that the endpoint is not swamped.
    asked_at     timestamptz NOT NULL DEFAULT now(), -- When it was asked for.
    let_in_at    timestamptz NOT NULL DEFAULT now(), -- When notifications were last let in: what keeps the pace, whichever process does it.
    finished_at  timestamptz, -- When its last notification was let in.
    CONSTRAINT windows_have_two_ends CHECK ((since_at IS NULL) = (until_at IS NULL) AND since_at < until_at),
    CONSTRAINT messengers_replay_windows CHECK (NOT own OR since_at IS NOT NULL)
);
CREATE INDEX replay_messenger ON registry.replay (messenger_id, replay_id);
CREATE INDEX replay_unfinished ON registry.replay (messenger_id, replay_id) WHERE finished_at IS NULL;

CREATE TABLE registry.replayed_notification ( -- What each replay chose: waiting to be let in, then owed again, then delivered again.
    replay_id       bigint NOT NULL, -- The request.
    messenger_id    integer NOT NULL, -- To whom.
    notification_id uuid NOT NULL, -- The notification, under its own id.
    replayed_at     timestamptz, -- When it was owed again; NULL: it waits.
    delivered_at    timestamptz, -- When the messenger's receipt of the repeat was recorded.
    via             registry.delivery_channel, -- push, pull or hand.
    PRIMARY KEY (messenger_id, notification_id, replay_id),
    CHECK ((delivered_at IS NULL) = (via IS NULL) AND (delivered_at IS NULL OR replayed_at IS NOT NULL))
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX replayed_notification_waiting ON registry.replayed_notification (replay_id, notification_id) WHERE replayed_at IS NULL;
-- A day's repeats in the order of their ids, for its digest.
CREATE INDEX replayed_notification_delivered ON registry.replayed_notification
    (messenger_id, ((delivered_at AT TIME ZONE 'UTC')::date), notification_id) WHERE delivered_at IS NOT NULL;

CREATE TABLE registry.handover ( -- Deliveries by hand: notifications that were handed over otherwise than over HTTP. Append-only. The notifications have via = hand and delivered_at = handed_at.
    messenger_id  integer NOT NULL REFERENCES registry.messenger, -- To whom.
    handed_at     timestamptz NOT NULL DEFAULT now(), -- When the receipt was recorded: delivered_at of each of them.
    channel       text NOT NULL CHECK (channel ~ '^[a-z0-9][a-z0-9._-]{0,62}$'), -- The channel's name, as the operator gave it.
    notifications bigint NOT NULL CHECK (notifications > 0), -- How many this settled.
    file_sha256   bytea CHECK (octet_length(file_sha256) = 32), -- SHA-256 of the file that was handed over or receipted; NULL where ids were given.
    PRIMARY KEY (messenger_id, handed_at)
);

CREATE TABLE registry.digest ( -- What was delivered to a messenger on a day (UTC), by whatever channel: one row, and one notifications.digest event, a messenger and day.
    messenger_id  integer NOT NULL REFERENCES registry.messenger, -- To whom.
    day           date NOT NULL, -- The day, UTC, of delivered_at.
    notifications bigint NOT NULL CHECK (notifications >= 0), -- How many different notifications.
    first_id      uuid, -- The lowest id; NULL where there was none.
    last_id       uuid, -- The highest id; NULL where there was none.
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32), -- SHA-256 over the ids in ascending order, each in lower case and followed by a line feed.
    made_at       timestamptz NOT NULL DEFAULT now(), -- When it was made: the event's timestamp, the same on every retry.
    attempts      integer NOT NULL DEFAULT 0, -- Pushes begun.
    not_before    timestamptz NOT NULL DEFAULT now(), -- When the next push is due.
    delivered_at  timestamptz, -- When the endpoint answered 2xx; NULL: not yet.
    last_error    text, -- What the last push met.
    PRIMARY KEY (messenger_id, day),
    CHECK ((notifications = 0) = (first_id IS NULL) AND (first_id IS NULL) = (last_id IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX digest_due ON registry.digest (not_before) WHERE delivered_at IS NULL;

CREATE TABLE registry.test_push ( -- Requests to push one endpoint.test to a messenger, and their results. A deliver process claims each; who asked waits for the row.
    test_id      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The request's number; the message's webhook-id has it too.
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- To whom.
    endpoint_url text, -- Where to: the endpoint of a change that a person is about to confirm. NULL: the messenger's.
    asked_at     timestamptz NOT NULL DEFAULT now(), -- When it was asked for, by the messenger or a command.
    claimed_at   timestamptz, -- When a deliver process took it.
    ended_at     timestamptz, -- When its result was written; NULL: not yet.
    delivered    boolean, -- Whether the endpoint answered 2xx.
    http_status  smallint, -- What it answered; NULL where it did not.
    latency_ms   integer, -- How long that took.
    error        text, -- What went wrong; NULL where it was delivered.
    CHECK ((ended_at IS NULL) = (delivered IS NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- One at a time for a messenger, and what deliver processes look for.
CREATE UNIQUE INDEX test_push_open ON registry.test_push (messenger_id) WHERE ended_at IS NULL;
CREATE INDEX test_push_messenger ON registry.test_push (messenger_id, asked_at);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The brake and the way back

CREATE TABLE registry.ends_recorded ( -- How many contracts each statement ended, by the time of recording: what the policy's bound of an hour is held against. Ends of a held wave are not in it. Appended by the trigger on registry.contract, folded by a job.
    recorded_at timestamptz NOT NULL DEFAULT now(), -- When the statement ran.
    ends        bigint NOT NULL CHECK (ends > 0) -- Contracts that it ended.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ends_recorded_at ON registry.ends_recorded (recorded_at) INCLUDE (ends);

CREATE TABLE registry.wave_allowance ( -- Ends beyond the policy's bound that a person has let through beforehand (registryd feed allow-ends, or an import with an explicit bound).
    allowance_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The allowance's number.
    ends         bigint NOT NULL CHECK (ends > 0), -- How many ends beyond the bound it lets through.
    used         bigint NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND ends), -- How many of them came.
    until_at     timestamptz NOT NULL, -- Until when it counts.
    reason       text NOT NULL CHECK (reason <> ''), -- Why the wave is right.
    made_by      text NOT NULL DEFAULT session_user, -- Who made it: a database user, or the name of an operator key.
    made_at      timestamptz NOT NULL DEFAULT now() -- When it was made.
);

CREATE TABLE registry.wave ( -- Waves of ends beyond the bound. Their notifications are held until a person releases or withdraws them. Nothing releases itself.
    wave_id       bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The wave's number.
    began_at      timestamptz NOT NULL DEFAULT now(), -- When its first statement ran.
    last_at       timestamptz NOT NULL DEFAULT now(), -- When its last statement ran. A user's statements within an hour are one wave.
    ended_by      text NOT NULL DEFAULT session_user, -- Which database user ended the contracts.
    ends          bigint NOT NULL DEFAULT 0, -- Contracts that ended.
    notifications bigint NOT NULL DEFAULT 0, -- Notifications that were written as held.
    released      bigint NOT NULL DEFAULT 0, -- Of them, released since.
    withdrawn     bigint NOT NULL DEFAULT 0, -- Of them, withdrawn since.
    released_at   timestamptz, -- When a person began to release it; NULL: it is held.
    released_by   text, -- Who released it: a database user, or the name of an operator key.
    release_reason text, -- Why.
    alarms        smallint NOT NULL DEFAULT 0 CHECK (alarms BETWEEN 0 AND 2), -- Which alarms were raised while it was held: 1 at once, 2 at half of the notice period.
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL)),
    CONSTRAINT what_left_a_wave_was_in_it CHECK (released + withdrawn <= notifications)
) WITH (fillfactor = 50);

CREATE TABLE registry.notification_held ( -- Notifications of a held wave: owed, their deadlines run, and nobody is told until a person releases them (to registry.notification) or withdraws them (to notification_withdrawn).
    messenger_id        integer NOT NULL, -- Who is owed it.
    generation          smallint NOT NULL, -- The ended contract's generation.
    deadline_at         timestamptz NOT NULL, -- As registry.notification has it.
    notification_id     uuid NOT NULL, -- As registry.notification has it.
    msisdn              bigint NOT NULL, -- The number.
    terminated_at       timestamptz NOT NULL, -- When the contract ended.
    recorded_at         timestamptz NOT NULL DEFAULT now(), -- When the notification was written.
    wave_id             bigint NOT NULL REFERENCES registry.wave, -- The wave it belongs to.
    identification_code text COLLATE "C" NOT NULL, -- The messenger's code for its user.
    PRIMARY KEY (messenger_id, deadline_at, notification_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX notification_held_wave ON registry.notification_held (wave_id, deadline_at);

CREATE TABLE registry.hold ( -- The brake by hand: while a hold is in force no new push begins to its messenger, and pull answers 503. Deadlines run on.
    hold_id      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, -- The hold's number.
    messenger_id integer REFERENCES registry.messenger, -- Whose notifications are held; NULL: everybody's.
    reason       text NOT NULL CHECK (reason <> ''), -- Why.
    held_at      timestamptz NOT NULL DEFAULT now(), -- Since when.
    held_by      text NOT NULL DEFAULT session_user, -- Who held them: a database user, or the name of an operator key.
    released_at  timestamptz, -- When it ended; NULL: it is in force.
    released_by  text, -- Who released it: likewise.
    release_reason text, -- Why.
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL))
);
CREATE UNIQUE INDEX hold_in_force ON registry.hold (coalesce(messenger_id, 0)) WHERE released_at IS NULL;

CREATE TABLE registry.notification_withdrawn ( -- Notifications that two persons withdrew: their contract's end was a mistake that was undone, or their messenger refuses them for ever. No digest, replay or figure of deliveries reads it.
    messenger_id        integer NOT NULL, -- Who was owed it.
    generation          smallint NOT NULL, -- The ended contract's generation.
    attempts            smallint NOT NULL, -- Delivery attempts that failed.
    deadline_at         timestamptz NOT NULL, -- By when it was due.
    notification_id     uuid NOT NULL, -- As it was in registry.notification or notification_held.
    msisdn              bigint NOT NULL, -- The number.
    terminated_at       timestamptz NOT NULL, -- When the contract ended.
    recorded_at         timestamptz NOT NULL, -- When the notification was written.
    withdrawn_at        timestamptz NOT NULL DEFAULT now(), -- When it was withdrawn.
    request             bigint NOT NULL, -- The request in registry.breakglass_event that two persons made and approved.
    identification_code text COLLATE "C" NOT NULL, -- The messenger's code for its user.
    reason              text NOT NULL CHECK (reason <> ''), -- Why.
    PRIMARY KEY (messenger_id, notification_id)
);
CREATE INDEX notification_withdrawn_at ON registry.notification_withdrawn (withdrawn_at);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Figures

CREATE TABLE registry.contract_movement ( -- How many contracts each statement started and ended, by day (UTC). report.contract_daily sums these rows instead of scanning contracts. Triggers append them, so that no writer waits for another.
    day            date NOT NULL, -- The day of started_at or ended_at.
    activated      bigint NOT NULL DEFAULT 0, -- Contracts that started.
    terminated     bigint NOT NULL DEFAULT 0, -- Contracts that were terminated.
    ported_out     bigint NOT NULL DEFAULT 0, -- Contracts whose number left to another operator.
    holder_changed bigint NOT NULL DEFAULT 0 -- Contracts that ended because the holder changed.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX contract_movement_day ON registry.contract_movement (day);

CREATE TABLE registry.binding_movement ( -- How many bindings each statement recorded and ended; report.binding_by_messenger sums these rows. Triggers append them, a job folds them.
    messenger_id integer NOT NULL, -- Whose bindings.
    recorded     bigint NOT NULL, -- Bindings recorded.
    terminated   bigint NOT NULL, -- Bindings that ended with their contract.
    replaced     bigint NOT NULL, -- Bindings that were replaced by another code.
    removed      bigint NOT NULL -- Bindings that their messenger removed.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.notification_movement ( -- How many notifications each statement wrote (+) and settled (-), without replayed ones. Their sum is what is owed: report.notification_backlog and notification_deadline. Triggers append the rows, a job folds them.
    messenger_id integer NOT NULL, -- Who is owed them.
    day          date NOT NULL, -- The day of the contract's end (UTC).
    due          timestamptz NOT NULL, -- The end of the minute of their deadline. From then on reports call them overdue.
    pending      bigint NOT NULL, -- Written less settled.
    held         bigint NOT NULL DEFAULT 0 -- Of them, held in a wave.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.feed_movement ( -- How many of billing's events each statement recorded, and how late; report.feed_lag sums these rows. Triggers append them, a job folds them.
    day       date NOT NULL, -- The day they were recorded (UTC).
    type      text NOT NULL, -- activated, terminated, ported_out, …
    outcome   registry.feed_outcome NOT NULL, -- What became of them.
    events    bigint NOT NULL, -- How many there were.
    lag_sum_s numeric NOT NULL, -- The sum of the times from occurring to being recorded, in seconds. An interval would overflow over events with wrong dates.
    worst_lag interval NOT NULL -- The longest of them.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.presence_day ( -- The figures of the journal's sealed pages, added with each seal: what report.presence_daily and report.answer_deadline tell, also when the pages are gone.
    day           date NOT NULL, -- The day of the answer (UTC).
    messenger_id  integer NOT NULL, -- Who asked.
    queries       bigint NOT NULL, -- Presence queries.
    present_count bigint NOT NULL, -- How many were answered present.
    bound_count   bigint NOT NULL, -- Of these, how many left a binding of the messenger's code on the number. The others came without a code, or with one in use elsewhere.
    in_time       bigint NOT NULL, -- How many were answered within the policy's time, by the policy in force at their receipt (Decree 1801 of 2021).
    late          bigint NOT NULL, -- How many were not. Received before any policy, a query is neither.
    worst_wait    interval NOT NULL, -- The longest time from receipt to answer.
    allowed       interval, -- The time that the policy gave.
    PRIMARY KEY (day, messenger_id)
) WITH (fillfactor = 70);

CREATE TABLE registry.turned_day ( -- How many answers the policy's organisation_rule turned, by day, of the journal's sealed pages. Added with each seal.
    day            date PRIMARY KEY, -- The day of the answer (UTC).
    turned_by_rule bigint NOT NULL -- Answers that were absent by organisation_rule, and would have been present without it.
);

CREATE TABLE registry.refusal_day ( -- Requests that were refused, by day, messenger and reason: queries that nobody answered are no part of the journal, and they are evidence too. Written by each process about every ten seconds.
    day          date NOT NULL, -- The day (UTC).
    messenger_id integer NOT NULL REFERENCES registry.messenger, -- Who asked.
    reason       text NOT NULL, -- Why it was refused: quota, throttle, queue, database, …
    refusals     bigint NOT NULL, -- How many requests.
    PRIMARY KEY (day, messenger_id, reason)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.answer_minute ( -- What the answer processes did in each minute: rates and latencies for the console. Each process adds its figures every ten seconds, and what the database does not take is lost: no evidence, but a look. Kept for a day.
    minute    timestamptz PRIMARY KEY, -- The minute's begin.
    queries   bigint NOT NULL, -- Numbers that were answered.
    absent    bigint NOT NULL, -- Of them, answered absent.
    requests  bigint NOT NULL, -- Requests of the presence routes.
    refused   bigint NOT NULL, -- Of them, those that were answered 4xx.
    failed    bigint NOT NULL, -- Of them, those that were answered 5xx.
    latencies bigint[] NOT NULL -- How many single queries took how long: a count for each bucket of registryd_request_seconds, the last one without an upper bound.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE registry.delivered_day ( -- Delivered notifications' figures, by statement: what report.notification_deadline sums, also when their rows are gone. Appended by triggers, folded by the daemon.
    day          date NOT NULL, -- The day of the contract's end (UTC).
    messenger_id integer NOT NULL, -- Who was notified.
    in_time      bigint NOT NULL, -- Notifications delivered by their deadline (Decree 1801 of 2021).
    late         bigint NOT NULL, -- Notifications delivered after it.
    worst_delay  interval NOT NULL, -- The longest time from the end to the delivery.
    delivered_on date NOT NULL -- The day of the delivery (UTC).
);
CREATE INDEX delivered_day_day ON registry.delivered_day (day);
-- What was late today, whenever its contract ended.
CREATE INDEX delivered_day_late ON registry.delivered_day (delivered_on) WHERE late > 0;

CREATE TABLE registry.attempt_day ( -- Delivery attempts' figures, by statement: what report.delivery_attempt_daily sums, also when their rows are gone. Appended by triggers, folded by the daemon.
    day            date NOT NULL, -- The day of the attempt (UTC).
    messenger_id   integer NOT NULL, -- To whom.
    outcome        registry.delivery_outcome NOT NULL, -- acknowledged, rejected or failed.
    http_status    smallint, -- The answer's status; NULL where none came.
    attempts       bigint NOT NULL, -- Pushes.
    notifications  bigint NOT NULL, -- Notifications they carried.
    latency_sum_ms bigint NOT NULL, -- Their latencies' sum, in milliseconds.
    latency_max_ms integer NOT NULL -- The longest latency, in milliseconds.
);
CREATE INDEX attempt_day_day ON registry.attempt_day (day);

-- Jobs delete from these, which have no primary key. While a publication publishes all tables, as tools that follow changes make one, PostgreSQL
-- refuses that without this. It costs nothing unless wal_level is logical.
ALTER TABLE registry.ends_recorded REPLICA IDENTITY FULL;
ALTER TABLE registry.contract_movement REPLICA IDENTITY FULL;
ALTER TABLE registry.binding_movement REPLICA IDENTITY FULL;
ALTER TABLE registry.notification_movement REPLICA IDENTITY FULL;
ALTER TABLE registry.feed_movement REPLICA IDENTITY FULL;
ALTER TABLE registry.delivered_day REPLICA IDENTITY FULL;
ALTER TABLE registry.attempt_day REPLICA IDENTITY FULL;
ALTER TABLE registry.delivery_attempt_default REPLICA IDENTITY FULL;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The service itself

CREATE TABLE registry.process ( -- The processes of the service, as each tells of itself every ten seconds. One that stops in order takes its row away, so a row that nobody renews is a process that died. Kept for a day.
    host     text NOT NULL, -- The host's name, with a hash of its machine-id: what leases of lanes are held under.
    role     text NOT NULL, -- answer, deliver or operate.
    instance integer NOT NULL, -- Its number on the host.
    pid      integer NOT NULL, -- Its process id there.
    version  text NOT NULL, -- The program's version.
    schema   integer NOT NULL, -- The newest migration that the program knows.
    since    timestamptz NOT NULL DEFAULT now(), -- When it first told of itself.
    heard_at timestamptz NOT NULL DEFAULT now(), -- When it last did.
    PRIMARY KEY (host, role, instance)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Evidence

CREATE TABLE registry.seal ( -- The hash chain over the journal, append-only: a row for each minute in which there were answers, and for each hour in which there were none. It goes from its beginning as the pages do.
    sequence          bigint PRIMARY KEY CHECK (sequence >= 1), -- Counts the seals from 1, without a gap.
    sealed_at         timestamptz NOT NULL, -- When it was written.
    from_at           timestamptz NOT NULL, -- Where its window begins: where that of the seal before ends. It covers all pages whose ids lie in the window.
    until_at          timestamptz NOT NULL, -- Where its window ends; the same as from_at where it covers none.
    pages             bigint NOT NULL, -- How many pages it covers.
    queries           bigint NOT NULL, -- How many queries they hold.
    system_identifier bigint NOT NULL, -- The database cluster that it was written in.
    timeline          integer NOT NULL, -- The timeline that it was written on: a promotion begins a new one, and may lose the end of the one before.
    kind              registry.seal_kind NOT NULL, -- begin (the first), window, or retention (pages and their seals went by the policy).
    note              text NOT NULL, -- retention: the day (UTC) before which pages are gone, the sequence of the last seal that went and its sha256.
    content           bytea NOT NULL CHECK (octet_length(content) = 32), -- SHA-256 over the pages.
    previous          bytea NOT NULL CHECK (octet_length(previous) = 32), -- sha256 of the seal before; zeros in the first.
    sha256            bytea NOT NULL CHECK (octet_length(sha256) = 32), -- SHA-256 over everything else here.
    CONSTRAINT windows_are_sealed CHECK (CASE kind WHEN 'window' THEN until_at > from_at AND note = '' ELSE until_at = from_at AND note <> '' END)
);

CREATE TABLE registry.last_verification ( -- The last time that `registryd audit verify` looked at the evidence: one row, none before the first.
    one         boolean PRIMARY KEY DEFAULT true CHECK (one), -- There is one row.
    verified_at timestamptz NOT NULL DEFAULT now(), -- When.
    verified_by text NOT NULL DEFAULT session_user, -- Who: the role that logged in.
    pages       bigint NOT NULL CHECK (pages >= 0), -- How many journal pages were compared with their seals.
    findings    bigint NOT NULL CHECK (findings >= 0) -- How much was found that is not as it was written.
);

CREATE TABLE registry.digest_key ( -- The keys of the journal's digests: random, one a month, made ahead by the daemon. Destroyed, a month's digests say nothing about any number any more; that the key was there stays.
    key_id       smallint PRIMARY KEY, -- What journal_page.digest_key names: months since January 2000.
    month        date NOT NULL UNIQUE, -- The month (UTC) whose pages it is for; some minutes of the next month may still be under it.
    ciphertext   bytea, -- AES-256-GCM under journal-key, bound to the month: one byte that names the key, the nonce, the ciphertext with tag.
    created_at   timestamptz NOT NULL DEFAULT now(), -- When it was made.
    destroyed_at timestamptz, -- When it was destroyed, because the policy no longer kept its month's journal.
    CONSTRAINT keys_are_numbered_by_their_month
        CHECK (month = date_trunc('month', month) AND key_id = (extract(year FROM month) - 2000) * 12 + extract(month FROM month)),
    CONSTRAINT destroyed_keys_have_no_ciphertext CHECK ((ciphertext IS NULL) = (destroyed_at IS NOT NULL))
) -- The version of a row that still holds the ciphertext of a destroyed key must go. By default autovacuum waits for fifty of them, which is four years.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 0);

CREATE TABLE registry.breakglass_event ( -- The break-glass log, append-only: what one person asked for and why, who approved it, and that it was done: a look at a number, an undoing of ends, a withdrawal of notifications. Each row holds the hash of the one before it.
    sequence    bigint PRIMARY KEY CHECK (sequence >= 1), -- Counts the rows from 1, without a gap.
    request     bigint NOT NULL REFERENCES registry.breakglass_event, -- The sequence of the request that the step belongs to; its own for the request itself.
    kind        registry.breakglass_kind NOT NULL, -- look (at one number), reinstate (contracts that were ended by mistake) or withdraw (notifications): of the request, and of its steps alike.
    step        registry.breakglass_step NOT NULL, -- requested, prepared (a look's digests), approved, then looked, reinstated or withdrawn.
    at          timestamptz NOT NULL, -- When.
    person      text NOT NULL, -- Who: the role that logged in (session_user), which for prepared is the daemon's. Give each person one of his own.
    msisdn      bigint, -- The number, of a request for a look.
    scope       text NOT NULL, -- Of a request to reinstate or withdraw: which contracts or notifications, as JSON. Of reinstated and withdrawn: how many, by outcome. Else empty.
    reason      text NOT NULL, -- Why, of a request: ten characters at least.
    digest_keys smallint[] NOT NULL, -- Of the step prepared: under which digest keys the journal is searched.
    digests     bytea NOT NULL CHECK (octet_length(digests) = 16 * cardinality(digest_keys)), -- The number's digests under them, 16 bytes each: who holds the keys can tell that they are this number's.
    previous    bytea NOT NULL CHECK (octet_length(previous) = 32), -- sha256 of the row before; zeros in the first.
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32), -- SHA-256 of previous, sequence, request, at, msisdn (0 for none), digests, digest_keys, the lengths of person and scope, and kind, step, person, scope and reason in UTF-8.
    CONSTRAINT each_step_is_taken_once UNIQUE (request, step),
    CONSTRAINT requests_say_what_and_why
        CHECK ((step = 'requested') = (request = sequence) AND (step = 'requested') = (reason <> '')
               AND (msisdn IS NOT NULL) = (step = 'requested' AND kind = 'look')
               AND (scope <> '') = (kind <> 'look' AND step <> 'approved')),
    CONSTRAINT each_kind_has_its_steps
        CHECK (CASE kind WHEN 'look' THEN step IN ('requested', 'prepared', 'approved', 'looked')
                         WHEN 'reinstate' THEN step IN ('requested', 'approved', 'reinstated')
                         ELSE step IN ('requested', 'approved', 'withdrawn') END),
    CONSTRAINT numbers_are_numbers CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    CONSTRAINT reasons_are_told CHECK (step <> 'requested' OR length(btrim(reason)) >= 10)
);

CREATE TABLE registry.breakglass_number ( -- The numbers of requests that name contracts by a file. They are gone when their request has been carried out, or has lapsed.
    request bigint NOT NULL REFERENCES registry.breakglass_event, -- The request.
    msisdn  bigint NOT NULL, -- A number of its file.
    PRIMARY KEY (request, msisdn)
);

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
CREATE TRIGGER refuse_changing BEFORE UPDATE OF messenger_id, deadline_at, notification_id, msisdn, generation, terminated_at, identification_code ON registry.notification
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_changing_owed();
CREATE TRIGGER refuse_losing BEFORE DELETE ON registry.notification FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_losing_notifications();
CREATE TRIGGER count_owed_notifications AFTER INSERT ON registry.notification
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_notifications();
CREATE TRIGGER wake_delivery AFTER INSERT ON registry.notification
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.wake_delivery();
CREATE TRIGGER count_settled_notifications AFTER DELETE ON registry.notification
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_notifications();

CREATE TRIGGER look_back_after_hold AFTER UPDATE OF released_at ON registry.hold
    FOR EACH ROW WHEN (OLD.released_at IS NULL AND NEW.released_at IS NOT NULL)
    EXECUTE FUNCTION registry.look_back_after_hold();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification_held FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_changing BEFORE UPDATE OF messenger_id, deadline_at, notification_id, msisdn, generation, terminated_at, identification_code ON registry.notification_held
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_changing_owed();
CREATE TRIGGER refuse_losing BEFORE DELETE ON registry.notification_held FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_losing_notifications();
CREATE TRIGGER count_held_notifications AFTER INSERT ON registry.notification_held
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_held_notifications();
CREATE TRIGGER count_unheld_notifications AFTER DELETE ON registry.notification_held
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_held_notifications();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification_withdrawn FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification_delivered FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER count_delivered AFTER INSERT ON registry.notification_delivered
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.count_delivered();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.delivery_attempt FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER count_attempts AFTER INSERT ON registry.delivery_attempt
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.count_attempts();

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.journal_page FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
-- A partition can be named alone, and has none of its table's triggers for whole statements: make_partitions gives each the same.
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.journal_page_default FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.notification_delivered_default FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.delivery_attempt_default FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE TRIGGER refuse_deleting_bound_messenger BEFORE DELETE ON registry.messenger
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_deleting_bound_messenger();
CREATE TRIGGER open_lane AFTER INSERT ON registry.messenger FOR EACH ROW EXECUTE FUNCTION registry.open_lane();

CREATE TRIGGER limit_live_keys AFTER INSERT OR UPDATE OF messenger_id, expires_at, revoked_at ON registry.messenger_key
    FOR EACH ROW EXECUTE FUNCTION registry.limit_live_keys();
CREATE TRIGGER limit_live_keys AFTER INSERT OR UPDATE OF name, expires_at, revoked_at ON registry.operator_key
    FOR EACH ROW EXECUTE FUNCTION registry.limit_live_operator_keys();

CREATE TRIGGER refuse_changing_outcome BEFORE UPDATE ON registry.action FOR EACH ROW WHEN (OLD.outcome IS NOT NULL)
    EXECUTE FUNCTION registry.refuse_changing_outcome();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.action FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

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
