package checks

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// nodePorts lets everyone whose packets take another way ask each port. One is
// served at a time, so that an answer can only be that of the port's own pod.
func nodePorts(ctx context.Context, env *suite.Env) error {
	ports := suite.NodePorts(env.Plan())
	asked, answered, hairpin := 0, 0, 0
	for _, p := range ports {
		from := askers(env.Plan(), p)
		replies, err := askPort(ctx, env, p, from)
		if err != nil {
			return err
		}
		for i, r := range replies {
			asked++
			if !env.Expect(fmt.Sprintf("%s > %s, port %d of %s", from[i], p, p.Target, p.Pod.Name), r, match.BeAnsweredBy(p.At.Addr())) {
				continue
			}
			answered++
			if from[i] == p.Pod.Name {
				hairpin++
			}
		}
	}
	env.Evidence("%s, asked %d times and answered %d; by the pod itself: %d", count(len(ports), "port"), asked, answered, hairpin)
	return nil
}

// askers are the pod itself, another pod of its node, the node and another
// node, as far as they are there. An address of loopback is the node's alone.
func askers(plan *topology.Plan, p suite.NodePort) []string {
	if p.At.Addr().IsLoopback() {
		return []string{p.Pod.Node}
	}
	names := []string{p.Pod.Name}
	for _, pod := range plan.PodsOn(p.Pod.Node) {
		if pod.Name != p.Pod.Name {
			names = append(names, pod.Name)
			break
		}
	}
	names = append(names, p.Pod.Node)
	for _, n := range plan.Nodes {
		if n.Name != p.Pod.Node {
			return append(names, n.Name)
		}
	}
	return names
}

// askPort serves a port's pod, and asks the port from each of the names. The
// replies have their order.
func askPort(ctx context.Context, env *suite.Env, p suite.NodePort, from []string) (replies []probe.EchoReply, err error) {
	pod, err := env.Session(ctx, p.Pod.Name)
	if err != nil {
		return nil, err
	}
	server, err := pod.ServeEcho(p.Transport, p.Target)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, suite.Inconclusivef("something in %s has the port %d/%s already: stop it, so that the check can answer there", p.Pod.Name, p.Target, p.Transport)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	for _, name := range from {
		client, err := env.Session(ctx, name)
		if err != nil {
			return nil, err
		}
		reply, err := client.Echo(ctx, probe.Echo{
			Transport: p.Transport, Server: p.At, Wait: env.Timeouts().Reply, Tries: env.Timeouts().Tries,
		})
		if err != nil {
			return nil, err
		}
		replies = append(replies, reply)
	}
	return replies, nil
}
