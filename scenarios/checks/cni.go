package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlab/overlab/harness/cni"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// cniChecks run the node's CNI plugins for containers of their own, and compare
// the node's kernel and disk of before and after.
func cniChecks() []suite.Check {
	check := func(id string, level suite.Level, title, source string, run func(context.Context, *attachments) error) suite.Check {
		return suite.Check{
			ID: id, Level: level, Title: title, Source: source, Profiles: []string{cniProfile},
			Needs: []suite.Feature{suite.IPv4, suite.Pods}, Disturbs: true, Part: partContainers,
			Run: func(ctx context.Context, env *suite.Env) error {
				a, err := newAttachments(ctx, env)
				if err != nil {
					return err
				}
				return run(ctx, a)
			},
		}
	}
	const specification = "CNI specification 1.1"
	return []suite.Check{
		check("IP-01", suite.Core, "100 ADDs at once get 100 addresses", "host-local", concurrentADDs),
		check("IP-02", suite.Core, "ADD to a full subnet fails, and says so", "host-local", exhaustion),
		check("IP-03", suite.Core, "DEL releases the address", "host-local", released),
		check("IP-04", suite.Core, "network, gateway and broadcast addresses are kept", "host-local", reservedAddresses),
		check("CN-01", suite.Core, "ADD's result is what the kernel has", specification, resultIsKernel),
		check("CN-02", suite.Core, "DEL succeeds again, and without the namespace", specification, repeatedDEL),
		check("CN-03", suite.Core, "an ADD that fails leaves nothing behind", specification, failedADD),
		check("CN-04", suite.Extended, "CHECK notices damage", specification, damage),
		check("CN-05", suite.Extended, "STATUS is 50 or 51 where an ADD could not succeed", specification, notReady),
		check("CN-06", suite.Extended, "GC frees what is not listed, and nothing else", specification, garbage),
	}
}

// attachments are the containers of one check on one node.
type attachments struct {
	env     *suite.Env
	node    *topology.Node
	session *probe.Session
	// network is the one that containers are wired to.
	network *network
	// plugins are the node's own.
	plugins plugins
	// before is what the node had.
	before []string

	mu    sync.Mutex
	there []*cni.Container
}

// newAttachments opens the configuration of the first node with pods. At the end
// of the check every container is unwired and the node compared with before.
func newAttachments(ctx context.Context, env *suite.Env) (*attachments, error) {
	a := &attachments{env: env, node: nodesWithPods(env.Plan())[0]}
	var err error
	if a.plugins, err = pluginsOf(ctx, env, a.node.Name); err != nil {
		return nil, err
	}
	if a.session, err = env.Session(ctx, a.node.Name); err != nil {
		return nil, err
	}
	if a.before, err = a.snapshot(ctx); err != nil {
		return nil, err
	}
	if a.network, err = openNetwork(ctx, env, a.node.Name, a.plugins.List, a.plugins.Path); err != nil {
		return nil, err
	}
	env.Restore("the network of "+a.node.Name, a.undo)
	return a, nil
}

// unwire unwires what the check has wired.
func (a *attachments) unwire(ctx context.Context) error {
	there := a.take()
	if len(there) > few {
		// The kernel removes many namespaces together in the time of one; with
		// them go their links, and DEL finds the rest.
		for _, c := range there {
			if err := c.Close(); err != nil {
				return err
			}
		}
	}
	return suite.Each(there, func(c *cni.Container) error {
		return errors.Join(a.network.del(ctx, c), c.Close())
	})
}

// take empties the list of what is wired.
func (a *attachments) take() []*cni.Container {
	a.mu.Lock()
	defer a.mu.Unlock()
	there := a.there
	a.there = nil
	return there
}

// abandon lets the namespaces go of what the check has wired. With them go their
// links, when the kernel comes to it.
func (a *attachments) abandon() error {
	var errs []error
	for _, c := range a.take() {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// few is how many containers are unwired one by one.
const few = 10

// undo unwires, and compares the node with before.
func (a *attachments) undo(ctx context.Context) error {
	if err := a.unwire(ctx); err != nil {
		return err
	}
	// Links go some time after their namespaces.
	monitor, err := a.session.Monitor()
	if err != nil {
		return err
	}
	defer monitor.Close() // it has told
	_, err = monitor.Until(ctx, func(*probe.State) string {
		after, err := a.snapshot(ctx)
		if err != nil {
			return err.Error()
		}
		return difference(a.before, after)
	})
	return err
}

// container makes a container, which the end of the check unwires.
func (a *attachments) container(ctx context.Context) (*cni.Container, error) {
	c, err := newContainer(ctx, a.env)
	if err == nil {
		a.mu.Lock()
		a.there = append(a.there, c)
		a.mu.Unlock()
	}
	return c, err
}

// add makes a container and wires it.
func (a *attachments) add(ctx context.Context) (*cni.Container, *types100.Result, error) {
	c, err := a.container(ctx)
	if err != nil {
		return nil, nil, err
	}
	result, err := a.network.add(ctx, c)
	return c, result, err
}

// where names the network of the node.
func (a *attachments) where() string { return a.node.Name + ", network " + a.network.name }

// cniFiles is where plugins keep what they know of containers.
const cniFiles = "/var/lib/cni"

// snapshot is what a plugin may change on a node: links, addresses, routes and
// files, those of the underlay and of the overlay's devices excepted, which
// other checks may be at. Host-local's memory of the last address, and locks,
// are no one's.
func (a *attachments) snapshot(ctx context.Context) ([]string, error) {
	st, err := a.session.State(ctx)
	if err != nil {
		return nil, err
	}
	files, err := a.session.Files(ctx, cniFiles)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range st.Links {
		if a.overlays(l.Name) {
			continue
		}
		out = append(out, fmt.Sprintf("link %s master %d mtu %d %v", l.Name, l.Master, l.MTU, l.Addresses))
	}
	for _, r := range st.Routes {
		if !a.overlays(r.Dev) {
			out = append(out, "route "+r.String())
		}
	}
	for path, text := range files {
		if base := filepath.Base(path); base != "lock" && !strings.HasPrefix(base, "last_reserved_ip") {
			out = append(out, fmt.Sprintf("file %s %q", path, text))
		}
	}
	slices.Sort(out)
	return out, nil
}

// overlays reports whether a device of the node is the underlay's or the
// overlay's.
func (a *attachments) overlays(dev string) bool {
	return overlayDevice(dev) || slices.ContainsFunc(a.node.Interfaces, func(i topology.Interface) bool { return i.Name == dev })
}

// difference says what came and what went, or nothing.
func difference(before, after []string) string {
	var out []string
	for _, s := range after {
		if !slices.Contains(before, s) {
			out = append(out, "it has "+s)
		}
	}
	for _, s := range before {
		if !slices.Contains(after, s) {
			out = append(out, "it lacks "+s)
		}
	}
	return strings.Join(out, "; ")
}

// expectUnchanged judges that the node is as before. It allows for the moments
// that the kernel takes to end the links of a namespace that is gone.
func (a *attachments) expectUnchanged(ctx context.Context, before []string, when string) error {
	limits := a.env.Timeouts()
	last := ""
	same, err := a.env.Poll(ctx, "the node "+when, limits.Reply*time.Duration(limits.Tries), 20*time.Millisecond, func(ctx context.Context) (bool, error) {
		after, err := a.snapshot(ctx)
		if err == nil {
			last = difference(before, after)
		}
		return err == nil && last == "", err
	})
	if err == nil && !same {
		a.env.Fail(a.where()+", "+when, "the node's links, routes and files of before", last)
	}
	return err
}

// addressOfResult is the first IPv4 address of a result.
func addressOfResult(r *types100.Result) netip.Prefix {
	for _, ip := range r.IPs {
		if v4 := ip.Address.IP.To4(); v4 != nil {
			ones, _ := ip.Address.Mask.Size()
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(v4)), ones)
		}
	}
	return netip.Prefix{}
}

// concurrent is how many containers IP-01 wires.
const concurrent = 100

// concurrentADDs uses a network of its own where it can have one: what is in it
// goes without a DEL for each container.
func concurrentADDs(ctx context.Context, a *attachments) error {
	if err := a.separate(ctx, largeSubnet); err != nil && !errors.Is(err, errNoSeparate) {
		return err
	}
	var mu sync.Mutex
	holders := map[netip.Addr]string{}
	var wg sync.WaitGroup
	var errs []error
	began := a.env.Now(ctx)
	for range concurrent {
		wg.Go(func() {
			c, result, err := a.add(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			address := addressOfResult(result).Addr()
			if other, taken := holders[address]; taken {
				a.env.Fail(a.where(), "an address for each container", fmt.Sprintf("%s for both %s and %s", address, other, c.ID))
			}
			holders[address] = c.ID
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %d of %d ADDs ended in time: %w", a.where(), len(holders), concurrent, context.Cause(ctx))
	}
	if len(errs) > 0 {
		a.env.Fail(a.where(), fmt.Sprintf("%d ADDs that succeed", concurrent), fmt.Sprintf("%d fail, as: %v", len(errs), errs[0]))
	}
	a.env.Evidence("%s: %d ADDs at once, %d addresses, in %v", a.where(), concurrent, len(holders), rounded(a.env.Now(ctx).Sub(began)))
	return nil
}

func released(ctx context.Context, a *attachments) error {
	c, result, err := a.add(ctx)
	if err != nil {
		return err
	}
	address := addressOfResult(result).Addr()
	held, err := a.session.Files(ctx, cniFiles)
	if err != nil {
		return err
	}
	if err := a.network.del(ctx, c); err != nil {
		a.env.Fail(a.where(), "a DEL that succeeds", err.Error())
	}
	left, err := a.session.Files(ctx, cniFiles)
	if err != nil {
		return err
	}
	for path, text := range left {
		if strings.Contains(text, c.ID) || strings.Contains(path, c.ID) {
			a.env.Fail(a.where()+", "+address.String(), "nothing on disk after DEL", path)
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(held)), func(s string) bool { return strings.Contains(s, c.ID) }) {
		return suite.Inconclusivef("%s: no file under %s named the container while it was there", a.where(), cniFiles)
	}
	a.env.Evidence("%s: %s reserved by ADD, free after DEL", a.where(), address)
	return a.expectUnchanged(ctx, a.before, "after DEL")
}

// resultIsKernel compares ADD's result with the container's kernel.
func resultIsKernel(ctx context.Context, a *attachments) error {
	c, result, err := a.add(ctx)
	if err != nil {
		return err
	}
	session, err := a.env.OpenSession(ctx, c.ID, c.Namespace)
	if err != nil {
		return err
	}
	defer session.Close() // it has measured
	inside, err := session.State(ctx)
	if err != nil {
		return err
	}
	node, err := a.session.State(ctx)
	if err != nil {
		return err
	}
	for _, i := range result.Interfaces {
		st, where := node, a.node.Name+" "+i.Name
		if i.Sandbox != "" {
			st, where = inside, "container "+i.Name
		}
		l := st.Link(i.Name)
		switch {
		case l == nil:
			a.env.Fail(where, "the link of ADD's result", "no such link")
		case i.Mac != "" && !strings.EqualFold(i.Mac, l.MAC.String()):
			a.env.Fail(where, "MAC "+i.Mac+", as in ADD's result", "MAC "+l.MAC.String())
		}
	}
	eth0 := inside.Link(c.IfName)
	address := addressOfResult(result)
	if eth0 == nil || !slices.Contains(eth0.IPv4(), address) {
		a.env.Fail("container "+c.IfName, "address "+address.String()+", as in ADD's result", fmt.Sprint(addresses(a.env.Plan(), eth0)))
	}
	for _, r := range result.Routes {
		dst, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if !ok {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		want := netip.PrefixFrom(dst, ones)
		if !slices.ContainsFunc(inside.Routes, func(have probe.Route) bool { return have.Dst == want }) {
			a.env.Fail("container", "a route to "+want.String()+", as in ADD's result", "none")
		}
	}
	for _, pod := range a.env.Plan().PodsOn(a.node.Name) {
		if pod.Address.Addr() == address.Addr() {
			a.env.Fail(a.where(), "an address that no pod has", fmt.Sprintf("%s, of %s", address.Addr(), pod.Name))
		}
	}
	a.env.Evidence("%s: %s, %s, %s", a.where(), address, count(len(result.Interfaces), "interface"), count(len(result.Routes), "route"))
	return nil
}

func repeatedDEL(ctx context.Context, a *attachments) error {
	c, _, err := a.add(ctx)
	if err != nil {
		return err
	}
	for _, when := range []string{"the first DEL", "a second DEL"} {
		if err := a.network.del(ctx, c); err != nil {
			a.env.Fail(a.where()+", "+when, "success", err.Error())
		}
	}
	gone, _, err := a.add(ctx)
	if err != nil {
		return err
	}
	if err := abandon(ctx, a.env, gone); err != nil {
		return err
	}
	if err := a.network.del(ctx, gone); err != nil {
		a.env.Fail(a.where()+", DEL without the namespace", "success", err.Error())
	}
	a.env.Evidence("%s: DEL, again, and without the namespace", a.where())
	return a.expectUnchanged(ctx, a.before, "after DEL")
}

// failedADD asks for a link that is there already, and for a namespace that is
// not.
func failedADD(ctx context.Context, a *attachments) error {
	c, _, err := a.add(ctx)
	if err != nil {
		return err
	}
	before, err := a.snapshot(ctx) // with that container
	if err != nil {
		return err
	}
	taken, err := a.container(ctx)
	if err != nil {
		return err
	}
	nowhere := *c
	nowhere.ID, nowhere.Path = c.ID+"-nowhere", "/proc/self/fd/nothing"
	occupied := *c
	occupied.ID = taken.ID // another container, whose eth0 is there
	for _, broken := range []*cni.Container{&nowhere, &occupied} {
		what := "of no namespace"
		if broken == &occupied {
			what = "of a link that is there"
		}
		if _, err := a.network.add(ctx, broken); err == nil {
			a.env.Fail(a.where()+", ADD "+what, "an error", "success")
		}
		if err := a.expectUnchanged(ctx, before, "after ADD "+what); err != nil {
			return err
		}
	}
	a.env.Evidence("%s: ADD of no namespace and of a link that is there fail, and leave nothing", a.where())
	return nil
}

// damage takes the address off a container's link.
func damage(ctx context.Context, a *attachments) error {
	if a.network.version < "0.4.0" {
		return suite.NotApplicablef("the list's cniVersion %s has no CHECK", a.network.version)
	}
	c, _, err := a.add(ctx)
	if err != nil {
		return err
	}
	if err := a.network.check(ctx, c); err != nil {
		a.env.Fail(a.where()+", CHECK after ADD", "success", err.Error())
	}
	session, err := a.env.OpenSession(ctx, c.ID, c.Namespace)
	if err != nil {
		return err
	}
	defer session.Close() // it has done what it was for
	inside, err := session.State(ctx)
	if err != nil {
		return err
	}
	k := slices.IndexFunc(inside.Routes, func(r probe.Route) bool { return r.Dst.Bits() == 0 && r.Dst.Addr().Is4() })
	if k < 0 {
		return suite.NotApplicablef("%s: the plugins give a container no default route that could be taken away", a.where())
	}
	if err := session.Change(ctx, probe.Change{Delete: true, Route: &inside.Routes[k]}); err != nil {
		return err
	}
	err = a.network.check(ctx, c)
	if err == nil {
		a.env.Fail(a.where()+", CHECK of a container without its default route", "an error", "success")
		err = errors.New("nothing")
	}
	a.env.Evidence("%s: without its default route, CHECK says: %v", a.where(), err)
	return nil
}

// errNoSeparate says that a plugin is told its subnet by something else than
// flannel's subnet.env.
var errNoSeparate = errors.New("the plugin has its subnet from elsewhere than flannel's subnet.env")

// separate gives the check a network of its own: the lab's list with another
// name, bridge and files, and a subnet file that has these lines.
func (a *attachments) separate(ctx context.Context, subnet string) error {
	var list map[string]any
	if err := json.Unmarshal(a.plugins.List, &list); err != nil {
		return fmt.Errorf("read the CNI configuration: %w", err)
	}
	const folder, link = "/run/overlab-check", "ovlchk0"
	plugins, _ := list["plugins"].([]any)
	plugin, _ := slices.Concat(plugins, []any{nil})[0].(map[string]any)
	if kind, _ := plugin["type"].(string); kind != "overlab-cni" && kind != "flannel" {
		return fmt.Errorf("plugin %q: %w", kind, errNoSeparate)
	}
	delegate, _ := plugin["delegate"].(map[string]any)
	delegate = maps.Clone(delegate)
	if delegate == nil {
		delegate = map[string]any{}
	}
	delegate["bridge"] = link
	plugin["delegate"], plugin["subnetFile"], plugin["dataDir"] = delegate, folder+"/subnet.env", folder+"/flannel"
	plugin["ipam"] = map[string]any{"dataDir": folder + "/networks"}
	list["name"], list["plugins"] = "overlab-check", []any{plugin}
	// All that its containers have on the node goes with these, its rules
	// excepted, and it has none: the subnet file says that the agent masquerades.
	a.env.Restore("the network overlab-check of "+a.node.Name, func(ctx context.Context) error {
		return errors.Join(a.session.DeleteBridge(ctx, link), a.abandon(), a.session.RemoveAll(ctx, folder))
	})
	if subnet != "" {
		if err := a.session.WriteFile(ctx, folder+"/subnet.env", []byte(subnet)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	a.network, err = openNetwork(ctx, a.env, a.node.Name, text, a.plugins.Path)
	return err
}

// notApplicable is the verdict where there can be no separate network.
func notApplicable(err error) error {
	if errors.Is(err, errNoSeparate) {
		return suite.NotApplicablef("%v", err)
	}
	return err
}

// smallSubnet has room for five containers. It is of the addresses for
// documentation (RFC 5737).
const smallSubnet = "FLANNEL_NETWORK=192.0.2.0/24\nFLANNEL_SUBNET=192.0.2.9/29\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"

const room = 5

// largeSubnet has room for more than IP-01 wires.
const largeSubnet = "FLANNEL_NETWORK=192.0.2.0/24\nFLANNEL_SUBNET=192.0.2.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"

// fill wires containers until it fails, and returns their addresses.
func (a *attachments) fill(ctx context.Context) (got []netip.Addr, full error, err error) {
	if err := a.separate(ctx, smallSubnet); err != nil {
		return nil, nil, notApplicable(err)
	}
	for range room + 3 {
		_, result, err := a.add(ctx)
		if err != nil {
			return got, err, nil
		}
		got = append(got, addressOfResult(result).Addr())
	}
	return got, nil, nil
}

func exhaustion(ctx context.Context, a *attachments) error {
	got, full, err := a.fill(ctx)
	if err != nil {
		return err
	}
	switch {
	case full == nil:
		a.env.Fail(a.where(), fmt.Sprintf("an error after %d ADDs to a /29", room), fmt.Sprintf("%d that succeed", len(got)))
		return nil
	case len(got) < room:
		a.env.Fail(a.where(), fmt.Sprintf("%d ADDs to a /29 that succeed", room), fmt.Sprintf("%d, and then: %v", len(got), full))
	case !strings.Contains(full.Error(), "192.0.2.") && !strings.Contains(full.Error(), "no IP addresses available"):
		a.env.Fail(a.where(), "an error that says that there are no addresses", full.Error())
	}
	a.env.Evidence("%s: after %d ADDs to a /29: %v", a.where(), len(got), full)
	return nil
}

func reservedAddresses(ctx context.Context, a *attachments) error {
	got, _, err := a.fill(ctx)
	if err != nil {
		return err
	}
	for what, address := range map[string]string{"network": "192.0.2.8", "gateway": "192.0.2.9", "broadcast": "192.0.2.15"} {
		if slices.Contains(got, netip.MustParseAddr(address)) {
			a.env.Fail(a.where(), fmt.Sprintf("the %s address %s for no container", what, address), "ADD gave it")
		}
	}
	if len(got) < room {
		return suite.Inconclusivef("%s: %d of %d addresses were given before an error (IP-02)", a.where(), len(got), room)
	}
	a.env.Evidence("%s: of a /29, %v", a.where(), got)
	return nil
}

// Codes of STATUS (CNI specification, section 5): the plugin cannot serve an
// ADD, or would give a container limited connectivity.
const (
	notAvailable = 50
	limited      = 51
)

func notReady(ctx context.Context, a *attachments) error {
	if a.network.version < "1.1.0" {
		return suite.NotApplicablef("the list's cniVersion %s has no STATUS", a.network.version)
	}
	if err := a.network.status(ctx); err != nil {
		a.env.Fail(a.where()+", STATUS", "success", err.Error())
	}
	if err := a.separate(ctx, ""); err != nil {
		return notApplicable(err)
	}
	err := a.network.status(ctx)
	if code := codeOf(err); code != notAvailable && code != limited {
		a.env.Fail(a.where()+", STATUS without a subnet file", "an error of code 50 or 51", fmt.Sprintf("code %d: %v", code, err))
	}
	a.env.Evidence("%s: STATUS without a subnet file: %v", a.where(), err)
	return nil
}

func garbage(ctx context.Context, a *attachments) error {
	if a.network.version < "1.1.0" {
		return suite.NotApplicablef("the list's cniVersion %s has no GC", a.network.version)
	}
	if err := a.separate(ctx, smallSubnet); err != nil {
		return notApplicable(err)
	}
	kept, keptResult, err := a.add(ctx)
	if err != nil {
		return err
	}
	stale, staleResult, err := a.add(ctx)
	if err != nil {
		return err
	}
	if err := abandon(ctx, a.env, stale); err != nil { // it died, and no DEL came
		return err
	}
	if err := a.network.gc(ctx, kept); err != nil {
		a.env.Fail(a.where()+", GC", "success", err.Error())
	}
	files, err := a.session.Files(ctx, "/run/overlab-check/networks")
	if err != nil {
		return err
	}
	reserved := func(c *cni.Container) bool {
		return slices.ContainsFunc(slices.Collect(maps.Values(files)), func(s string) bool { return strings.Contains(s, c.ID) })
	}
	if reserved(stale) {
		a.env.Fail(a.where()+", after GC", addressOfResult(staleResult).String()+" free", "it is reserved for a container that is not listed")
	}
	if !reserved(kept) {
		a.env.Fail(a.where()+", after GC", addressOfResult(keptResult).String()+" reserved for a container that is listed", "it is free")
	}
	a.env.Evidence("%s: GC freed %s and kept %s", a.where(), addressOfResult(staleResult).Addr(), addressOfResult(keptResult).Addr())
	return nil
}
