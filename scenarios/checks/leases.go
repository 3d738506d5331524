package checks

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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
			Needs:    []suite.Feature{suite.IPv4},
			Disturbs: true, Part: partOverlay, // where the lab can restart an agent
			Run: subnetFiles,
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
	wrong, said := false, ""
	for i, n := range nodes {
		where := n.Name + " " + subnetFile
		s, err := env.Session(ctx, n.Name)
		if err != nil {
			return err
		}
		text, err := s.ReadFile(ctx, subnetFile)
		if err != nil {
			env.Fail(where, "a file", err.Error())
			wrong = true
			continue
		}
		have := variables(text)
		if i == 0 {
			said = fmt.Sprintf("%s, on %s: subnet %s, mtu %s", count(len(nodes), "file"), n.Name, have["FLANNEL_SUBNET"], have["FLANNEL_MTU"])
			env.Evidence("%s", said)
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
				wrong = true
			}
		}
		if l := states[n.Name].Link(vtep(plan)); l != nil && plan.Network.Backend.Type == "vxlan" && fmt.Sprint(l.MTU) != have["FLANNEL_MTU"] {
			env.Fail(where, fmt.Sprintf("FLANNEL_MTU=%d, as %s has", l.MTU, l.Name), "FLANNEL_MTU="+have["FLANNEL_MTU"])
			wrong = true
		}
	}
	if wrong {
		return nil // an agent's restart would hide it
	}
	how, err := subnetFileReplaced(ctx, env, nodes[len(nodes)-1])
	env.Evidence("%s; %s", said, how)
	return err
}

// stale is a line that no agent writes, and that no plugin heeds.
const stale = "OVERLAB_STALE=true\n"

// subnetFileReplaced makes a node's file differ from what its agent writes, and
// watches how the agent, restarted, writes it. It returns that in words. A
// plugin that reads a file which is changed in place can read half of it.
func subnetFileReplaced(ctx context.Context, env *suite.Env, n *topology.Node) (string, error) {
	can, err := canRestart(ctx, env)
	if err != nil {
		return "", err
	}
	if !can {
		return "not seen written: this lab cannot restart agents", nil
	}
	s, err := env.Session(ctx, n.Name)
	if err != nil {
		return "", err
	}
	before, err := s.ReadFile(ctx, subnetFile)
	if err != nil {
		return "", err
	}
	read := func(ctx context.Context) bool {
		have, err := s.ReadFile(ctx, subnetFile)
		return err == nil && bytes.Equal(have, before)
	}
	env.Restore(subnetFile+" of "+n.Name, func(ctx context.Context) error {
		if read(ctx) {
			return nil
		}
		return s.WriteFile(ctx, subnetFile, before)
	})
	if err := s.WriteFile(ctx, subnetFile, append(bytes.Clone(before), stale...)); err != nil {
		return "", err
	}
	watch, err := env.WatchFile(ctx, n.Name, subnetFile)
	if err != nil {
		return "", err
	}
	defer watch.Close()
	if err := restartAgent(ctx, env, n.Name); err != nil {
		return "", err
	}
	_, err = env.Poll(ctx, subnetFile, env.Timeouts().Converge, 5*time.Millisecond, func(ctx context.Context) (bool, error) {
		return read(ctx), nil
	})
	if err != nil {
		return "", err
	}
	how, err := watch.Written(ctx)
	switch {
	case err != nil:
		return "", err
	case how.InPlace:
		env.Fail(n.Name+" "+subnetFile, "a whole file that takes the other's place in one step", "the file was changed in place")
		return "changed in place by the agent of " + n.Name, nil
	case how.Moved:
		return "replaced in one step by the agent of " + n.Name, nil
	}
	return fmt.Sprintf("not written by the agent of %s, restarted, within %v", n.Name, env.Timeouts().Converge), nil
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
	list, malformed, err := storedLeases(ctx, env)
	if err != nil {
		return err
	}
	if malformed != nil {
		env.Fail("the store", "nothing but leases", malformed.Error())
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
