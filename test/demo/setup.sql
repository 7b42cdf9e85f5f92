-- The service that `make demo` plays: 500 clinics that share 12 keys, in 5 accounts of three providers.
--
-- An hour is played in a minute, so a minute takes a second here. In your own configuration write '1 minute' and leave
-- the settings below, and the routes' deadlines, as they are.
\set minute '''1 second'''

CREATE EXTENSION llmquota;

-- durations of the server, in the demo's time: 250 ms, 120 s, and 30 s of a request and its retries, 60 times shorter
UPDATE llmquota.setting SET value = '4' WHERE name = 'arrival_slack';
UPDATE llmquota.setting SET value = '2000' WHERE name = 'lease_ttl';
INSERT INTO llmquota.route_option (route, deadline_ms) VALUES ('chat', 500), ('summary', 500), ('consult', 500);

-- Whom we may ask. Google's days end at midnight in California.
INSERT INTO llmquota.provider (provider, adapter, base_url, timezone) VALUES
    ('openai', 'openai', 'https://api.openai.com/v1', 'UTC'),
    ('anthropic', 'anthropic', 'https://api.anthropic.com/v1', 'UTC'),
    ('google', 'gemini', 'https://generativelanguage.googleapis.com/v1beta', 'America/Los_Angeles');
INSERT INTO llmquota.account (account, provider) VALUES
    ('openai-eu', 'openai'),
    ('openai-us', 'openai'),
    ('anthropic-main', 'anthropic'),
    ('google-paid', 'google'),
    ('google-free', 'google');
-- Each model names the cheaper one that answers in its place when a clinic has spent most of its budget.
INSERT INTO llmquota.model (model, provider, default_output_tokens, downgrade_to) VALUES
    ('gemini-flash-lite', 'google', 500, NULL),
    ('gpt-4o-mini', 'openai', 500, NULL),
    ('gemini-flash', 'google', 500, 'gemini-flash-lite'),
    ('gpt-4o', 'openai', 500, 'gpt-4o-mini'),
    ('claude-sonnet', 'anthropic', 500, 'gemini-flash'),
    ('gemini-pro', 'google', 500, 'gemini-flash');

-- What they cost for a million tokens, in dollars. The clinics pay in baht.
INSERT INTO llmquota.price (model, input, output) VALUES
    ('gpt-4o', 2.50, 10.00),
    ('gpt-4o-mini', 0.15, 0.60),
    ('claude-sonnet', 3.00, 15.00),
    ('gemini-pro', 1.25, 10.00),
    ('gemini-flash', 0.30, 2.50),
    ('gemini-flash-lite', 0.10, 0.40);
UPDATE llmquota.setting SET value = 'THB' WHERE name = 'base_currency';
INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('USD', 32.50);

-- Several keys of an account share its limits. What costs nothing is used first (priority 0), what is paid for later.
INSERT INTO llmquota.key (key, account, secret_ref, priority, models) VALUES
    ('openai-eu-1', 'openai-eu', 'OPENAI_EU_1', 0, NULL),
    ('openai-eu-2', 'openai-eu', 'OPENAI_EU_2', 0, NULL),
    ('openai-eu-3', 'openai-eu', 'OPENAI_EU_3', 0, NULL),
    ('openai-eu-4', 'openai-eu', 'OPENAI_EU_4', 0, NULL),
    ('openai-us-1', 'openai-us', 'OPENAI_US_1', 0, NULL),
    ('openai-us-2', 'openai-us', 'OPENAI_US_2', 0, NULL),
    ('openai-us-3', 'openai-us', 'OPENAI_US_3', 0, NULL),
    ('anthropic-1', 'anthropic-main', 'ANTHROPIC_1', 0, NULL),
    ('anthropic-2', 'anthropic-main', 'ANTHROPIC_2', 0, NULL),
    ('google-free-1', 'google-free', 'GOOGLE_FREE_1', 0, NULL),
    ('google-paid-1', 'google-paid', 'GOOGLE_PAID_1', 1, '{gemini-flash,gemini-flash-lite}'),
    ('google-paid-2', 'google-paid', 'GOOGLE_PAID_2', 1, '{gemini-flash,gemini-flash-lite}');

-- What the clinics' software asks for.
INSERT INTO llmquota.route (route, step, model) VALUES
    ('chat', 1, 'gpt-4o'),
    ('chat', 2, 'gemini-flash'),
    ('summary', 1, 'gemini-flash'),
    ('consult', 1, 'gemini-pro'),
    ('consult', 2, 'claude-sonnet');

-- What the providers allow each account, by model.
INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per) VALUES
    ('account', 'openai-eu', 'gpt-4o', 'requests', 30, :minute),
    ('account', 'openai-eu', 'gpt-4o', 'tokens', 30000, :minute),
    ('account', 'openai-us', 'gpt-4o', 'requests', 20, :minute),
    ('account', 'openai-us', 'gpt-4o', 'tokens', 30000, :minute),
    ('account', 'openai-eu', 'gpt-4o-mini', 'requests', 60, :minute),
    ('account', 'openai-us', 'gpt-4o-mini', 'requests', 60, :minute),
    ('account', 'anthropic-main', 'claude-sonnet', 'requests', 20, :minute),
    ('account', 'anthropic-main', 'claude-sonnet', 'tokens', 20000, :minute),
    ('account', 'google-paid', 'gemini-flash', 'requests', 40, :minute),
    ('account', 'google-paid', 'gemini-flash', 'tokens', 60000, :minute),
    ('account', 'google-paid', 'gemini-flash-lite', 'requests', 60, :minute),
    ('account', 'google-free', 'gemini-flash', 'requests', 10, :minute),
    ('account', 'google-free', 'gemini-flash-lite', 'requests', 15, :minute),
    ('account', 'google-free', 'gemini-pro', 'requests', 2, :minute);
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES
    ('account', 'google-free', 'requests', 500, 'day'),
    ('account', '*', 'requests', 1500, 'day'),
    ('account', '*', 'tokens', 2000000, 'day');

-- What we allow: all clinics together, each clinic, and one that has paid for more.
INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES
    ('global', '', 'concurrency', 15),
    ('org', '*', 'concurrency', 5);
INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES
    ('org', '*', 'requests', 20, :minute),
    ('org', '*', 'tokens', 20000, :minute);
INSERT INTO llmquota.quota (scope, subject, metric, amount, calendar) VALUES
    ('org', '*', 'requests', 300, 'day'),
    ('org', '*', 'tokens', 80000, 'day'),
    ('org', 'clinic-001', 'tokens', 500000, 'day');

-- What each clinic may spend in a day. From four fifths on a cheaper model answers; what does not fit is refused.
INSERT INTO llmquota.budget (subject, amount, currency, timezone) VALUES
    ('*', 3.00, 'THB', 'Asia/Bangkok'),
    ('clinic-001', 25.00, 'THB', 'Asia/Bangkok');

-- The gateways may call the functions and read nothing. Today's partition of the ledger is made here.
CREATE ROLE gateway LOGIN;
SELECT llmquota_grant('gateway', 'app');
SELECT * FROM llmquota_maintain();
