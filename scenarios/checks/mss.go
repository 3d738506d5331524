package checks

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// tcpIPHeaders are the bytes of an IPv4 and a TCP header without options, which
// RFC 9293 section 3.7.1 takes off the MTU for the MSS.
const tcpIPHeaders = 40

func segmentSizeCheck() suite.Check {
	return suite.Check{
		ID: "MTU-04", Title: "TCP connections of pods announce the overlay's MTU less 40",
		Source: fromSeeds, Profiles: []string{model},
		Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
		Run:   segmentSizes,
	}
}

// segmentSizes connects a pod of each node to one of the next, and reads the
// SYN as it leaves the pod.
func segmentSizes(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	nodes := nodesWithPods(plan)
	var pairs []suite.Pair
	var points []suite.Point
	for i, n := range nodes {
		p := suite.Pair{From: plan.PodsOn(n.Name)[0], To: plan.PodsOn(nodes[(i+1)%len(nodes)].Name)[0]}
		pairs = append(pairs, p)
		points = append(points, suite.Point{Node: p.From.Name, Interface: "eth0", Filter: filter.TCP()})
	}
	ports := make([]uint16, len(pairs))
	seen, err := env.Capture(ctx, points, func(ctx context.Context) error {
		for i, p := range pairs {
			to, err := env.Session(ctx, p.To.Name)
			if err != nil {
				return err
			}
			if ports[i], err = to.EchoPort(probe.TCP); err != nil {
				return err
			}
			if _, err := env.Echo(ctx, probe.TCP, p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	unseen := 0
	for i, p := range pairs {
		want, found := podMTU(env, p.From.Node)-tcpIPHeaders, false
		for _, f := range seen.All(points[i], capture.Out) {
			d := f.Decode(0)
			if d.TCP.Flags&(capture.SYN|capture.ACK) != capture.SYN || d.IP.Dst != p.To.Address.Addr() || d.TCP.Dst != ports[i] {
				continue
			}
			if !found {
				env.Cite(f, uuid.Nil)
			}
			found = true
			if int(d.TCP.MSS) != want {
				env.Fail(fmt.Sprintf("%s, SYN", p), fmt.Sprintf("mss %d", want), fmt.Sprintf("mss %d", d.TCP.MSS))
			}
		}
		if !found {
			unseen++
		}
	}
	env.Evidence("%s, mss %d", count(len(pairs), "connection"), podMTU(env, pairs[0].From.Node)-tcpIPHeaders)
	if err := seen.Trust(); err != nil {
		return err
	}
	if unseen > 0 {
		return suite.Inconclusivef("%s of %d not seen leaving the pod", count(unseen, "SYN"), len(pairs))
	}
	return nil
}
