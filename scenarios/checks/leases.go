package checks

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// leaseChecks compare what an agent has written, to its node's disk and to the
// store, with the plan and with the kernel.
func leaseChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "CP-05", Title: "subnet.env has the node's subnet and the links' MTU",
			Source: fromBoth, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4},
			Run:   subnetFiles,
		},
		{
			ID: "CP-06", Title: "leases are disjoint, and say what the kernels have",
			Source: fromFlannel, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.Leases},
			Run:   leasesAsKernel,
		},
	}
}

// subnetFile is where flannel's CNI plugin looks for the node's subnet.
const subnetFile = "/run/flannel/subnet.env"

func subnetFiles(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	nodes := withAgents(plan)
	if len(nodes) == 0 {
		return suite.NotApplicablef("no agent runs that would write %s", subnetFile)
	}
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	for i, n := range nodes {
		where := n.Name + " " + subnetFile
		s, err := env.Session(ctx, n.Name)
		if err != nil {
			return err
		}
		text, err := s.ReadFile(ctx, subnetFile)
		if err != nil {
			env.Fail(where, "a file", err.Error())
			continue
		}
		have := variables(text)
		if i == 0 {
			env.Evidence("%s, on %s: subnet %s, mtu %s", count(len(nodes), "file"), n.Name, have["FLANNEL_SUBNET"], have["FLANNEL_MTU"])
		}
		for _, want := range [][2]string{
			{"FLANNEL_NETWORK", plan.Network.Network.String()},
			{"FLANNEL_SUBNET", n.Gateway().String()},
			{"FLANNEL_MTU", fmt.Sprint(plan.OverlayMTU(n))},
			{"FLANNEL_IPMASQ", fmt.Sprint(n.Agent.IPMasq)},
		} {
			if value, ok := have[want[0]]; !ok || value != want[1] {
				seen := want[0] + "=" + value
				if !ok {
					seen = "no such key"
				}
				env.Fail(where, want[0]+"="+want[1], seen)
			}
		}
		if l := states[n.Name].Link(vtep(plan)); l != nil && plan.Network.Backend.Type == "vxlan" && fmt.Sprint(l.MTU) != have["FLANNEL_MTU"] {
			env.Fail(where, fmt.Sprintf("FLANNEL_MTU=%d, as %s has", l.MTU, l.Name), "FLANNEL_MTU="+have["FLANNEL_MTU"])
		}
	}
	return nil
}

// variables are those of a file of KEY=value lines.
func variables(text []byte) map[string]string {
	out := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			out[key] = value
		}
	}
	return out
}

func leasesAsKernel(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	waiting, cancel := context.WithTimeout(ctx, env.Timeouts().Store)
	defer cancel()
	list, err := lease.List(waiting, env.Lab())
	if err != nil && list == nil {
		return err
	}
	if err != nil {
		env.Fail("the store", "nothing but leases", err.Error())
	}
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.Subnet.Overlaps(b.Subnet) {
				env.Fail("the store", "disjoint subnets", a.Key+" and "+b.Key)
			}
			if a.PublicIP == b.PublicIP {
				env.Fail("the store", "one lease a node", fmt.Sprintf("%s and %s of %s", a.Key, b.Key, a.PublicIP))
			}
		}
	}
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		k := slices.IndexFunc(list, func(l lease.Lease) bool { return l.Subnet == n.PodCIDR.Masked() })
		if k < 0 {
			env.Fail(n.Name, "a lease for "+n.PodCIDR.Masked().String(), "none in the store")
			continue
		}
		l, where := list[k], n.Name+", lease "+list[k].Key
		if i == 0 {
			env.Evidence("%s, as %s of %s, %s", count(len(list), "lease"), l.Key, l.PublicIP, l.BackendType)
		}
		expectEqual(env, where, "backend", leaseType(plan.Network.Backend.Type), l.BackendType)
		expectEqual(env, where, "PublicIP", n.PublicIP(), l.PublicIP)
		have := states[n.Name].Link(vtep(plan))
		if plan.Network.Backend.Type == "vxlan" && have != nil && have.VXLAN != nil {
			expectEqual(env, where, "vni", have.VXLAN.VNI, l.VNI)
			expectEqual(env, where, "PublicIP", have.VXLAN.Local, l.PublicIP)
			expectEqual[topology.MAC](env, where, "VtepMAC", have.MAC, l.VtepMAC)
		}
	}
	return nil
}

// leaseType is the BackendType in a lease: flannel's udp and alloc leave it out
// (udp_amd64.go, alloc.go).
func leaseType(backend string) string {
	if backend == "udp" || backend == "alloc" {
		return ""
	}
	return backend
}
