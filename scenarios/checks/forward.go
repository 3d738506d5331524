package checks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func forwardCheck() suite.Check {
	return suite.Check{
		ID: "FW-01", Title: "with FORWARD's policy DROP, pods still reach pods",
		Source: fromFlannel, Profiles: []string{model},
		Needs:    []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
		Disturbs: true, Part: partOverlay,
		Run: forwardDrops,
	}
}

// forwardDrops sets the policy, as Docker does, and pings between the nodes.
func forwardDrops(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if plan.Network.EnableNFTables {
		return suite.NotApplicablef("the agent's rules are nftables', where an accept overrules no other table's drop")
	}
	for _, n := range nodesWithPods(plan) {
		if n.Agent.ByHand {
			continue // nobody was asked to write its rules
		}
		text, err := iptables(ctx, env, n.Name, "-S", "FORWARD")
		if err != nil {
			return err
		}
		policy := "ACCEPT"
		if f := strings.Fields(text); len(f) > 2 && f[0] == "-P" {
			policy = f[2]
		}
		env.Restore(n.Name+"'s policy of FORWARD", func(ctx context.Context) error {
			_, err := iptables(ctx, env, n.Name, "-P", "FORWARD", policy)
			return err
		})
		if _, err := iptables(ctx, env, n.Name, "-P", "FORWARD", "DROP"); err != nil {
			return err
		}
	}
	nodes := nodesWithPods(plan)
	var pings []suite.Ping
	var where []string
	for i, n := range nodes {
		from, to := plan.PodsOn(n.Name)[0], plan.PodsOn(nodes[(i+1)%len(nodes)].Name)[0]
		pings = append(pings, suite.Ping{From: from.Name, Ping: probe.Ping{Dst: to.Address.Addr()}})
		where = append(where, suite.Pair{From: from, To: to}.String())
	}
	pongs, err := env.PingAll(ctx, pings)
	if err != nil {
		return err
	}
	good := 0
	for i := range pongs {
		if env.Expect(where[i]+", policy DROP", pongs[i], match.BeAnswered()) {
			good++
		}
	}
	env.Evidence("policy DROP on %s: %d of %s answered", count(len(nodes), "node"), good, count(len(pings), "ping"))
	return nil
}

// iptables runs the program of that name on a node.
func iptables(ctx context.Context, env *suite.Env, node string, args ...string) (string, error) {
	return suite.Observe(ctx, env, "iptables "+strings.Join(args, " ")+" on "+node, func() (string, error) {
		ns, err := env.Lab().Namespace(node)
		if err != nil {
			return "", err
		}
		return runIptables(ctx, ns, args...)
	})
}

func runIptables(ctx context.Context, ns topology.Namespace, args ...string) (string, error) {
	var out, said bytes.Buffer
	code, err := ns.Run(ctx, topology.Process{Argv: append([]string{"iptables", "-w"}, args...), Stdout: &out, Stderr: &said})
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || code == 127 {
		return "", suite.NotApplicablef("%s has no iptables", ns.Name())
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("exit %d: %s", code, strings.TrimSpace(said.String()))
	}
	if err != nil {
		return "", fmt.Errorf("%s: iptables %s: %w", ns.Name(), strings.Join(args, " "), err)
	}
	return out.String(), nil
}
