package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/firewall"
	"github.com/overlab/overlab/agent/lease"
)

const (
	// settling is how long the loop waits after a foreign change, so that a
	// whole series of them is one repair.
	settling = 3 * time.Millisecond
	// quarrel is how many repairs within a second mean that another program
	// wants something else; the loop then repairs once a second.
	quarrel = 25
	// passes bounds how often one repair is looked over: setting a device's
	// MAC address, say, makes the kernel drop its neighbours.
	passes = 3
	// subnetFileLook is the pause between two looks at subnet.env, without
	// which no pod can be made.
	subnetFileLook = 5 * time.Second
	// named is how many changes of one repair the log names.
	named = 8
)

// loop makes the kernel what the leases say.
type loop struct {
	*node
	agent  *Agent
	holder *holder
	guard  *guard
	follow *follower

	own      *lease.Grant // nil before the node has a lease
	snapshot *lease.Snapshot
	want     *datapath.State // nil before own and snapshot are there
	// claimedOver is the value that our first claim replaced, if it was another
	// VTEP's.
	claimedOver *lease.Attrs
	// unannounced says that the node has a lease of which Announce does not know.
	unannounced bool
	problems    []string
	rekeying    bool             // other attributes are on their way to the store
	moves       int              // the kernel's Moves for which want was computed
	published   lease.Key        // the subnet that subnet.env knows
	guarded     rules            // what the guard was told of
	written     lease.Key        // the one that subnet.env was written with
	said        map[topic]string // what the log was told of each topic last

	wake, rearm chan struct{}
	repair      *time.Timer       // when foreign changes are to be mended
	due         bool              // whether repair is running
	noticed     time.Time         // when it was started
	repairs     []time.Time       // when the last ones were
	refused     []datapath.Change // what the last attempt left undone
	retry       *time.Timer       // when it is tried again
	retryPause  backoff
	rewrite     *time.Timer // when subnet.env is looked at again
}

func newLoop(a *Agent, n *node, h *holder, g *guard, f *follower) *loop {
	l := &loop{
		node: n, agent: a, holder: h, guard: g, follow: f,
		said: map[topic]string{}, wake: make(chan struct{}), rearm: make(chan struct{}, len(n.kernel.Waits())),
		repair: time.NewTimer(0), retry: time.NewTimer(0), rewrite: time.NewTimer(0),
		retryPause: backoff{first: 100 * time.Millisecond, last: 10 * time.Second},
	}
	l.repair.Stop()
	l.retry.Stop()
	l.rewrite.Stop()
	return l
}

// waitForKernel turns notifications of one kind into wakes, one at a time.
func (l *loop) waitForKernel(ctx context.Context, wait func() error) {
	for wait() == nil {
		select {
		case l.wake <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case <-l.rearm:
		case <-ctx.Done():
			return
		}
	}
}

func (l *loop) run(ctx context.Context, snapshots mailbox[lease.Snapshot]) {
	resync := time.NewTicker(l.agent.Resync)
	defer resync.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-snapshots.ch:
			l.takeSnapshot(s)
		case g := <-l.holder.grants.ch:
			l.takeGrant(g)
		case <-l.wake:
			l.takeNotifications()
			l.rearm <- struct{}{}
		case now := <-l.repair.C:
			l.due = false
			l.repairs = append(l.repairs, now)
			l.reconcile(ReasonRepair)
		case <-l.retry.C:
			l.kernel.Resync()
			l.reconcile(ReasonRetry)
		case <-l.rewrite.C:
			l.writeSubnetFile()
		case <-resync.C:
			l.kernel.Resync()
			l.lookAround(true)
			l.reconcile(ReasonRepair)
			l.writeSubnetFile()
		case answer := <-l.agent.questions:
			if err := l.verify(); err != nil {
				answer <- err
			} else {
				l.follow.ask(answer)
			}
		}
	}
}

func (l *loop) takeSnapshot(s lease.Snapshot) {
	l.agent.status.set(topicStore, s.Err)
	if s.Revision == 0 {
		return // nothing was read yet: that nobody is there does not follow
	}
	l.snapshot = &s
	l.agent.Observer.Leases(len(s.Leases), len(s.Unreadable))
	l.watchOwn()
	l.desire()
	l.reconcile(ReasonLeases)
	l.publish()
}

func (l *loop) takeGrant(g lease.Grant) {
	if l.rekeying && !g.Lease.Attrs.Equal(l.own.Lease.Attrs) {
		return // it was asked for before; another follows
	}
	l.rekeying = false
	switch {
	case l.own == nil && g.Replaced != nil && g.Replaced.BackendType != "":
		l.claimedOver = g.Replaced
		l.agent.Log.Warn("the lease carried another VTEP: this node was set up anew, or another node has the same PublicIP",
			"publicIP", l.config.Identity(g.Lease.Attrs), "before", vteps(*g.Replaced), "now", vteps(g.Lease.Attrs))
	case l.own != nil && l.own.Lease.Key != g.Lease.Key:
		l.agent.Log.Error("the node has lost its subnet and got another; pods keep addresses of the old one until they are made anew",
			"was", l.own.Lease.Key, "is", g.Lease.Key)
	}
	l.own, l.unannounced = &g, true
	if l.snapshot != nil {
		l.watchOwn() // another's write may have overtaken the grant
	}
	l.desire()
	l.reconcile(ReasonLease)
	l.publish()
}

// publish tells the node of its subnet, once the datapath has been seen to.
func (l *loop) publish() {
	if l.want == nil {
		return
	}
	if l.unannounced {
		l.unannounced = false
		l.holder.announceSoon()
	}
	if l.published != l.own.Lease.Key {
		l.published = l.own.Lease.Key
		l.writeSubnetFile()
	}
	wanted := rules{configs: l.agent.firewallsFor(l.node, l.published)}
	if l.snapshot != nil {
		wanted.shield = l.agent.shieldFor(l.node, l.published, l.snapshot.Leases)
	}
	if !wanted.equal(l.guarded) {
		l.guarded = wanted
		l.guard.wanted.put(wanted)
	}
}

// shieldFor is what keeps all but the leases' nodes out of the node's tunnel.
func (a *Agent) shieldFor(n *node, own lease.Key, all []lease.Lease) firewall.Shield {
	tunnel, is := n.backend.(backend.Tunnel)
	if !a.Harden || !is {
		return firewall.Shield{}
	}
	s := firewall.Shield{Port: tunnel.TunnelPort(), Underlay: n.underlay.Name}
	for _, l := range all {
		for _, f := range n.config.Families() {
			if p := l.Attrs.Public(f); l.Key != own && p.IsValid() {
				s.Peers = append(s.Peers, p)
			}
		}
	}
	slices.SortFunc(s.Peers, netip.Addr.Compare)
	s.Peers = slices.Compact(s.Peers)
	return s
}

// firewallsFor is what the firewall ought to be on a node with that lease, one
// of each of the network's families.
func (a *Agent) firewallsFor(n *node, k lease.Key) []firewall.Config {
	var configs []firewall.Config
	for _, f := range n.config.Families() {
		configs = append(configs, firewall.Config{
			Network: n.config.Range(f).Network, Subnet: k.Of(f), NFTables: n.config.EnableNFTables,
			Forward: a.Forward, Masquerade: a.Masquerade, PredictablePorts: a.PredictablePorts,
		})
	}
	return configs
}

// subnetEnvFor is what subnet.env ought to say on a node with that lease.
func (a *Agent) subnetEnvFor(n *node, k lease.Key) subnetEnv {
	return subnetEnv{config: n.config, key: k, mtu: n.backend.MTU(), masquerade: a.Masquerade}
}

// watchOwn looks after our own key in the store: whoever deletes or overwrites
// it takes the node from its peers.
func (l *loop) watchOwn() {
	if l.own == nil || l.rekeying || l.snapshot.Revision < l.own.Lease.Revision {
		return // the snapshot is older than our lease
	}
	own := l.own.Lease
	now, found := l.snapshot.Find(own.Key)
	switch {
	case !found:
		l.agent.Log.Warn("the lease was deleted from the store; acquiring it again", "subnet", own.Key)
		l.holder.reacquire()
	case slices.Contains(l.snapshot.Unreadable, own.Key):
		l.agent.Log.Warn("the lease was made unreadable in the store; writing it again", "subnet", own.Key)
		l.holder.reacquire()
	case now.Attrs.Equal(own.Attrs):
		l.own.Lease = now
		l.report(topicLease, nil)
	default:
		l.contend(now)
	}
}

// contend decides about a lease that another agent has written over. The one
// who was there first writes its own again, once for each time; the one who
// came later then knows that the other lives, and gives in.
func (l *loop) contend(now lease.Lease) {
	own := l.own.Lease
	ours, theirs := l.config.Identity(own.Attrs), l.config.Identity(now.Attrs)
	switch {
	case l.own.Bound:
		l.agent.Log.Warn("the lease was overwritten in the store; writing it again", "subnet", own.Key, "publicIP", theirs, "data", vteps(now.Attrs))
		l.holder.reacquire()
	case theirs != ours:
		l.report(topicLease, fmt.Errorf("subnet %s now belongs to the node with PublicIP %s", own.Key, theirs))
	case l.claimedOver != nil && now.Attrs.Equal(*l.claimedOver):
		l.report(topicLease, fmt.Errorf("another running agent has the same PublicIP %s, with %s; give this node an address of its own with --iface or --public-ip",
			ours, vteps(now.Attrs)))
	default:
		l.agent.Log.Error("another agent with the same PublicIP has overwritten the lease; writing it again",
			"subnet", own.Key, "other", vteps(now.Attrs))
		l.holder.reacquire()
	}
}

// vteps is what a lease says of the backend, of both families.
func vteps(a lease.Attrs) string {
	return strings.TrimSpace(string(a.BackendData) + " " + string(a.BackendV6Data))
}

// report records how a topic is, and logs what is new about it.
func (l *loop) report(t topic, err error) {
	l.agent.status.set(t, err)
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch before := l.said[t]; {
	case text != "" && text != before:
		l.agent.Log.Error("not ready: "+string(t), "err", err)
	case text == "" && before != "":
		l.agent.Log.Info("well again: " + string(t))
	}
	l.said[t] = text
}

// desire computes the wanted state.
func (l *loop) desire() {
	if l.own == nil || l.snapshot == nil {
		return
	}
	want, problems := l.agent.desired(l.node, l.own.Lease, l.snapshot.Leases)
	l.want = &want
	l.follow.tell(l.own.Lease, l.snapshot.Leases)
	for _, p := range problems {
		if !slices.Contains(l.problems, p) {
			l.agent.Log.Warn("a lease is not served", "why", p)
		}
	}
	l.problems = problems
}

// desired is what the backend wants, and what the options do besides.
func (a *Agent) desired(n *node, own lease.Lease, all []lease.Lease) (want datapath.State, problems []string) {
	want, problems = n.backend.Desired(own, all)
	for _, f := range n.config.Families() {
		if subnet := own.Key.Of(f); a.Blackhole && subnet.IsValid() {
			want.Routes.Add(datapath.BlackholeRoute(subnet))
		}
	}
	return want, problems
}

// takeNotifications follows the kernel. Our own changes are in the picture
// since they were made, so a difference is somebody else's doing.
func (l *loop) takeNotifications() {
	changed, err := l.kernel.Refresh()
	if err != nil {
		l.agent.Log.Warn("could not follow the kernel's notifications", "err", err)
		l.kernel.Resync()
	}
	moved := l.lookAround(false)
	if err == nil && (!changed && !moved || l.want == nil || len(datapath.Diff(*l.want, l.kernel.State())) == 0) {
		return
	}
	l.agent.status.set(topicDatapath, errors.New("it was altered and is being repaired"))
	l.repairSoon()
}

// lookAround computes the wanted state anew where peers may have come to the
// underlay's segment, or left it; always says that they may.
func (l *loop) lookAround(always bool) (moved bool) {
	if m := l.kernel.Moves(); m != l.moves || always {
		l.moves = m
		l.segment.forget()
		l.desire()
		return true
	}
	return false
}

// repairSoon lets a series of foreign changes end before it is mended.
func (l *loop) repairSoon() {
	if l.due {
		return
	}
	now := time.Now()
	l.repairs = slices.DeleteFunc(l.repairs, func(t time.Time) bool { return now.Sub(t) > time.Second })
	pause := settling
	if len(l.repairs) >= quarrel {
		pause = time.Second
		l.agent.Log.Error("something else keeps changing what this agent owns; repairing once a second", "devices", l.backend.Scope().Devices)
	}
	l.due, l.noticed = true, now
	l.repair.Reset(pause)
}

// reconcile makes the kernel what is wanted and records whether it is.
func (l *loop) reconcile(why string) {
	if l.want == nil {
		return
	}
	began := time.Now()
	if why == ReasonRepair && !l.noticed.IsZero() {
		began, l.noticed = l.noticed, time.Time{}
	}
	made, err := l.program(why)
	if len(made) > 0 || err != nil {
		l.agent.Observer.Reconciled(why, time.Since(began), made, err)
	}
	l.agent.Observer.Entries(*l.want, l.kernel.State())
	if err != nil && len(l.problems) > 0 {
		err = fmt.Errorf("%w\n%s", err, strings.Join(l.problems, "\n"))
	}
	l.report(topicDatapath, err)
	l.follow.look(slices.ContainsFunc(made, func(c datapath.Change) bool {
		_, link := c.Entry.(datapath.Link)
		return link
	}))
	if err == nil {
		l.retryPause.reset()
		l.retry.Stop()
		return
	}
	l.retry.Reset(l.retryPause.next())
}

// program changes the kernel, and returns what it has changed and why not the
// rest.
func (l *loop) program(why string) (made []datapath.Change, err error) {
	if _, err := l.kernel.Refresh(); err != nil {
		return nil, err
	}
	if err := l.rekey(); err != nil {
		return nil, err
	}
	due := datapath.Diff(*l.want, l.kernel.State())
	rest := due
	for pass := 0; pass < passes && len(rest) > 0; pass++ {
		if !slices.Equal(rest, l.refused) { // told of when they were tried first
			l.logChanges(why, rest)
		}
		tried := rest
		err = l.kernel.Apply(tried)
		rest = datapath.Diff(*l.want, l.kernel.State())
		if slices.Equal(rest, tried) {
			break // it would be refused again
		}
	}
	l.refused = rest
	made = without(due, rest)
	switch {
	case len(rest) > 0 && err == nil:
		return made, fmt.Errorf("%d changes are left, the first: %s", len(rest), rest[0])
	case len(rest) == 0 && err != nil:
		// As when a device goes while what hangs on it is being repaired.
		l.agent.Log.Warn("the kernel refused a change that is no longer due", "err", err)
		return made, nil
	}
	return made, err
}

// without returns the changes of due that are not left.
func without(due, left []datapath.Change) []datapath.Change {
	if len(left) == 0 {
		return due
	}
	remain := datapath.Set[datapath.Change]{}
	remain.Add(left...)
	return slices.DeleteFunc(slices.Clone(due), remain.Has)
}

// rekey lets the backend take other keys where it must.
func (l *loop) rekey() error {
	r, ok := l.backend.(backend.Rekeyer)
	if !ok {
		return nil
	}
	changed, err := r.Rekey(*l.want, l.kernel.State())
	if err != nil || !changed {
		return err
	}
	l.agent.Log.Warn("what was made of the lease's keys is gone; publishing others")
	l.own.Lease.Attrs.BackendData = l.backend.Data()
	l.rekeying = true
	l.holder.republish(l.own.Lease.Attrs)
	l.desire()
	_, err = r.Rekey(*l.want, l.kernel.State())
	return err
}

func (l *loop) logChanges(why string, changes []datapath.Change) {
	log := l.agent.Log.Info
	if why == ReasonRepair {
		log = l.agent.Log.Warn
	}
	for _, c := range changes[:min(named, len(changes))] {
		log(why, "change", c.String())
	}
	if more := len(changes) - named; more > 0 {
		log(why, "more", more)
	}
}

// verify answers whether the kernel and subnet.env are as they ought to be at
// this moment.
func (l *loop) verify() error {
	l.writeSubnetFile()
	if err := l.agent.status.err(); err != nil {
		return err
	}
	if _, err := l.kernel.Refresh(); err != nil {
		return fmt.Errorf("%s: %w", topicDatapath, err)
	}
	changes := datapath.Diff(*l.want, l.kernel.State())
	if len(changes) == 0 {
		return nil
	}
	l.repairSoon()
	return fmt.Errorf("%s: %d changes are due, the first: %s", topicDatapath, len(changes), changes[0])
}

// writeSubnetFile writes subnet.env, or restores it, once there is a subnet to
// tell of.
func (l *loop) writeSubnetFile() {
	if l.published == (lease.Key{}) {
		return
	}
	changed, err := l.agent.subnetEnvFor(l.node, l.published).write(l.agent.SubnetFile)
	if err == nil {
		err = handOver(l.agent.SubnetFile, l.backend.Scope().Bare, l.agent.Log)
	}
	l.report(topicSubnetFile, err)
	pause := subnetFileLook
	if err != nil {
		pause = time.Second
	}
	l.rewrite.Reset(pause)
	if changed {
		if l.written == l.published {
			l.agent.Observer.Repaired("subnet_file")
		}
		l.written = l.published
		l.agent.Log.Info("subnet file written", "path", l.agent.SubnetFile)
	}
}
