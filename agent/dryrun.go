package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/firewall"
	"github.com/overlab/overlab/agent/lease"
)

// dryRunTimeout bounds how long a dry run waits for the store.
const dryRunTimeout = 10 * time.Second

// DryRun writes what Run would change on the node at this moment, as commands
// for a shell, and changes nothing: neither the node nor the store. differs is
// false where nothing is due. Without a lease the commands show the first
// subnet that the node would try. Lines that begin with # say what no command
// can.
func (a *Agent) DryRun(ctx context.Context, out io.Writer) (differs bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dryRunTimeout)
	defer cancel()
	raw, err := a.Store.NetConf(ctx)
	if err != nil {
		return false, err
	}
	config, err := lease.ParseConfig(raw)
	if err != nil {
		return false, err
	}
	self, err := a.self(ctx, config)
	if err != nil {
		return false, err
	}
	n, err := a.survey(config, self)
	if err != nil {
		return false, err
	}
	defer n.close() // nothing is left in its sockets
	if f, ok := n.backend.(backend.Foreteller); ok {
		if err := f.Foresee(); err != nil {
			return false, err
		}
	}
	snapshot, err := a.firstSnapshot(ctx)
	if err != nil {
		return false, err
	}
	d := dryRun{agent: a, node: n, self: self}
	if err := d.all(ctx, snapshot); err != nil {
		return false, err
	}
	for _, line := range d.lines {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return false, fmt.Errorf("print the difference: %w", err)
		}
	}
	return d.differs, nil
}

// firstSnapshot reads the store's leases once.
func (a *Agent) firstSnapshot(ctx context.Context) (lease.Snapshot, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first lease.Snapshot
	a.Store.Watch(ctx, func(s lease.Snapshot) {
		first = s
		if s.Revision != 0 {
			cancel()
		}
	})
	if first.Revision == 0 {
		return first, fmt.Errorf("read the leases: %w", first.Err)
	}
	return first, nil
}

// dryRun collects what is to be printed.
type dryRun struct {
	agent   *Agent
	node    *node
	self    lease.Self
	lines   []string
	differs bool
	// made says that the folder of the subnet file is among the commands.
	made bool
}

func (d *dryRun) note(format string, args ...any) {
	d.lines = append(d.lines, "# "+strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n# "))
}

// commands adds what a shell is to run; among it may be comments.
func (d *dryRun) commands(commands ...string) {
	d.lines = append(d.lines, commands...)
	d.differs = d.differs || len(commands) > 0
}

func (d *dryRun) all(ctx context.Context, s lease.Snapshot) error {
	own, err := d.lease(s)
	if err != nil {
		return err
	}
	d.datapath(own, s)
	err = errors.Join(d.backend(own, s), d.stale(own, s), d.ipsec(), d.firewall(ctx, own.Key, s.Leases))
	d.subnetFile(own.Key)
	return errors.Join(err, d.record())
}

// lease finds the lease that the node has, or one that it might get.
func (d *dryRun) lease(s lease.Snapshot) (lease.Lease, error) {
	claim := d.agent.claim(d.node)
	attrs := claim.Attrs.Shown(d.self.Shown, d.self.ShownV6)
	own, _ := lease.Own(claim, s.Leases)
	if k := d.self.Key; k != (lease.Key{}) { // the store's word counts, not the address
		own = nil
		if l, found := s.Find(k); found {
			own = &l
		}
	}
	if own != nil {
		if d.ignorant() {
			attrs.BackendData = own.Attrs.BackendData
		}
		if own.Attrs.Equal(attrs) {
			d.note("lease %s is this node's and stays as it is", own.Key)
		} else {
			d.note("lease %s is this node's and would be written anew\n- %s\n+ %s", own.Key, text(own.Attrs), text(attrs))
			d.differs = true
		}
		return lease.Lease{Key: own.Key, Attrs: attrs}, nil
	}
	d.differs = true
	if k := d.self.Key; k != (lease.Key{}) {
		d.note("the store has assigned %s to this node, which would publish\n+ %s", k, text(attrs))
		return lease.Lease{Key: k, Attrs: attrs}, nil
	}
	taken := slices.Clone(s.Leases)
	for _, k := range s.Unreadable {
		taken = append(taken, lease.Lease{Key: k})
	}
	keys, err := lease.Allocate(claim, taken)
	if err != nil {
		return lease.Lease{}, err
	}
	l := lease.Lease{Key: keys[0], Attrs: attrs}
	d.note("this node has no lease and would get one of %d subnets; what follows is for %s\n+ %s", len(keys), l.Key, text(l.Attrs))
	return l, nil
}

// ignorant reports whether only Prepare, which is not called, knows what the
// backend publishes.
func (d *dryRun) ignorant() bool {
	_, runs := d.node.backend.(backend.Runner)
	_, foretells := d.node.backend.(backend.Foreteller)
	return runs && !foretells
}

// text is the lease's value as the store has it.
func text(a lease.Attrs) string {
	raw, err := a.MarshalJSON()
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// datapath adds the commands that make the kernel what the backend wants.
func (d *dryRun) datapath(own lease.Lease, s lease.Snapshot) {
	want, problems := d.agent.desired(d.node, own, s.Leases)
	for _, p := range problems {
		d.note("not served: %s", p)
	}
	for _, c := range datapath.Diff(want, d.node.kernel.State()) {
		d.commands(c.String())
		if link, ok := c.Entry.(datapath.Link); ok && c.Verb == datapath.Add {
			for _, s := range datapath.SettingsOf(link) {
				d.commands(fmt.Sprintf("echo %s > %s", s.Value, s.Path))
			}
		}
	}
}

// backend adds what the backend does by other means.
func (d *dryRun) backend(own lease.Lease, s lease.Snapshot) error {
	if f, ok := d.node.backend.(backend.Foreteller); ok {
		commands, err := f.Foretell(own, s.Leases)
		d.commands(commands...)
		return err
	}
	if d.ignorant() {
		d.note("the backend %s runs programs besides, of which nothing is shown", d.node.config.BackendType)
	}
	return nil
}

// stale adds the removal of routes that an earlier agent left on a device which
// is not its own, and that nothing displaces.
func (d *dryRun) stale(own lease.Lease, s lease.Snapshot) error {
	before, err := recordedBare(d.agent.SubnetFile)
	now := d.node.backend.Scope().Bare
	if err != nil || before.Dev == "" || before == now {
		return err
	}
	kernel, err := datapath.Open(bareScope(before))
	if err != nil {
		return err
	}
	defer kernel.Close() // nothing is left in it
	want, _ := d.agent.desired(d.node, own, s.Leases)
	displaced := datapath.Set[string]{}
	for r := range want.Routes {
		displaced.Add(r.Dst.String())
	}
	for _, c := range removal(kernel.State(), now) {
		if r, ok := c.Entry.(datapath.Route); ok && !displaced.Has(r.Dst.String()) {
			d.commands(c.String())
		}
	}
	return nil
}

// ipsec adds the removal of what an earlier agent left of IPsec.
func (d *dryRun) ipsec() error {
	if d.node.backend.Scope().IPsec {
		return nil
	}
	commands, err := datapath.ForetellRemoveIPsec()
	d.commands(commands...)
	return err
}

func (d *dryRun) firewall(ctx context.Context, k lease.Key, all []lease.Lease) error {
	if !d.agent.guarded() {
		return nil
	}
	command, err := d.agent.shieldFor(d.node, k, all).Preview(ctx)
	if err != nil {
		return err
	}
	if command != "" {
		d.commands(command)
	}
	for _, c := range d.agent.firewallsFor(d.node, k) {
		commands, err := firewall.New(c, d.agent.Log).Preview(ctx)
		if err != nil {
			return err
		}
		d.commands(commands...)
	}
	if d.node.config.EnableIPv6 {
		return nil
	}
	commands, err := firewall.PreviewRemoveIPv6(ctx)
	d.commands(commands...)
	return err
}

func (d *dryRun) subnetFile(k lease.Key) {
	env, path := d.agent.subnetEnvFor(d.node, k), d.agent.SubnetFile
	if !env.in(path) {
		d.file(path, env.content())
	}
}

// record adds the note of which routes are the agent's.
func (d *dryRun) record() error {
	path, b := recordPath(d.agent.SubnetFile), d.node.backend.Scope().Bare
	switch before, err := recordedBare(d.agent.SubnetFile); {
	case err != nil:
		return err
	case before == b:
	case b.Dev == "":
		d.commands("rm " + path)
	default:
		d.file(path, recordOf(b))
	}
	return nil
}

// file adds the commands that write a file.
func (d *dryRun) file(path string, content []byte) {
	if dir := filepath.Dir(path); !d.made && !isDir(dir) {
		d.made = true
		d.commands("mkdir -p " + dir)
	}
	d.commands(fmt.Sprintf("cat > %s <<'EOF'\n%sEOF", path, content))
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
