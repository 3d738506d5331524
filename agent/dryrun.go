package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	n, err := a.survey(config)
	if err != nil {
		return false, err
	}
	defer n.close() // nothing is left in its sockets
	snapshot, err := a.firstSnapshot(ctx)
	if err != nil {
		return false, err
	}
	d := dryRun{agent: a, node: n}
	own, err := d.lease(snapshot)
	if err != nil {
		return false, err
	}
	d.datapath(own, snapshot)
	err = errors.Join(d.stale(own, snapshot), d.firewall(ctx, own.Key))
	d.subnetFile(own.Key)
	if err != nil {
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
	lines   []string
	differs bool
}

func (d *dryRun) note(format string, args ...any) {
	d.lines = append(d.lines, "# "+strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n# "))
}

func (d *dryRun) command(command string) {
	d.lines = append(d.lines, command)
	d.differs = true
}

// lease finds the lease that the node has, or one that it might get.
func (d *dryRun) lease(s lease.Snapshot) (lease.Lease, error) {
	claim := d.agent.claim(d.node)
	own, _ := lease.Own(claim, s.Leases)
	if own != nil {
		if own.Attrs.Equal(claim.Attrs) {
			d.note("lease %s is this node's and stays as it is", own.Key)
		} else {
			d.note("lease %s is this node's and would be written anew\n- %s\n+ %s", own.Key, text(own.Attrs), text(claim.Attrs))
			d.differs = true
		}
		return lease.Lease{Key: own.Key, Attrs: claim.Attrs}, nil
	}
	taken := s.Leases
	for _, k := range s.Unreadable {
		taken = append(taken, lease.Lease{Key: k})
	}
	subnets, err := lease.Allocate(claim, taken)
	if err != nil {
		return lease.Lease{}, err
	}
	l := lease.Lease{Key: lease.Key{Subnet: subnets[0]}, Attrs: claim.Attrs}
	d.note("this node has no lease and would get one of %d subnets; what follows is for %s\n+ %s", len(subnets), l.Key, text(l.Attrs))
	d.differs = true
	return l, nil
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
		d.command(c.String())
		if link, ok := c.Entry.(datapath.Link); ok && c.Verb == datapath.Add {
			if path, ok := datapath.RouterAdvertisements(link.Name); ok {
				d.command("echo 0 > " + path)
			}
		}
	}
	if _, ok := d.node.backend.(backend.Runner); ok {
		d.note("the backend %s does work of its own besides, which is not shown", d.node.backend.Type())
	}
}

// stale adds the removal of routes that an earlier agent left on a device which
// is not its own, and that nothing displaces.
func (d *dryRun) stale(own lease.Lease, s lease.Snapshot) error {
	before, err := recordedBare(d.agent.SubnetFile)
	if err != nil || before.Dev == "" || before == d.node.backend.Scope().Bare {
		return err
	}
	kernel, err := datapath.Open(datapath.Scope{Bare: before})
	if err != nil {
		return err
	}
	defer kernel.Close() // nothing is left in it
	want, _ := d.agent.desired(d.node, own, s.Leases)
	displaced := datapath.Set[string]{}
	for r := range want.Routes {
		displaced.Add(r.Dst.String())
	}
	for _, c := range datapath.Diff(datapath.NewState(), kernel.State()) {
		if r, ok := c.Entry.(datapath.Route); ok && !displaced.Has(r.Dst.String()) {
			d.command(c.String())
		}
	}
	return nil
}

func (d *dryRun) firewall(ctx context.Context, k lease.Key) error {
	if !d.agent.guarded() {
		return nil
	}
	commands, err := firewall.New(d.agent.firewallFor(d.node, k), d.agent.Log).Preview(ctx)
	for _, c := range commands {
		d.command(c)
	}
	return err
}

func (d *dryRun) subnetFile(k lease.Key) {
	env, path := d.agent.subnetEnvFor(d.node, k), d.agent.SubnetFile
	if env.in(path) {
		return
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		d.command("mkdir -p " + filepath.Dir(path))
	}
	d.command(fmt.Sprintf("cat > %s <<'EOF'\n%sEOF", path, env.content()))
}
