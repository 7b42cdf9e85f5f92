"""What an estimate of tokens takes: src/estimate.c alone, in a program of its own."""

from shell import BUILD, ROOT, run
from table import limit

TEXTS = {
    "English": (ROOT / "doc/reference.md").read_text,
    "C": (ROOT / "src/estimate.c").read_text,
    "Russian": lambda: "Сколько здесь слов? " * 3000,
    "Hindi": lambda: "यहाँ कितने शब्द हैं, और क्यों? " * 3000,
    "Thai": lambda: "ที่นี่มีกี่คำ" * 3000,
    "Chinese": lambda: "这里有多少个词，" * 3000,
}


def estimates(_):
    """The slowest of texts in several scripts; each the least of 20 times, over a megabyte or more."""
    program = BUILD / "estimate_test"
    include, libraries = run("pg_config", "--includedir-server").strip(), run("pg_config", "--libdir").strip()
    run("cc", "-O2", f"-I{ROOT}/src", f"-I{include}", "-o", program, "test/unit/estimate_test.c", "src/estimate.c",
        f"-L{libraries}", f"-L{run('pg_config', '--pkglibdir').strip()}", "-lpgcommon", "-lpgport", "-lm")
    times = {}
    for name, text in TEXTS.items():
        file = BUILD / f"estimate.{name}"
        file.write_text(text())
        times[name] = float(run(program, "--time", file).split()[0])
    slowest = max(times, key=times.get)
    return [limit("estimate of the tokens of a kilobyte", times[slowest], "us", 2, f"{slowest} is slowest",
                  digits=2)]
