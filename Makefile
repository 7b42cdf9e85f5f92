# The build is PGXS; whatever takes more than a few lines is a script under test/. `make help` lists the targets.

EXTENSION = llmquota
MODULE_big = llmquota
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" llmquota.control)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
DATA_built = llmquota--$(EXTVERSION).sql
DATA = $(wildcard sql/llmquota--*.sql)
PG_CPPFLAGS = -MMD -MP
# A demo that is still running lives in build/demo; build/node was downloaded.
EXTRA_CLEAN = $(OBJS:.o=.d) $(filter-out build/demo build/node,$(wildcard build/* build/.pg_config))

# Debian's pg_config is that of the newest version with server headers.
PG_CONFIG ?= pg_config
export PG_CONFIG
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
# What a target needs is built by as many compilers as there are processors, unless make was told how many.
BUILD = $(MAKE) -s --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
# Bitcode is for inlining into expressions, which functions that lock pages have no use for; and it needs clang.
override with_llvm = no

.DEFAULT_GOAL := all
.PHONY: all install clean help deps test subjects scenarios torture asan test-asan coverage test-major test-upgrade deb test-deb bench demo demo-stop testing installed check-version FORCE

all:		## builds the extension
install:	## installs it, with sudo where the directories ask for it
clean:		## removes what was built

help:		## lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1:\t/p' Makefile | expand -t 16

deps:		## installs the Debian packages that building and all other targets need
	@test/deps demo test bench

test:		## builds, installs and runs every suite; SUITES='unit regress:pick' runs some
	@test/deps test
	+@$(BUILD) all testing installed
	@test/as-postgres test/run-suites $(SUITES)

torture:	## kills a server in mid-traffic 500 times and spends budgets; ROUNDS=5 ROLLBACKS=100 SPEND=20 OPERATIONS=10000 LINE=2 for less
	@test/deps test
	+@$(BUILD) all testing installed
	@test/as-postgres test/torture/run

test-asan:	## the unit, regress, isolation and TAP suites under AddressSanitizer and UBSan, in a root of Debian 13 (as root)
	@test/deps major
	@test/root trixie make asan SUITES='$(SUITES)'

asan:
	@test/deps test
	+@$(BUILD) all testing installed FLAVOUR=asan
	@FLAVOUR=asan test/as-postgres test/asan $(SUITES)

coverage:	## how many lines of src/*.c the suites run; fails below 90 %
	@test/deps test
	+@$(BUILD) all testing installed FLAVOUR=coverage
	@FLAVOUR=coverage test/as-postgres test/coverage $(SUITES)

test-major:	## every suite on another major version, in a root of its Debian release: MAJOR=17 (as root)
	@test/major $(MAJOR) $(SUITES)

test-upgrade:	## upgraded equals fresh, with leases in flight and two libraries side by side (as root)
	@test/deps test
	+@$(BUILD) all testing
	@test/upgrade/run

deb:		## makes a Debian package in build/deb
	@test/deps deb
	@test/deb build

test-deb: deb	## installs, uses and removes that package in a clean root of this machine's Debian release (as root)
	@test/deps major
	@test/root --scratch "$$(. /etc/os-release; echo $$VERSION_CODENAME)" test/deb check

bench:		## measures against Redis, PL/pgSQL and bare PostgreSQL
	@test/deps bench
	+@$(BUILD) all installed
	@test/as-postgres test/bench/run

subjects:	## sees a million orgs once each, and that live state stays bounded; ORGS=10000 for fewer
	@test/deps test
	+@$(BUILD) all testing installed
	@test/as-postgres test/subjects $(ORGS)

scenarios:	## plays services against the provider simulator: what must come of it; SCENARIOS=known plays one
	@test/deps test
	@$(MAKE) -s --no-print-directory all testing installed
	@test/as-postgres test/scenarios/run

demo:		## plays a service of 500 clinics in its peak hour on a private cluster
	@test/deps demo
	+@$(BUILD) all installed
	@test/as-postgres test/demo/run

demo-stop:	## ends what `make demo` left running for a look
	@test/as-postgres test/demo/stop
	@rmdir build/demo 2>/dev/null || true

check-version:	## compares the version in llmquota.control with META.json and CHANGELOG.md
	@test/check-version

ifeq ($(PGXS),)

all install testing installed:
	@echo "no PostgreSQL server headers: run \`make deps\`, or say PG_CONFIG=/path/to/pg_config" >&2; exit 1
clean:
	rm -rf $(EXTRA_CLEAN)

else

# What PGXS installs with: plain, or through sudo when the directories are not ours and no package is being made.
SUDO := $(if $(DESTDIR),,$(shell test -w "`$(PG_CONFIG) --pkglibdir`" -a -w "`$(PG_CONFIG) --sharedir`/extension" || echo sudo))
override install_bin = $(SUDO) install -c
override MKDIR_P = $(SUDO) mkdir -p

include $(PGXS)

$(DATA_built): sql/llmquota.sql llmquota.control
	cp $< $@

# Everything is compiled again when another PostgreSQL is named.
build/.pg_config: FORCE
	@mkdir -p build
	@$(PG_CONFIG) --version --includedir-server --cflags > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(OBJS): build/.pg_config

-include $(OBJS:.o=.d)

installed: all
	+@MAKE='$(MAKE)' test/install '$(pkglibdir)' '$(datadir)/extension' $(DATA_built)

# What tests run on is built below build/FLAVOUR: `testing` has assertions and injection points, every warning an error;
# `asan` has sanitizers besides, `coverage` counts lines. The server's headers are not ours to judge (-isystem), nor is
# the number of arguments that the server passes to a callback. Test modules call functions of the library, which from 16
# on would be hidden.
FLAVOUR ?= testing
export FLAVOUR
flavour = build/$(FLAVOUR)
cflags_asan = -U_FORTIFY_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
cflags_coverage = -U_FORTIFY_SOURCE -O0 --coverage
TEST_CFLAGS = $(CFLAGS) $(CFLAGS_SL) -O1 -g -DLLMQ_TESTING -Wall -Wextra -Werror -Wno-unused-parameter \
	-fvisibility=default
TEST_CPPFLAGS = -Isrc $(CPPFLAGS) -isystem $(includedir_server) $(cflags_$(FLAVOUR))
TEST_OBJS = $(OBJS:src/%.o=$(flavour)/%.o)

# A file of test/unit says on a line of its first comment what it is compiled with: `links: src/window.c` makes it a
# program of its own that prints TAP, `module: src/zone.c` a library for the server of the regress suite.
unit_kind = $(shell grep -lE '^[/ ]?\*+[[:space:]]*$1:' /dev/null $(wildcard test/unit/*.c))
unit_sources = $(shell sed -n 's|^[/ ]*\**[[:space:]]*$1: *\([^*]*\).*|\1|p' $2)
UNITS = $(patsubst test/%.c,$(flavour)/%,$(call unit_kind,links))
UNIT_MODULES = $(patsubst test/unit/%.c,$(flavour)/%.so,$(call unit_kind,module))
UNIT_HEADERS = $(wildcard src/*.h test/unit/*.h test/simulator/*.h)

# Of test/simulator, the files whose names begin with drive are the client, all others the server.
SIMULATOR = $(flavour)/simulator $(flavour)/drive
DRIVE_SOURCES = $(wildcard test/simulator/drive*.c)
SIMULATOR_SOURCES = $(filter-out $(DRIVE_SOURCES),$(wildcard test/simulator/*.c))

testing: $(flavour)/llmquota.so $(UNITS) $(UNIT_MODULES) $(SIMULATOR)	## builds the flavour and the programs that only tests use

$(flavour) $(flavour)/unit:
	@mkdir -p $@

$(flavour)/%.o: src/%.c build/.pg_config | $(flavour)
	$(CC) $(TEST_CFLAGS) $(TEST_CPPFLAGS) -c -o $@ $<

$(flavour)/llmquota.so: $(TEST_OBJS)
	$(CC) $(TEST_CFLAGS) $(cflags_$(FLAVOUR)) -shared -o $@ $^ $(LDFLAGS) $(SHLIB_LINK)

-include $(TEST_OBJS:.o=.d)

$(flavour)/simulator: $(SIMULATOR_SOURCES) $(UNIT_HEADERS) build/.pg_config | $(flavour)
	$(CC) $(filter-out -MMD -MP,$(TEST_CFLAGS) $(TEST_CPPFLAGS)) -o $@ $(filter %.c,$^) -lmicrohttpd -ljansson -lpthread

$(flavour)/drive: $(DRIVE_SOURCES) $(UNIT_HEADERS) build/.pg_config | $(flavour)
	$(CC) $(filter-out -MMD -MP,$(TEST_CFLAGS) $(TEST_CPPFLAGS)) -isystem $(includedir) -o $@ $(filter %.c,$^) -L$(libdir) \
		-lpq -lcurl -ljansson -lpthread

.SECONDEXPANSION:
$(flavour)/unit/%: test/unit/%.c $$(call unit_sources,links,test/unit/%.c) $(UNIT_HEADERS) build/.pg_config | $(flavour)/unit
	$(CC) $(filter-out -MMD -MP,$(TEST_CFLAGS) $(TEST_CPPFLAGS)) -o $@ $(filter %.c,$^) -L$(pkglibdir) -L$(libdir) -lpgcommon -lpgport -lm

$(flavour)/%_test.so: test/unit/%_test.c $$(call unit_sources,module,test/unit/%_test.c) $(UNIT_HEADERS) build/.pg_config | $(flavour)
	$(CC) $(filter-out -MMD -MP,$(TEST_CFLAGS) $(TEST_CPPFLAGS)) -shared -Wl,-Bsymbolic -o $@ $(filter %.c,$^)

endif
