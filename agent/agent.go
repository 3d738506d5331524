// Package agent is the node agent: it publishes the node's lease, follows
// everybody else's, and keeps the kernel as the backend says that it ought to
// be.
//
// One loop does the latter: leases to desired state, its difference from the
// kernel, the fewest messages. It runs at the start, with every change of the
// leases, with every notification from the kernel about what it owns, and on a
// slow timer; so what is stale goes, and what was deleted or altered comes
// back. It deletes nothing that is not its own, and when it ends everything
// stays as it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/underlay"
	"github.com/overlab/overlab/internal/rtnl"
)

// Options are what an Agent needs to know. Every field is required unless it
// says otherwise.
type Options struct {
	Store lease.Store
	// Backends are the backends that a network's configuration may name.
	Backends map[string]backend.New
	// Underlay says how to choose the interface.
	Underlay underlay.Options
	// SubnetFile is the path of subnet.env.
	SubnetFile string
	// Masquerade and Forward ask for the firewall's rules, PredictablePorts
	// for masquerading without random ports; all may be false.
	Masquerade, Forward, PredictablePorts bool
	// Blackhole asks for a route that drops what leads to none of the node's
	// pods.
	Blackhole bool
	// Harden asks for the rules that keep who is no node out of the tunnel, of a
	// backend that is a backend.Tunnel. The backend's own part is in Backends.
	Harden bool
	// FirewallResync is the pause between two looks at the rules.
	FirewallResync time.Duration
	// RenewMargin is how long before its end a lease is renewed.
	RenewMargin time.Duration
	// Resync is the pause between two complete looks at the kernel and at
	// subnet.env.
	Resync time.Duration
	Log    *slog.Logger
	// Ready, if set, is called once, when the node first is ready.
	Ready func()
	// Observer, if set, is told of what the agent does.
	Observer Observer
}

// Agent is one node's agent. Its kernel is that of the network namespace in
// which Run is called.
type Agent struct {
	Options
	status *status
	// questions ask the loop whether the kernel is as it ought to be now, rules
	// the guard whether the firewall is.
	questions, rules chan chan error
}

// New returns an agent that does nothing yet.
func New(o Options) *Agent {
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	return &Agent{
		Options: o, questions: make(chan chan error), rules: make(chan chan error),
		status: newStatus(o.Ready, topicConfig, topicDatapath, topicLease, topicStore, topicFirewall, topicSubnetFile, topicBackend),
	}
}

// Run works until ctx ends, and then returns nil at once, leaving everything
// in place. Its error says why the node could not be set up: by the options,
// the network's configuration or the kernel.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	config, err := a.configure(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	warnWithoutForwarding(config, a.Log)
	self, err := a.introduce(ctx, config)
	if err != nil {
		return ended(ctx, err)
	}
	node, err := a.settle(ctx, config, self)
	if err != nil {
		return ended(ctx, err)
	}
	defer node.close() // nothing is left in its sockets

	snapshots := newMailbox[lease.Snapshot]()
	running.Go(func() { a.Store.Watch(ctx, snapshots.put) })
	h := newHolder(a, a.claim(node))
	running.Go(func() { h.run(ctx) })
	g := newGuard(a)
	running.Go(func() { g.run(ctx) })

	f := newFollower(a, node.backend)
	running.Go(func() { f.run(ctx) })

	l := newLoop(a, node, h, g, f)
	// The waiters end when the deferred Close ends their waits.
	for _, wait := range node.kernel.Waits() {
		go l.waitForKernel(ctx, wait)
	}
	l.run(ctx, snapshots)
	return nil
}

// claim is what the node asks the store for.
func (a *Agent) claim(n *node) lease.Claim {
	return lease.Claim{
		Config: n.config, Previous: previousKey(a.SubnetFile, n.config), Attrs: n.attrs(),
	}
}

// node is what the agent has found out about its node.
type node struct {
	config   *lease.Config
	underlay backend.Underlay
	backend  backend.Backend
	kernel   *datapath.Kernel
	segment  *segment
}

// attrs is what the node publishes.
func (n *node) attrs() lease.Attrs {
	a := lease.Attrs{
		PublicIP: n.underlay.PublicIP, PublicIPv6: n.underlay.PublicIPv6,
		BackendType: n.backend.Type(), BackendData: n.backend.Data(),
	}
	if v6, ok := n.backend.(backend.DataV6); ok {
		a.BackendV6Data = v6.DataV6()
	}
	return a
}

func (n *node) close() error { return errors.Join(n.kernel.Close(), n.segment.close()) }

// configure waits for a network configuration, as flannel does: for ever.
func (a *Agent) configure(ctx context.Context) (*lease.Config, error) {
	retry := backoff{first: 20 * time.Millisecond, last: time.Second}
	said := ""
	for {
		raw, err := a.Store.NetConf(ctx)
		var config *lease.Config
		if err == nil {
			config, err = lease.ParseConfig(raw)
		}
		a.status.set(topicConfig, err)
		if err == nil {
			for _, f := range config.Families() {
				a.Log.Info("network configuration", "network", config.Range(f).Network, "backend", config.BackendType)
			}
			return config, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err.Error() != said {
			said = err.Error()
			a.Log.Warn("there is no network configuration yet; trying again every second", "err", err)
		}
		if !retry.wait(ctx) {
			return nil, ctx.Err()
		}
	}
}

// settle makes everything of the node that needs no lease: a failure here must
// leave none behind.
func (a *Agent) settle(ctx context.Context, config *lease.Config, self lease.Self) (*node, error) {
	n, err := a.survey(config, self)
	if err != nil {
		return nil, err
	}
	if err := settleIPsec(n.backend.Scope(), a.Log); err != nil {
		return nil, errors.Join(err, n.close())
	}
	// The device alone: what hangs on it carries traffic, and without the
	// leases nobody can tell what of it is stale.
	changes := slices.DeleteFunc(datapath.Diff(n.backend.Device(), n.kernel.State()), func(c datapath.Change) bool {
		_, link := c.Entry.(datapath.Link)
		return !link
	})
	for _, c := range changes {
		a.Log.Info("device", "change", c.String())
	}
	if err := n.kernel.Apply(changes); err != nil {
		return nil, errors.Join(explainKind(fmt.Errorf("make the device: %w", err), n.backend.Device()), n.close())
	}
	if r, ok := n.backend.(backend.Runner); ok {
		if err := r.Prepare(ctx); err != nil {
			return nil, errors.Join(err, n.close())
		}
	}
	return n, nil
}

// survey finds out what the node is, and changes nothing of it.
func (a *Agent) survey(config *lease.Config, self lease.Self) (*node, error) {
	newBackend, ok := a.Backends[config.BackendType]
	if !ok {
		return nil, fmt.Errorf("backend %s is not in this build; it has %s", config.BackendType,
			strings.Join(slices.Sorted(maps.Keys(a.Backends)), ", "))
	}
	under, err := chooseUnderlay(config, instructed(a.Underlay, self))
	if err != nil {
		return nil, err
	}
	for _, f := range config.Families() {
		a.Log.Info("underlay", "interface", under.Name, "address", under.Own(f), "publicIP", under.Public(f), "mtu", under.MTU)
	}
	segment, err := newSegment(under.Name)
	if err != nil {
		return nil, err
	}
	under.Adjacent = segment.adjacent
	b, err := newBackend(config, under)
	if err != nil {
		return nil, errors.Join(err, segment.close())
	}
	scope := b.Scope()
	if a.Blackhole {
		for _, f := range config.Families() {
			r := config.Range(f)
			scope.Blackholes = append(scope.Blackholes, datapath.Destinations{Network: r.Network, Len: r.Len})
		}
		scope.IPv6 = scope.IPv6 || config.EnableIPv6
	}
	kernel, err := datapath.Open(scope)
	if scope.IPsec {
		err = explainESP(err)
	}
	if err != nil {
		return nil, errors.Join(err, segment.close())
	}
	if r, ok := b.(backend.Recaller); ok {
		r.Recall(self.Attrs)
	}
	b.Adopt(kernel.State())
	return &node{config: config, underlay: under, backend: b, kernel: kernel, segment: segment}, nil
}

// explainKind says of a kind of device that the running kernel does not make
// how to get one that does.
func explainKind(err error, want datapath.State) error {
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	for l := range want.Links {
		return fmt.Errorf("%w: this kernel makes no devices of type %s; load the module with `modprobe %s`, or choose another backend", err, l.Kind, l.Kind)
	}
	return err
}

func chooseUnderlay(config *lease.Config, o underlay.Options) (backend.Underlay, error) {
	conn, err := rtnl.Dial()
	if err != nil {
		return backend.Underlay{}, err
	}
	defer conn.Close() // nothing is left in it
	facts, err := underlay.Read(conn)
	if err != nil {
		return backend.Underlay{}, err
	}
	return underlay.Select(facts, config.Families(), o)
}

// Check says why the node is not ready, and nil when it is: the kernel, the
// firewall's rules and subnet.env are at this moment as the leases say, and the
// leases are the store's newest.
func (a *Agent) Check(ctx context.Context) error {
	if err := a.status.err(); err != nil {
		return err
	}
	if a.guarded() { // first: a look at the rules takes longer
		if err := ask(ctx, a.rules, topicFirewall); err != nil {
			return err
		}
	}
	return ask(ctx, a.questions, topicDatapath)
}

// ask has a goroutine answer that may be at work on a topic.
func ask(ctx context.Context, questions chan<- chan error, t topic) error {
	answer := make(chan error, 1)
	select {
	case questions <- answer:
	case <-ctx.Done():
		return fmt.Errorf("%s: it is being worked on", t)
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: it is being worked on", t)
	}
}

// Topics tells of each thing that must be well for the node to be ready how it
// was when it was last looked at: nil is well.
func (a *Agent) Topics() map[string]error { return a.status.all() }

// warnWithoutForwarding: flannel, too, leaves these switches to the host.
func warnWithoutForwarding(config *lease.Config, log *slog.Logger) {
	for _, f := range config.Families() {
		key := map[lease.Family]string{lease.IPv4: "net/ipv4/ip_forward", lease.IPv6: "net/ipv6/conf/all/forwarding"}[f]
		if b, err := os.ReadFile("/proc/sys/" + key); err == nil && strings.TrimSpace(string(b)) == "0" {
			log.Warn("the kernel forwards no packets of "+f.String()+": pods will not reach other nodes",
				"mend", "sysctl -w "+strings.ReplaceAll(key, "/", ".")+"=1")
		}
	}
}

// ended drops an error that comes from the context's end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
