-- What every database of a regress or isolation test has beside the extension.

-- Maintains until so many leases have expired.
CREATE PROCEDURE expire(leases int) LANGUAGE plpgsql AS $$
DECLARE
	pause CONSTANT double precision := 0.001;
BEGIN
	WHILE leases > 0 LOOP
		leases := leases - (SELECT expired FROM llmquota_maintain());
		ASSERT clock_timestamp() < statement_timestamp() + interval '20 s', 'the leases do not expire';
		PERFORM pg_sleep(pause);
	END LOOP;
	ASSERT leases = 0, 'more leases expired than were to';
END $$;
