-- The five roles of registryd. Run once for each database, by a superuser, connected to it:
--
--     createdb registryd && psql -d registryd -f sql/roles.sql
--
-- Running it again changes nothing. No password is set here: use peer or certificate authentication, or \password.
--
--   registryd_owner       owns everything, cannot log in; `registryd migrate` takes it on by SET ROLE
--   registryd_app         the daemon: the rows it needs, the journal by INSERT only, no DELETE of what the law wants kept
--   registryd_report      the DBA's reports: views of schema report and nothing else, bounded so that it cannot starve the daemon
--   registryd_breakglass  asks for what two persons may do (look, reinstate, withdraw) and carries it out, by logged functions: granted to persons,
--                         each with a role of his own
--   registryd_approver    approves other persons' requests

\set ON_ERROR_STOP on

DO $roles$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('registryd_owner', 'NOLOGIN'),
            ('registryd_app', 'LOGIN'),
            ('registryd_report', 'LOGIN CONNECTION LIMIT 5'),
            ('registryd_breakglass', 'NOLOGIN'),
            ('registryd_approver', 'NOLOGIN')
        ) AS roles(name, options)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.options);
        END IF;
    END LOOP;

    -- registry.end_long_reports runs as the owner and ends sessions of the report role and of persons who are granted it, so it must see how long
    -- they have run. Whether the grants are there is asked first, because GRANT prints a notice where they are.
    FOR wanted IN
        SELECT * FROM unnest(ARRAY['registryd_report', 'pg_signal_backend', 'pg_read_all_stats']) AS roles(name)
    LOOP
        IF NOT pg_has_role('registryd_owner', wanted.name, 'USAGE') THEN
            EXECUTE format('GRANT %I TO registryd_owner', wanted.name);
        END IF;
    END LOOP;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO registryd_owner', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO registryd_app', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO registryd_report, registryd_breakglass, registryd_approver', current_database());
END
$roles$;

-- Without this, everybody may fill the disk with large objects.
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;

-- Numbers must not reach the server's log. The DETAIL of an error quotes key values, and csvlog and jsonlog write it whatever
-- log_error_verbosity says; slow statements, failed ones and auto_explain quote parameters. So nothing of the daemon's sessions is logged:
-- the daemon logs its failures itself, without numbers.
ALTER ROLE registryd_app SET log_min_messages = 'panic';
ALTER ROLE registryd_app SET timezone = 'UTC';

ALTER ROLE registryd_report SET default_transaction_read_only = on;
ALTER ROLE registryd_report SET statement_timeout = '30s';
ALTER ROLE registryd_report SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE registryd_report SET idle_session_timeout = '1h';
ALTER ROLE registryd_report SET lock_timeout = '5s';
ALTER ROLE registryd_report SET work_mem = '16MB';
ALTER ROLE registryd_report SET temp_file_limit = '1GB';
ALTER ROLE registryd_report SET search_path = report;
ALTER ROLE registryd_report SET timezone = 'UTC';
