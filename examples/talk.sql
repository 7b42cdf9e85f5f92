-- Answers a message of a user: what was said before is in the database, for whichever instance gets the next message.
--
--     psql -X -v org=clinic-7 -v channel=sms -v user=+4915155501 -v message=4711 -v text='When do you open?' -f talk.sql
--
-- A message that is delivered twice is answered once, and of two messages at once neither is lost. What to do when a call
-- is refused or fails is in ask.sql, and why the script includes itself.
\set ON_ERROR_STOP on
\if :{?said}
\else
    SELECT version, coalesce(state, '[]') AS state, session
      FROM llmquota_session_get(:'org', :'channel', :'user') \gset
    SELECT :'state'::jsonb || jsonb_build_array(jsonb_build_object('role', 'user', 'content', :'text')) AS messages \gset
    SELECT pick.*, status = 'granted' AS granted, base_url || '/chat/completions' AS url,
           timeout_ms / 1000.0 AS timeout_s,
           jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens, 'messages', :'messages'::jsonb) AS body
      FROM llmquota_pick('chat', org => :'org', input_tokens => length(:'messages') / 4 + 1, max_output_tokens => 100,
                         session => :'session', request_id => :'message') AS pick \gset
    \if :granted
        -- printf is the shell's own: the secret is not among the arguments of a program, where everybody could read it
        \set curl 'curl -sS -m ' :timeout_s ' -w "\\n%{http_code}"'
        \set reply `printf 'Authorization: Bearer %s' "$(printenv :'secret_ref')" | :curl -H @- --json :'body' :'url' 2>&1`
        SELECT split[1] AS body, nullif(split[2], '000')::int AS http_status, split[2] = '200' AS success
          FROM regexp_match(:'reply', '^(.*)\n(\d{3})$') AS split \gset
        \if :success
            SELECT :'body'::jsonb #>> '{choices,0,message,content}' AS answer,
                   jsonb_build_array(:'messages'::jsonb -> -1, :'body'::jsonb #> '{choices,0,message}') AS said
              FROM llmquota_record(:'lease', (:'body'::jsonb #>> '{usage,prompt_tokens}')::bigint,
                                   (:'body'::jsonb #>> '{usage,completion_tokens}')::bigint,
                                   http_status => :http_status) \gset
        \else
            SELECT status FROM llmquota_record(:'lease', error => :'reply',
                                               http_status => substring(:'reply', '[1-5][0-9]{2}$')::int) \gset
            \warn :reply
        \endif
    \else
        -- in_flight and duplicate: another delivery of the message is, or was, answered
        \warn no answer: :status, :refusal
    \endif
\endif

\if :{?said}
    -- with whatever others have put there meanwhile
    SELECT status = 'conflict' AS again, version, coalesce(state, '[]') AS state
      FROM llmquota_session_put(:'org', :'channel', :'user', :'state'::jsonb || :'said'::jsonb, version => :version) \gset
    \if :again
        \ir talk.sql
    \else
        \echo :answer
        \unset said
    \endif
\endif
