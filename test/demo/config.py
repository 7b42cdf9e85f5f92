"""The configuration as the database has it, and which limits a call counts against."""
from collections import defaultdict, namedtuple
from datetime import datetime
from functools import cached_property
from zoneinfo import ZoneInfo

TABLES = {
    "keys": "SELECT k.*, a.provider FROM llmquota.key k JOIN llmquota.account a USING (account) ORDER BY key",
    "models": "SELECT * FROM llmquota.model",
    "routes": "SELECT * FROM llmquota.route ORDER BY step, model",
    "quotas": """
        SELECT q.id, q.scope, q.subject, q.model, q.metric, q.amount::bigint AS amount, q.calendar,
               extract(epoch FROM q.per)::float8 AS seconds, coalesce(q.timezone, p.timezone, 'UTC') AS timezone
          FROM llmquota.quota q
          LEFT JOIN llmquota.account a ON q.scope = 'account' AND a.account = q.subject
          LEFT JOIN llmquota.provider p USING (provider)
         ORDER BY q.id""",
}

# One limit as it applies to one call: the quota, and the subject and model that it counts together.
Limit = namedtuple("Limit", "quota subject model")


class Config:
    def __init__(self, db):
        for name, query in TABLES.items():
            setattr(self, name, db.execute(query).fetchall())

    @cached_property
    def provider_of(self):
        return {model.model: model.provider for model in self.models}

    @cached_property
    def steps(self):
        """The keys and models of each route, the first to be tried first."""
        tiers = defaultdict(list)
        for step in self.routes:
            for key in self.keys:
                if key.provider == self.provider_of[step.model] and (key.models is None or step.model in key.models):
                    tiers[step.route, step.step, key.priority].append((key, step.model))
        routes = defaultdict(list)
        for (route, _, _), candidates in sorted(tiers.items()):
            routes[route].append(candidates)
        return routes

    @cached_property
    def limits(self):
        """limits[scope, subject, model]: filled as they are asked for."""
        return {}

    def limits_of(self, call):
        """Every limit that counts a call: something with an org, account, key and model."""
        subjects = {"global": "", "provider": self.provider_of[call.model], "account": call.account, "key": call.key,
                    "org": call.org}
        for scope, subject in subjects.items():
            where = scope, subject, call.model
            if where not in self.limits:
                self.limits[where] = self.find_limits(*where)
            yield from self.limits[where]

    def find_limits(self, scope, subject, model):
        """A row that names its subject replaces the row of '*' for the same model, metric and window."""
        found = {}
        for quota in self.quotas:
            if quota.scope == scope and quota.subject in (subject, "*") and quota.model in (None, "*", model):
                window = quota.model, quota.metric, quota.seconds, quota.calendar
                if window not in found or found[window].subject == "*":
                    found[window] = quota
        return [Limit(quota, subject, quota.model and model) for quota in found.values() if quota.amount is not None]


def day_of(quota, at):
    """The calendar day a time is on, for a quota by the day."""
    return datetime.fromtimestamp(at, ZoneInfo(quota.timezone)).date()


def amount_of(quota, tokens):
    """What a call of so many tokens, in and out, counts."""
    return {"requests": 1, "concurrency": 1, "input_tokens": tokens[0], "output_tokens": tokens[1],
            "tokens": sum(tokens)}[quota.metric]
