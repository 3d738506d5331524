package diagnose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Seen is all that a diagnosis looks at. It is data: a rule judges a lab that
// is long gone as well.
type Seen struct {
	Plan *topology.Plan `json:"-"`
	// Diff is how nodes and pods differ from the plan.
	Diff *oracle.Diff `json:"diff"`
	// Agents are the agents by node.
	Agents map[string]Agent `json:"agents"`
	// Store says of each node why it does not reach the store, empty where it
	// does.
	Store map[string]string `json:"store"`
	// Sysctls are the values by namespace and key.
	Sysctls map[string]map[string]string `json:"sysctls"`
	// Rulesets are what nft prints, by namespace; the underlay's too.
	Rulesets map[string]string `json:"rulesets"`
	// Ports are the underlay's ports that are down.
	Ports []string `json:"ports"`
	// Grown are the counters that grew while the probes ran, by namespace.
	Grown map[string]map[string]int `json:"grown"`
	// Probes are the probes and what became of them, and Walks are where some
	// of those that failed ended.
	Probes []Probed `json:"probes"`
	Walks  []Walked `json:"walks"`
	// Symptoms are those that did not end as they ought to, in words.
	Symptoms []string `json:"symptoms"`
	Unread   []string `json:"unread"`
}

// Agent is a node's agent.
type Agent struct {
	PID int `json:"pid"`
	// State is the process's, as in ps: T is stopped.
	State string `json:"state"`
	Last  string `json:"last"`
}

// underlay is the namespace of the underlay's bridges.
const underlay = "underlay"

// storeTimeout is how long a connection to the store may take.
const storeTimeout = 500 * time.Millisecond

type looker struct {
	lab  topology.Lab
	plan *topology.Plan
	open Sessions

	mu  sync.Mutex
	out *Seen
}

func look(ctx context.Context, lab topology.Lab, open Sessions) (*Seen, error) {
	l := &looker{lab: lab, plan: lab.Plan(), open: open, out: &Seen{
		Plan: lab.Plan(), Agents: map[string]Agent{}, Store: map[string]string{},
		Sysctls: map[string]map[string]string{}, Rulesets: map[string]string{}, Grown: map[string]map[string]int{},
	}}
	status, err := lab.Status(ctx)
	if err != nil {
		return nil, err
	}
	// The probes go first: what they leave, as neighbours, is then seen.
	before := l.counters(ctx)
	l.probe(ctx)
	l.grown(before, l.counters(ctx))
	// Walks mostly wait.
	var walking sync.WaitGroup
	walking.Go(func() { l.walk(ctx) })
	defer walking.Wait()

	l.stores(ctx)
	if l.out.Diff, err = oracle.Differ(ctx, lab, open); err != nil {
		return nil, err
	}
	wg := newGroup()
	for _, n := range l.plan.Nodes {
		wg.Go(func() {
			l.rules(ctx, n.Name)
			l.sysctls(ctx, n.Name, nodeSysctls(l.plan))
			for _, a := range status.Agents {
				if a.Node == n.Name {
					l.agent(ctx, a)
				}
			}
		})
	}
	for _, p := range l.plan.Pods {
		wg.Go(func() { l.sysctls(ctx, p.Name, podSysctls(l.plan)) })
	}
	// What is between Docker's containers, or others' machines, is not to be entered.
	if ns, err := l.lab.Namespace(underlay); err == nil {
		wg.Go(func() { l.rules(ctx, underlay); l.ports(ctx, ns) })
	}
	wg.Wait()
	walking.Wait()
	slices.Sort(l.out.Ports)
	slices.Sort(l.out.Unread)
	l.out.Unread = slices.Compact(l.out.Unread)
	return l.out, ctx.Err()
}

// atOnce is how many namespaces are looked at at a time.
const atOnce = 16

// group waits for functions, of which so many run at a time.
type group struct {
	sync.WaitGroup
	slots chan struct{}
}

func newGroup() *group { return &group{slots: make(chan struct{}, atOnce)} }

// Go runs fn when there is a slot.
func (g *group) Go(fn func()) {
	g.slots <- struct{}{}
	g.WaitGroup.Go(func() {
		defer func() { <-g.slots }()
		fn()
	})
}

func (l *looker) unread(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Unread = append(l.out.Unread, fmt.Sprintf(format, args...))
}

// run returns what a command prints in a namespace.
func (l *looker) run(ctx context.Context, space string, argv ...string) (string, error) {
	ns, err := l.lab.Namespace(space)
	if err != nil {
		return "", err
	}
	var out, said bytes.Buffer
	code, err := ns.Run(ctx, topology.Process{Argv: argv, Stdout: &out, Stderr: &said, Dir: "/"})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(said.String()))
	}
	return out.String(), err
}

func (l *looker) rules(ctx context.Context, space string) {
	text, err := l.run(ctx, space, "nft", "list", "ruleset")
	if unstarted := new(topology.StartError); errors.As(err, &unstarted) {
		l.unread("rules: %s", unstarted.Reason)
		return
	}
	if err != nil {
		l.unread("rules of %s: nft: %v", space, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Rulesets[space] = text
}

// nodeSysctls are those that decide whether a node lets packets pass, and
// podSysctls those of a pod.
func nodeSysctls(p *topology.Plan) []string {
	keys := []string{"net/ipv4/ip_default_ttl", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/arp_ignore", "net/ipv4/icmp_echo_ignore_all"}
	devs, devs6 := []string{"cni0"}, []string{"cni0"}
	if p.Network.Backend.Type == "vxlan" {
		devs = append(devs, fmt.Sprintf("flannel.%d", p.Network.Backend.VNI))
		devs6 = append(devs6, fmt.Sprintf("flannel-v6.%d", p.Network.Backend.VNI))
	}
	if len(p.Nodes) > 0 {
		devs, devs6 = append(devs, p.Nodes[0].Underlay().Name), append(devs6, p.Nodes[0].Underlay().Name)
	}
	for _, dev := range devs {
		for _, key := range []string{"rp_filter", "forwarding", "arp_ignore"} {
			keys = append(keys, "net/ipv4/conf/"+dev+"/"+key)
		}
	}
	if p.Network.EnableIPv6 {
		keys = append(keys, "net/ipv6/icmp/echo_ignore_all")
		for _, dev := range devs6 {
			keys = append(keys, "net/ipv6/conf/"+dev+"/disable_ipv6")
		}
	}
	return keys
}

func podSysctls(p *topology.Plan) []string {
	keys := []string{"net/ipv4/ip_default_ttl"}
	if p.Network.EnableIPv6 {
		keys = append(keys, "net/ipv6/conf/eth0/hop_limit", "net/ipv6/conf/eth0/disable_ipv6")
	}
	return keys
}

func (l *looker) sysctls(ctx context.Context, space string, keys []string) {
	s, err := l.open.Session(ctx, space)
	if err != nil {
		l.unread("settings of %s: %v", space, err)
		return
	}
	values := map[string]string{}
	for _, k := range keys {
		v, err := s.ReadFile(ctx, "/proc/sys/"+k)
		switch {
		case errors.Is(err, fs.ErrNotExist): // of a device that is not there
		case err != nil:
			l.unread("settings of %s: %v", space, err)
		default:
			values[k] = strings.TrimSpace(string(v))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Sysctls[space] = values
}

// stores connects from every node to the store.
func (l *looker) stores(ctx context.Context) {
	wg := newGroup()
	for _, n := range l.plan.Nodes {
		wg.Go(func() { l.reachStore(ctx, n.Name) })
	}
	wg.Wait()
}

// reachStore connects from a node to the store.
func (l *looker) reachStore(ctx context.Context, node string) {
	holder := l.plan.Node(l.plan.Store.Node)
	if l.plan.Store.Type != "etcd" || holder == nil {
		return
	}
	ns, err := l.lab.Namespace(node)
	local, can := ns.(topology.Local)
	if err != nil || !can {
		l.unread("the store from %s: the namespace is not on this machine", node)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	at := netip.AddrPortFrom(holder.Underlay().Address.Addr(), uint16(l.plan.Store.Port))
	conn, err := local.Dial(ctx, "tcp", at.String())
	why := ""
	if err != nil {
		why = fmt.Sprintf("connecting to %s: %v", at, err)
	} else {
		conn.Close() // it was only to be seen that it can be opened
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Store[node] = why
}

func (l *looker) agent(ctx context.Context, a topology.AgentStatus) {
	out := Agent{PID: a.PID, Last: a.LastExit}
	if a.PID != 0 {
		s, err := l.open.Session(ctx, a.Node)
		var stat []byte
		if err == nil {
			stat, err = s.ReadFile(ctx, "/proc/"+strconv.Itoa(a.PID)+"/stat")
		}
		if err != nil {
			l.unread("the agent of %s: %v", a.Node, err)
			return
		}
		// The state follows the name, which is in brackets (proc_pid_stat(5)).
		_, rest, _ := strings.Cut(string(stat), ") ")
		out.State, _, _ = strings.Cut(rest, " ")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Agents[a.Node] = out
}

// ports notes the switches' ports that somebody has set down.
func (l *looker) ports(ctx context.Context, ns topology.Namespace) {
	s, err := probe.Enter(ctx, ns)
	if err != nil {
		l.unread("the underlay: %v", err)
		return
	}
	defer s.Close() // it only read
	st, err := s.State(ctx)
	if err != nil {
		l.unread("the underlay: %v", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.plan.Nodes {
		for _, i := range n.Interfaces {
			if port := st.Link(i.Port); port != nil && !port.Up {
				l.out.Ports = append(l.out.Ports, i.Port)
			}
		}
	}
}
