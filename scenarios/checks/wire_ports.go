package checks

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// portChecks are on the outer source port, by which routers and network cards
// tell flows apart.
func portChecks() []suite.Check {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	return []suite.Check{
		{
			ID: "WF-05", Title: "the outer source port keeps to a flow, and tells flows",
			Source: "RFC 7348 section 5, Linux", Profiles: []string{vxlan}, Needs: needs,
			Run: sourcePorts,
		},
		{
			ID: "WF-05R", Level: suite.Strict, Title: "the outer source port is at least 49152",
			Source: "RFC 7348 section 5", Profiles: []string{vxlan}, Needs: needs,
			Run: dynamicPorts,
		},
	}
}

// How many flows a node sends, and how many different ports tell them apart at
// the least: of 64 random ports out of 28,232 (Linux's range), fewer than 60
// come out different once in 10^9 times.
const (
	flowsTried = 64
	portsAsked = 32
)

// manyFlows is what one node has sent: each inner source port's outer ones.
type manyFlows struct {
	from, to topology.Pod
	node     *topology.Node
	outer    map[uint16][]uint16
}

func (m manyFlows) String() string {
	return fmt.Sprintf("%s:%s, %s > %s", m.node.Name, m.node.Underlay().Name, m.from.Name, m.to.Name)
}

// ports are all outer ones, each once.
func (m manyFlows) ports() []uint16 {
	seen := map[uint16]bool{}
	for _, ports := range m.outer {
		for _, p := range ports {
			seen[p] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// sendFlows sends two datagrams of each of 64 flows from a pod of each node to
// one of the next, and looks at what leaves the nodes. The checks on ports
// share it.
func sendFlows(ctx context.Context, env *suite.Env) ([]manyFlows, error) {
	return suite.Shared(env, "64 flows on the underlay", func(ctx context.Context) ([]manyFlows, error) {
		plan := env.Plan()
		nodes := nodesWithPods(plan)
		var points []suite.Point
		var all []manyFlows
		for i, n := range nodes {
			points = append(points, suite.Point{Node: n.Name, Interface: n.Underlay().Name, Filter: filter.UDP()})
			all = append(all, manyFlows{plan.PodsOn(n.Name)[0], plan.PodsOn(nodes[(i+1)%len(nodes)].Name)[0], n, map[uint16][]uint16{}})
		}
		ids := make([]uuid.UUID, len(all))
		seen, err := env.Capture(ctx, points, func(ctx context.Context) error {
			for i, m := range all {
				from, err := env.Session(ctx, m.from.Name)
				if err != nil {
					return err
				}
				to, err := env.Session(ctx, m.to.Name)
				if err != nil {
					return err
				}
				port, err := to.EchoPort(probe.UDP)
				if err != nil {
					return err
				}
				ids[i] = env.NewID(ctx)
				err = from.Burst(ctx, probe.Burst{
					To: netip.AddrPortFrom(m.to.Address.Addr(), port), Flows: flowsTried, Datagrams: 2, ID: ids[i],
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i, m := range all {
			for _, f := range seen.Find(points[i], capture.Out, ids[i]) {
				d := f.Decode(uint16(plan.Network.Backend.Port))
				if !d.Encapsulated() {
					continue // WF-01 and WF-08 ask for it
				}
				inner := d.Inner.UDP.Src
				if len(m.outer[inner]) == 0 && len(m.outer) == 0 {
					env.Cite(f, ids[i])
				}
				m.outer[inner] = append(m.outer[inner], d.UDP.Src)
			}
			if err := seen.Trust(); err != nil {
				return nil, err
			}
			if len(m.outer) < flowsTried {
				return nil, suite.Inconclusivef("%s: %d of %d flows were seen leaving", m, len(m.outer), flowsTried)
			}
		}
		return all, nil
	})
}

func sourcePorts(ctx context.Context, env *suite.Env) error {
	all, err := sendFlows(ctx, env)
	if err != nil {
		return err
	}
	for i, m := range all {
		low, high, err := portRange(ctx, env, m.node.Name)
		if err != nil {
			return err
		}
		for inner, outer := range m.outer {
			if slices.Min(outer) != slices.Max(outer) {
				env.Fail(m.String(), "one outer source port for the flow from port "+fmt.Sprint(inner), fmt.Sprint(outer))
				break // one of 64 is evidence enough
			}
		}
		ports := m.ports()
		if len(ports) < portsAsked {
			env.Fail(m.String(), fmt.Sprintf("at least %d outer source ports for %d flows", portsAsked, flowsTried), count(len(ports), "port"))
		}
		// The kernel's choice, or the RFC's.
		if first, last := ports[0], ports[len(ports)-1]; (first < low || last > high) && first < firstDynamic {
			env.Fail(m.String(), fmt.Sprintf("outer source ports of %d to %d", low, high), fmt.Sprintf("%d to %d", ports[0], ports[len(ports)-1]))
		}
		if i == 0 {
			env.Evidence("%s, as %d flows in %s, %d to %d", count(len(all), "node"), flowsTried, count(len(ports), "port"), ports[0], ports[len(ports)-1])
		}
	}
	return nil
}

// portRange is net.ipv4.ip_local_port_range, from which Linux chooses.
func portRange(ctx context.Context, env *suite.Env, node string) (low, high uint16, err error) {
	s, err := env.Session(ctx, node)
	if err != nil {
		return 0, 0, err
	}
	text, err := s.ReadFile(ctx, "/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return 0, 0, fmt.Errorf("%s: the range of local ports reads %q", node, text)
	}
	for i, p := range []*uint16{&low, &high} {
		v, err := strconv.ParseUint(fields[i], 10, 16)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: the range of local ports: %w", node, err)
		}
		*p = uint16(v)
	}
	return low, high, nil
}

// firstDynamic is the first of the dynamic ports of RFC 6335 section 6.
const firstDynamic = 49152

func dynamicPorts(ctx context.Context, env *suite.Env) error {
	all, err := sendFlows(ctx, env)
	if err != nil {
		return err
	}
	lowest := uint16(0xffff)
	for _, m := range all {
		p := m.ports()[0]
		lowest = min(lowest, p)
		if p < firstDynamic {
			env.Fail(m.String(), fmt.Sprintf("outer source ports of at least %d", firstDynamic), fmt.Sprintf("port %d", p))
		}
	}
	env.Evidence("%s, the lowest port is %d", count(len(all), "node"), lowest)
	return nil
}
