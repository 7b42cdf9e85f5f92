-- Asks a question that others may have asked before: whoever has a fresh answer makes no call.
--
--     psql -X -v org=clinic-7 -v question='When do you open?' -f recall.sql
--
-- Of all who find no fresh answer at once one makes the call. What to do when a call is refused or fails is in ask.sql,
-- and why the script includes itself.
\set ON_ERROR_STOP on
SELECT jsonb_build_array(jsonb_build_object('role', 'user', 'content', :'question')) AS messages \gset
SELECT llmquota_cache_key(jsonb_build_object('route', 'chat', 'messages', :'messages'::jsonb)) AS hash \gset
SELECT status AS found, refresh, status = 'miss' AND NOT refresh AS wait,
       coalesce(retry_after_ms, 0) / 1000.0 AS retry_after_s, coalesce(answer ->> 'content', '') AS content
  FROM llmquota_cache_get('questions', :'hash', :'org') \gset
\if :wait
    -- somebody else is asking it
    SELECT FROM pg_sleep(:retry_after_s) \g /dev/null
    \ir recall.sql
    \quit
\endif
\if :refresh
    SELECT pick.*, status = 'granted' AS granted, base_url || '/chat/completions' AS url,
           timeout_ms / 1000.0 AS timeout_s,
           jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens,
                              'messages', :'messages'::jsonb) AS body
      FROM llmquota_pick('chat', org => :'org', input_tokens => length(:'messages') / 4 + 1,
                         max_output_tokens => 100) AS pick \gset
    \if :granted
        -- printf is the shell's own: the secret is not among the arguments of a program, where everybody could read it
        \set curl 'curl -sS -m ' :timeout_s ' -w "\\n%{http_code}"'
        \set reply `printf 'Authorization: Bearer %s' "$(printenv :'secret_ref')" | :curl -H @- --json :'body' :'url' 2>&1`
        SELECT split[1] AS body, nullif(split[2], '000')::int AS http_status, split[2] = '200' AS success
          FROM regexp_match(:'reply', '^(.*)\n(\d{3})$') AS split \gset
        \if :success
            SELECT :'body'::jsonb #>> '{choices,0,message,content}' AS content
              FROM llmquota_record(:'lease', (:'body'::jsonb #>> '{usage,prompt_tokens}')::bigint,
                                   (:'body'::jsonb #>> '{usage,completion_tokens}')::bigint,
                                   http_status => :http_status),
                   llmquota_cache_put('questions', :'hash', :'body'::jsonb #> '{choices,0,message}',
                                      org => :'org') \gset
            \set found fresh
        \else
            SELECT status FROM llmquota_record(:'lease', error => :'reply',
                                               http_status => substring(:'reply', '[1-5][0-9]{2}$')::int) \gset
        \endif
    \endif
\endif
SELECT :'found' = 'miss' AS without \gset
\if :without
    \warn no answer
\else
    \echo :content
\endif
