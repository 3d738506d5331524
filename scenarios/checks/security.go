package checks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/frame"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// validFlags is the I flag of RFC 7348 section 5.
const validFlags = 0x08

// securityChecks put forged VXLAN on the underlay and look at whether it
// reaches a pod. Each forgery goes beside a frame that differs from it in the
// forged field alone, and which must arrive.
func securityChecks() []suite.Check {
	check := func(id string, level suite.Level, title, source string, run func(context.Context, *suite.Env) error) suite.Check {
		return suite.Check{
			ID: id, Level: level, Title: title, Source: source, Profiles: []string{vxlan, security},
			Needs: []suite.Feature{suite.IPv4, suite.SegmentPeers, suite.FullMesh, suite.NoKubeProxy}, Forges: true, Run: run,
		}
	}
	learned := check("SE-03", suite.Core, "a spoofed inner MAC leaves the FDB as it was", "RFC 7348 section 7, flannel", spoofedMAC)
	learned.Disturbs, learned.Part = true, partOverlay // where a VTEP learns
	return []suite.Check{
		check("SE-01", suite.Core, "VXLAN of another VNI is dropped", "RFC 7348 section 4", mustDrop("another VNI", func(f *forgery) {
			f.header.VNI ^= 0x800001
		})),
		check("SE-02", suite.Core, "VXLAN without the I flag is dropped", "RFC 7348 section 5", mustDrop("no I flag", func(f *forgery) {
			f.header.Flags = 0
		})),
		learned,
		check("SE-04", suite.Information, "VXLAN with reserved bits set: accepted or dropped", "RFC 7348 section 5", reservedBits),
		check("SE-05", suite.Hardening, "VXLAN from an address that is no node is dropped", "RFC 7348 section 7", strangerDropped),
		check("SE-06", suite.Hardening, "VXLAN that a pod sends is dropped", "RFC 7348 section 7", podDropped),
	}
}

// forgery is a VXLAN packet that one node would send another, altered.
type forgery struct {
	from, to *topology.Node
	// pod is on the node that it is sent to, as from a pod of the other.
	pod, as topology.Pod
	// next and nic are the outer MACs: where it goes, and where it comes from.
	next, nic topology.MAC
	source    netip.Addr
	header    frame.VXLAN
	// vtep and own are the inner MACs.
	vtep, own topology.MAC
	port      uint16
}

// newForgery is a packet as it ought to be, between the first two nodes of one
// segment that have pods.
func newForgery(ctx context.Context, env *suite.Env) (forgery, error) {
	plan := env.Plan()
	f := forgery{port: uint16(plan.Network.Backend.Port), header: frame.VXLAN{Flags: validFlags, VNI: uint32(plan.Network.Backend.VNI)}}
	nodes := nodesWithPods(plan)
	for i, a := range nodes {
		k := slices.IndexFunc(nodes[i+1:], func(b *topology.Node) bool { return sameSegment(a, b) })
		if k >= 0 {
			f.from, f.to = a, nodes[i+1+k]
			break
		}
	}
	f.as, f.pod = plan.PodsOn(f.from.Name)[0], plan.PodsOn(f.to.Name)[0]
	f.source = f.from.PublicIP()
	states, err := env.States(ctx, []string{f.from.Name, f.to.Name})
	if err != nil {
		return f, err
	}
	for _, m := range []struct {
		mac  *topology.MAC
		node *topology.Node
		link string
	}{
		{&f.nic, f.from, f.from.Underlay().Name}, {&f.next, f.to, f.to.Underlay().Name},
		{&f.own, f.from, vtep(plan)}, {&f.vtep, f.to, vtep(plan)},
	} {
		l := states[m.node.Name].Link(m.link)
		if l == nil {
			return f, suite.Inconclusivef("%s has no %s (DP-04)", m.node.Name, m.link)
		}
		*m.mac = l.MAC
	}
	return f, nil
}

// bytes are the frame, with an identifier in its innermost payload.
func (f forgery) bytes(id uuid.UUID) []byte {
	inner := frame.Ethernet(f.vtep, f.own, frame.TypeIPv4, frame.IPv4{Src: f.as.Address.Addr(), Dst: f.pod.Address.Addr()}.Silent(id))
	const sourcePort = 50000
	outer := frame.IPv4{Src: f.source, Dst: f.to.PublicIP()}.UDP(sourcePort, f.port, f.header.Wrap(inner))
	return frame.Ethernet(f.next, f.nic, frame.TypeIPv4, outer)
}

// sending is a frame that is put on an interface of a node or pod.
type sending struct {
	from, iface string
	data        []byte
}

// out is the frame as the node itself sends it.
func (f forgery) out(id uuid.UUID) sending {
	return sending{f.from.Name, f.from.Underlay().Name, f.bytes(id)}
}

// deliver sends a forged frame and then one that must arrive, some times over,
// and returns the forged frames that the pod received. It is inconclusive where
// the other did not arrive.
func (f forgery) deliver(ctx context.Context, env *suite.Env, forged func(uuid.UUID) sending, control forgery) ([]capture.Frame, error) {
	at := suite.Point{Node: f.pod.Name, Interface: "eth0", Filter: filter.ICMP()}
	bad, good := env.NewID(ctx), env.NewID(ctx)
	seen, err := env.Capture(ctx, []suite.Point{at}, func(ctx context.Context) error {
		for range 3 {
			for _, s := range []sending{forged(bad), control.out(good)} {
				session, err := env.Session(ctx, s.from)
				if err != nil {
					return err
				}
				if err := session.Inject(ctx, s.iface, s.data); err != nil {
					return err
				}
			}
		}
		// An exchange over the same way comes after them.
		_, err := env.PingAll(ctx, []suite.Ping{{From: f.as.Name, Ping: probe.Ping{Dst: f.pod.Address.Addr()}}})
		return err
	})
	if err != nil {
		return nil, err
	}
	controls, arrived := seen.Find(at, capture.In, good), seen.Find(at, capture.In, bad)
	for _, c := range controls[:min(1, len(controls))] {
		env.Cite(c, good)
	}
	for _, a := range arrived[:min(1, len(arrived))] {
		env.Cite(a, bad)
	}
	if err := seen.Trust(); err != nil {
		return nil, err
	}
	if len(controls) == 0 {
		return arrived, suite.Inconclusivef("the frame that is as it ought to be did not reach %s", f.pod.Name)
	}
	return arrived, nil
}

// where names the way of a forgery.
func (f forgery) where() string {
	return fmt.Sprintf("%s > %s (%s)", f.from.Name, f.pod.Name, f.to.Name)
}

// mustDrop is a check that a frame does not arrive which alter has made of one
// that does.
func mustDrop(what string, alter func(*forgery)) func(context.Context, *suite.Env) error {
	return func(ctx context.Context, env *suite.Env) error {
		control, err := newForgery(ctx, env)
		if err != nil {
			return err
		}
		f := control
		alter(&f)
		return f.expectDropped(ctx, env, what, f.out, control)
	}
}

func (f forgery) expectDropped(ctx context.Context, env *suite.Env, what string, forged func(uuid.UUID) sending, control forgery) error {
	arrived, err := f.deliver(ctx, env, forged, control)
	if len(arrived) > 0 {
		env.Fail(f.where()+", "+what, "dropped", fmt.Sprintf("%d of 3 frames arrived in the pod", len(arrived)))
	}
	env.Evidence("%s: 3 frames with %s, %d arrived; those beside them did", f.where(), what, len(arrived))
	return err
}

// spoofedMAC sends frames whose inner source is a stranger's MAC and a peer's,
// and compares the FDB of before and after.
func spoofedMAC(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if plan.Network.Backend.Learning {
		return suite.NotApplicablef("the lab's network asks for learning VTEPs")
	}
	control, err := newForgery(ctx, env)
	if err != nil {
		return err
	}
	session, err := env.Session(ctx, control.to.Name)
	if err != nil {
		return err
	}
	fdb := func(ctx context.Context) ([]probe.FDBEntry, error) {
		st, err := session.State(ctx)
		if err != nil {
			return nil, err
		}
		return st.FDBOf(vtep(plan)), nil
	}
	before, err := fdb(ctx)
	if err != nil {
		return err
	}
	env.Restore("the FDB of "+control.to.Name, func(ctx context.Context) error {
		now, err := fdb(ctx)
		if err != nil {
			return err
		}
		var changes []probe.Change
		for _, e := range now {
			if !slices.Contains(before, e) {
				changes = append(changes, probe.Change{Delete: true, FDB: &e})
			}
		}
		for _, e := range before {
			if !slices.Contains(now, e) {
				changes = append(changes, probe.Change{FDB: &e})
			}
		}
		return session.Change(ctx, changes...)
	})
	spoofed := control
	spoofed.own = topology.MAC{2, 0, 0xde, 0xad, 0, 1}
	arrived, err := spoofed.deliver(ctx, env, spoofed.out, control)
	if err != nil {
		return err
	}
	after, err := fdb(ctx)
	if err != nil {
		return err
	}
	for _, e := range after {
		if !slices.Contains(before, e) {
			env.Fail(control.to.Name+" "+vtep(plan), "the FDB of before", "also "+e.String())
		}
	}
	env.Evidence("%s: inner source %s, %d of 3 frames arrived; %d entries as before", spoofed.where(), spoofed.own, len(arrived), len(before))
	return nil
}

// reservedBits records what becomes of frames that RFC 7348 says a receiver
// accepts and Linux drops.
func reservedBits(ctx context.Context, env *suite.Env) error {
	control, err := newForgery(ctx, env)
	if err != nil {
		return err
	}
	f := control
	f.header.Flags, f.header.Reserved, f.header.Reserved2 = 0xff, 0xffffff, 0xff
	arrived, err := f.deliver(ctx, env, f.out, control)
	if err != nil {
		return err
	}
	what := "dropped, as Linux does"
	if len(arrived) > 0 {
		what = "accepted, as the RFC asks"
	}
	env.Evidence("%s: all reserved bits set: %s", f.where(), what)
	return nil
}

// strangerDropped sends from an address of the segment that nobody has.
func strangerDropped(ctx context.Context, env *suite.Env) error {
	control, err := newForgery(ctx, env)
	if err != nil {
		return err
	}
	f := control
	if f.source, err = freeAddressOn(env.Plan(), f.from.Underlay().Address.Masked()); err != nil {
		return err
	}
	return f.expectDropped(ctx, env, "the source "+f.source.String(), f.out, control)
}

// podDropped sends from a pod, through its node, to the port of another node.
func podDropped(ctx context.Context, env *suite.Env) error {
	control, err := newForgery(ctx, env)
	if err != nil {
		return err
	}
	states, err := env.States(ctx, []string{control.from.Name, control.as.Name})
	if err != nil {
		return err
	}
	cni0, eth0 := states[control.from.Name].Link(bridge), states[control.as.Name].Link("eth0")
	if cni0 == nil || eth0 == nil {
		return suite.Inconclusivef("%s is not wired to %s (DP-02)", control.as.Name, bridge)
	}
	f := control
	f.source, f.next, f.nic = f.as.Address.Addr(), cni0.MAC, eth0.MAC
	return f.expectDropped(ctx, env, "a pod as its sender", func(id uuid.UUID) sending {
		return sending{f.as.Name, "eth0", f.bytes(id)}
	}, control)
}
