-- Asks a model within the limits of llmquota: pick, call, record; when refused, wait as told; when failed, retry.
--
--     psql -X -v org=clinic-7 -v question='What is a quota?' -f ask.sql
--
-- The secret of a key is in the environment variable that secret_ref names. psql sends queries as text and prepares
-- none of them unless told to (PREPARE, \bind, \parse), so any pgbouncer will do. It has no loops: the script includes
-- itself, and what to ask next is in a variable, whose own variables psql fills in when it is used.
\set ON_ERROR_STOP on
\if :{?failed}
\else
    \set failed ''
    \set pick 'llmquota_pick(''chat'', org => :''org'', input_tokens => length(:''question'') / 4 + 1,'
    \set pick :pick ' max_output_tokens => 100, retry_of => nullif(:''failed'', '''')::uuid)'
    \set retry 'llmquota_retry(:''failed'', error => :''reply'','
    \set retry :retry ' http_status => substring(:''reply'', ''[1-5][0-9]{2}$'')::int)'
    \set next :pick
\endif

SELECT pick.*, status = 'granted' AS granted, base_url || '/chat/completions' AS url,
       coalesce(retry_after_ms <= 20000, false) AS patient, retry_after_ms / 1000.0 AS wait_s,
       timeout_ms / 1000.0 AS timeout_s,
       jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens,
           'messages', jsonb_build_array(jsonb_build_object('role', 'user', 'content', :'question'))) AS body
  FROM :next AS pick \gset

\if :granted
    -- printf is the shell's own: the secret is not among the arguments of a program, where everybody could read it
    \set curl 'curl -sS -m ' :timeout_s ' -w "\\n%{http_code}"'
    \set reply `printf 'Authorization: Bearer %s' "$(printenv :'secret_ref')" | :curl -H @- --json :'body' :'url' 2>&1`
    SELECT split[1] AS body, nullif(split[2], '000')::int AS http_status, split[2] = '200' AS success
      FROM regexp_match(:'reply', '^(.*)\n(\d{3})$') AS split \gset
    \if :success
        SELECT :'body'::jsonb #>> '{choices,0,message,content}' AS answer, status
          FROM llmquota_record(:'lease', (:'body'::jsonb #>> '{usage,prompt_tokens}')::bigint,
                               (:'body'::jsonb #>> '{usage,completion_tokens}')::bigint,
                               http_status => :http_status) \gset
        \echo :answer
    \else
        \set failed :lease
        \set next :retry
        \ir ask.sql
    \endif
\elif :patient
    \warn :status, again in :retry_after_ms ms: :refusal
    \set slept `sleep :'wait_s'`
    \set next :pick
    \ir ask.sql
\else
    \warn no answer: :status
\endif
