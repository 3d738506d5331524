# overlab: `make lab-up` brings a lab up and shows it at work, `make test`
# passes the tests. Both work as root and as an ordinary user.

GO      ?= go
BIN     ?= bin
PREFIX  ?= /usr/local
LAB     ?= default
FUZZTIME ?= 5m
PROGRAMS = $(BIN)/overlab $(BIN)/overlabd $(BIN)/overlab-cni

# No cgo: the programs are static, and run in whatever mount namespace a lab
# has.
export CGO_ENABLED = 0
# Where Debian keeps bridge and iptables, and an ordinary user does not look.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: lab-up lab-down test test-kernel test-long soak mutation fuzz kube-apiserver test-kube bench lint build install clean help

help: ## show what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

lab-up: build ## bring a lab up (LAB=000 for an article's) and judge it
	@$(BIN)/overlab up $(LAB) --test

lab-down: build ## end every lab of yours
	@$(BIN)/overlab down --all

build: ## build the programs into bin/
	@mkdir -p $(BIN)
	@test -x $(BIN)/overlab || echo "building (the first time takes a minute or two) ..." >&2
	@$(GO) build -trimpath -ldflags="-s -w" -o $(BIN)/ ./cmd/...

test: build ## run the tests, and say which were skipped and why
	@$(GO) vet ./...
	@OVERLAB_BIN=$(abspath $(BIN)) $(GO) test -timeout 20m -json ./... | $(GO) run ./internal/testsum

test-long: build ## the tests that take minutes: a store that is away for 30 s
	@OVERLAB_LONG=1 OVERLAB_BIN=$(abspath $(BIN)) $(GO) test -count=1 -timeout 20m -v -run 'TestResilience' ./cmd/overlab/

mutation: build ## break a lab in every known way, and see that each is caught
	@OVERLAB_FAULTS_DOC=1 $(GO) test -count=1 -run TestPage ./scenarios/faults/
	@OVERLAB_MUTATION=$(abspath docs/mutation.md) OVERLAB_BIN=$(abspath $(BIN)) $(GO) test -count=1 -timeout 30m -v -run TestMutation ./cmd/overlab/

fuzz: ## fuzz what is read of stores, CNI and specs (FUZZTIME=5m each)
	@set -e; for target in lease:Key lease:Attrs lease:Config lease/kube:Annotations cni:Config cni:Record; do \
		$(GO) test -run '^$$' -fuzz "$${target#*:}\$$" -fuzztime $(FUZZTIME) ./agent/$${target%:*}/; \
	done
	@$(GO) test -run '^$$' -fuzz . -fuzztime $(FUZZTIME) ./topology/
	@$(GO) test -run '^$$' -fuzz . -fuzztime $(FUZZTIME) ./harness/capture/
	@$(GO) test -run '^$$' -fuzz . -fuzztime $(FUZZTIME) ./harness/capture/filter/

soak: build ## 100 runs of the checks with every processor busy (RUNS=100): none may be false
	@BIN=$(BIN) hack/soak

.PHONY: race image
race: ## bring a lab up and judge it under the race detector (needs a C compiler)
	@GO="$(GO)" BIN=$(BIN) hack/race

image: build ## build the container images: overlab with its tools, and the agent
	docker build -t ghcr.io/overlab/overlab .
	$(BIN)/overlab image agent -f - | docker load

kube-apiserver: ## build a kube-apiserver to test against, once (some minutes)
	@hack/kube-apiserver

test-kube: kube-apiserver ## test the Kubernetes store, against a real API server too
	@$(GO) test -count=1 ./agent/lease/kube/
	@$(GO) test -count=1 -run TestKube ./agent/

.PHONY: test-kind
test-kind: build ## test the kind and kubernetes providers on real clusters, from nothing (root)
	@hack/test-kind

test-kernel: ## run what this kernel cannot (ipip, wireguard, ipsec) on Debian's, in QEMU
	@$(GO) run ./internal/kerneltest | $(GO) run ./internal/testsum

bench: build ## measure, each figure beside a baseline of the same run
	@OVERLAB_BIN=$(abspath $(BIN)) $(GO) test -run '^$$' -bench . -benchtime 5x ./bench/
	@$(GO) test -run '^$$' -bench . -skip 'Latency|Footprint' -benchtime 20x ./agent/... ./harness/... ./scenarios/... ./topology/
	@$(GO) test -run '^$$' -bench Latency -benchtime 200x ./agent/
	@$(GO) test -run '^$$' -bench Footprint -benchtime 1x ./agent/

lint: ## gofmt, go vet, staticcheck, golangci-lint where it is installed
	@files=$$(gofmt -l .); test -z "$$files" || { echo "run gofmt -w on: $$files" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else echo "golangci-lint is not installed: skipped" >&2; fi

install: build ## install the programs under PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin
	install $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/

clean: ## remove what was built
	rm -rf $(BIN)
