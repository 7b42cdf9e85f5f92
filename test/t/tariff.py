"""What calls cost by the definition in doc/reference.md, in fractions: nothing here knows how the server counts.

Amounts are whole numbers of a billionth of their currency, times microseconds since 1970. Run as a program, it shows
that it rounds as it should.
"""
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

UNIT = 10 ** 9  # of an amount, to one of its currency
MILLION = 10 ** 6  # tokens that a price is for
BASE = 'USD'
ALWAYS = float('-inf')


def amount(text):
    """An amount as it is written, in billionths."""
    billionths = Fraction(text) * UNIT
    assert billionths.denominator == 1, f'{text} has more than nine decimals'
    return int(billionths)


def rounded(billionths):
    """To a whole number, half of one away from zero."""
    return floor(billionths + Fraction(1, 2)) if billionths >= 0 else -floor(Fraction(1, 2) - billionths)


@dataclass(frozen=True)
class Price:
    """For a million tokens, as they are written."""
    input: str
    output: str
    currency: str = BASE
    cached: str = None
    cache_write: str = None
    reasoning: str = None

    def sorts(self):
        """(cached, written to the cache, other input, reasoning, other output), in billionths for a token."""
        texts = (self.cached or self.input, self.cache_write or self.input, self.input, self.reasoning or self.output,
                 self.output)
        return [Fraction(text) * UNIT / MILLION for text in texts]


@dataclass(frozen=True)
class Tokens:
    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def sorts(self):
        return (self.cached, self.cache_write, self.input - self.cached - self.cache_write, self.reasoning,
                self.output - self.reasoning)


def valid(dated, at):
    """What was valid at some time; dated: (valid from, what) in any order."""
    return max((item for item in dated if item[0] <= at), key=lambda item: item[0])[1]


class Tariff:
    """prices: {model: [(valid from, Price)]}; rates: {currency: [(valid from, units of the base currency, as text)]}"""

    def __init__(self, prices, rates):
        self.prices = prices
        self.rates = {BASE: [(ALWAYS, '1')], **rates}

    def currency(self, model, at):
        return valid(self.prices[model], at).currency

    def cost(self, model, tokens, at):
        """Of tokens of which all is known."""
        sorts = valid(self.prices[model], at).sorts()
        return rounded(sum(price * count for price, count in zip(sorts, tokens.sorts())))

    def worst(self, model, input, output, at, known=Tokens()):
        """The most that so many tokens may cost, of whatever sort they will be, and what is known: rounded up."""
        sorts = valid(self.prices[model], at).sorts()
        return ceil(max(sorts[:3]) * input + max(sorts[3:]) * output +
                    sum(price * count for price, count in zip(sorts, known.sorts())))

    def convert(self, billionths, currency, to, at):
        if currency == to:
            return billionths
        return rounded(billionths * Fraction(valid(self.rates[currency], at)) / Fraction(valid(self.rates[to], at)))


def check():
    assert [rounded(Fraction(halves, 2)) for halves in (-3, -1, 0, 1, 2, 3)] == [-2, -1, 0, 1, 1, 2]
    assert amount('0.000000001') == 1
    prices = {'m': [(ALWAYS, Price('0.0005', '1', cached='0')), (100, Price('2', '1', 'THB', reasoning='3'))]}
    tariff = Tariff(prices, {'THB': [(ALWAYS, '0.03'), (200, '0.025')]})
    assert tariff.cost('m', Tokens(1), 99) == 1 and tariff.cost('m', Tokens(1, cached=1), 99) == 0
    assert tariff.worst('m', 3, 0, 99) == 2 and tariff.cost('m', Tokens(2, 5, reasoning=5), 100) == 19_000
    assert tariff.worst('m', 1, 0, 99, Tokens(2)) == 2, 'rounded once'
    assert tariff.convert(1, 'THB', BASE, 100) == 0 and tariff.convert(50, 'THB', BASE, 100) == 2
    assert tariff.convert(60, 'THB', BASE, 200) == 2 and tariff.convert(1, BASE, 'THB', 200) == 40


if __name__ == '__main__':
    check()
    print('ok')
