-- Calendar periods: day, week, month, quarter and year, also fiscal ones, in any zone, on nights of every kind.
-- The functions are those of test/unit/zone_test.c, which is src/zone.c and nothing else.

SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';

CREATE FUNCTION zone_period(zone text, unit text, at timestamptz, OUT starts timestamptz, OUT ends timestamptz, OUT next_ends timestamptz)
LANGUAGE c STRICT AS 'zone_test', 'zone_period';
CREATE FUNCTION zone_known(zone text) RETURNS boolean LANGUAGE c STRICT AS 'zone_test', 'zone_known';
CREATE FUNCTION zone_hash(zone text) RETURNS bigint LANGUAGE c STRICT AS 'zone_test', 'zone_hash';

-- What was worked out by hand.
CREATE TABLE known (zone text, unit text, at timestamptz, starts timestamptz, ends timestamptz, next_ends timestamptz, what text);

INSERT INTO known VALUES
	('UTC', 'day', '2026-07-01 12:00', '2026-07-01', '2026-07-02', '2026-07-03', 'a plain day'),
	('UTC', 'day', '2026-07-01 00:00', '2026-07-01', '2026-07-02', '2026-07-03', 'its first microsecond'),
	('UTC', 'day', '2026-07-01 23:59:59.999999', '2026-07-01', '2026-07-02', '2026-07-03', 'its last microsecond'),
	('UTC', 'day', '1999-12-31 23:59:59.999999', '1999-12-31', '2000-01-01', '2000-01-02', 'before the epoch of timestamps'),
	('UTC', 'day', '1969-12-31 23:59:59.999999', '1969-12-31', '1970-01-01', '1970-01-02', 'before the epoch of Unix'),
	('UTC', 'week', '2026-07-05 23:59:59.999999', '2026-06-29', '2026-07-06', '2026-07-13', 'a Sunday'),
	('UTC', 'week', '2026-07-06 00:00', '2026-07-06', '2026-07-13', '2026-07-20', 'a Monday'),
	('UTC', 'week', '2025-01-01 00:00', '2024-12-30', '2025-01-06', '2025-01-13', 'a week over New Year'),
	('UTC', 'month', '2024-02-29 12:00', '2024-02-01', '2024-03-01', '2024-04-01', 'a leap day'),
	('UTC', 'day', '2024-02-29 12:00', '2024-02-29', '2024-03-01', '2024-03-02', 'a leap day'),
	('UTC', 'month', '2100-02-28 23:59', '2100-02-01', '2100-03-01', '2100-04-01', 'no leap year'),
	('UTC', 'month', '2026-12-31 23:59', '2026-12-01', '2027-01-01', '2027-02-01', 'the last month'),
	('UTC', 'month', '2026-11-30 23:59', '2026-11-01', '2026-12-01', '2027-01-01', 'the last month but one'),
	('UTC', 'quarter', '2026-03-31 23:59:59.999999', '2026-01-01', '2026-04-01', '2026-07-01', 'the end of a quarter'),
	('UTC', 'quarter', '2026-10-01 00:00', '2026-10-01', '2027-01-01', '2027-04-01', 'the last quarter'),
	('UTC', 'quarter', '2026-09-30 12:00', '2026-07-01', '2026-10-01', '2027-01-01', 'the last quarter but one'),
	('UTC', 'year', '2024-12-31 23:59:59.999999', '2024-01-01', '2025-01-01', '2026-01-01', 'the end of a leap year'),
	('UTC', 'year', '0001-06-01 12:00 BC', '0001-01-01 BC', '0001-01-01', '0002-01-01', 'there is no year zero'),
	('UTC', 'year from April', '2026-03-31 23:59:59.999999', '2025-04-01', '2026-04-01', '2027-04-01', 'the end of a fiscal year'),
	('UTC', 'year from April', '2026-04-01 00:00', '2026-04-01', '2027-04-01', '2028-04-01', 'its beginning'),
	('UTC', 'year from December', '2026-11-30 12:00', '2025-12-01', '2026-12-01', '2027-12-01', 'the latest it can begin'),
	('UTC', 'year from December', '2026-12-31 12:00', '2026-12-01', '2027-12-01', '2028-12-01', 'in its first month'),
	('UTC', 'year from March', '2024-02-29 23:59:59.999999', '2023-03-01', '2024-03-01', '2025-03-01', 'it ends with a leap day'),
	('UTC', 'year from March', '2100-02-28 23:59:59.999999', '2099-03-01', '2100-03-01', '2101-03-01', 'and here with none'),
	('UTC', 'year from October', '0001-02-01 12:00', '0001-10-01 BC', '0001-10-01', '0002-10-01', 'there is no year zero'),
	('UTC', 'quarter from February', '2026-01-31 23:59:59.999999', '2025-11-01', '2026-02-01', '2026-05-01', 'a quarter over New Year'),
	('UTC', 'quarter from March', '2024-02-29 12:00', '2023-12-01', '2024-03-01', '2024-06-01', 'it ends with a leap day'),
	('UTC', 'quarter from November', '2026-10-31 12:00', '2026-08-01', '2026-11-01', '2027-02-01', 'the last quarter of a fiscal year'),
	('UTC', 'quarter from April', '2026-10-15 12:00', '2026-10-01', '2027-01-01', '2027-04-01', 'quarters from April are those from January'),
	('Asia/Kolkata', 'year from April', '2026-03-31 18:30', '2026-03-31 18:30', '2027-03-31 18:30', '2028-03-31 18:30', 'India''s fiscal year'),
	('Asia/Bangkok', 'year from October', '2026-09-30 16:59:59.999999', '2025-09-30 17:00', '2026-09-30 17:00', '2027-09-30 17:00', 'Thailand''s'),
	('Australia/Sydney', 'quarter from July', '2026-09-30 14:00', '2026-09-30 14:00', '2026-12-31 13:00', '2027-03-31 13:00', 'Australia''s, in which summer time begins'),
	('Asia/Amman', 'year from April', '2022-03-31 20:59:59.999999', '2021-03-31 21:00', '2022-03-31 21:00', '2023-03-31 21:00', 'from winter, then from summer'),
	('Asia/Beirut', 'quarter from April', '2019-03-31 20:59:59.999999', '2018-12-31 22:00', '2019-03-31 21:00', '2019-06-30 21:00', 'the day before it began at 01:00'),
	('Africa/Cairo', 'day', '2026-04-23 22:00', '2026-04-23 22:00', '2026-04-24 21:00', '2026-04-25 21:00', 'begins at 01:00'),
	('Africa/Cairo', 'day', '2026-10-29 20:59:59.999999', '2026-10-28 21:00', '2026-10-29 22:00', '2026-10-30 22:00', 'its last hour twice, the first time'),
	('Africa/Cairo', 'day', '2026-10-29 21:00', '2026-10-28 21:00', '2026-10-29 22:00', '2026-10-30 22:00', 'and the second'),
	('Antarctica/Troll', 'day', '2026-03-29 12:00', '2026-03-29 00:00', '2026-03-29 22:00', '2026-03-30 22:00', 'a day of 22 hours'),
	('Antarctica/Troll', 'day', '2026-10-25 12:00', '2026-10-24 22:00', '2026-10-26 00:00', '2026-10-27 00:00', 'a day of 26 hours'),
	('America/Los_Angeles', 'day', '2026-03-08 07:59:59.999999', '2026-03-07 08:00', '2026-03-08 08:00', '2026-03-09 07:00', 'midnight Pacific, before the short day'),
	('America/Los_Angeles', 'day', '2026-03-08 12:00', '2026-03-08 08:00', '2026-03-09 07:00', '2026-03-10 07:00', 'midnight Pacific, a day of 23 hours'),
	('America/Los_Angeles', 'day', '2026-11-01 12:00', '2026-11-01 07:00', '2026-11-02 08:00', '2026-11-03 08:00', 'midnight Pacific, a day of 25 hours'),
	('America/Los_Angeles', 'month', '2026-03-01 07:59', '2026-02-01 08:00', '2026-03-01 08:00', '2026-04-01 07:00', 'a month, then a short one'),
	('America/Los_Angeles', 'year', '2026-01-01 07:59', '2025-01-01 08:00', '2026-01-01 08:00', '2027-01-01 08:00', 'still last year'),
	('america/los_angeles', 'day', '2026-11-01 12:00', '2026-11-01 07:00', '2026-11-02 08:00', '2026-11-03 08:00', 'in lower case'),
	('America/Sao_Paulo', 'day', '2017-10-15 02:59:59.999999', '2017-10-14 03:00', '2017-10-15 03:00', '2017-10-16 02:00', 'the day before a night without midnight'),
	('America/Sao_Paulo', 'day', '2017-10-15 03:00', '2017-10-15 03:00', '2017-10-16 02:00', '2017-10-17 02:00', 'begins at 01:00'),
	('America/Sao_Paulo', 'week', '2017-10-15 12:00', '2017-10-09 03:00', '2017-10-16 02:00', '2017-10-23 02:00', 'a week of 167 hours'),
	('America/Sao_Paulo', 'day', '2018-02-18 02:30', '2018-02-17 02:00', '2018-02-18 03:00', '2018-02-19 03:00', 'its last hour twice'),
	('America/Havana', 'day', '2012-04-01 05:00', '2012-04-01 05:00', '2012-04-02 04:00', '2012-04-03 04:00', 'begins at 01:00'),
	('America/Havana', 'day', '2012-11-04 04:00', '2012-11-04 04:00', '2012-11-05 05:00', '2012-11-06 05:00', 'the first of two midnights'),
	('America/Havana', 'day', '2012-11-04 05:00', '2012-11-04 04:00', '2012-11-05 05:00', '2012-11-06 05:00', 'the second of two midnights'),
	('Atlantic/Azores', 'day', '2023-10-29 01:00', '2023-10-29 00:00', '2023-10-30 01:00', '2023-10-31 01:00', 'the second of two midnights'),
	('Asia/Beirut', 'day', '2019-10-26 21:30', '2019-10-25 21:00', '2019-10-26 22:00', '2019-10-27 22:00', 'back to 23:00 at midnight'),
	('Asia/Beirut', 'month', '2019-03-30 22:00', '2019-02-28 22:00', '2019-03-31 21:00', '2019-04-30 21:00', 'a month that loses the last midnight but one'),
	('America/St_Johns', 'day', '2010-11-07 02:30', '2010-11-07 02:30', '2010-11-08 03:30', '2010-11-09 03:30', 'a minute of the new day'),
	('America/St_Johns', 'day', '2010-11-07 03:00', '2010-11-07 02:30', '2010-11-08 03:30', '2010-11-09 03:30', 'and an hour of the old one, which has ended'),
	('Pacific/Apia', 'day', '2011-12-29 12:00', '2011-12-29 10:00', '2011-12-30 10:00', '2011-12-31 10:00', 'before the day that was left out'),
	('Pacific/Apia', 'day', '2011-12-28 12:00', '2011-12-28 10:00', '2011-12-29 10:00', '2011-12-30 10:00', 'the next one is before it'),
	('Pacific/Apia', 'day', '2011-12-30 10:00', '2011-12-30 10:00', '2011-12-31 10:00', '2012-01-01 10:00', 'after the day that was left out'),
	('Pacific/Apia', 'week', '2011-12-30 10:00', '2011-12-26 10:00', '2012-01-01 10:00', '2012-01-08 10:00', 'a week of six days'),
	('Pacific/Apia', 'year', '2011-12-31 09:59', '2011-01-01 10:00', '2011-12-31 10:00', '2012-12-31 10:00', 'a year of 364 days'),
	('Pacific/Kiritimati', 'day', '2026-01-01 09:59:59', '2025-12-31 10:00', '2026-01-01 10:00', '2026-01-02 10:00', '14 hours ahead'),
	('Pacific/Kiritimati', 'year', '2025-12-31 10:00', '2025-12-31 10:00', '2026-12-31 10:00', '2027-12-31 10:00', 'the first New Year'),
	('Etc/GMT+12', 'year', '2026-01-01 11:59:59', '2025-01-01 12:00', '2026-01-01 12:00', '2027-01-01 12:00', 'the last New Year'),
	('Asia/Kathmandu', 'day', '2026-05-05 18:15', '2026-05-05 18:15', '2026-05-06 18:15', '2026-05-07 18:15', 'five hours and three quarters'),
	('Australia/Lord_Howe', 'day', '2026-04-04 13:00', '2026-04-04 13:00', '2026-04-05 13:30', '2026-04-06 13:30', 'half an hour more'),
	('CET', 'day', '2026-06-30 22:00', '2026-06-30 22:00', '2026-07-01 22:00', '2026-07-02 22:00', 'CET with its summer time, as SET timezone has it'),
	('<+03>-3', 'day', '2026-05-05 21:00', '2026-05-05 21:00', '2026-05-06 21:00', '2026-05-07 21:00', 'a zone of POSIX''s kind');

-- Those that differ: none.
SELECT known.*, period.*
FROM known CROSS JOIN LATERAL zone_period(zone, unit, at) AS period
WHERE (known.starts, known.ends, known.next_ends) IS DISTINCT FROM (period.starts, period.ends, period.next_ends);
SELECT count(*) AS rows_compared FROM known;

-- All units, by the names that people see. For the server's date_trunc() each is a field that begins so much later.
CREATE TABLE unit AS
SELECT field || CASE month WHEN 1 THEN '' ELSE to_char(make_date(2000, month, 1), '" from "FMMonth') END AS unit,
	field, make_interval(months => month - 1) AS later
FROM unnest('{day,week,month,quarter,year}'::text[]) AS field CROSS JOIN generate_series(1, 12) AS month
WHERE month = 1 OR field IN ('quarter', 'year');
CREATE FUNCTION local_start(field text, later interval, at timestamp) RETURNS timestamp LANGUAGE sql IMMUTABLE AS
	'SELECT date_trunc(field, at - later) + later';
CREATE TABLE some_unit AS SELECT * FROM unit WHERE later = '0' OR unit IN ('quarter from February', 'quarter from September', 'year from April', 'year from October');

-- Everywhere, by definition. A period begins at the first instant whose local date is in it or later: so it begins a
-- calendar unit that the zone's clock had not reached at any time in the three days before.
CREATE FUNCTION violations(zone text, unit text, field text, later interval, at timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(', ',
		CASE WHEN NOT (p.starts <= at AND at < p.ends AND p.ends < p.next_ends) THEN 'does not contain it' END,
		CASE WHEN (p.starts, p.ends, p.next_ends) IS DISTINCT FROM (SELECT (q.starts, q.ends, q.next_ends) FROM zone_period(zone, unit, p.starts) q) THEN 'its first is another' END,
		CASE WHEN (p.starts, p.ends, p.next_ends) IS DISTINCT FROM (SELECT (q.starts, q.ends, q.next_ends) FROM zone_period(zone, unit, p.ends - interval '1 us') q) THEN 'its last is another' END,
		CASE WHEN (p.ends, p.next_ends) IS DISTINCT FROM (SELECT (q.starts, q.ends) FROM zone_period(zone, unit, p.ends) q) THEN 'the next is another' END,
		CASE WHEN local_start(field, later, p.starts AT TIME ZONE zone) < local_start(field, later, at AT TIME ZONE zone) THEN 'begins too early' END,
		CASE WHEN local_start(field, later, p.starts AT TIME ZONE zone) <= (
			SELECT max(local_start(field, later, (p.starts - before) AT TIME ZONE zone))
			FROM unnest('{1 us, 30 s, 30 min, 59 min, 1 h, 90 min, 2 h, 3 h, 23 h, 24 h, 25 h, 47 h, 48 h, 71 h}'::interval[]) AS before) THEN 'begins too late' END)
	FROM zone_period(zone, unit, at) AS p
$$;

-- Every hour and a half of the nights above, and of some more: clocks that went back a whole day, and Morocco's Ramadan. Not
-- of CET, which AT TIME ZONE, unlike SET timezone, takes for an abbreviation of a fixed offset.
SELECT zone, unit, at, violations(zone, unit, field, later, at)
FROM (SELECT zone, at - interval '2 days' AS since FROM known WHERE zone <> 'CET'
	UNION SELECT * FROM (VALUES
		('Pacific/Kwajalein', timestamptz '1969-09-28'), ('Pacific/Kwajalein', '1993-08-19'), ('Africa/Casablanca', '2026-02-13'),
		('Africa/Casablanca', '2026-03-20'), ('America/Godthab', '2023-10-28'), ('Africa/Cairo', '2026-04-22'),
		('Africa/Monrovia', '1972-01-05'), ('Antarctica/Troll', '2026-03-27'), ('America/Asuncion', '2023-09-29'),
		('Asia/Amman', '2022-10-26'), ('Asia/Gaza', '2026-10-22'), ('Asia/Pyongyang', '2018-05-03')) AS more) AS nights
CROSS JOIN some_unit
CROSS JOIN LATERAL generate_series(since, since + interval '4 days', interval '90 min') AS at
WHERE violations(zone, unit, field, later, at) <> '';

-- Where every day has one midnight, or none, it is what the server says of it.
SELECT zone, unit, at, starts, ends
FROM unnest('{UTC,Europe/Berlin,Europe/London,America/New_York,America/Los_Angeles,America/Santiago,Asia/Kolkata,Asia/Tehran,Asia/Tokyo,Australia/Sydney,Pacific/Auckland,Pacific/Chatham}'::text[]) AS zone
CROSS JOIN some_unit
CROSS JOIN generate_series(timestamptz '2023-12-28', '2026-01-05', interval '37 hours 11 min') AS at
CROSS JOIN LATERAL zone_period(zone, unit, at) AS period
WHERE starts IS DISTINCT FROM local_start(field, later, at AT TIME ZONE zone) AT TIME ZONE zone
   OR ends IS DISTINCT FROM (local_start(field, later, at AT TIME ZONE zone) + CASE field WHEN 'quarter' THEN '3 months' ELSE '1 ' || field END::interval) AT TIME ZONE zone;

-- To the microsecond, by reading the calendar on the wall: what date it is in the zone, every quarter of an hour, for three
-- and a half years with a leap day among them, and nothing else. A day has begun when its date, or a later one, was shown for
-- the first time, and a period when its first day, or a later one, has. No offset of these zones changes but at such a quarter.
CREATE TABLE wall AS
SELECT zone, since
FROM unnest('{Pacific/Kiritimati,Etc/GMT+12,Asia/Kathmandu,Africa/Cairo,Africa/Casablanca,America/Havana,America/Santiago,Antarctica/Troll,Asia/Beirut,Australia/Lord_Howe,Pacific/Chatham}'::text[]) AS zone
CROSS JOIN (VALUES (timestamptz '2022-04-28 00:00')) AS v (since)
UNION ALL VALUES ('Pacific/Apia', timestamptz '2009-10-28 00:00'), ('America/St_Johns', '2007-10-28 00:00'), ('Asia/Pyongyang', '2015-06-28 00:00');

-- The first instant of every date that was shown.
CREATE TABLE day_shown AS
SELECT zone, since, shown, min(at) AS starts
FROM (SELECT zone, since, at, max((at AT TIME ZONE zone)::date) OVER (PARTITION BY zone ORDER BY at) AS shown
	FROM wall CROSS JOIN LATERAL generate_series(since, since + interval '1260 days', interval '15 min') AS at) AS quarter
GROUP BY zone, since, shown;
SELECT zone, count(*) AS days, max(starts - since) AS until FROM day_shown GROUP BY zone ORDER BY zone;

-- All units, years and quarters from every month; the first period that is whole, and all up to the last but one.
CREATE TABLE wall_period AS
SELECT zone, unit, starts, ends, next_ends
FROM (SELECT zone, unit, since, min(starts) AS starts,
		lead(min(starts)) OVER following AS ends, lead(min(starts), 2) OVER following AS next_ends
	FROM day_shown CROSS JOIN unit
	GROUP BY zone, since, unit, local_start(field, later, shown)
	WINDOW following AS (PARTITION BY zone, unit ORDER BY min(starts))) AS period
WHERE starts > since + interval '2 days' AND next_ends IS NOT NULL;
SELECT unit, count(*) AS periods FROM wall_period WHERE zone = 'Africa/Cairo' GROUP BY unit ORDER BY unit;

-- Those that differ at their first microsecond, their last, or in between: none. The one before ends where they start.
SELECT w.*, probe.at, period.*
FROM wall_period AS w
CROSS JOIN LATERAL (VALUES (w.starts), (w.starts + (w.ends - w.starts) / 2), (w.ends - interval '1 us')) AS probe (at)
CROSS JOIN LATERAL zone_period(w.zone, w.unit, probe.at) AS period
WHERE (w.starts, w.ends, w.next_ends) IS DISTINCT FROM (period.starts, period.ends, period.next_ends);
SELECT w.*, period.*
FROM wall_period AS w
CROSS JOIN LATERAL zone_period(w.zone, w.unit, w.starts - interval '1 us') AS period
WHERE (w.starts, w.ends) IS DISTINCT FROM (period.ends, period.next_ends);
SELECT count(*) > 20000 AS enough, count(*) FILTER (WHERE ends - starts NOT IN ('1 day', '7 days')) > 2000 AS uneven FROM wall_period;

-- Every zone of the server, at times that differ from zone to zone, over three years and at some far ones; but those
-- four (CET, EET, MET, WET) that are abbreviations, too.
SELECT count(*) > 10000 AS tried, count(*) FILTER (WHERE violations(name, unit, field, later, at) <> '') AS violations
FROM (SELECT name, row_number() OVER (ORDER BY name) AS number FROM pg_timezone_names) AS zone
CROSS JOIN some_unit
CROSS JOIN LATERAL (
	SELECT at + number * interval '97 min' AS at FROM generate_series(timestamptz '2024-01-01', '2026-12-31', interval '61 days 5 hours') AS at
	UNION ALL SELECT unnest('{1950-03-26 00:30,1985-10-27 23:30,2099-12-31 23:59:59.999999,12000-02-29,290000-10-10}'::timestamptz[])) AS sample
WHERE name !~ '^(posix|right)/' AND name NOT IN (SELECT abbrev FROM pg_timezone_abbrevs);

-- No such zone, no such time.
SELECT zone, zone_known(zone), zone_period(zone, 'day', '2026-01-01') IS NULL AS no_period
FROM unnest(ARRAY['UTC', 'utc', 'Europe/Berlin', 'EST5EDT', 'XYZ-167', '', ' ', 'Mars/Olympus', 'Europe', 'Europe/', '../Europe/Berlin',
	'../../../../etc/passwd', '/etc/localtime', 'UTC ', 'Europe/Berlín']) AS zone;
SELECT zone_known(repeat('x', 10000)), zone_known(repeat('a', 255) || '5');
SELECT count(*), count(nullif(violations('XYZ-167', unit, field, later, '2026-01-01 12:00'), '')) AS east,
	count(nullif(violations('XYZ+167', unit, field, later, '2026-01-01 12:00'), '')) AS west FROM unit;
SELECT at, unit, zone_period('Pacific/Kiritimati', unit, at)
FROM unnest('{-infinity,infinity,4714-11-24 BC,294276-12-31 23:59:59.999999,294276-12-30}'::timestamptz[]) WITH ORDINALITY AS t (at, n)
CROSS JOIN some_unit
ORDER BY n, unit;

-- A total has no zone.
SELECT zone_period('UTC', 'total', '2026-01-01');

-- What is stored stays what it is.
SELECT zone_hash(''), zone_hash('UTC'), zone_hash('Europe/Berlin') AS berlin, zone_hash('europe/BERLIN') AS again;
