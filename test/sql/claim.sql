-- A claim is its first taker's until it is over. The functions are those of test/unit/claim_test.c.
\set SHOW_CONTEXT never
LOAD 'llmquota';
CREATE FUNCTION claim_take(kind text, org text, scope text, subject text, ttl bigint DEFAULT 3600000000) RETURNS boolean LANGUAGE c VOLATILE STRICT AS 'claim_test', 'claim_take';
CREATE FUNCTION claim_end(kind text, org text, scope text, subject text) RETURNS void LANGUAGE c VOLATILE STRICT AS 'claim_test', 'claim_end';

-- an error before the first cell of all has begun costs nothing
SET llmquota.inject = 'linear-cell';
SELECT claim_take('C', '', 's', 'x');
RESET llmquota.inject;
SELECT count(*) FROM llmquota.rate_page;
SELECT claim_take('C', '', 's', 'x');

-- one is told that it is his; a rollback changes nothing
SELECT claim_take('C', '', 's', 'x');
BEGIN;
SELECT claim_take('C', '', 's', 'y');
ROLLBACK;
SELECT claim_take('C', '', 's', 'y');

-- each by all of its name
SELECT claim_take('D', '', 's', 'x'), claim_take('C', 'o', 's', 'x'), claim_take('C', '', 'sx', ''), claim_take('C', 's', '', 'x'), claim_take('C', '', '', 'sx');

-- until it is ended, or over; one of no length is over at once
SELECT claim_end('C', '', 's', 'x');
SELECT claim_take('C', '', 's', 'x'), claim_take('C', '', 's', 'x');
SELECT claim_take('C', '', 's', 'z', 0), claim_take('C', '', 's', 'z', 0), claim_take('C', '', 's', 'z', 0);
SELECT claim_end('C', '', 's', 'nobody has it');

-- a clock that was set back: it lasts no longer than its time from now
SELECT claim_take('C', '', 's', 'back', 3600000000), claim_take('C', '', 's', 'back', 20000);
DO $$
BEGIN
	WHILE NOT claim_take('C', '', 's', 'back', 20000) LOOP
		ASSERT clock_timestamp() < statement_timestamp() + interval '20 s', 'the claim does not end';
	END LOOP;
END $$;

-- many of them, which are found again
SELECT count(*) FROM generate_series(1, 3000) n WHERE claim_take('C', '', 'many', n::text);
SELECT count(*) FROM generate_series(1, 3000) n WHERE claim_take('C', '', 'many', n::text);
SELECT count(*) > 20 AS cells, max(id) = count(*) AS without_gaps FROM llmquota.rate_page;
SELECT * FROM llmquota_verify();

-- where there is no room for more, it is everybody's, and those that are known are not forgotten
UPDATE llmquota.setting SET value = '1' WHERE name = 'max_rate_subjects';
SELECT count(*) FROM generate_series(1, 12000) n WHERE claim_take('C', '', 'more', n::text);
SELECT count(*) FILTER (WHERE NOT taken) > 1000 AS room, count(*) FILTER (WHERE taken) > 1000 AS no_room
  FROM (SELECT claim_take('C', '', 'more', n::text) AS taken FROM generate_series(1, 12000) n OFFSET 0) c;
SELECT count(*) FROM generate_series(1, 3000) n WHERE claim_take('C', '', 'many', n::text);
SELECT count(claim_end('C', '', 'many', n::text)) FROM generate_series(1, 3000) n;
SELECT count(*) FROM generate_series(1, 3000) n WHERE claim_take('C', '', 'many', n::text);

-- where nothing may be written it is nobody's
SELECT claim_end('C', '', 's', 'x');
BEGIN READ ONLY;
SELECT claim_take('C', '', 's', 'x');
ROLLBACK;
SELECT claim_take('C', '', 's', 'x');
SELECT * FROM llmquota_verify();
