-- Asks whether a message may be handled, by two limits at once: one of its user, one of the address that it came from.
--
--     psql -X -v user=+4915155501 -v address=10.0.0.7 -f allow.sql
--
-- A limit that somebody may want to change without a deployment is a row of llmquota.rate_limit: it rules over these
-- numbers.
\set ON_ERROR_STOP on
SELECT allowed, remaining, scope, ceil(retry_after_ms / 1000.0) AS retry_after_s
  FROM llmquota_allow_all(jsonb_build_array(
           jsonb_build_object('scope', 'messages of a user', 'subject', :'user', 'amount', 3, 'per_ms', 3600000),
           jsonb_build_object('scope', 'messages of an address', 'subject', :'address', 'amount', 100, 'per_ms', 3600000))) \gset
\if :allowed
    \echo go on, :remaining left
\else
    -- 429, with Retry-After
    \warn :scope': again in' :retry_after_s s
\endif
