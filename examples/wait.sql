-- Asks a model when it is its turn: waits in the line of llmquota, in the call or with a ticket.
--
--     psql -X -v org=clinic-7 -v form=ticket -v patience_ms=20000 -v question='What is a quota?' -f wait.sql
--
-- form=held: one call, which answers when it is granted. It needs a connection for as long as it waits, so it is nothing
-- for pgbouncer. form=ticket: many calls, each of which answers soon, and none in between; hundreds can wait with a few
-- connections. What to do when a call fails is in ask.sql, and why the script includes itself.
\set ON_ERROR_STOP on
\if :{?next}
\else
    SELECT clock_timestamp() + :'patience_ms' * interval '1 millisecond' AS deadline,
           CASE :'form' WHEN 'held' THEN :'patience_ms' ELSE '' END AS wait_ms, :'form' <> 'held' AS queue \gset
    \set pick 'llmquota_pick(''chat'', org => :''org'', input_tokens => length(:''question'') / 4 + 1,'
    \set pick :pick ' max_output_tokens => 100, wait_ms => nullif(:''wait_ms'', '''')::int, queue => :''queue'')'
    \set claim 'llmquota_claim(:''lease'', wait_ms => 50)'
    \set next :pick
\endif

SELECT pick.*, status = 'granted' AS granted, base_url || '/chat/completions' AS url, timeout_ms / 1000.0 AS timeout_s,
       status = 'queued' AS queued, refusal -> 'position' AS "position", retry_after_ms / 1000.0 AS wait_s,
       clock_timestamp() + retry_after_ms * interval '1 millisecond' > :'deadline' AS too_late,
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
        SELECT status FROM llmquota_record(:'lease', error => :'reply',
                                           http_status => substring(:'reply', '[1-5][0-9]{2}$')::int) \gset
        \warn :reply
    \endif
\elif :queued
    -- of a held one, too, when as many wait in their calls as may
    \warn queued as number :position, again in :retry_after_ms ms
    \if :too_late
        SELECT llmquota_release(:'lease') AS released \gset
        \warn no answer: queued
    \else
        \set slept `sleep :'wait_s'`
        \set next :claim
        \ir wait.sql
    \endif
\else
    \warn no answer: :status, :refusal
\endif
