# idem: build, test and look after every module of go.work.
# `make help` lists what there is.

GO ?= go

# Go 1.26.8 and older leave a pooled connection of the proxy's out of step
# (CVE-2026-56866). go.work and cmd/idem name the same toolchain.
export GOTOOLCHAIN := go1.26.9

# The version that the modules require of each other.
VERSION := v0.1.0

STATICCHECK := staticcheck@v0.8.2
GOLANGCI    := golangci-lint@v2.15.0
GOVULNCHECK := govulncheck@v1.9.0
TOOLS := bin/tools

# What `make test` and `make fuzz` take: a seed to repeat an order of tests,
# flags for go test, and how long each fuzz target runs.
SEED ?=
TESTFLAGS ?=
FUZZTIME ?= 10s

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the command: bin/idem
	$(GO) build -trimpath -o bin/idem ./cmd/idem

.PHONY: demo
demo: build ## Two scenes with a users service and the proxy, killed on the way (DEMO_ONCE=1 ends by itself)
	$(GO) run ./e2e/demo

.PHONY: test
test: ## Install what is missing, then run every test of every module with the race detector (SEED=n repeats an order)
	@scripts/needs
ifeq ($(TESTFLAGS),)
	@echo '== in their full number, without the race detector: power cuts, failing disks, counts of allocations'
	$(GO) run ./scripts/testall -race=off -modules '$(FULL_MODULES)' -run '$(FULL_TESTS)' -seed '$(SEED)'
endif
	$(GO) run ./scripts/testall -race=auto -seed '$(SEED)' $(TESTFLAGS)

# Under the race detector the engine takes ten times as long, and allocations
# are not what they are without it.
FULL_MODULES := .,bench,filestore
FULL_TESTS := PowerCut|Trap52TheDiskFails|Trap7KillNine|Trap35|Alloc|Budget

.PHONY: test-short
test-short: ## Run the short tests of every module, without the race detector
	$(GO) run ./scripts/testall -short -seed '$(SEED)' $(TESTFLAGS)

.PHONY: lint
lint: $(TOOLS)/$(STATICCHECK) $(TOOLS)/$(GOLANGCI) ## gofmt, go vet, staticcheck and golangci-lint over every module
	@scripts/lint $(TOOLS)/$(STATICCHECK) $(TOOLS)/$(GOLANGCI)

.PHONY: audit
audit: $(TOOLS)/$(GOVULNCHECK) ## Look for known vulnerabilities (AUDIT_OFFLINE=ok: an unreachable database is said, and no failure)
	@scripts/audit $(TOOLS)/$(GOVULNCHECK)

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

.PHONY: bench
bench: ## Compare with a bare proxy and with other stores
	$(GO) run ./bench

.PHONY: outside
outside: ## Build and test each module, and a small application, as an outsider gets them
	$(GO) run ./scripts/outside -version $(VERSION)

.PHONY: tidy
tidy: ## Tidy the go.mod of every module
	@scripts/tidy $(VERSION)

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin

# A tool is built apart from the workspace, into a file that bears its version:
# another version here is another file, and is built anew.
$(TOOLS)/$(STATICCHECK): pkg := honnef.co/go/tools/cmd
$(TOOLS)/$(GOLANGCI):    pkg := github.com/golangci/golangci-lint/v2/cmd
$(TOOLS)/$(GOVULNCHECK): pkg := golang.org/x/vuln/cmd
$(TOOLS)/%:
	@mkdir -p $(TOOLS)
	GOWORK=off GOFLAGS=-mod=mod GOBIN=$(abspath $(TOOLS)) $(GO) install $(pkg)/$*
	@mv $(TOOLS)/$(firstword $(subst @, ,$*)) $@
