-- What the driver tests are configured with. base_url is a provider that answers; nobody listens at closed_url; runs
-- are the names of the runs, one for each driver and way.
CREATE EXTENSION llmquota;
CREATE ROLE app LOGIN PASSWORD :'password';
SELECT llmquota_grant('app', 'app');

INSERT INTO llmquota.provider (provider, adapter, base_url) VALUES ('loopback', 'openai', :'base_url');
INSERT INTO llmquota.model (model, provider, provider_model) VALUES ('small', 'loopback', 'small-2024-11-20');
INSERT INTO llmquota.route (route, step, model) VALUES ('chat', 1, 'small');
INSERT INTO llmquota.account (account, provider) VALUES ('shared', 'loopback');
INSERT INTO llmquota.key (key, account, secret_ref) VALUES
    ('key-1', 'shared', 'SECRET_1'),
    ('key-2', 'shared', 'SECRET_2');

-- limited: whoever asks; 6 calls in any 3 seconds
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('org', '*', 'requests', 6, '3 seconds');

-- unlucky: has two accounts of its own, which are tried first. One provider knows its key no more, one does not answer
INSERT INTO llmquota.account (account, provider, org, base_url)
SELECT account || '-' || run, 'loopback', 'unlucky-' || run, url
  FROM unnest(:'runs'::text[]) AS run, (VALUES ('revoked', :'base_url'), ('silent', :'closed_url')) AS a (account, url);
INSERT INTO llmquota.key (key, account, secret_ref, priority)
SELECT account, account, 'SECRET_REVOKED', CASE WHEN account LIKE 'silent-%' THEN 1 ELSE 0 END
  FROM llmquota.account WHERE org IS NOT NULL;

-- jobs: the table of doc/operations.md
CREATE TABLE job (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, org text NOT NULL, prompt text NOT NULL,
    not_before timestamptz NOT NULL DEFAULT '-infinity', lease uuid, answer text);
GRANT SELECT, UPDATE ON job TO app;

-- closed: never gets anything; values and line: one call at a time
INSERT INTO llmquota.quota (scope, subject, metric, amount, per)
SELECT 'org', 'closed-' || run, 'requests', 0, '3 seconds' FROM unnest(:'runs'::text[]) AS run;
INSERT INTO llmquota.quota (scope, subject, metric, amount)
SELECT 'org', kind || '-' || run, 'concurrency', 1 FROM unnest(:'runs'::text[]) AS run, (VALUES ('values'), ('line')) AS k (kind);
