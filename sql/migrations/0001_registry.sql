-- The registry: who holds which number, which messengers know them, who asked, and what is owed.
--
-- Four families of tables, in the order below:
--   the law and the operator's numbers   policy, numbering_range
--   what billing tells us                contract, contract_movement, feed_event
--   what messengers tell and ask us      messenger, messenger_key, messenger_secret, binding, journal_page, quota_usage
--   what we owe messengers               notification, notification_delivered, delivery_attempt, lane
--
-- An MSISDN is a bigint of E.164 digits without the plus. Nothing here holds a name, a document, an IMSI or a place.
-- Ids that travel on the wire are UUIDs that begin with a time in milliseconds (the layout of RFC 9562 version 7), so that they
-- neither count anything for an outsider nor scatter an index: journal_page's is the time of receipt, notification's its deadline.
-- Every hot table carries msisdn or messenger_id in its key, so that it could be distributed by it later.
--
-- Run as registryd_owner (`registryd migrate`, or `SET ROLE registryd_owner` in psql) after sql/roles.sql.

CREATE SCHEMA registry;
CREATE SCHEMA report;
COMMENT ON SCHEMA registry IS 'registryd: the daemon''s tables. Report from schema report instead: its views are kept stable.';
COMMENT ON SCHEMA report IS 'registryd: the DBA''s views. Numbers and codes are masked; names and columns are a contract.';

CREATE TABLE registry.schema_migration (
    version    integer PRIMARY KEY,
    checksum   bytea NOT NULL CHECK (octet_length(checksum) = 32),
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.schema_migration IS 'Which files of sql/migrations were applied.';
COMMENT ON COLUMN registry.schema_migration.version IS 'The number a file''s name begins with.';
COMMENT ON COLUMN registry.schema_migration.checksum IS 'SHA-256 of the file as applied: a file that was edited since is refused.';
COMMENT ON COLUMN registry.schema_migration.applied_at IS 'When it was applied.';

CREATE TYPE registry.contract_status AS ENUM ('active', 'suspended', 'ended');
CREATE TYPE registry.holder AS ENUM ('individual', 'sole_trader', 'organisation');
CREATE TYPE registry.end_user AS ENUM ('not_required', 'registered', 'unregistered');
CREATE TYPE registry.end_reason AS ENUM ('terminated', 'ported_out', 'holder_changed');
CREATE TYPE registry.binding_end_reason AS ENUM ('terminated', 'replaced', 'removed');
CREATE TYPE registry.organisation_rule AS ENUM ('subscriber', 'verified_end_user');
CREATE TYPE registry.messenger_state AS ENUM ('active', 'suspended');
CREATE TYPE registry.secret_kind AS ENUM ('hmac_sha256', 'ed25519');
CREATE TYPE registry.delivery_channel AS ENUM ('push', 'pull');
CREATE TYPE registry.delivery_outcome AS ENUM ('acknowledged', 'rejected', 'failed');
CREATE TYPE registry.feed_outcome AS ENUM ('applied', 'refused');

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The law as dated data, and the operator's capacity

CREATE TABLE registry.policy (
    effective_from       timestamptz PRIMARY KEY,
    answer_within        interval NOT NULL CHECK (answer_within > '0'),
    notice_within        interval NOT NULL CHECK (notice_within > '0'),
    organisation_rule    registry.organisation_rule NOT NULL,
    suspended_is_present boolean NOT NULL,
    journal_kept         interval NOT NULL CHECK (journal_kept >= '1 day'),
    notification_kept    interval NOT NULL CHECK (notification_kept >= '1 day'),
    note                 text NOT NULL CHECK (note <> '')
);
COMMENT ON TABLE registry.policy IS 'The rules in force from a date on: the row with the latest effective_from not after now. A change is a new row; history is kept.';
COMMENT ON COLUMN registry.policy.effective_from IS 'From when the row is in force, until the next row''s date.';
COMMENT ON COLUMN registry.policy.answer_within IS 'The time to answer a presence query, from its receipt (Decree 1801 of 2021: 20 minutes).';
COMMENT ON COLUMN registry.policy.notice_within IS 'The time to notify the messengers of a contract''s end, from the end (Decree 1801 of 2021: 24 hours).';
COMMENT ON COLUMN registry.policy.organisation_rule IS 'A number held by an organisation or sole trader is present: subscriber, whenever the contract is live; verified_end_user, only when its end user is registered.';
COMMENT ON COLUMN registry.policy.suspended_is_present IS 'Whether a suspended contract counts as present: the subscriber still holds the number.';
COMMENT ON COLUMN registry.policy.journal_kept IS 'How long the journal of presence queries is kept.';
COMMENT ON COLUMN registry.policy.notification_kept IS 'How long delivered notifications and delivery attempts are kept as proof.';
COMMENT ON COLUMN registry.policy.note IS 'Where the rule comes from.';

INSERT INTO registry.policy VALUES (
    '2022-03-01 00:00:00+03', '20 minutes', '24 hours', 'verified_end_user', true, '3 years', '3 years',
    'Decree 1801 of 2021-10-20, in force from 2022-03-01; it lapses in March 2028: add the row of its successor before then.'
);

CREATE FUNCTION registry.policy_in_force(at timestamptz) RETURNS SETOF registry.policy
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
AS 'SELECT p.* FROM registry.policy AS p WHERE p.effective_from <= at ORDER BY p.effective_from DESC LIMIT 1';
COMMENT ON FUNCTION registry.policy_in_force IS 'The policy row in force at a time; no row where none was yet, so that nothing is answered by a rule that is not there.';

CREATE FUNCTION registry.is_present(
    status registry.contract_status, holder registry.holder, end_user registry.end_user,
    organisation_rule registry.organisation_rule, suspended_is_present boolean
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (status = 'active' OR (status = 'suspended' AND suspended_is_present))
       AND (organisation_rule = 'subscriber' OR end_user <> 'unregistered')
$$;
COMMENT ON FUNCTION registry.is_present IS 'Who counts as present: the rule that answers every query. The same rule in words: registryd/domain/presence.py; a test holds the two together.';

CREATE TABLE registry.numbering_range (
    first_msisdn bigint PRIMARY KEY CHECK (first_msisdn BETWEEN 10000 AND 999999999999999),
    last_msisdn  bigint NOT NULL CHECK (last_msisdn BETWEEN first_msisdn AND 999999999999999),
    region       text NOT NULL DEFAULT '',
    note         text NOT NULL DEFAULT '',
    CONSTRAINT numbering_ranges_do_not_overlap EXCLUDE USING gist (int8range(first_msisdn, last_msisdn, '[]') WITH &&)
);
COMMENT ON TABLE registry.numbering_range IS 'The operator''s allocated numbering capacity (DEF codes). Empty means unchecked; else a number outside answers absent. Numbers ported in need a range of their own.';
COMMENT ON COLUMN registry.numbering_range.first_msisdn IS 'The first number of the range.';
COMMENT ON COLUMN registry.numbering_range.last_msisdn IS 'The last number of the range, itself included.';
COMMENT ON COLUMN registry.numbering_range.region IS 'The region the regulator names.';
COMMENT ON COLUMN registry.numbering_range.note IS 'Where the row comes from.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What billing tells us

-- Columns stand widest first, so that alignment wastes nothing: with both indexes a live contract takes about 125 bytes.
CREATE TABLE registry.contract (
    msisdn      bigint NOT NULL CHECK (msisdn BETWEEN 10000 AND 999999999999999),
    started_at  timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    status      registry.contract_status NOT NULL,
    holder      registry.holder NOT NULL,
    end_user    registry.end_user NOT NULL,
    generation  smallint NOT NULL CHECK (generation >= 1),
    ended_at    timestamptz,
    end_reason  registry.end_reason,
    PRIMARY KEY (msisdn, generation) WITH (fillfactor = 100),
    CONSTRAINT ended_contracts_say_when_and_why
        CHECK ((status = 'ended') = (ended_at IS NOT NULL) AND (ended_at IS NULL) = (end_reason IS NULL)),
    CONSTRAINT contracts_end_after_they_start CHECK (ended_at >= started_at),
    CONSTRAINT individuals_are_their_own_end_user CHECK ((holder = 'individual') = (end_user = 'not_required'))
);
-- The index that answers queries.
CREATE UNIQUE INDEX contract_live ON registry.contract (msisdn) WITH (fillfactor = 100) WHERE ended_at IS NULL;
-- Retention and reports walk ended contracts by time.
CREATE INDEX contract_ended ON registry.contract (ended_at) WHERE ended_at IS NOT NULL;
COMMENT ON TABLE registry.contract IS 'One MSISDN held by one subscriber over one period. Set ended_at to end it: bindings end and notifications are written in the same transaction. Ended is final.';
COMMENT ON COLUMN registry.contract.msisdn IS 'The number: E.164 digits without the plus.';
COMMENT ON COLUMN registry.contract.started_at IS 'When the holder got the number.';
COMMENT ON COLUMN registry.contract.recorded_at IS 'When the registry learned of the contract.';
COMMENT ON COLUMN registry.contract.status IS 'active, suspended or ended. Ended is final: a restored subscriber gets the next generation.';
COMMENT ON COLUMN registry.contract.holder IS 'Who holds the contract: decides, with policy.organisation_rule, whether an end user must be registered.';
COMMENT ON COLUMN registry.contract.end_user IS 'Whether the person who uses an organisation''s number is registered; not_required for individuals.';
COMMENT ON COLUMN registry.contract.generation IS 'Counts the holders of the number, from 1, so that a late notice cannot hit the next holder.';
COMMENT ON COLUMN registry.contract.ended_at IS 'When the contract ended; the notice period runs from here (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.contract.end_reason IS 'terminated, ported_out or holder_changed; never told to a messenger.';

CREATE TABLE registry.contract_movement (
    day            date NOT NULL,
    activated      bigint NOT NULL DEFAULT 0,
    terminated     bigint NOT NULL DEFAULT 0,
    ported_out     bigint NOT NULL DEFAULT 0,
    holder_changed bigint NOT NULL DEFAULT 0
);
CREATE INDEX contract_movement_day ON registry.contract_movement (day);
COMMENT ON TABLE registry.contract_movement IS 'How many contracts each statement started and ended, by day (UTC): what report.contract_daily sums, so that it need not scan contracts. Appended by triggers, without contention.';
COMMENT ON COLUMN registry.contract_movement.day IS 'The day of started_at or ended_at.';
COMMENT ON COLUMN registry.contract_movement.activated IS 'Contracts that started.';
COMMENT ON COLUMN registry.contract_movement.terminated IS 'Contracts that were terminated.';
COMMENT ON COLUMN registry.contract_movement.ported_out IS 'Contracts whose number left to another operator.';
COMMENT ON COLUMN registry.contract_movement.holder_changed IS 'Contracts that ended because the holder changed.';

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
COMMENT ON TABLE registry.feed_event IS 'Billing''s events, so that a replay changes nothing.';
COMMENT ON COLUMN registry.feed_event.event_id IS 'Billing''s own id of the event.';
COMMENT ON COLUMN registry.feed_event.type IS 'activated, terminated, ported_out, …';
COMMENT ON COLUMN registry.feed_event.content IS 'Keyed digest of the event: the same id with another content is refused, not ignored. Holds no number.';
COMMENT ON COLUMN registry.feed_event.outcome IS 'What became of it. A refused event stays refused: its correction comes under a new id.';
COMMENT ON COLUMN registry.feed_event.reason IS 'Why it was refused, in words an engineer can act on.';
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
);
CREATE INDEX messenger_key_messenger ON registry.messenger_key (messenger_id);
COMMENT ON TABLE registry.messenger_key IS 'API keys, two live ones at most for a messenger, so that rotation overlaps.';
COMMENT ON COLUMN registry.messenger_key.key_id IS 'The public part of rk_<keyId>_<secret>.';
COMMENT ON COLUMN registry.messenger_key.messenger_id IS 'Whose key it is.';
COMMENT ON COLUMN registry.messenger_key.secret_sha256 IS 'SHA-256 of the secret part, which is 32 random bytes and stored nowhere.';
COMMENT ON COLUMN registry.messenger_key.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.messenger_key.expires_at IS 'From when it is refused; NULL: never.';
COMMENT ON COLUMN registry.messenger_key.revoked_at IS 'When it was revoked; refused everywhere within 5 seconds.';
COMMENT ON COLUMN registry.messenger_key.last_used_at IS 'Last use, to the minute.';

CREATE TABLE registry.messenger_secret (
    secret_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    kind         registry.secret_kind NOT NULL,
    ciphertext   bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz
);
CREATE INDEX messenger_secret_messenger ON registry.messenger_secret (messenger_id);
COMMENT ON TABLE registry.messenger_secret IS 'Signing secrets for notifications; every live one signs, so that rotation overlaps.';
COMMENT ON COLUMN registry.messenger_secret.secret_id IS 'The secret''s number.';
COMMENT ON COLUMN registry.messenger_secret.messenger_id IS 'Whose notifications it signs; bound into the ciphertext as associated data.';
COMMENT ON COLUMN registry.messenger_secret.kind IS 'hmac_sha256 (Standard Webhooks v1) or ed25519 (v1a).';
COMMENT ON COLUMN registry.messenger_secret.ciphertext IS 'AES-256-GCM under the service''s secrets-key: nonce, then ciphertext with tag.';
COMMENT ON COLUMN registry.messenger_secret.created_at IS 'When it was made.';
COMMENT ON COLUMN registry.messenger_secret.expires_at IS 'Until when it signs; NULL: until rotated.';

-- No foreign keys on the row: the guard trigger of 0002 checks contract and messenger for a whole statement at once and locks the
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
COMMENT ON TABLE registry.binding IS 'Messenger and identification code on a contract (Decree 1801 of 2021: the operator records them). At most one live for a messenger and number, and for a messenger and code.';
COMMENT ON COLUMN registry.binding.msisdn IS 'The contract''s number.';
COMMENT ON COLUMN registry.binding.bound_at IS 'When the binding was recorded.';
COMMENT ON COLUMN registry.binding.messenger_id IS 'The messenger.';
COMMENT ON COLUMN registry.binding.generation IS 'The contract''s generation.';
COMMENT ON COLUMN registry.binding.identification_code IS 'The unique code that the messenger assigned to its user; opaque to the operator.';
COMMENT ON COLUMN registry.binding.ended_at IS 'When it ended.';
COMMENT ON COLUMN registry.binding.end_reason IS 'terminated (with its contract), replaced (by another code) or removed (by the messenger).';

CREATE TABLE registry.journal_page (
    page_id       uuid NOT NULL,
    received_at   timestamptz NOT NULL,
    answered_at   timestamptz NOT NULL,
    messenger_id  integer NOT NULL,
    queries       integer NOT NULL CHECK (queries BETWEEN 1 AND 65535),
    present_count integer NOT NULL CHECK (present_count BETWEEN 0 AND queries),
    digest_key    smallint NOT NULL,
    digests       bytea NOT NULL CHECK (octet_length(digests) = 16 * queries),
    present       varbit NOT NULL CHECK (length(present) = queries),
    PRIMARY KEY (page_id)
) PARTITION BY RANGE (page_id);
-- Digests are random bytes: trying to compress them would only cost time.
ALTER TABLE registry.journal_page ALTER COLUMN digests SET STORAGE EXTERNAL;
COMMENT ON TABLE registry.journal_page IS 'The journal of presence queries, append-only: one row for each messenger in each committed group. It holds no number. registry.presence_query expands it.';
COMMENT ON COLUMN registry.journal_page.page_id IS 'Time of receipt in milliseconds, then random, then four zero hexadecimal digits: a query''s id is its page''s with its index in those four.';
COMMENT ON COLUMN registry.journal_page.received_at IS 'When the first query of the page was received.';
COMMENT ON COLUMN registry.journal_page.answered_at IS 'When the answers were decided; they are sent once this row is durable.';
COMMENT ON COLUMN registry.journal_page.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.journal_page.queries IS 'How many queries the page holds.';
COMMENT ON COLUMN registry.journal_page.present_count IS 'How many of them were answered present.';
COMMENT ON COLUMN registry.journal_page.digest_key IS 'Which of the service''s digest keys made the digests.';
COMMENT ON COLUMN registry.journal_page.digests IS 'Keyed BLAKE2b-128 of each number, 16 bytes each, in the order of the bits of present: an unkeyed hash of a phone number is reversed in seconds.';
COMMENT ON COLUMN registry.journal_page.present IS 'The answers, a bit each.';

CREATE TABLE registry.quota_usage (
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    day          date NOT NULL,
    used         bigint NOT NULL DEFAULT 0,
    absent       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (messenger_id, day)
) WITH (fillfactor = 50);
COMMENT ON TABLE registry.quota_usage IS 'Numbers asked for by messenger and day (UTC), written by each worker about once a second, so that workers share one budget. The journal is the proof, this is the guard.';
COMMENT ON COLUMN registry.quota_usage.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.quota_usage.day IS 'The day, UTC.';
COMMENT ON COLUMN registry.quota_usage.used IS 'Numbers asked for.';
COMMENT ON COLUMN registry.quota_usage.absent IS 'Of those, answered absent: a scan misses far more than an honest client.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What we owe messengers

CREATE TABLE registry.notification (
    messenger_id        integer NOT NULL,
    generation          smallint NOT NULL,
    attempts            smallint NOT NULL DEFAULT 0,
    deadline_at         timestamptz NOT NULL,
    notification_id     uuid NOT NULL,
    msisdn              bigint NOT NULL,
    terminated_at       timestamptz NOT NULL,
    recorded_at         timestamptz NOT NULL DEFAULT now(),
    not_before          timestamptz NOT NULL DEFAULT now(),
    identification_code text COLLATE "C" NOT NULL,
    last_error          text,
    PRIMARY KEY (messenger_id, deadline_at, notification_id)
);
COMMENT ON TABLE registry.notification IS 'What is owed: one termination to one messenger for one binding. Written by the fan-out trigger only; a row leaves only by registry.settle_delivered. Nothing expires.';
COMMENT ON COLUMN registry.notification.messenger_id IS 'Who is owed it.';
COMMENT ON COLUMN registry.notification.generation IS 'The ended contract''s generation.';
COMMENT ON COLUMN registry.notification.attempts IS 'Delivery attempts that failed.';
COMMENT ON COLUMN registry.notification.deadline_at IS 'terminated_at plus the notice period in force then, to the millisecond.';
COMMENT ON COLUMN registry.notification.notification_id IS 'Begins with deadline_at in milliseconds, so that the id alone leads to the row by the primary key.';
COMMENT ON COLUMN registry.notification.msisdn IS 'The number, told only where the messenger''s agreement says so.';
COMMENT ON COLUMN registry.notification.terminated_at IS 'When the contract ended.';
COMMENT ON COLUMN registry.notification.recorded_at IS 'When the notification was written.';
COMMENT ON COLUMN registry.notification.not_before IS 'When the next attempt is due.';
COMMENT ON COLUMN registry.notification.identification_code IS 'The messenger''s code for its user.';
COMMENT ON COLUMN registry.notification.last_error IS 'What the last attempt met, without any of its content.';

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
COMMENT ON COLUMN registry.notification_delivered.via IS 'push, or pull and acknowledge.';
COMMENT ON COLUMN registry.notification_delivered.identification_code IS 'The messenger''s code for its user.';

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

CREATE TABLE registry.lane (
    messenger_id    integer PRIMARY KEY REFERENCES registry.messenger,
    owner           text,
    token           bigint NOT NULL DEFAULT 0,
    lease_until     timestamptz,
    gate_until      timestamptz,
    failures        integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    last_error      text,
    last_success_at timestamptz,
    CONSTRAINT leased_lanes_have_owner_and_end CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT gated_lanes_have_failed CHECK (gate_until IS NULL OR failures > 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE registry.lane IS 'The ordered stream of one messenger''s notifications, worked by one process at a time. Free: no owner, or lease_until passed. Gated: gate_until is set, because the endpoint failed.';
COMMENT ON COLUMN registry.lane.messenger_id IS 'Whose notifications.';
COMMENT ON COLUMN registry.lane.owner IS 'The worker that holds the lease.';
COMMENT ON COLUMN registry.lane.token IS 'Fencing token: grows with each lease, so that a former owner''s verdicts are refused.';
COMMENT ON COLUMN registry.lane.lease_until IS 'When the lease lapses unless renewed.';
COMMENT ON COLUMN registry.lane.gate_until IS 'When the next probe of a failing endpoint is due.';
COMMENT ON COLUMN registry.lane.failures IS 'Failures of the endpoint in a row.';
COMMENT ON COLUMN registry.lane.last_error IS 'What the last failure was.';
COMMENT ON COLUMN registry.lane.last_success_at IS 'The endpoint''s last receipt.';
