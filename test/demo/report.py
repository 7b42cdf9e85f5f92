"""The tables at the end."""
from collections import Counter, defaultdict

from statistics import median

from traffic import BATCH_SIZE, BATCH_TAKES, PATIENCE, batches

# The counters by the day, held against the ledger. What nobody reported stands as it was reserved; what was reported
# after its lease had expired stands as one or the other. Released calls were none.
COUNTERS = """
    SELECT count(*) AS counters,
           count(*) FILTER (WHERE m.used NOT BETWEEN CASE m.metric WHEN 'requests' THEN l.calls ELSE l.least END
                                                 AND CASE m.metric WHEN 'requests' THEN l.calls ELSE l.most END) AS wrong
      FROM llmquota.meter_window m
      JOIN llmquota.quota q ON q.id = m.quota AND q.calendar = 'day'
     CROSS JOIN LATERAL (
        SELECT count(*) AS calls,
               coalesce(sum(CASE WHEN usage_source = 'late' THEN least(used, reserved) ELSE known END), 0) AS least,
               coalesce(sum(CASE WHEN usage_source = 'late' THEN greatest(used, reserved) ELSE known END), 0) AS most
          FROM llmquota.usage u
         CROSS JOIN LATERAL (SELECT reserved_input + reserved_output AS reserved,
                                    coalesce(input_tokens + output_tokens, 0) AS used) t
         CROSS JOIN LATERAL (SELECT CASE WHEN usage_source = 'reserved' THEN reserved ELSE used END AS known) k
         WHERE m.subject = CASE m.scope WHEN 'org' THEN u.org ELSE u.account END AND u.status <> 'released'
           AND date_trunc('day', u.picked_at, substr(m.period, 5)) = date_trunc('day', now(), substr(m.period, 5))) l"""


# So much longer than its patience nobody waits who is answered.
LATE = 1.5


def table(title, header, rows):
    """Prints rows under a header. Numbers stand right, texts left."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int) or row[i] == "" for row in rows) for i in range(len(header))]

    def line(row):
        return "  " + "  ".join(cell.rjust(width) if right else cell.ljust(width)
                                for cell, width, right in zip(row, widths, numeric)).rstrip()

    print(f"\n{title}\n")
    print(line(header))
    print("  " + "  ".join("-" * width for width in widths))
    for row in cells:
        print(line(row))


def window_of(quota):
    metric = {"concurrency": "calls in flight"}.get(quota.metric, quota.metric)
    return metric + (" per day" if quota.calendar else " per minute" if quota.seconds else "")


def name_of(quota):
    who = {"global": "all together", "*": f"each {'clinic' if quota.scope == 'org' else quota.scope}"}
    subject = who.get(quota.scope) or who.get(quota.subject) or quota.subject
    return subject if quota.model is None else f"{subject}, {quota.model}"


def granted_and_refused(config, log):
    quotas = {quota.id: quota for quota in config.quotas}
    reasons = Counter()
    for (status, kind, number), count in log.refusals.items():
        why = {"quota": f"{name_of(quotas[number])}: {window_of(quotas[number])}" if kind == "quota" else "",
               "budget": "each clinic: baht per day"}.get(kind, "")
        reasons[status, why] += count
    rows = [("granted", "", len(log.calls))]
    rows += [(status, why, count) for (status, why), count in sorted(reasons.items(), key=lambda r: (r[0][0], -r[1]))]
    table("Picks, granted and refused by reason", ["status", "the limit that refused", "picks"], rows)
    print(f"\n  {len(log.calls):,} requests got their call; {log.given_up:,} gave up, because they would have had to wait "
          f"for more than {PATIENCE * 60:.0f} s.")


def worst_of(uses):
    """For each quota, its highest use and how much over the amount: over all subjects that it limits each by itself."""
    worst = defaultdict(int)
    for limit, use in uses.items():
        worst[limit.quota] = max(worst[limit.quota], use)
    return worst


def overshoot(uses):
    return sum(max(0, use - limit.quota.amount) for limit, use in uses.items())


def exceeded(uses):
    return f"{sum(use > limit.quota.amount for limit, use in uses.items()):,} of {len(uses):,} limits"


def use_against_limit(config, remembered, kept):
    """What three memories let through, and llmquota: the highest use of every limit."""
    memory, llmquota = worst_of(remembered), worst_of(kept)
    rows = []
    for quota in config.quotas:
        if quota.amount is not None and (memory[quota] or llmquota[quota]):
            factor = memory[quota] / quota.amount
            rows.append((name_of(quota), window_of(quota), quota.amount, memory[quota],
                         f"{factor:.1f} x" if factor > 1 else "", llmquota[quota],
                         max(0, llmquota[quota] - quota.amount)))
    table("Use against limit: the highest of any interval, by the clients' own logs",
          ["limit", "", "allowed", "three in memory", "", "llmquota", "overshoot"], rows)
    tripled = sorted((quota.amount, use) for quota, use in memory.items() if use >= 2.9 * quota.amount)
    print(f"\n  Three gateways that count in memory exceeded {exceeded(remembered)}. They let through "
          + ", ".join(f"{use:,} of {amount:,}" for amount, use in tripled) + ".")
    print(f"  llmquota exceeded {exceeded(kept)}. overshoot: {overshoot(kept)}")


def budgets(db, money, memory, log):
    """What clinics spent of their budgets: gives by how much one was exceeded."""
    rows = db.execute("""
        SELECT b.subject AS clinic, round(b.amount, 2) AS baht_a_day, round(b.used, 2) AS spent,
               count(*) FILTER (WHERE u.downgraded) AS by_a_cheaper_model, count(*) AS calls
          FROM llmquota.budget_window b JOIN llmquota.usage u ON u.org = b.subject
         GROUP BY b.subject, b.amount, b.used ORDER BY b.used / b.amount DESC, b.subject""").fetchall()
    downgraded = sum(row.by_a_cheaper_model > 0 for row in rows)
    table(f"Budgets: the first 8 of {len(rows)} clinics", [name.replace("_", " ") for name in rows[0]._fields], rows[:8])
    (clinic, amount, spent), over = money.worst(memory.calls)
    (_, kept_amount, kept), exceeded_now = money.worst(log.calls)
    print(f"\n  From four fifths of a budget on a cheaper model answered, for {downgraded:,} clinics.")
    print(f"  Without budgets in the pick {over:,} clinics would have spent more than theirs: {clinic} {spent:.2f} of "
          f"{amount:.2f} baht.")
    overspent = max(kept - kept_amount, 0)
    print(f"  With llmquota: {exceeded_now:,}. overspent: {overspent:.2f}")
    return overspent


def alerts(db):
    """Who was to be told of what: gives how many alerts are missing or there twice."""
    rows = db.execute("""
        SELECT CASE WHEN a.budget IS NULL THEN 'quotas of ' || a.scope ELSE 'budgets' END AS what, a.kind, a.threshold,
               count(*) AS alerts, count(a.part_of) AS told_in_digests
          FROM llmquota.alert a WHERE a.kind <> 'digest' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 NULLS FIRST""").fetchall()
    wrong = db.execute("""
        SELECT (SELECT count(*)
                  FROM llmquota.budget_window w CROSS JOIN LATERAL (
                    SELECT unnest(b.alert_at) FROM llmquota.budget b WHERE b.id = w.budget) t (threshold)
                 WHERE w.used >= t.threshold * w.amount
                   AND NOT EXISTS (SELECT FROM llmquota.alert a WHERE a.kind = 'threshold' AND a.budget = w.budget
                                    AND a.subject = w.subject AND a.threshold = t.threshold))
             + (SELECT count(*) FROM (SELECT FROM llmquota.alert a WHERE a.kind <> 'digest' AND a.period_start IS NOT NULL
                 GROUP BY a.kind, a.scope, a.subject, a.model, a.family, a.quota, a.budget, a.threshold, a.period_start
                HAVING count(*) > 1) d) AS wrong""").fetchone().wrong
    table("Alerts", ["about", "kind", "at", "alerts", "told in digests"],
          [(row.what, row.kind, row.threshold or "", row.alerts, row.told_in_digests) for row in rows])
    print(f"\n  Thresholds of budgets that were reached without an alert, and alerts that are there twice: {wrong}")
    return wrong


def tokens_by_clinic(db):
    rows = db.execute("""
        SELECT org AS clinic, count(*) AS calls, count(*) FILTER (WHERE status = 'error') AS failed,
               count(*) FILTER (WHERE status = 'expired') AS forgotten, sum(input_tokens)::bigint AS input,
               sum(output_tokens)::bigint AS output, sum(input_tokens + output_tokens)::bigint AS tokens
          FROM llmquota.usage
         GROUP BY org
         ORDER BY tokens DESC NULLS LAST""").fetchall()
    table(f"Tokens by clinic, from the ledger: the first 8 of {len(rows)}", rows[0]._fields, rows[:8])


def seconds(waited_ms):
    """Of the hour that is played."""
    return f"{(waited_ms or 0) * 60 / 1000:.1f}"


def waits_of(group):
    """Columns about those who waited, and where they are from: how many, and for how long."""
    return f"""count(*)::int AS calls, count(waited_ms)::int AS waited,
               coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY waited_ms), 0) AS median_wait,
               coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY waited_ms), 0) AS most_wait,
               coalesce(max(waited_ms), 0) AS longest_wait FROM llmquota.usage GROUP BY {group}"""


def the_line(db, log, requests):
    """Who waited in line, and for how long."""
    rows = db.execute("SELECT CASE route WHEN 'consult' THEN 'in its call' ELSE 'with a ticket' END AS form, "
                      + waits_of("1") + " ORDER BY 1").fetchall()
    table("The line, in seconds of the hour", ["waits", "calls", "waited", "median", "95 % up to", "longest"],
          [(row.form, row.calls, row.waited, *map(seconds, row[3:])) for row in rows])
    if max(row.longest_wait for row in rows) > LATE * PATIENCE * 1000:
        print("\n  Who waited for much longer than half a minute did so while the server was down.")
    clinics = db.execute("SELECT org, " + waits_of("org") + " ORDER BY 3 DESC, org").fetchall()
    table(f"The first 8 of {sum(row.waited > 0 for row in clinics)} clinics that waited, in seconds of the hour",
          ["clinic", "calls", "waited", "median", "95 % up to", "longest", "gave up in line"],
          [(row.org, row.calls, row.waited, *map(seconds, row[3:]), log.left_line[row.org]) for row in clinics[:8]])
    floods(db, log, requests)


def floods(db, log, requests):
    """Whoever sends many requests at once delays itself, and not the others."""
    waited = {row.lease: row.waited_ms or 0 for row in db.execute("SELECT lease, waited_ms FROM llmquota.usage")}
    calls = {call.request.number: waited.get(call.lease, 0) for call in log.calls}
    floods, others = [], []
    for begin in batches():
        then = [request for request in requests if begin <= request.at < begin + 1]
        at_once = Counter(request.org for request in then if request.at < begin + BATCH_TAKES)
        (flooding, _), = at_once.most_common(1)
        for request in then:
            (floods if request.org == flooding else others).append(calls.get(request.number))
    rows = []
    for who, asked in [("that clinic", floods), ("all others in that minute", others)]:
        served = [wait for wait in asked if wait is not None]
        waits = [wait for wait in served if wait > 0] or [0]
        rows.append((who, len(asked), len(served), sum(wait > 0 for wait in served), seconds(median(waits)),
                     seconds(max(waits))))
    table(f"Every seven minutes a clinic sends {BATCH_SIZE} requests at once: who waits, in seconds of the hour",
          ["", "requests", "got their call", "waited", "median", "longest"], rows)


def the_crash(db, log, peak):
    """What the crash cost: gives how many acknowledged charges are gone, and how many counters are wrong."""
    leases = db.execute("SELECT lease FROM llmquota.usage UNION ALL SELECT lease FROM llmquota.lease").fetchall()
    known = {row.lease for row in leases}
    acknowledged = {call.lease for call in log.calls}
    before = [call for call in log.calls if call.granted_at < peak.killed_at]
    in_flight = [call for call in before if call.ended_at is None or call.ended_at >= peak.killed_at]
    lost = acknowledged - known
    counters, wrong = db.execute(COUNTERS).fetchone()
    table("The crash", ["what it cost", ""], [
        ("charges acknowledged before it", len(before)),
        ("of them, calls in flight when it came", sum(call.expires_at > peak.killed_at for call in in_flight)),
        ("acknowledged charges lost", len(lost)),
        ("picks that met no server, and were asked again", log.unanswered),
        ("of them, charged all the same until they expired", len(known - acknowledged)),
        ("counters of the day", counters),
        ("of them, at odds with the ledger", wrong)])
    return len(lost), wrong


def everything(db, config, money, memory, log, peak, judge, requests):
    """All tables: gives whether all is well."""
    remembered, kept = judge(config, memory.calls), judge(config, log.calls)
    granted_and_refused(config, log)
    the_line(db, log, requests)
    tokens_by_clinic(db)
    overspent = budgets(db, money, memory, log)
    unheard = alerts(db)
    use_against_limit(config, remembered, kept)
    lost, wrong = the_crash(db, log, peak)
    oracle_can_see = overshoot(remembered) > 0
    return oracle_can_see and overshoot(kept) == 0 and overspent == 0 and unheard == 0 and lost == 0 and wrong == 0


def farewell(sock):
    print(f"""
The cluster is still running, until `make demo-stop`. Look around:

  psql -h {sock} -p 5432 -U postgres postgres

  SELECT * FROM llmquota.budget_window ORDER BY used DESC LIMIT 5;
  SELECT raised_at, message FROM llmquota.alert WHERE part_of IS NULL ORDER BY id LIMIT 10;
  SELECT * FROM llmquota.meter_window WHERE refused > 0 ORDER BY refused DESC LIMIT 10;
  SELECT org, count(*), round(avg(latency_ms)) AS ms FROM llmquota.usage GROUP BY org ORDER BY 2 DESC LIMIT 5;
  SELECT org, picked_at, waited_ms FROM llmquota.usage WHERE waited_ms > 0 ORDER BY waited_ms DESC LIMIT 5;
  SELECT * FROM llmquota_pick('chat', org => 'clinic-500', input_tokens => 1200) \\gx""")
